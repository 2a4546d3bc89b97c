"""Where the Thinker's prompt states are cut into packets: at segment ends, and inside long segments by rows.

So packets depend on the prompt's segments alone, never on how the engine's steps happened to divide the rows. Holds at
most the rows of one packet that is not complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from omni_nodes.payloads import PromptStates
from omni_nodes.tensors import from_tensor


@dataclass(frozen=True, slots=True)
class _Cut:
    """A packet that ends before prompt row ``end``."""

    end: int
    next_position: int
    last: bool


class StatePackets:
    """One request's prompt. ``most``: rows a packet may have."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._cuts: deque[_Cut] = deque()
        self._planned = 0
        self._sent = 0
        self._states: list[torch.Tensor] = []
        self._positions: list[torch.Tensor] = []

    def plan(self, rows: int, next_position: int, last: bool) -> None:
        """A segment of ``rows`` rows was fed."""
        start, end = self._planned, self._planned + rows
        for cut in [*range(start + self._most, end, self._most), *([end] if rows else [])]:
            self._cuts.append(_Cut(cut, next_position, last and cut == end))
        self._planned = end

    def rows_within(self, packets: int, computed: int) -> int:
        """How many prompt rows after the first ``computed`` may be computed when ``packets`` may be sent."""
        if not packets or not self._cuts:
            return 0
        return self._cuts[min(packets, len(self._cuts)) - 1].end - computed

    def push(self, states: torch.Tensor, positions: torch.Tensor) -> Iterator[PromptStates]:
        """The packets that the next rows complete: ``states`` (n, H), ``positions`` (3, n)."""
        self._states.append(states)
        self._positions.append(positions)
        states, positions = torch.cat(self._states), torch.cat(self._positions, 1)
        while self._cuts and self._cuts[0].end - self._sent <= len(states):
            cut = self._cuts.popleft()
            count = cut.end - self._sent
            yield PromptStates(
                from_tensor(states[:count]), from_tensor(positions[:, :count]), cut.next_position, cut.last
            )
            states, positions, self._sent = states[count:], positions[:, count:], cut.end
        self._states, self._positions = [states], [positions]
