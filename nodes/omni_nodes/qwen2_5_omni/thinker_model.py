"""The Thinker's tensors: prompt segments and token ids to decoder rows, hidden states to packets and to the next token.

Never looks at a port or at text. Formulas are those of transformers' Qwen2_5OmniForConditionalGeneration.generate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch

from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, max_packet_bytes
from omni_nodes.engine.engine import Computed, Engine, EngineLimits
from omni_nodes.engine.prefix import media_identity, text_identity
from omni_nodes.engine.sampler import Sampler, draw
from omni_nodes.engine.sampling import SamplingParams
from omni_nodes.engine.scheduler import Grant, Plan
from omni_nodes.engine.sequence import Rows
from omni_nodes.linears import pack_linears
from omni_nodes.payloads import PromptSegment, PromptStates, Thought
from omni_nodes.qwen2_5_omni.state_packets import StatePackets
from omni_nodes.qwen2_5_omni.weights import ThinkerModules
from omni_nodes.tensors import from_tensor, to_tensor

NODE = "thinker"  # names this node's draws in the sampling noise
HEADER_BYTES = 64
POSITION_BYTES = 3 * 8


@dataclass(slots=True)
class _Prompted:
    """One request: what was fed, and what the next draw depends on. ``media`` has a byte for each prompt row, 1 at media;
    ``fed`` counts the reply tokens that were fed back."""

    sampler: Sampler
    packets: StatePackets
    media: bytearray = field(default_factory=bytearray)
    next_position: int = 0
    complete: bool = False
    tokens: list[int] = field(default_factory=list)
    fed: int = 0


class ReplyStates:
    """Hidden + embedding of the reply rows of one step: they come to the host together, when the first is asked for."""

    def __init__(self, replies: Sequence[Computed]) -> None:
        self._replies = replies
        starts = accumulate((len(c.rows) for c in replies), initial=0)
        self._first = dict(zip((c.request for c in replies), starts))

    @cached_property
    def _host(self) -> Array:
        hidden, embeddings = [c.hidden for c in self._replies], [c.rows.embeddings for c in self._replies]
        return from_tensor(torch.cat(hidden) + torch.cat(embeddings))

    @torch.inference_mode()
    def of(self, request: str, row: int) -> Array:
        """(1, H), of a row counted among those that the step gave the request. A copy: a packet that waits for its reader
        must not keep the whole step."""
        index = self._first[request] + row
        return Array.of(self._host.values[index : index + 1].copy(), self._host.dtype)


@dataclass(frozen=True, slots=True)
class Advance:
    """What one step gave a request: hidden states; ``predicting``, the indices of the rows after which a token comes;
    ``drawn``, the last of those tokens where it is not forced; and ``replies``, of all who were in the step."""

    computed: Computed
    predicting: range
    drawn: int | None
    replies: ReplyStates

    @property
    def request(self) -> str:
        return self.computed.request


class ThinkerModel:
    """The Thinker's decoder and head behind an engine. H is its hidden size, V its vocabulary."""

    def __init__(self, modules: ThinkerModules, limits: EngineLimits) -> None:
        self._embed = modules.decoder.embed_tokens
        self._lm_head = pack_linears(modules.lm_head)
        self._engine = Engine(modules.decoder, limits, keep_hidden=True)
        self._requests: dict[str, _Prompted] = {}
        self.vocabulary, self.hidden_size = self._embed.weight.shape
        row_bytes = self.hidden_size * self._embed.weight.dtype.itemsize + POSITION_BYTES
        self.rows_a_packet = max(1, (max_packet_bytes(PromptStates) - HEADER_BYTES) // row_bytes)

    @property
    def capacity(self) -> int:
        """Rows one request may hold, prompt and reply together."""
        return self._engine.capacity

    @property
    def free_blocks(self) -> int:
        """KV blocks nobody holds; the prefix cache may still find some of them."""
        return self._engine.kv.pool.free

    def counters(self) -> dict[str, int]:
        """Of the prefix cache and of preemptions."""
        return self._engine.counters()

    def open(self, request: str, sampling: SamplingParams) -> None:
        """Begin a request with no prompt yet."""
        penalised = sampling.repetition_penalty != 1.0
        seen = torch.zeros(self.vocabulary, dtype=torch.bool, device=self._embed.weight.device) if penalised else None
        self._requests[request] = _Prompted(Sampler(request, NODE, sampling, seen), StatePackets(self.rows_a_packet))
        self._engine.open(request)

    def force(self, request: str, choices: Sequence[tuple[int, ...]]) -> None:
        """Tokens to repeat, before the prompt comes. Raises RequestError for one outside the vocabulary."""
        self._requests[request].sampler.force(choices, self.vocabulary)

    def forced(self, request: str) -> int:
        """How many tokens are still to repeat."""
        return len(self._requests[request].sampler.forced)

    def close(self, request: str) -> None:
        """Forget a request, its KV included; idempotent."""
        self._requests.pop(request, None)
        self._engine.close(request)

    def waiting(self, request: str) -> int:
        """Rows that could be computed and are not in the KV."""
        return self._engine.waiting(request)

    def prompt_rows_within(self, request: str, packets: int) -> int:
        """How many waiting prompt rows may be computed when so many packets of states may be sent."""
        return self._requests[request].packets.rows_within(packets, self._engine.handed(request))

    @torch.inference_mode()
    def feed_prompt(self, request: str, segment: PromptSegment) -> None:
        """Append a segment; its ids are in the vocabulary and leave room for a reply (the node has seen to both)."""
        state = self._requests[request]
        device, dtype = self._embed.weight.device, self._embed.weight.dtype
        ids = to_tensor(segment.token_ids, device)
        media = segment.modality != "text"
        rows = to_tensor(segment.embeddings, device).to(dtype) if media else self._embed(ids)
        if rows.shape != (len(ids), self.hidden_size):
            seen, allowed = tuple(rows.shape), (len(ids), self.hidden_size)
            message = f"{segment.modality} embeddings are {seen}; allowed: {allowed}"
            raise RequestError(request, Code.NODE_FAILED, message)
        state.media.extend(bytes([media]) * len(ids))
        state.next_position, state.complete = segment.next_position, segment.last
        state.packets.plan(len(ids), segment.next_position, segment.last)
        if state.sampler.seen is not None:
            state.sampler.seen[ids] = True
        reply = min(state.sampler.params.max_tokens, self.capacity - len(state.media))
        positions = to_tensor(segment.positions, device)
        self._engine.feed(request, Rows(rows, positions, _identity(segment)), reply=reply, more=not segment.last)

    @torch.inference_mode()
    def feed_reply(self, request: str) -> None:
        """Append the token chosen last, and with it all forced ones that another follows: the last may end the reply.
        Nothing where the token went in with those before it. All three axes go on by one a token."""
        state = self._requests[request]
        if state.fed >= len(state.tokens):
            return
        tokens = [state.tokens[-1], *state.sampler.forced]
        if state.sampler.forced:
            tokens.pop()
        device, first, ids = self._embed.weight.device, state.next_position + state.fed, np.array(tokens)
        positions = np.tile(np.arange(first, first + len(tokens)), (3, 1))
        rows = self._embed(torch.from_numpy(ids).to(device))
        identity = text_identity(ids, positions)
        self._engine.feed(request, Rows(rows, torch.from_numpy(positions).to(device), identity))
        state.fed += len(tokens)

    def plan(self, room: Mapping[str, int]) -> Plan:
        """Who advances; ``room`` is how many rows each request may compute."""
        return self._engine.plan(room)

    @torch.inference_mode()
    def run(self, grants: tuple[Grant, ...]) -> list[Advance]:
        """One packed forward, and the head and a draw once over the last rows of those whose next token is not forced."""
        computed = self._engine.run(grants)
        predicting = [self._predicting(c) for c in computed]
        drawing = [c for c, rows in zip(computed, predicting) if rows and not self.forced(c.request)]
        drawn: dict[str, int] = {}
        if drawing:
            logits = self._lm_head(torch.stack([c.hidden[-1] for c in drawing]))
            ids = draw([self._requests[c.request].sampler for c in drawing], logits)
            drawn = dict(zip((c.request for c in drawing), ids))
        replies = ReplyStates([c for c in computed if c.start >= len(self._requests[c.request].media)])
        return [Advance(c, rows, drawn.get(c.request), replies) for c, rows in zip(computed, predicting)]

    def _predicting(self, computed: Computed) -> range:
        """The prompt's last row, and every one of the reply."""
        state, count = self._requests[computed.request], len(computed.rows)
        if computed.start >= len(state.media):
            return range(count)
        return range(count - 1, count) if computed.complete and state.complete else range(0)

    def choose(self, advance: Advance) -> int:
        """The next token that ``advance`` predicts. Raises RequestError where the logits are not finite."""
        state = self._requests[advance.request]
        token = state.sampler.choose(advance.drawn)
        state.tokens.append(token)
        return token

    @torch.inference_mode()
    def prompt_states(self, advance: Advance) -> list[PromptStates]:
        """The packets that the prompt rows in ``advance`` complete: hidden + embedding, the embedding zeroed at media."""
        computed, state = advance.computed, self._requests[advance.request]
        if computed.start >= len(state.media):
            return []
        flags = state.media[computed.start : computed.start + len(computed.rows)]
        media = torch.tensor(list(flags), dtype=torch.bool, device=computed.hidden.device)
        states = computed.hidden + computed.rows.embeddings.masked_fill(media[:, None], 0)
        return list(state.packets.push(states, computed.rows.positions))

    def thought(self, advance: Advance, row: int) -> Thought | None:
        """The Thought of the reply token in a row of ``advance``; None where the row is the prompt's."""
        computed, state = advance.computed, self._requests[advance.request]
        index = computed.start + row - len(state.media)
        if index < 0:
            return None
        return Thought(advance.replies.of(advance.request, row), state.tokens[index])


def _identity(segment: PromptSegment) -> bytes:
    """What the prefix cache knows the segment's rows by; empty at media without a content key."""
    if segment.modality == "text":
        return text_identity(segment.token_ids.values, segment.positions.values)
    return media_identity(segment.modality, segment.content_key, segment.positions.values)
