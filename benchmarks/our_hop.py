"""Our side of ``hop``: gateway -> Source -> Sink -> gateway, each replica a process of the product as it is deployed.

Worker loop, core, credit, codec, ZMQ over ipc and the Timings observer are all on; nothing is taken out for speed.
"""

from __future__ import annotations

from types import TracebackType

import omni_graph as og
from benchmarks.hop_nodes import MAX_BODY, Go
from omni_graph.graph import Graph
from omni_graph.runtime.app import App, Handle
from omni_graph.spec import DeploySpec, GraphSpec

DEADLINE_S = 3600.0
REPLY_S = 120.0


def pieces_of(size: int) -> int:
    """How many packets carry ``size`` bytes."""
    return -(-size // MAX_BODY)


class OurHop:
    """A deployment with ``streams`` requests open over one link, for groups of ``pieces`` packets."""

    def __init__(self, pieces: int = 1, streams: int = 1) -> None:
        self._pieces = pieces
        self._app = _launch(pieces, streams)
        self._handles: list[Handle] = [self._app.open(deadline_s=DEADLINE_S) for _ in range(streams)]

    def __call__(self, size: int, groups: int) -> list[float]:
        """One-way times in seconds of ``groups`` groups of ``size`` bytes, of each stream."""
        each = min(size, MAX_BODY)
        go = Go(groups, self._pieces, each, len(self._handles))
        for handle in self._handles:
            handle.write("go", go)
        times: list[float] = []
        for handle in self._handles:
            event = handle.next(REPLY_S)
            assert event is not None, "the request has ended"
            times += event.packet.seconds
        return times

    def __enter__(self) -> OurHop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.cancel()
        self._app.close()


def _launch(pieces: int, streams: int) -> App:
    spec = GraphSpec.model_validate(
        {
            "graph": "hop",
            "inputs": {"go": "benchmarks.hop_nodes:Go"},
            "outputs": {"latencies": "sink.latencies"},
            "nodes": {
                "source": {"uses": "benchmarks.hop_nodes:Source", "inputs": {"go": "go"}},
                "sink": {
                    "uses": "benchmarks.hop_nodes:Sink",
                    "inputs": {"parcels": {"from": "source.parcels", "window": pieces}},
                },
            },
        }
    )
    stages = {name: {"streams": streams} for name in ("source", "sink")}
    deploy = DeploySpec.model_validate({"max_requests": streams, "retries": 0, "stages": stages})
    return og.launch(Graph(spec), deploy, "processes")
