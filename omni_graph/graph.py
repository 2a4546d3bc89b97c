"""A graph as loaded: its spec after substitution, its folder, and where each value stands. A value; opens no file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omni_graph.source import Source
from omni_graph.spec import GraphSpec


@dataclass(frozen=True, slots=True)
class Graph:
    """What ``make_plan`` reads. ``Graph(spec)`` is a graph made in Python; ``./file.py`` is resolved against ``folder``.

    ``unused`` are parameters that no value refers to.
    """

    spec: GraphSpec
    folder: Path = field(default_factory=Path)
    source: Source = field(default_factory=Source)
    unused: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the file calls itself."""
        return self.spec.graph
