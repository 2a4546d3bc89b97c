"""``live``: from the end of the user's speech to the first packet of sound, when the speech came live.

Nobody waits for the clock here: chunks are written as fast as the graph takes them, and ``end`` is called once the graph has
nothing left to do with them. That is what a machine sees that keeps up with speech, however long the speech was.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.command import Options
from benchmarks.idle import busy_share, deployment_pids
from benchmarks.measure import interleaved
from benchmarks.model_app import SEED, STAGE_THREADS, Ask, Heard, ask, check, checkpoint, launch, listen, model_graph
from benchmarks.prompts import AUDIO_RATE, QUESTION, tone
from benchmarks.report import OURS, Goal, Of, Report, Series
from omni_graph.conversation import conversation_packets
from omni_graph.payload import Array, AudioChunk
from omni_graph.runtime.app import App

CHUNK = AUDIO_RATE // 10
SHORT_S, LONG_S = 2, 60
QUICK_LONG_S = 6
TOKENS = CODES = 24
IDLE_SHARE, IDLE_S, PATIENCE_S = 0.1, 0.5, 300.0


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(f"by processes, {STAGE_THREADS} thread a stage; our caches are off; {CODES} codes are said")
    report.notes.append(
        f"end is called when all processes together have used less than {IDLE_SHARE} of a core for {IDLE_S} s"
    )
    rounds, long_s = (1, QUICK_LONG_S) if options.quick else (7, LONG_S)
    whole = Ask(f"audio {long_s}", TOKENS, CODES)
    with launch(model_graph(checkpoint(options.quick))) as app:
        found = interleaved(
            rounds,
            {
                "long": lambda: [live(app, long_s).first_audio_s],
                "short": lambda: [live(app, SHORT_S).first_audio_s],
                "whole": lambda: [ask(app, whole).first_audio_s],
            },
        )
    case = f"live, {long_s} s"
    ours = Series(case, "first_audio_s", OURS, found["long"])
    goal = Goal(Of.RATIO, at_most=1.2)
    report.compare(ours, Series(case, "first_audio_s", f"live, {SHORT_S} s", found["short"]), goal)
    sent = Series(case, "first_audio_s", f"the same {long_s} s, sent whole", found["whole"])
    report.compare(ours, sent, Goal(Of.RATIO, at_most=0.5))


def live(app: App, seconds: int) -> Heard:
    """Speak for so long, let the graph hear all of it, then end; times are from the end."""
    request = Ask("", TOKENS, CODES)
    handle = app.open(request.outputs, request.params, SEED)
    for packet in conversation_packets(_messages()):
        handle.write("conversation", packet)
    handle.end("conversation")
    samples = tone(seconds)
    for start in range(0, len(samples), CHUNK):
        handle.write("audio", _chunk(samples[start : start + CHUNK]))
    wait_until_idle()
    began = time.perf_counter()
    handle.end("audio")
    handle.end("video")
    heard = listen(handle, began)
    check(request, len(heard.token_ids), sum(one.sound for one in heard.sound))
    return heard


def wait_until_idle() -> None:
    """Until the deployment has nothing to do. Raises RuntimeError when that does not come."""
    patience = time.monotonic() + PATIENCE_S
    while busy_share(deployment_pids(), IDLE_S) > IDLE_SHARE:
        if time.monotonic() > patience:
            raise RuntimeError(f"the deployment is still at work {PATIENCE_S:.0f} s after the last chunk")


def _messages() -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "audio", "audio": "live"}, {"type": "text", "text": QUESTION}]}]


def _chunk(samples: np.ndarray) -> AudioChunk:
    return AudioChunk(Array.of(samples), AUDIO_RATE)
