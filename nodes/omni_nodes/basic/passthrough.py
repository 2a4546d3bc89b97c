"""Passthrough: text goes through unchanged. The smallest MapNode there is."""

from __future__ import annotations

from omni_graph.kinds import MapNode
from omni_graph.node import In, Out
from omni_graph.payload import TextDelta


class Passthrough(MapNode[TextDelta, TextDelta]):
    """``text`` comes out as it came in, packet by packet."""

    text = In(TextDelta)
    out = Out(TextDelta)

    def forward(self, batch: list[TextDelta]) -> list[TextDelta]:
        return batch
