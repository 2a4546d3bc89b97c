"""Our side of the model benches: the packaged Qwen2.5-Omni graph, deployed by processes, and what a caller sees of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import omni_graph as og
from benchmarks.player import Packet
from benchmarks.prompts import messages
from omni_graph.graph import Graph
from omni_graph.runtime.app import App, Handle
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint

DEPLOY = Path(__file__).with_name("two_cores.yaml")
THREADS = 2  # of what we are held against: both cores
STAGE_THREADS = 1  # of each of our stages, as in two_cores.yaml
NO_CACHES = {"caches": False}  # benches ask the same again; an answer from a cache would say nothing
CODES_PER_S = 50
TOKENS_PER_S = 8  # of text, for a second of speech
SEED = 1


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: the prompt's name, tokens of text, and codes of speech (0: text alone)."""

    prompt: str
    tokens: int
    codes: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        return ("text", "speech") if self.codes else ("text",)

    @property
    def params(self) -> dict[str, dict[str, Any]]:
        """Greedy, so that transformers can say the same."""
        thinker = {"max_tokens": self.tokens}
        return (
            {"thinker": thinker, "talker": {"temperature": 0.0, "max_tokens": self.codes}}
            if self.codes
            else {"thinker": thinker}
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it came, in seconds after it was asked for: ``sound`` packet by packet."""

    total_s: float
    token_ids: tuple[int, ...]
    sound: tuple[Packet, ...]

    @property
    def first_audio_s(self) -> float:
        return self.sound[0].at


def checkpoint(quick: bool) -> Path:
    """The ``bench`` checkpoint, or the tiny one; built on first use."""
    return open_checkpoint("tiny" if quick else "bench").folder


def speech(prompt: str, seconds: float) -> Ask:
    """An answer of so many seconds."""
    return Ask(prompt, round(seconds * TOKENS_PER_S), round(seconds * CODES_PER_S))


def model_graph(folder: Path, codec_context: str = "low_latency", settings: Sequence[str] = ()) -> Graph:
    """The packaged graph on the checkpoint in ``folder``, its caches off."""
    parameters = {"checkpoint": str(folder), "codec_context": codec_context, **NO_CACHES}
    return og.load_graph("qwen2_5_omni", parameters=parameters, settings=settings)


def launch(
    graph: Graph, launcher: str = "processes", outputs: Sequence[str] = ("text", "speech"), **deploy: Any
) -> App:
    """The stages that ``outputs`` need, deployed by ``two_cores.yaml`` with the values of ``deploy`` changed."""
    spec = og.load_deploy(str(DEPLOY))
    return og.launch(graph, spec.model_copy(update=deploy), launcher, outputs=outputs)


def ask(app: App, request: Ask) -> Heard:
    """Ask, and listen to the end."""
    began = time.perf_counter()
    heard = listen(start(app, request), began)
    check(request, len(heard.token_ids), sum(one.sound for one in heard.sound))
    return heard


def start(app: App, request: Ask) -> Handle:
    """Ask; the caller reads the handle."""
    return app.start({"conversation": messages(request.prompt)}, request.outputs, request.params, SEED)


def listen(handle: Handle, began: float) -> Heard:
    """Read a handle to its end, as fast as packets come."""
    ids: list[int] = []
    sound: list[Packet] = []
    for event in handle:
        now = time.perf_counter() - began
        if event.output == "text":
            ids += event.packet.token_ids
        elif len(event.packet.samples):
            sound.append(Packet(now, len(event.packet.samples) / event.packet.sample_rate))
    return Heard(time.perf_counter() - began, tuple(ids), tuple(sound))


def check(request: Ask, tokens: int, sound_s: float) -> None:
    """Raises RuntimeError where an answer is not as long as asked: its time would say nothing."""
    if tokens != request.tokens or abs(sound_s * CODES_PER_S - request.codes) > 0.01:
        raise RuntimeError(f"{request} was answered with {tokens} tokens and {sound_s:.2f} s of sound")
