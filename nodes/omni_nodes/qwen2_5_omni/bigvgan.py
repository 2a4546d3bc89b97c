"""The vocoder stage: mel frames in, 24 kHz sound out, chunk by chunk.

A slice is one call of chunks of equal shape, of any requests. Which frames a call covers, and with which context, depends
on the mel packets alone (bigvgan_schedule.py); load decides only who shares it. In a replay the calls whose sound the reader
has are planned like any other, so that the next one has its context, and not computed.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import Array, AudioChunk
from omni_nodes.payloads import Mel
from omni_nodes.preload import PRELOAD

if TYPE_CHECKING:
    import numpy as np

    from omni_nodes.qwen2_5_omni.bigvgan_model import BigVGANModel
    from omni_nodes.qwen2_5_omni.bigvgan_schedule import MelTape, VocoderCall


class BigVGAN:
    """Mel to sound (transformers' Qwen2_5OmniToken2WavBigVGANModel). ``max_batch`` is how many chunks share a call."""

    preload = PRELOAD

    mel = In(Mel)
    audio = Out(AudioChunk)

    def __init__(self, checkpoint: str, max_batch: int = 8, device: str = "auto") -> None:
        from omni_nodes.qwen2_5_omni.bigvgan_model import SAMPLE_RATE, BigVGANModel
        from omni_nodes.qwen2_5_omni.bigvgan_schedule import MelTape
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.weights import load_bigvgan

        self._model: BigVGANModel = BigVGANModel(load_bigvgan(open_checkpoint(checkpoint), device))
        self._new_tape: type[MelTape] = MelTape
        self._sample_rate = SAMPLE_RATE
        self._max_batch = max_batch
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

    def _vocode(self, outbox: Outbox) -> bool:
        """One call: the oldest chunk and those of its shape."""
        if not self._calls:
            return False
        shape = next(iter(self._calls.values())).mel.shape
        alike = ((request, call) for request, call in self._calls.items() if call.mel.shape == shape)
        batch = dict(islice(alike, self._max_batch))
        sounds = self._model.vocode([call.mel for call in batch.values()])
        for (request, call), sound in zip(batch.items(), sounds, strict=True):
            del self._calls[request]
            outbox.send(self.audio, request, self._chunk(call, sound))
        return True

    def _chunk(self, call: VocoderCall, sound: np.ndarray) -> AudioChunk:
        rate = self._model.samples_per_frame
        samples = sound[call.skip * rate : (call.skip + call.frames) * rate]
        return AudioChunk(Array.of(samples.copy()), self._sample_rate, (("completion.audio", call.codes),))
