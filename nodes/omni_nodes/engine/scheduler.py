"""Which requests advance in the next step, and by how many rows. Pure integers: no tensor, no clock, no node.

Invariants: a step computes at most ``max_batch`` requests and ``prefill_chunk`` prompt rows; a request whose prompt is
complete always gets the KV blocks to finish, because a block is granted only where that leaves everybody able to (the
banker's algorithm, Dijkstra, EWD 108; only blocks that nobody else holds count as given back). Requests that are paused
keep what they hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omni_nodes.engine.blocks import BlockPool, blocks_for


@dataclass(frozen=True, slots=True)
class Candidate:
    """One open request. ``ready``: rows it could feed now, within downstream room (0: paused, or waiting for input);
    ``cached``: rows in the KV; ``claim``: rows it may come to hold, at least as far as is known. ``hits``: blocks of the
    pool that have its next rows, whole blocks from the one that row ``cached`` is in."""

    request: str
    ready: int
    cached: int
    claim: int
    hits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """``request`` computes its next ``rows`` rows, or has those of the blocks ``hits`` and computes nothing."""

    request: str
    rows: int
    hits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step. ``starved`` wait for KV blocks. ``victim`` is set when prompts grew past what the pool can hold and
    nobody who holds a block can move: it must give back its blocks, the others then go on."""

    grants: tuple[Grant, ...] = ()
    starved: tuple[str, ...] = ()
    victim: str = ""


class Scheduler:
    """Decides; ``plan`` keeps nothing between calls."""

    def __init__(self, *, max_batch: int, prefill_chunk: int) -> None:
        self.max_batch = max_batch
        self.prefill_chunk = prefill_chunk

    def plan(self, candidates: Sequence[Candidate], pool: BlockPool) -> Plan:
        """The next step. ``candidates`` are all open requests, oldest first.

        A request with one ready row (a decode step) goes before those with more (a prompt), and outside the prompt rows'
        budget, so that a long prompt does not hold up the replies that run beside it. Hits cost no budget.
        """
        ledger = _Ledger(candidates, pool)
        grants: list[Grant] = []
        starved: list[str] = []
        left, budget = self.max_batch, self.prefill_chunk
        for candidate in sorted((c for c in candidates if c.ready), key=lambda c: c.ready > 1):
            queued = bool(starved) and not candidate.cached  # behind an older one that waits for blocks
            if candidate.hits and not queued and ledger.adopt(candidate):
                grants.append(Grant(candidate.request, 0, candidate.hits))
                continue
            prompt = candidate.ready > 1
            rows = min(candidate.ready, budget) if prompt else 1
            if not left or not rows:
                continue
            if queued or not ledger.grant(candidate, rows):
                starved.append(candidate.request)
                continue
            grants.append(Grant(candidate.request, rows))
            left -= 1
            budget -= rows if prompt else 0
        victim = "" if grants else _victim(candidates, starved)
        return Plan(tuple(grants), tuple(starved), victim)


def _victim(candidates: Sequence[Candidate], starved: Sequence[str]) -> str:
    """The youngest holder where every holder is starved, else nobody."""
    holders = [c.request for c in candidates if c.cached]
    if not holders or any(request not in starved for request in holders):
        return ""
    return holders[-1]


class _Ledger:
    """Blocks free, held, and held alone, as they would be after the grants made so far."""

    def __init__(self, candidates: Sequence[Candidate], pool: BlockPool) -> None:
        self._pool = pool
        self._free = pool.free
        self._held = {c.request: pool.held(c.request) for c in candidates}
        self._own = {c.request: pool.own(c.request) for c in candidates}
        self._claims = {c.request: blocks_for(max(c.claim, c.cached), pool.block_size) for c in candidates}
        self._holders: dict[int, tuple[str, ...]] = {}  # of blocks that were adopted here

    def grant(self, candidate: Candidate, rows: int) -> bool:
        """Take the blocks for ``rows`` more rows, unless that would leave someone unable to finish."""
        request = candidate.request
        more = blocks_for(candidate.cached + rows, self._pool.block_size) - self._held[request]
        return not more or self._move(request, more, more, {request: more})

    def adopt(self, candidate: Candidate) -> bool:
        """Hold the blocks of its hits, in place of one filled in part, unless that would leave someone unable to finish."""
        request, hits = candidate.request, candidate.hits
        partial = self._held[request] - candidate.cached // self._pool.block_size  # 1 where its last block is not full
        holders = {block: self._holders.get(block, self._pool.holders(block)) for block in hits}
        idle = sum(not names for names in holders.values())
        # a block that nobody held is its own; one that one other held is that one's own no more
        own = Counter({request: idle - partial})
        own.subtract(names[0] for names in holders.values() if len(names) == 1)
        if not self._move(request, idle - partial, len(hits) - partial, own):
            return False
        self._holders.update({block: (*names, request) for block, names in holders.items()})
        return True

    def _move(self, request: str, taken: int, more: int, own: Mapping[str, int]) -> bool:
        """``request`` holds ``more`` blocks more, ``taken`` of them free until now; ``own`` says who owns how many more."""
        free, held = self._free - taken, {**self._held, request: self._held[request] + more}
        owned = {name: count + own.get(name, 0) for name, count in self._own.items()}
        before = self._finishable(self._free, self._held, self._own)
        if not (before | {request}) <= self._finishable(free, held, owned):
            return False
        self._free, self._held, self._own = free, held, owned
        return True

    def _finishable(self, free: int, held: Mapping[str, int], own: Mapping[str, int]) -> set[str]:
        """Who could reach its claim, when each one that finishes gives back the blocks it holds alone; nobody where more is
        held than there is."""
        done: set[str] = set()
        for request in sorted(held, key=lambda r: self._claims[r] - held[r]):
            if self._claims[request] - held[request] > free:
                break
            free += own[request]
            done.add(request)
        return done
