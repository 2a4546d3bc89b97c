"""Which requests advance in the next step, and by how many rows. Pure integers: no tensor, no clock, no node.

Invariants: a step has at most ``max_batch`` requests and ``prefill_chunk`` prompt rows; a request whose prompt is complete
always gets the KV blocks to finish, because a block is granted only where that leaves everybody able to (the banker's
algorithm, Dijkstra, EWD 108). Requests that are paused keep what they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omni_nodes.engine.blocks import blocks_for


@dataclass(frozen=True, slots=True)
class Candidate:
    """One open request. ``ready``: rows it could feed now, within downstream room (0: paused, or waiting for input);
    ``cached``: rows in the KV; ``claim``: rows it may come to hold, at least as far as is known."""

    request: str
    ready: int
    cached: int
    claim: int


@dataclass(frozen=True, slots=True)
class Grant:
    """``request`` feeds its next ``rows`` rows."""

    request: str
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The next step. ``starved`` wait for KV blocks. ``victim`` is set when prompts grew past what the pool can hold and
    nobody who holds a block can move: it must be failed, the others then go on."""

    grants: tuple[Grant, ...] = ()
    starved: tuple[str, ...] = ()
    victim: str = ""


class Scheduler:
    """Decides; ``plan`` keeps nothing between calls."""

    def __init__(self, *, max_batch: int, prefill_chunk: int, blocks: int, block_size: int) -> None:
        self.max_batch = max_batch
        self.prefill_chunk = prefill_chunk
        self.blocks = blocks
        self.block_size = block_size

    def plan(self, candidates: Sequence[Candidate]) -> Plan:
        """The next step. ``candidates`` are all open requests, oldest first.

        A request with one ready row (a decode step) goes before those with more (a prompt), and outside the prompt rows'
        budget, so that a long prompt does not hold up the replies that run beside it.
        """
        ledger = _Ledger(candidates, self.blocks, self.block_size)
        grants: list[Grant] = []
        starved: list[str] = []
        budget = self.prefill_chunk
        for candidate in sorted((c for c in candidates if c.ready), key=lambda c: c.ready > 1):
            if len(grants) == self.max_batch:
                break
            prompt = candidate.ready > 1
            rows = min(candidate.ready, budget) if prompt else 1
            if not rows:
                continue
            newcomer = not candidate.cached
            if (newcomer and starved) or not ledger.grant(candidate, rows):
                starved.append(candidate.request)
                continue
            grants.append(Grant(candidate.request, rows))
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
    """Blocks held and still needed, as they would be after the grants made so far."""

    def __init__(self, candidates: Sequence[Candidate], blocks: int, block_size: int) -> None:
        self._block_size = block_size
        self._blocks = blocks
        self._held = {c.request: blocks_for(c.cached, block_size) for c in candidates}
        self._claims = {c.request: blocks_for(max(c.claim, c.cached), block_size) for c in candidates}

    def grant(self, candidate: Candidate, rows: int) -> bool:
        """Take the blocks for ``rows`` more rows, unless that would leave someone unable to finish."""
        request = candidate.request
        wanted = blocks_for(candidate.cached + rows, self._block_size)
        if wanted == self._held[request]:
            return True
        if wanted - self._held[request] > self._free(self._held):
            return False
        after = {**self._held, request: wanted}
        if not (self._finishable(self._held) | {request}) <= self._finishable(after):
            return False
        self._held = after
        return True

    def _free(self, held: Mapping[str, int]) -> int:
        return self._blocks - sum(held.values())

    def _finishable(self, held: Mapping[str, int]) -> set[str]:
        """Who could reach its claim, when each one that finishes gives back its blocks."""
        free = self._free(held)
        done: set[str] = set()
        for request in sorted(held, key=lambda r: self._claims[r] - held[r]):
            if self._claims[request] - held[request] > free:
                break
            free += held[request]
            done.add(request)
        return done
