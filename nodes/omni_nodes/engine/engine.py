"""Continuous batching for an autoregressive node: rows in, hidden states out, demand as one integer a request.

Schedule, run, hand back. Never samples, embeds or sends: what a hidden state means is the node's business. Each row is
handed back once, whether it was computed, found in the prefix cache, or computed again after a preemption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from omni_graph.errors import NodeError
from omni_nodes.engine.kv import PagedKV
from omni_nodes.engine.runner import Runner, kv_shape
from omni_nodes.engine.scheduler import Candidate, Grant, Plan, Scheduler
from omni_nodes.engine.sequence import Rows, Sequence

BLOCK_SIZE = 16
DEFAULT_ROWS_A_REQUEST = 2048


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """``max_batch`` requests and ``prefill_chunk`` prompt rows a step; ``context`` rows the model can see; ``kv_bytes`` for
    keys and values, None: room for ``max_batch`` requests of 2,048 rows, and for one whole context. ``prefix_cache``: a full
    block that nobody holds is kept until it is needed, and found by requests that begin alike."""

    max_batch: int
    prefill_chunk: int
    context: int
    kv_bytes: int | None = None
    prefix_cache: bool = True

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
    """The open sequences of one decoder, in order of arrival. ``keep_hidden``: rows found in the prefix cache are handed
    back too, from hidden states kept beside the KV; without it the caller needs nothing of such rows but their KV."""

    def __init__(
        self,
        decoder: torch.nn.Module,
        limits: EngineLimits,
        project: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        keep_hidden: bool = False,
        compiled: bool = False,
    ) -> None:
        shape = kv_shape(decoder)
        if keep_hidden and limits.prefix_cache:
            shape = replace(shape, hidden=decoder.config.hidden_size)  # type: ignore[union-attr]
        blocks = limits.blocks(shape.row_bytes)
        device = next(decoder.parameters()).device
        self.kv = PagedKV(shape, blocks=blocks, block_size=BLOCK_SIZE, device=device)
        self.capacity = min(limits.context, blocks * BLOCK_SIZE)  # rows that one request may hold
        self.prefix_cache = limits.prefix_cache
        self._runner = Runner(decoder, self.kv, project, compiled=compiled)
        self._scheduler = Scheduler(max_batch=limits.max_batch, prefill_chunk=limits.prefill_chunk)
        self._sequences: dict[str, Sequence] = {}
        self._asked = self._hit = self._preempted = 0

    def open(self, request: str) -> None:
        """Begin a sequence with no rows."""
        self._sequences[request] = Sequence(BLOCK_SIZE)

    def feed(self, request: str, rows: Rows, *, reply: int | None = None, more: bool = False) -> None:
        """Append rows to compute. ``reply``: they are the prompt's, and so many more the request may come to feed after
        them; the caller keeps the sum within ``capacity``. ``more``: there is more of the prompt to come. Rows that may be
        found again have an identity."""
        sequence = self._sequences[request]
        sequence.more = more
        sequence.feed(rows if self.prefix_cache else replace(rows, identity=b""))
        sequence.claim = max(sequence.claim, sequence.fed + (reply or 0))
        if self.prefix_cache and rows.identity:
            self._asked += len(rows)
        assert sequence.claim <= self.capacity, f"{request} claims {sequence.claim} rows of {self.capacity}"

    def waiting(self, request: str) -> int:
        """Rows that could be computed and are not in the KV."""
        return self._sequences[request].waiting

    def handed(self, request: str) -> int:
        """Rows handed back, prompt and reply together."""
        return self._sequences[request].handed

    def counters(self) -> dict[str, int]:
        """Rows, of prompts and replies, that could be in the prefix cache and those that were, its blocks that were reused,
        and preemptions."""
        return {
            "prefix_rows_asked": self._asked,
            "prefix_rows_hit": self._hit,
            "prefix_blocks_evicted": self.kv.pool.evicted,
            "preemptions": self._preempted,
        }

    def plan(self, room: Mapping[str, int]) -> Plan:
        """Who advances, and by how much: requests in ``room``, each so that at most that many rows are handed back (0: what
        it must compute again). Where prompts have outgrown the pool, the youngest are preempted until another can go on."""
        plan = self._scheduler.plan(self._candidates(room), self.kv.pool)
        while plan.victim:
            self.preempt(plan.victim)
            plan = self._scheduler.plan(self._candidates(room), self.kv.pool)
        return plan

    def _candidates(self, room: Mapping[str, int]) -> list[Candidate]:
        candidates = []
        for request, s in self._sequences.items():
            ready = min(s.waiting, room[request] + s.silent) if request in room else 0
            candidates.append(Candidate(request, ready, s.cached, s.claim, self._hits(s, ready)))
        return candidates

    def _hits(self, sequence: Sequence, ready: int) -> tuple[int, ...]:
        """Blocks in the cache that have the next rows, as far as whole blocks of them are ready."""
        first, end = sequence.cached // BLOCK_SIZE, (sequence.cached + ready) // BLOCK_SIZE
        return self.kv.pool.match(sequence.keys[first:end]) if first < end else ()

    def run(self, grants: tuple[Grant, ...]) -> tuple[Computed, ...]:
        """Compute or find what a plan granted, at once after it; the other requests stay as they are. In the plan's order,
        those who have rows handed back."""
        for grant in grants:  # before a block is reused that another grant means to adopt
            self._adopt(grant)
        slices = [(g.request, self._sequences[g.request].take(g.rows)) for g in grants if g.rows]
        names = [request for request, _ in slices]
        states = self._runner.run(slices) if slices else []
        if slices:
            self.kv.keep_hidden(names, states)
            for request, rows in slices:
                self._seal(request, len(rows))
        hidden = dict(zip(names, states))
        handed = [self._hand_back(grant.request, hidden.get(grant.request)) for grant in grants]
        return tuple(computed for computed in handed if computed is not None)

    def _adopt(self, grant: Grant) -> None:
        if grant.hits:
            sequence = self._sequences[grant.request]
            first = sequence.cached // BLOCK_SIZE
            self.kv.adopt(grant.request, first, grant.hits)
            sequence.cached = (first + len(grant.hits)) * BLOCK_SIZE
            self._hit += max(0, sequence.cached - sequence.handed)

    def _seal(self, request: str, rows: int) -> None:
        """The blocks that the last ``rows`` rows have filled can be found from now on, where they have a key."""
        sequence = self._sequences[request]
        first, end = (sequence.cached - rows) // BLOCK_SIZE, sequence.cached // BLOCK_SIZE
        for index, key in enumerate(sequence.keys[first:end], first):
            self.kv.pool.seal(request, index, key)

    def _hand_back(self, request: str, hidden: torch.Tensor | None) -> Computed | None:
        """The rows in the KV that were not handed back yet. ``hidden`` is of those just computed, None: of the cache."""
        sequence = self._sequences[request]
        start, end = sequence.handed, sequence.cached
        if end <= start:
            return None
        sequence.handed = end
        states = self.kv.hidden(request, start, end) if hidden is None else hidden[start - end :]
        if states is None:
            return None
        return Computed(request, start, sequence.rows(start, end), states, end == sequence.fed)

    def preempt(self, request: str) -> None:
        """Take back the blocks of a request; its rows are computed again later, and none is handed back twice."""
        sequence = self._sequences[request]
        if sequence.cached:
            sequence.cached = 0
            self.kv.release(request)
            self._preempted += 1

    def close(self, request: str) -> None:
        """Drop a sequence and free its blocks; idempotent."""
        self._sequences.pop(request, None)
        self.kv.release(request)
