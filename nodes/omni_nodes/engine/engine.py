"""Continuous batching for an autoregressive node: rows in, hidden states out, demand as one integer a request.

Schedule, run, hand back. Never samples, embeds or sends: what a hidden state means is the node's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from omni_graph.errors import Code, NodeError, RequestError
from omni_nodes.engine.kv import PagedKV
from omni_nodes.engine.runner import Runner, kv_shape
from omni_nodes.engine.scheduler import Candidate, Grant, Plan, Scheduler
from omni_nodes.engine.sequence import Rows, Sequence

BLOCK_SIZE = 16
DEFAULT_ROWS_A_REQUEST = 2048


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """``max_batch`` requests and ``prefill_chunk`` prompt rows a step; ``context`` rows the model can see; ``kv_bytes`` for
    keys and values, None: room for ``max_batch`` requests of 2,048 rows, and for one whole context."""

    max_batch: int
    prefill_chunk: int
    context: int
    kv_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch", "prefill_chunk", "context"):
            if getattr(self, name) < 1:
                raise NodeError(f"{name} is {getattr(self, name)}; allowed: 1 or more")

    def blocks(self, row_bytes: int) -> int:
        """KV blocks of ``BLOCK_SIZE`` rows. Raises NodeError when not even one fits."""
        if self.kv_bytes is None:
            return -(-max(self.context, self.max_batch * DEFAULT_ROWS_A_REQUEST) // BLOCK_SIZE)
        blocks = self.kv_bytes // (row_bytes * BLOCK_SIZE)
        if blocks < 1:
            raise NodeError(f"kv_bytes is {self.kv_bytes}; allowed: {row_bytes * BLOCK_SIZE} (one block) or more")
        return blocks


@dataclass(frozen=True, slots=True)
class Computed:
    """Rows of ``request`` from index ``start`` on, and their ``hidden`` states (n, H) after the final norm. ``complete``:
    nothing that was fed still waits, so the last state predicts the next token."""

    request: str
    start: int
    rows: Rows
    hidden: torch.Tensor
    complete: bool


class Engine:
    """The open sequences of one decoder, in order of arrival."""

    def __init__(
        self,
        decoder: torch.nn.Module,
        limits: EngineLimits,
        project: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        shape = kv_shape(decoder)
        blocks = limits.blocks(shape.row_bytes)
        device = next(decoder.parameters()).device
        self.kv = PagedKV(shape, blocks=blocks, block_size=BLOCK_SIZE, device=device)
        self.capacity = min(limits.context, blocks * BLOCK_SIZE)  # rows that one request may hold
        self._runner = Runner(decoder, self.kv, project)
        self._scheduler = Scheduler(
            max_batch=limits.max_batch, prefill_chunk=limits.prefill_chunk, blocks=blocks, block_size=BLOCK_SIZE
        )
        self._sequences: dict[str, Sequence] = {}

    def open(self, request: str) -> None:
        """Begin a sequence with no rows."""
        self._sequences[request] = Sequence(claim=0)

    def feed(self, request: str, rows: Rows, *, reply: int = 0) -> None:
        """Append rows to compute. ``reply`` is how many more the request may come to feed after them; the caller keeps
        the sum within ``capacity``."""
        sequence = self._sequences[request]
        sequence.feed(rows)
        sequence.claim = max(sequence.claim, sequence.cached + sequence.waiting + reply)
        assert sequence.claim <= self.capacity, f"{request} claims {sequence.claim} rows of {self.capacity}"

    def waiting(self, request: str) -> int:
        """Rows fed and not yet computed."""
        return self._sequences[request].waiting

    def computed(self, request: str) -> int:
        """Rows computed, prompt and reply together."""
        return self._sequences[request].cached

    def plan(self, room: Mapping[str, int]) -> Plan:
        """Who could advance now, and by how much: requests in ``room``, each by at most that many rows."""
        return self._scheduler.plan(
            [
                Candidate(request, min(s.waiting, room.get(request, 0)), s.cached, s.claim)
                for request, s in self._sequences.items()
            ]
        )

    def check(self, plan: Plan) -> None:
        """Raises RequestError for the request that a plan gives up for want of KV (see ``Scheduler``)."""
        if plan.victim:
            message = f"prompts that are still being read have outgrown the {self.kv.pool.blocks} KV blocks they share"
            raise RequestError(plan.victim, Code.OVERLOADED, message)

    def run(self, grants: tuple[Grant, ...]) -> tuple[Computed, ...]:
        """Compute what a plan granted, in its order; the other requests stay as they are."""
        starts = [self._sequences[grant.request].cached for grant in grants]
        slices = [(grant.request, self._sequences[grant.request].take(grant.rows)) for grant in grants]
        if not slices:
            return ()
        return tuple(
            Computed(request, start, rows, hidden, not self._sequences[request].waiting)
            for (request, rows), start, hidden in zip(slices, starts, self._runner.run(slices))
        )

    def close(self, request: str) -> None:
        """Drop a sequence and free its blocks; idempotent."""
        self._sequences.pop(request, None)
        self.kv.release(request)
