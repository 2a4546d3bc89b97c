"""``join``: a short request comes while a long one is under way, against the same request alone.

Text: until its last token. Speech: until its first packet of sound. Pairs, one alone and one joined, in turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.command import Options
from benchmarks.measure import interleaved
from benchmarks.model_app import STAGE_THREADS, Ask, Heard, ask, checkpoint, launch, model_graph, speech, start
from benchmarks.report import OURS, Goal, Of, Report, Series
from omni_graph.errors import Code, RequestError
from omni_graph.runtime.app import App

ALONE = "the same alone"
LONG_TEXT, SHORT_TEXT = Ask("text 100 1", 2000), Ask("text 40", 40)
LONG_SPEECH, SHORT_SPEECH = speech("text 100 1", 60), speech("text 40", 2)
UNDER_WAY = 8  # packets of the long one before the short one comes


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(f"by processes, {STAGE_THREADS} thread a stage; our caches are off")
    rounds = 1 if options.quick else 7
    with launch(model_graph(checkpoint(options.quick))) as app:
        _case(report, app, "text", SHORT_TEXT, LONG_TEXT, "total_s", lambda heard: heard.total_s, rounds)
        _case(
            report, app, "speech", SHORT_SPEECH, LONG_SPEECH, "first_audio_s", lambda heard: heard.first_audio_s, rounds
        )


def _case(
    report: Report,
    app: App,
    name: str,
    short: Ask,
    long: Ask,
    metric: str,
    value: Callable[[Heard], float],
    rounds: int,
) -> None:
    def joined() -> list[float]:
        with under_way(app, long):
            return [value(ask(app, short))]

    found = interleaved(rounds, {"alone": lambda: [value(ask(app, short))], "joined": joined})
    alone = Series(name, metric, ALONE, found["alone"])
    report.compare(Series(name, metric, OURS, found["joined"]), alone, Goal(Of.RATIO, at_most=1.5))


@contextmanager
def under_way(app: App, request: Ask) -> Iterator[None]:
    """``request`` has sent some packets and goes on, and is read; it is cancelled at the end."""
    handle = start(app, request)
    begun, output = threading.Event(), request.outputs[-1]
    ended: list[RequestError | None] = []

    def read() -> None:
        seen = 0
        try:
            for event in handle:
                seen += event.output == output
                if seen == (UNDER_WAY if output == "text" else 1):
                    begun.set()
            ended.append(None)
        except RequestError as error:
            ended.append(error)
        begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    begun.wait()
    try:
        if ended:
            raise RuntimeError(f"{request} is over before another could join it: {ended[0] or 'complete'}")
        yield
        if ended:
            raise RuntimeError(f"{request} was over before the one that joined it: {ended[0] or 'complete'}")
    finally:
        handle.cancel()
        reader.join()
    if ended[0] is None or ended[0].code is not Code.CANCELLED:
        raise RuntimeError(f"{request} did not go on until it was cancelled: {ended[0] or 'complete'}")
