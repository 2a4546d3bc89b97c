"""The vision encoder stage: the patches of one image or frame pair in, its token embeddings out, picture by picture.

Attention never leaves a picture, so one at a time, or several of different requests in one call, is exact. Nothing is
taken while an earlier picture's rows still wait for room.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omni_graph.errors import Code, RequestError
from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import Array, max_packet_bytes
from omni_nodes.payloads import Embeddings, Patches
from omni_nodes.preload import PRELOAD

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.vision_encoder_model import VisionEncoderModel

HEADER_BYTES = 1 << 10


@dataclass(slots=True)
class _Stream:
    """One request: the pieces of the picture that is arriving, and the packets that wait for room."""

    pieces: list[Patches] = field(default_factory=list)
    outgoing: deque[Embeddings] = field(default_factory=deque)


class VisionEncoder:
    """Patches to embeddings, by transformers' Qwen2_5OmniVisionEncoder. ``max_batch`` requests share a call."""

    preload = PRELOAD

    patches = In(Patches)
    embeds = Out(Embeddings)

    def __init__(self, checkpoint: str, max_batch: int = 4, device: str = "auto", dtype: str = "float32") -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.vision_encoder_model import VisionEncoderModel
        from omni_nodes.qwen2_5_omni.weights import load_vision_encoder

        opened = open_checkpoint(checkpoint)
        self._model: VisionEncoderModel = VisionEncoderModel(load_vision_encoder(opened, device, dtype))
        self._max_batch = max_batch
        self._streams: dict[str, _Stream] = {}

    def open(self, request: str, params: NoParams) -> None:
        self._streams[request] = _Stream()

    def close(self, request: str) -> None:
        self._streams.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in self._streams:
            self._send(request, outbox)
        batch = self._gather(inbox, outbox)
        encoded = self._model.encode([(s.pieces[0].grid, [p.pixels for p in s.pieces]) for s in batch.values()])
        for (request, stream), rows in zip(batch.items(), encoded, strict=True):
            stream.pieces = []
            stream.outgoing.extend(packets(rows))
            self._send(request, outbox)
        for request in inbox.drained(self.patches):
            self._finish(request, outbox)
        return any(outbox.room(self.embeds, request) > 0 for request in inbox.ready(self.patches))

    def _send(self, request: str, outbox: Outbox) -> None:
        outgoing = self._streams[request].outgoing
        while outgoing and outbox.room(self.embeds, request) > 0:
            outbox.send(self.embeds, request, outgoing.popleft())

    def _gather(self, inbox: Inbox, outbox: Outbox) -> dict[str, _Stream]:
        """Up to ``max_batch`` requests whose next picture is complete; what has come of other pictures is taken too.

        Where there is room here, nothing waits for it: ``step`` has sent what it could.
        """
        batch: dict[str, _Stream] = {}
        for request in inbox.ready(self.patches):
            if len(batch) == self._max_batch:
                break
            if outbox.room(self.embeds, request) > 0 and self._take_picture(request, inbox):
                batch[request] = self._streams[request]
        return batch

    def _take_picture(self, request: str, inbox: Inbox) -> bool:
        """Take pieces up to the picture's last; False while that is still to come."""
        pieces = self._streams[request].pieces
        while request in inbox.ready(self.patches):
            pieces.append(inbox.take(self.patches, request))
            if pieces[-1].last:
                self._check(request, pieces)
                return True
        return False

    def _check(self, request: str, pieces: list[Patches]) -> None:
        _, height, width = grid = pieces[0].grid
        rows = sum(len(piece.pixels) for piece in pieces)
        if rows != height * width or any(piece.grid != grid for piece in pieces):
            grids = sorted({piece.grid for piece in pieces})
            raise self._failed(request, f"a picture of {rows} patches in pieces of grid {grids}: they do not agree")

    def _finish(self, request: str, outbox: Outbox) -> None:
        stream = self._streams[request]
        if stream.pieces:
            raise self._failed(request, f"patches ended inside a picture of grid {stream.pieces[0].grid}")
        if not stream.outgoing:
            outbox.end(request)

    def _failed(self, request: str, message: str) -> RequestError:
        self._streams[request] = _Stream()
        return RequestError(request, Code.NODE_FAILED, message)


def packets(rows: Array) -> list[Embeddings]:
    """Rows (n, H) in as few packets as their limit allows."""
    row_bytes = rows.shape[1] * rows.values.itemsize
    size = max(1, (max_packet_bytes(Embeddings) - HEADER_BYTES) // row_bytes)
    return [Embeddings(Array.of(rows.values[i : i + size], rows.dtype)) for i in range(0, len(rows), size)]
