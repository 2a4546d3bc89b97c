"""The interleaver: the prompt's layout and the encoders' rows become prompt segments with their TMRoPE positions.

It holds no weights: text stays ids. A segment leaves as soon as its own rows are there, so the Thinker can begin while a
later picture is still being encoded. Where packets are cut depends on the layout alone, never on arrival. A packet's
content key digests the encoders' keys of exactly the rows that it carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omni_graph.errors import Code, RequestError
from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import Array, max_packet_bytes
from omni_nodes.payloads import Embeddings, LayoutSegment, PromptSegment

if TYPE_CHECKING:
    from omni_nodes.qwen2_5_omni.embedding_rows import EmbeddingRows
    from omni_nodes.qwen2_5_omni.tmrope import TMRoPE

ROW_BYTES = 8 + 3 * 8  # a row's id and its position on three axes, int64
HEADER_BYTES = 1 << 10


@dataclass(slots=True)
class _Prompt:
    """One request's prompt: the segment being cut into packets, and the rows that wait for their place."""

    rope: TMRoPE
    audio: EmbeddingRows
    vision: EmbeddingRows
    segment: LayoutSegment | None = None
    positions: Array | None = None
    done: int = 0
    complete: bool = False


class Interleaver:
    """Joins ``layout`` with the rows of ``audio`` and ``vision``, each in prompt order.

    Too few rows for the layout, or rows left over, fail the request with ``node_failed``: an encoder and the frontend
    disagree.
    """

    layout = In(LayoutSegment)
    audio = In(Embeddings)
    vision = In(Embeddings)
    prompt = Out(PromptSegment)

    def __init__(self, checkpoint: str) -> None:
        from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
        from omni_nodes.qwen2_5_omni.embedding_rows import EmbeddingRows
        from omni_nodes.qwen2_5_omni.tmrope import TMRoPE

        settings = open_checkpoint(checkpoint).settings
        clock, merge_size = settings.tokens.position_id_per_seconds, settings.vision.spatial_merge_size

        def new_prompt() -> _Prompt:
            return _Prompt(TMRoPE(clock, merge_size), EmbeddingRows(), EmbeddingRows())

        self._new_prompt = new_prompt
        self._prompts: dict[str, _Prompt] = {}

    def open(self, request: str, params: NoParams) -> None:
        self._prompts[request] = self._new_prompt()

    def close(self, request: str) -> None:
        self._prompts.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request, prompt in list(self._prompts.items()):
            while not prompt.complete and outbox.room(self.prompt, request) > 0:
                packet = self._next_packet(request, prompt, inbox)
                if packet is None:
                    break
                outbox.send(self.prompt, request, packet)
            if prompt.complete and self._nothing_left(request, prompt, inbox):
                outbox.end(request)
        return False

    def _next_packet(self, request: str, prompt: _Prompt, inbox: Inbox) -> PromptSegment | None:
        """The next piece of the current segment, None while it waits for input."""
        if prompt.segment is None and not self._next_segment(request, prompt, inbox):
            return None
        segment = prompt.segment
        assert segment is not None
        if segment.kind == "text":
            count = min(len(segment.token_ids) - prompt.done, rows_in_packet(0))
            return self._cut(prompt, segment, Embeddings(Array.empty(0, 0)), count)
        rows = prompt.audio if segment.kind == "audio" else prompt.vision
        port = self.audio if segment.kind == "audio" else self.vision
        while (count := self._wanted(segment, prompt, rows)) > len(rows):
            if request in inbox.drained(port):
                raise self._failed(
                    request,
                    f"{port.name} ended with {len(rows)} rows where {segment.kind} {segment.span} needs {count}",
                )
            if request not in inbox.ready(port):
                return None
            rows.push(inbox.take(port, request))
        return self._cut(prompt, segment, rows.take(count), count)

    def _next_segment(self, request: str, prompt: _Prompt, inbox: Inbox) -> bool:
        if request in inbox.ready(self.layout):
            prompt.segment = inbox.take(self.layout, request)
            prompt.positions = Array.of(prompt.rope.place(prompt.segment))
            prompt.done = 0
            return True
        if request in inbox.drained(self.layout):
            raise self._failed(request, "layout ended before its last segment")
        return False

    def _wanted(self, segment: LayoutSegment, prompt: _Prompt, rows: EmbeddingRows) -> int:
        """Rows of the segment's next packet; 1 until the first packet says how large a row is."""
        if not rows.row_bytes:
            return 1
        return min(len(segment.token_ids) - prompt.done, rows_in_packet(rows.row_bytes))

    def _cut(self, prompt: _Prompt, segment: LayoutSegment, rows: Embeddings, count: int) -> PromptSegment:
        assert prompt.positions is not None
        start, end = prompt.done, prompt.done + count
        finished = end == len(segment.token_ids)
        packet = PromptSegment(
            token_ids=Array.of(segment.token_ids.values[start:end]),
            positions=Array.of(prompt.positions.values[:, start:end]),
            modality=segment.kind,
            role=segment.role,
            embeddings=rows.values,
            next_position=prompt.rope.next_position,
            last=segment.last and finished,
            content_key=rows.content_key,
        )
        prompt.done = end
        if finished:
            prompt.segment = None
        prompt.complete = packet.last
        return packet

    def _nothing_left(self, request: str, prompt: _Prompt, inbox: Inbox) -> bool:
        """True once every input has ended as it should; RequestError where more comes than the prompt has places for."""
        left = {"audio": len(prompt.audio), "vision": len(prompt.vision)}
        for port in (self.layout, self.audio, self.vision):
            if left.get(port.name) or request in inbox.ready(port):
                raise self._failed(request, f"{port.name} sent more than the prompt has places for")
        return all(request in inbox.drained(port) for port in (self.layout, self.audio, self.vision))

    def _failed(self, request: str, message: str) -> RequestError:
        """The request is not touched again, so that it fails once and holds up nobody."""
        self.close(request)
        return RequestError(request, Code.NODE_FAILED, message)


def rows_in_packet(embedding_bytes: int) -> int:
    """How many rows with embeddings of that size fit into one PromptSegment, at least 1."""
    return max(1, (max_packet_bytes(PromptSegment) - HEADER_BYTES) // (ROW_BYTES + embedding_bytes))
