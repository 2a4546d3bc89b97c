"""The codec DiT stage: codec ids in, mel frames out, window by window, many requests in one evaluation.

A slice is one ODE evaluation; windows at any time and of any length share it, those first whose listeners run dry first. It
takes codes only while the next window lacks them and mel has room; what it sends depends on the codes and the seed alone.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omni_graph.errors import Code, NodeError, RequestError
from omni_graph.node import In, Inbox, Out, Outbox
from omni_nodes.payloads import Codes, Mel
from omni_nodes.playback import MEL_RATE, Playback
from omni_nodes.preload import PRELOAD
from omni_nodes.qwen2_5_omni.dit_schedule import CodecTape, Schedule, Window
from omni_nodes.qwen2_5_omni.mel_packets import packets

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.codec_dit_model import CodecDiTModel, WindowSolve
    from omni_nodes.qwen2_5_omni.flow_matching import Noise

CPU_BLOCKS = 4  # on a CPU an evaluation takes as long as its blocks: first windows share one, steady ones none
GPU_BLOCKS = 72


@dataclass(slots=True)
class _Stream:
    """One request: what it received, which window comes next, the packets that wait for room."""

    noise: Noise
    codes: CodecTape = field(default_factory=CodecTape)
    voice: str = ""
    ended: bool = False
    next_index: int = 0
    outgoing: deque[Mel] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class _Call:
    """A window in work."""

    window: Window
    solve: WindowSolve


class CodecDiT:
    """Codec ids to mel, by conditional flow matching (transformers' Qwen2_5OmniToken2WavDiTModel).

    ``codec_context``: ``exact`` computes the whole reply when its codes have ended, ``balanced`` (4 blocks of context
    each side) and ``low_latency`` (2 back, 1 ahead) while they arrive. ``first_call_lookahead``: the first packet also
    carries the mel after it, as context for the first sound (on in ``low_latency`` unless said). ``max_blocks`` attention
    blocks of windows share an evaluation (None: 4 on a CPU, 72 elsewhere); a longer window has one to itself.
    ``compile``: its layers by torch.compile (see omni_nodes.compiled), for a GPU; for any number of windows of any length.
    ``dtype``: what its layers compute in; noise, trajectory and mel are float32 always.
    """

    preload = PRELOAD

    codes = In(Codes)
    mel = Out(Mel)

    @dataclass(frozen=True, slots=True)
    class Params:
        """``seed`` of the noise; equal to transformers' after ``torch.manual_seed(seed)``."""

        seed: int = 0

    def __init__(
        self,
        checkpoint: str,
        codec_context: str = "low_latency",
        first_call_lookahead: bool | None = None,
        max_blocks: int | None = None,
        compile: bool = False,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.codec_dit_model import CodecDiTModel
        from omni_nodes.qwen2_5_omni.weights import load_codec_dit, load_speakers, resolve_device, resolve_dtype

        place = resolve_device(device)
        numbers = resolve_dtype(dtype, place)
        if max_blocks is None:
            max_blocks = CPU_BLOCKS if place.type == "cpu" else GPU_BLOCKS
        if max_blocks < 1:
            raise NodeError(f"max_blocks is {max_blocks}; allowed: 1 and more")
        opened = open_checkpoint(checkpoint)
        self._model: CodecDiTModel = CodecDiTModel(
            load_codec_dit(opened, device), load_speakers(opened), numbers, compiled=compile
        )
        self._schedule = Schedule(codec_context, self._model.block_frames, self._model.repeats)
        self._lookahead = codec_context == "low_latency" if first_call_lookahead is None else first_call_lookahead
        self._max_blocks = max_blocks
        self._playback = Playback(time.monotonic)
        self._streams: dict[str, _Stream] = {}
        self._calls: dict[str, _Call] = {}
        self._faults: dict[str, RequestError] = {}

    def open(self, request: str, params: Params) -> None:
        """Start a request's noise."""
        self._streams[request] = _Stream(self._model.noise(params.seed))

    def close(self, request: str) -> None:
        """Free the request's codes, noise and half-done window."""
        for table in (self._streams, self._calls, self._faults):
            table.pop(request, None)
        self._playback.forget(request)

    def held(self) -> frozenset[str]:
        """Requests that any memory is kept for."""
        return frozenset(self._streams) | frozenset(self._calls) | frozenset(self._faults)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        """One evaluation for the windows in work. What went wrong for a request is raised last, the others' work done."""
        self._send(outbox)
        self._take(inbox, outbox)
        self._begin(outbox)
        evaluated = self._evaluate(outbox)
        self._send(outbox)
        self._end(outbox)
        if self._faults:
            raise self._faults.pop(next(iter(self._faults)))
        return evaluated

    def _take(self, inbox: Inbox, outbox: Outbox) -> None:
        while hungry := [request for request in inbox.ready(self.codes) if self._wants(request, outbox)]:
            for request in hungry:
                self._accept(request, inbox.take(self.codes, request))
        for request in inbox.drained(self.codes):
            if request in self._streams:
                self._streams[request].ended = True

    def _wants(self, request: str, outbox: Outbox) -> bool:
        """Does the next window lack codes, and could its mel go anywhere?"""
        stream = self._streams.get(request)
        if stream is None or len(stream.codes) >= self._schedule.codes_wanted(stream.next_index):
            return False
        return outbox.room(self.mel, request) > 0

    def _accept(self, request: str, packet: Codes) -> None:
        stream = self._streams[request]
        stream.voice = stream.voice or packet.voice
        ids = packet.values.values.ravel().tolist()
        if problem := self._problem(stream.voice, packet, ids):
            self._fail(request, Code.INVALID_INPUT, problem)
        else:
            stream.codes.append(ids)

    def _problem(self, voice: str, packet: Codes, ids: list[int]) -> str:
        """Why the packet cannot be spoken; empty when it can."""
        if voice not in self._model.voices:
            return f"voice {voice!r} is not in this checkpoint; known: {', '.join(self._model.voices)}"
        if packet.voice != voice:
            return f"the voice changed from {voice!r} to {packet.voice!r}; a request has one"
        if packet.values.shape[1:] != (1,):
            return f"codes of shape {packet.values.shape}; allowed: (n, 1), one codebook"
        strange = next((code for code in ids if not 0 <= code < self._model.code_count), None)
        return "" if strange is None else f"codec id {strange}; the DiT knows 0 to {self._model.code_count - 1}"

    def _begin(self, outbox: Outbox) -> None:
        """Start the windows whose codes are there and whose mel has room."""
        for request, stream in self._streams.items():
            if request in self._calls or stream.outgoing:
                continue
            window = self._next_window(stream)
            if window is not None and outbox.room(self.mel, request) > 0:
                self._start(request, stream, window)

    def _next_window(self, stream: _Stream) -> Window | None:
        return self._schedule.next_window(stream.next_index, len(stream.codes), stream.ended)

    def _start(self, request: str, stream: _Stream, window: Window) -> None:
        repeats = self._schedule.repeats
        codes = stream.codes.window(window.lo // repeats, window.hi // repeats)
        noise = stream.noise.frames(window.lo, window.hi)
        self._calls[request] = _Call(window, self._model.start(stream.voice, codes, noise))
        self._playback.ready(request)
        stream.next_index += 1

    def _evaluate(self, outbox: Outbox) -> bool:
        """One ODE evaluation of the most urgent windows; those that are done become packets."""
        batch = self._batch()
        if not batch:
            return False
        for request in batch:
            outbox.working(request)
        self._model.evaluate([call.solve for call in batch.values()])
        for request, call in batch.items():
            if call.solve.done:
                del self._calls[request]
                self._finish(request, call)
        return True

    def _batch(self) -> dict[str, _Call]:
        """The windows that are due first, up to ``max_blocks`` and one at least; listed as they began, so that a batch that
        stays together keeps its layout."""
        chosen: set[str] = set()
        blocks = 0
        for request in self._playback.in_order():
            blocks += self._schedule.blocks(self._calls[request].window)
            if chosen and blocks > self._max_blocks:
                break
            chosen.add(request)
        return {request: call for request, call in self._calls.items() if request in chosen}

    def _finish(self, request: str, call: _Call) -> None:
        window, mel = call.window, call.solve.mel()
        if not call.solve.finite:
            span = f"mel frames {window.start} to {window.end - 1}"
            return self._fail(request, Code.NUMERIC, f"codec DiT: {span} are not finite numbers")
        rows, final = mel[window.start - window.lo :], window.end - window.start
        self._playback.delivered(request, final / MEL_RATE)
        first = window.index == 0 and self._lookahead
        self._streams[request].outgoing += packets(rows, final, self._schedule.repeats, first)

    def _send(self, outbox: Outbox) -> None:
        for request, stream in self._streams.items():
            while stream.outgoing and outbox.room(self.mel, request) > 0:
                outbox.send(self.mel, request, stream.outgoing.popleft())

    def _end(self, outbox: Outbox) -> None:
        """End the requests whose codes have ended and all whose windows were sent."""
        for request, stream in tuple(self._streams.items()):
            busy = request in self._calls or stream.outgoing
            if stream.ended and not busy and self._next_window(stream) is None:
                outbox.end(request)

    def _fail(self, request: str, code: Code, message: str) -> None:
        """Forget the request now; its error is raised at the end of this or a later step."""
        self.close(request)
        self._faults[request] = RequestError(request, code, message)
