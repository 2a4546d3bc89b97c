"""What the Gateway keeps of a request so that it can be opened again on a fresh Route. Pure; every part is bounded.

The choices that arrived with its packets, the inputs that were given, and how much of each output the client has. A replay
repeats the choices; where it then says something else than the client already has, the request fails instead of lying.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from omni_graph.errors import OmniGraphError
from omni_graph.frames import Choice
from omni_graph.payload import Array, packet_bytes, payload_fields
from omni_graph.supply import Supply

FLOAT_TOLERANCE = 1e-4
COMPARED_BYTES = 1 << 20
PACKET_BYTES = 64  # what a packet counts beside its payload, so that empty ones are bounded too


class Diverged(OmniGraphError):
    """A replay said something else than the client has, or choices that do not fit together."""


class ChoiceMemory:
    """The union of the choices seen over all outputs and attempts: per node the longest prefix, without a gap."""

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[int, ...]]] = {}

    def learn(self, choices: Iterable[Choice]) -> None:
        """Raises Diverged for a gap, or a second value at one index."""
        for choice in choices:
            known = self._known.setdefault(choice.node, [])
            if choice.index > len(known):
                raise Diverged(f"choice {choice.index} of {choice.node} where {len(known)} was due")
            if choice.index == len(known):
                known.append(choice.values)
            elif known[choice.index] != choice.values:
                raise Diverged(
                    f"choice {choice.index} of {choice.node} is {choice.values}; it was {known[choice.index]} before"
                )

    def forced(self) -> tuple[Choice, ...]:
        """All of them, to repeat."""
        return tuple(Choice(node, i, values) for node, known in self._known.items() for i, values in enumerate(known))


class KeptInputs:
    """The graph inputs of one request, by name. All can be given once more from their first packet while what was taken of
    them, all together, is ``limit`` bytes at most; past it nothing is kept."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._supplies: dict[str, Supply] = {}
        self._taken: dict[str, list[Any]] = {}

    @property
    def replayable(self) -> bool:
        """Everything that was taken is still here."""
        return self._bytes <= self._limit

    def names(self) -> Iterable[str]:
        """The inputs of which anything was given."""
        return self._supplies

    def add(self, name: str, packets: Iterable[Any]) -> None:
        """More packets of an input, after all others."""
        self._supplies.setdefault(name, Supply()).add(packets)

    def has(self, name: str) -> bool:
        """There is a packet to take. Asking may pull one, and raises what its source raises."""
        return bool(self._supplies.get(name))

    def ready(self, name: str) -> int:
        """Packets that are here and were not taken."""
        return self._supplies[name].ready if name in self._supplies else 0

    def take(self, name: str) -> Any:
        """The next packet of an input; there must be one."""
        packet = self._supplies[name].take()
        self._bytes += packet_bytes(packet) + PACKET_BYTES
        if self.replayable:
            self._taken.setdefault(name, []).append(packet)
        else:
            self._taken.clear()
        return packet

    def discard(self, name: str) -> None:
        """Nobody reads the input now: what is here counts as taken; a replay may read it after all."""
        while self.ready(name):
            self.take(name)

    def rewind(self) -> None:
        """From the first packet again."""
        assert self.replayable, "inputs past their limit cannot be given again"
        for name, packets in self._taken.items():
            self._supplies[name].put_back(packets)
        self._taken.clear()
        self._bytes = 0

    def forget(self) -> None:
        """The request is over."""
        self._supplies.clear()
        self._taken.clear()


class Accepted:
    """How many packets of one output the client has, and the latest of them for comparison."""

    def __init__(self) -> None:
        self.count = 0
        self.ended: int | None = None
        self._recent: deque[tuple[Any, int]] = deque()
        self._bytes = 0

    def add(self, packet: Any, size: int) -> None:
        """The client has one more, of ``size`` bytes."""
        self._recent.append((packet, size + PACKET_BYTES))
        self._bytes += size + PACKET_BYTES
        self.count += 1
        while self._bytes > COMPARED_BYTES:
            self._bytes -= self._recent.popleft()[1]

    def check(self, seq: int, packet: Any) -> None:
        """Packet ``seq`` of a replay, None where it was skipped, against what the client has. Raises Diverged; one that is
        no longer kept passes."""
        if self.ended is not None and seq >= self.ended:
            raise Diverged(f"packet {seq} of the replay: the client has seen the end, after {self.ended}")
        index = seq - (self.count - len(self._recent))
        if packet is None or not 0 <= index < len(self._recent):
            return
        if not same_packet(self._recent[index][0], packet):
            raise Diverged(f"packet {seq} of the replay is not the one that the client has")

    def check_end(self, count: int) -> None:
        """The replay's End against the client's."""
        if count < self.count or (self.ended is not None and self.ended != count):
            raise Diverged(f"the replay ends after {count} packets; the client has {self.count}")
        self.ended = count


def same_packet(left: Any, right: Any) -> bool:
    """Integers, text and counts exactly; floats to 1e-4."""
    if type(left) is not type(right):
        return False
    return all(_same(getattr(left, name), getattr(right, name)) for name, _ in payload_fields(type(left)))


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Array) and isinstance(right, Array):
        return _same_array(left, right)
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= FLOAT_TOLERANCE
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(_same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


def _same_array(left: Array, right: Array) -> bool:
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    if left.dtype not in ("float16", "float32", "float64"):
        return left == right
    import numpy as np

    return bool(np.allclose(left.values, right.values, rtol=0.0, atol=FLOAT_TOLERANCE))
