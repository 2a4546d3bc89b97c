"""How much memory packets can take, at most. Pure arithmetic over planned edges; the promise that ``check`` prints.

In flight <= requests x window x largest packet, summed over edges, and what nodes take ahead and the Gateway buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omni_graph.node import lookahead_of
from omni_graph.payload import max_packet_bytes
from omni_graph.replay import COMPARED_BYTES
from omni_graph.spec import DeploySpec
from omni_graph.wiring import Edge

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True, slots=True)
class EdgeBound:
    """One edge: ``window`` packets of at most ``packet_bytes`` for each of the requests that run at once."""

    edge: str
    type: str
    window: int
    packet_bytes: int
    total: int


@dataclass(frozen=True, slots=True)
class MemoryBound:
    """Bytes, for all requests together. ``gateway``: what waits for clients. ``kept``: what is held for a replay and is not
    in flight: inputs, and the latest packets of each output for comparison.

    Beside it are a request's choices, a few integers for every token and codec frame that its nodes may make; and packets
    that have not left for the graph are the caller's own.
    """

    rows: tuple[EdgeBound, ...]
    lookahead: int
    gateway: int
    kept: int

    @property
    def in_flight(self) -> int:
        """What ``memory_limit`` limits."""
        return sum(row.total for row in self.rows) + self.lookahead + self.gateway

    @property
    def total(self) -> int:
        """In flight and kept."""
        return self.in_flight + self.kept


def memory_bound(edges: Sequence[Edge], classes: Mapping[str, type], deploy: DeploySpec) -> MemoryBound:
    """The bound of a graph's edges under a deployment; ``classes`` are the node classes by name."""
    requests = deploy.max_requests
    lookahead = (lookahead_of(classes[e.reader]) * max_packet_bytes(e.type) for e in edges if e.reader in classes)
    outputs = [edge for edge in edges if edge.is_output]
    waiting = (deploy.limits.output_bytes + max_packet_bytes(edge.type) for edge in outputs)
    return MemoryBound(
        tuple(_row(edge, requests) for edge in edges),
        requests * sum(lookahead),
        requests * sum(waiting),
        requests * (deploy.limits.input_bytes + len(outputs) * COMPARED_BYTES),
    )


def _row(edge: Edge, requests: int) -> EdgeBound:
    size = max_packet_bytes(edge.type)
    return EdgeBound(edge.name, edge.type.__qualname__, edge.window, size, requests * edge.window * size)


def size_text(count: int) -> str:
    """``3.5 GiB``: bytes in the largest binary unit that leaves at least 1."""
    value = float(count)
    for unit in UNITS:
        if value < 1024 or unit == UNITS[-1]:
            break
        value /= 1024
    number = f"{value:.1f}".removesuffix(".0")
    return f"{number} {unit}"
