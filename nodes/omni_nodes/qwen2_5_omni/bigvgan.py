"""The vocoder stage: mel frames in, 24 kHz sound out, chunk by chunk.

A slice is one call of chunks of equal shape, of any requests, the most urgent one among them. Which frames a call covers,
and with which context, depends on the mel packets alone (bigvgan_schedule.py); load decides only who shares it. In a replay
the calls whose sound the reader has are planned like any other, so that the next one has its context, and not computed.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from omni_graph.errors import Code, NodeError, RequestError
from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import Array, AudioChunk
from omni_nodes.payloads import Mel
from omni_nodes.playback import MEL_RATE, Playback
from omni_nodes.preload import PRELOAD

if TYPE_CHECKING:
    import numpy as np

    from omni_nodes.qwen2_5_omni.bigvgan_model import BigVGANModel
    from omni_nodes.qwen2_5_omni.bigvgan_schedule import MelTape, VocoderCall

CPU_FRAMES, GPU_FRAMES = 200, 1600  # on a CPU the time of a call is that of its frames, from one chunk of 200 on


class BigVGAN:
    """Mel to sound (transformers' Qwen2_5OmniToken2WavBigVGANModel).

    ``max_frames`` of chunks share a call, context included (None: 200 on a CPU, 1,600 elsewhere); a longer chunk has one
    to itself. ``dtype``: what its layers compute in; mel and sound are float32 always.
    """

    preload = PRELOAD

    mel = In(Mel)
    audio = Out(AudioChunk)

    def __init__(
        self, checkpoint: str, max_frames: int | None = None, device: str = "auto", dtype: str = "float32"
    ) -> None:
        from omni_nodes.qwen2_5_omni.bigvgan_model import SAMPLE_RATE, BigVGANModel
        from omni_nodes.qwen2_5_omni.bigvgan_schedule import MelTape
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.weights import load_bigvgan, resolve_device, resolve_dtype

        place = resolve_device(device)
        numbers = resolve_dtype(dtype, place)
        if max_frames is None:
            max_frames = CPU_FRAMES if place.type == "cpu" else GPU_FRAMES
        if max_frames < 1:
            raise NodeError(f"max_frames is {max_frames}; allowed: 1 and more")
        self._model: BigVGANModel = BigVGANModel(load_bigvgan(open_checkpoint(checkpoint), device), numbers)
        self._new_tape: type[MelTape] = MelTape
        self._sample_rate = SAMPLE_RATE
        self._max_frames = max_frames
        self._playback = Playback(time.monotonic)
        self._tapes: dict[str, MelTape] = {}
        self._calls: dict[str, VocoderCall] = {}
        self._complete: set[str] = set()

    def open(self, request: str, params: NoParams) -> None:
        """Nothing heard yet."""
        self._tapes[request] = self._new_tape()

    def close(self, request: str) -> None:
        """Free the request's mel and its waiting call."""
        self._tapes.pop(request, None)
        self._calls.pop(request, None)
        self._complete.discard(request)
        self._playback.forget(request)

    def held(self) -> frozenset[str]:
        """Requests that any memory is kept for."""
        return frozenset(self._tapes) | frozenset(self._calls) | self._complete

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        """Take what there is room for, and vocode one batch."""
        self._take(inbox, outbox)
        self._drain(inbox, outbox)
        vocoded = self._vocode(outbox)
        for request in [request for request in self._complete if request not in self._calls]:
            outbox.end(request)
        return vocoded

    def _take(self, inbox: Inbox, outbox: Outbox) -> None:
        """At most one waiting call a request: its sound has room because nothing else of the request is on its way."""
        while open_to := [r for r in inbox.ready(self.mel) if r not in self._calls and outbox.room(self.audio, r) > 0]:
            for request in open_to:
                self._plan(request, self._tapes[request].append(inbox.take(self.mel, request)), outbox)

    def _drain(self, inbox: Inbox, outbox: Outbox) -> None:
        """The tail call of requests whose mel has ended."""
        for request in inbox.drained(self.mel):
            if request in self._calls or request in self._complete or outbox.room(self.audio, request) <= 0:
                continue
            self._plan(request, self._tapes[request].finish(), outbox)
            self._complete.add(request)

    def _plan(self, request: str, call: VocoderCall | None, outbox: Outbox) -> None:
        if call is None:
            return
        if outbox.skippable(self.audio, request):
            outbox.skip(self.audio, request)
        else:
            self._calls[request] = call
            self._playback.ready(request)

    def _vocode(self, outbox: Outbox) -> bool:
        """One call: the most urgent chunk and those of its shape."""
        if not self._calls:
            return False
        batch = self._batch()
        sounds = self._model.vocode([call.mel for call in batch.values()])
        for (request, call), sound in zip(batch.items(), sounds, strict=True):
            samples = self._samples(call, sound)
            if math.isfinite(samples.sum()):  # within -1..1: the sum is finite where all of them are
                del self._calls[request]
                self._playback.delivered(request, call.frames / MEL_RATE)
                chunk = AudioChunk(Array.of(samples), self._sample_rate, (("completion.audio", call.codes),))
                outbox.send(self.audio, request, chunk)
        self._raise_numeric(batch)
        return True

    def _raise_numeric(self, batch: dict[str, VocoderCall]) -> None:
        """For one of the calls without sound, which wait on: a slice raises one, the next ones have the others again."""
        failed = next((request for request in batch if request in self._calls), None)
        if failed is not None:
            message = f"BigVGAN: the sound of {batch[failed].frames} mel frames is not finite numbers"
            raise RequestError(failed, Code.NUMERIC, message)

    def _batch(self) -> dict[str, VocoderCall]:
        """The chunk that is due first and those of its shape, as they are due, up to ``max_frames`` and one at least."""
        order = self._playback.in_order()
        shape = self._calls[order[0]].mel.shape
        alike = [request for request in order if self._calls[request].mel.shape == shape]
        return {request: self._calls[request] for request in alike[: max(1, self._max_frames // shape[0])]}

    def _samples(self, call: VocoderCall, sound: np.ndarray) -> np.ndarray:
        """What is sent of a call, a copy."""
        rate = self._model.samples_per_frame
        return sound[call.skip * rate : (call.skip + call.frames) * rate].copy()
