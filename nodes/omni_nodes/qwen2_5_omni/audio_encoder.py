"""The audio encoder stage: one block of mel (2 s) in, its token embeddings out. No state between blocks.

Blocks of several requests share a call; each request's rows leave in its own order. Blocks restart convolution, positions
and attention, so the packets together are the encoding of the whole clip, and a block heard before has the rows it had.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from omni_graph.errors import Code, RequestError
from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import Array
from omni_nodes.embedding_cache import EmbeddingCache, content_key
from omni_nodes.payloads import Embeddings, MelChunk
from omni_nodes.preload import PRELOAD

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.audio_encoder_model import AudioEncoderModel


class AudioEncoder:
    """Mel blocks to embeddings, by transformers' Qwen2_5OmniAudioEncoder. ``max_batch`` blocks share a call.

    ``cache_bytes`` of rows are kept by the content of their block, where there is a ``cache``. A tail too short for a token
    (1 or 2 frames) sends no packet.
    """

    preload = PRELOAD

    features = In(MelChunk)
    embeds = Out(Embeddings)

    def __init__(
        self,
        checkpoint: str,
        max_batch: int = 4,
        cache_bytes: int = 64 << 20,
        device: str = "auto",
        dtype: str = "auto",
        cache: bool = True,
    ) -> None:
        from omni_nodes.qwen2_5_omni.audio_encoder_model import AudioEncoderModel
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.weights import load_audio_encoder

        opened = open_checkpoint(checkpoint)
        self._model: AudioEncoderModel = AudioEncoderModel(load_audio_encoder(opened, device, dtype))
        self._max_batch = max_batch
        self._cache = EmbeddingCache(cache_bytes if cache else 0)
        self._faults: dict[str, RequestError] = {}

    def open(self, request: str, params: NoParams) -> None:
        """Nothing is kept for a request."""

    def close(self, request: str) -> None:
        """Nothing was kept, but for an error that has not been raised yet."""
        self._faults.pop(request, None)

    def counters(self) -> dict[str, int]:
        """How the cache does."""
        return self._cache.counters()

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        self._raise_fault()
        batch = self._gather(inbox, outbox)
        if batch:
            self._encode(batch, outbox)
            self._raise_fault()
        for request in inbox.drained(self.features):
            outbox.end(request)
        return any(outbox.room(self.embeds, request) > 0 for request in inbox.ready(self.features))

    def _encode(self, batch: list[tuple[str, MelChunk]], outbox: Outbox) -> None:
        keyed = [(block_key(chunk.features), chunk.features) for _, chunk in batch]
        encoded = self._cache.encode(keyed, self._model.encode)
        for (request, _), (key, block), rows in zip(batch, keyed, encoded, strict=True):
            if rows is None:
                message = f"audio encoder: the rows of a block of {block.shape[1]} mel frames are not finite numbers"
                self._faults[request] = RequestError(request, Code.NUMERIC, message)
            elif len(rows) and request not in self._faults:
                outbox.send(self.embeds, request, Embeddings(rows, key))

    def _raise_fault(self) -> None:
        """A slice raises one; whoever failed with others is raised next, before it could take or end anything."""
        if self._faults:
            raise self._faults.pop(next(iter(self._faults)))

    def _gather(self, inbox: Inbox, outbox: Outbox) -> list[tuple[str, MelChunk]]:
        """Up to ``max_batch`` blocks that have room for their rows, the requests in turn."""
        batch: list[tuple[str, MelChunk]] = []
        taken: Counter[str] = Counter()
        while len(batch) < self._max_batch:
            waiting = [r for r in inbox.ready(self.features) if outbox.room(self.embeds, r) > taken[r]]
            if not waiting:
                break
            for request in waiting[: self._max_batch - len(batch)]:
                batch.append((request, inbox.take(self.features, request)))
                taken[request] += 1
        return batch


def block_key(features: Array) -> bytes:
    """The content key of one block's rows."""
    return content_key(f"mel {features.dtype} {features.shape}", [features])
