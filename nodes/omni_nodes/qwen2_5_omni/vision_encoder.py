"""The vision encoder stage: the patches of one image or frame pair in, its token embeddings out, picture by picture.

Attention never leaves a picture, so one at a time, or several of different requests in one call, is exact, and a picture
seen before has the rows it had. Nothing is taken while an earlier picture's rows still wait for room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from omni_graph.errors import Code, NodeError, RequestError
from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import Array, max_packet_bytes
from omni_nodes.embedding_cache import EmbeddingCache, content_key
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
    """Patches to embeddings, by transformers' Qwen2_5OmniVisionEncoder.

    ``max_batch`` requests share a call, of ``max_patches`` in all (1,024 are 448 x 448 pixels, 1.3 TFLOP as published); a
    larger picture has one to itself. ``cache_bytes`` of rows are kept by the content of their picture, where there is a
    ``cache``.
    """

    preload = PRELOAD

    patches = In(Patches)
    embeds = Out(Embeddings)

    def __init__(
        self,
        checkpoint: str,
        max_batch: int = 4,
        max_patches: int = 1024,
        cache_bytes: int = 256 << 20,
        device: str = "auto",
        dtype: str = "auto",
        cache: bool = True,
    ) -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.vision_encoder_model import VisionEncoderModel
        from omni_nodes.qwen2_5_omni.weights import load_vision_encoder

        if max_patches < 1:
            raise NodeError(f"max_patches is {max_patches}; allowed: 1 and more")
        opened = open_checkpoint(checkpoint)
        self._model: VisionEncoderModel = VisionEncoderModel(load_vision_encoder(opened, device, dtype))
        self._max_batch = max_batch
        self._max_patches = max_patches
        self._cache = EmbeddingCache(cache_bytes if cache else 0)
        self._streams: dict[str, _Stream] = {}
        self._waiting: dict[str, list[Patches]] = {}

    def open(self, request: str, params: NoParams) -> None:
        self._streams[request] = _Stream()

    def close(self, request: str) -> None:
        self._streams.pop(request, None)
        self._waiting.pop(request, None)

    def counters(self) -> dict[str, int]:
        """How the cache does."""
        return self._cache.counters()

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in self._streams:
            self._send(request, outbox)
        self._take(inbox, outbox)
        self._encode(outbox)
        for request in inbox.drained(self.patches):
            self._finish(request, outbox)
        return bool(self._waiting) or any(
            outbox.room(self.embeds, request) > 0 for request in inbox.ready(self.patches)
        )

    def _send(self, request: str, outbox: Outbox) -> None:
        outgoing = self._streams[request].outgoing
        while outgoing and outbox.room(self.embeds, request) > 0:
            outbox.send(self.embeds, request, outgoing.popleft())

    def _take(self, inbox: Inbox, outbox: Outbox) -> None:
        """Take the pieces of each request's next picture, until ``max_batch`` pictures wait for a call.

        Where there is room here, no row waits for it: ``step`` has sent what it could.
        """
        for request in inbox.ready(self.patches):
            if len(self._waiting) == self._max_batch:
                break
            if request not in self._waiting and outbox.room(self.embeds, request) > 0:
                self._take_picture(request, inbox)

    def _take_picture(self, request: str, inbox: Inbox) -> None:
        """Take what has come of a picture, up to its last piece; with that it waits for a call."""
        stream = self._streams[request]
        while request in inbox.ready(self.patches):
            stream.pieces.append(inbox.take(self.patches, request))
            if stream.pieces[-1].last:
                self._check(request, stream.pieces)
                self._waiting[request], stream.pieces = stream.pieces, []
                return

    def _encode(self, outbox: Outbox) -> None:
        batch = self._next_call()
        pictures = [(pieces[0].grid, [piece.pixels for piece in pieces]) for pieces in batch.values()]
        keyed = [(picture_key(grid, pixels), (grid, pixels)) for grid, pixels in pictures]
        encoded = self._cache.encode(keyed, self._model.encode)
        for request, (key, _), rows in zip(batch, keyed, encoded, strict=True):
            if rows is not None:
                del self._waiting[request]
                self._streams[request].outgoing.extend(packets(rows, key))
                self._send(request, outbox)
        self._raise_numeric(batch)

    def _raise_numeric(self, batch: dict[str, list[Patches]]) -> None:
        """For one of the pictures without rows, which wait on: a slice raises one, the next ones have the others again."""
        failed = next((request for request in batch if request in self._waiting), None)
        if failed is not None:
            message = f"vision encoder: the rows of a picture of grid {batch[failed][0].grid} are not finite numbers"
            raise RequestError(failed, Code.NUMERIC, message)

    def _next_call(self) -> dict[str, list[Patches]]:
        """The pictures that waited longest: up to ``max_patches``, and one at least."""
        batch: dict[str, list[Patches]] = {}
        patches = 0
        for request, pieces in self._waiting.items():
            patches += sum(len(piece.pixels) for piece in pieces)
            if batch and patches > self._max_patches:
                break
            batch[request] = pieces
        return batch

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
        if not stream.outgoing and request not in self._waiting:
            outbox.end(request)

    def _failed(self, request: str, message: str) -> RequestError:
        self._streams[request] = _Stream()
        return RequestError(request, Code.NODE_FAILED, message)


def picture_key(grid: tuple[int, int, int], pixels: Sequence[Array]) -> bytes:
    """The content key of one picture's rows, wherever its patches were cut."""
    return content_key(f"patches {pixels[0].dtype} {pixels[0].shape[1:]} {grid}", pixels)


def packets(rows: Array, key: bytes) -> list[Embeddings]:
    """Rows (n, H) in as few packets as their limit allows; a packet's content key is the picture's and its first row."""
    row_bytes = rows.shape[1] * rows.values.itemsize
    size = max(1, (max_packet_bytes(Embeddings) - HEADER_BYTES) // row_bytes)
    return [
        Embeddings(Array.of(rows.values[i : i + size], rows.dtype), key + i.to_bytes(4, "big"))
        for i in range(0, len(rows), size)
    ]
