"""An edge of a planned graph, as everything below the plan sees it. A value; knows no file and no node code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omni_graph.frames import GATEWAY


@dataclass(frozen=True, slots=True)
class Edge:
    """Output ``writer.writer_port`` feeds input ``reader.reader_port``; the Gateway stands for the graph's own ends."""

    number: int
    writer: str
    writer_port: str
    reader: str
    reader_port: str
    type: type[Any]
    window: int

    @property
    def name(self) -> str:
        """``thinker.text -> talker.thought``, for messages and traces."""
        return f"{self.writer}.{self.writer_port} -> {self.reader}.{self.reader_port}"

    @property
    def is_input(self) -> bool:
        """A graph input."""
        return self.writer == GATEWAY

    @property
    def is_output(self) -> bool:
        """A graph output."""
        return self.reader == GATEWAY
