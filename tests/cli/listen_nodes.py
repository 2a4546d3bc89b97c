"""A node for the tests of live input: says what it has heard and seen, once both have ended."""

from __future__ import annotations

from collections import Counter

from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import AudioChunk, TextDelta, VideoFrame


class Listen:
    """Counts samples, chunks and pictures of each request."""

    sound = In(AudioChunk)
    pictures = In(VideoFrame, optional=True)
    said = Out(TextDelta)

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def open(self, request: str, params: NoParams) -> None:
        self._counts[request] = Counter()

    def close(self, request: str) -> None:
        self._counts.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request, counts in list(self._counts.items()):
            while request in inbox.ready(self.sound):
                chunk = inbox.take(self.sound, request)
                counts["chunks"] += 1
                counts[f"samples at {chunk.sample_rate}"] += len(chunk.samples)
            while request in inbox.ready(self.pictures):
                inbox.take(self.pictures, request)
                counts["pictures"] += 1
            if request in inbox.drained(self.sound) and request in inbox.drained(self.pictures):
                words = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
                if outbox.room(self.said, request):
                    outbox.send(self.said, request, TextDelta(words, (), "stop"))
                    outbox.end(request)
        return False
