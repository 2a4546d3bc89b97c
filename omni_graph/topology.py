"""What the Gateway needs of a plan, and what follows from it for one request. A value; no state, no frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from omni_graph.frames import GATEWAY
from omni_graph.wiring import Edge

OUTPUT_BYTES = 4 << 20
INPUT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Topology:
    """Edges, where each stage lives, slots a replica, and the bounds of admission.

    ``retries`` replays a request; ``once`` are stages with a side effect, which no request may pass twice;
    ``output_bytes`` wait for a caller at most, per output; up to ``input_bytes`` of a request are kept for a replay.
    """

    edges: tuple[Edge, ...]
    host_of: Mapping[str, str]
    slots: Mapping[str, int]
    max_requests: int
    queue: int
    retries: int = 0
    once: frozenset[str] = frozenset()
    output_bytes: int = OUTPUT_BYTES
    input_bytes: int = INPUT_BYTES

    def hosts(self, stages: Iterable[str]) -> tuple[str, ...]:
        """The stages in whose workers these stages live, each once."""
        return tuple(dict.fromkeys(self.host_of[stage] for stage in stages))

    def routed_edges(self, stages: Iterable[str], outputs: Iterable[str]) -> Iterator[Edge]:
        """The edges of a request that asks for ``outputs`` and so needs ``stages``."""
        ends, asked = {*stages, GATEWAY}, set(outputs)
        for edge in self.edges:
            wanted = not edge.is_output or edge.reader_port in asked
            if wanted and edge.writer in ends and edge.reader in ends:
                yield edge
