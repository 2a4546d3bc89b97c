"""Graphs of the toy nodes, and waiting for what happens in other threads and processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import omni_graph as og
from omni_graph.graph import Graph
from omni_graph.payload import TextDelta
from omni_graph.runtime.app import App
from omni_graph.spec import DeploySpec, GraphSpec

HERE = Path(__file__).parent
TOYS = "./toys.py:"


def graph(nodes: dict[str, Any], outputs: dict[str, str], inputs: dict[str, Any] | None = None) -> Graph:
    """A graph of classes in toys.py: {name: (class, {port: source}, config)}."""
    made = {
        name: {"uses": f"{TOYS}{cls}", "inputs": wires, "config": config}
        for name, (cls, wires, config) in nodes.items()
    }
    spec = GraphSpec.model_validate(
        {"graph": "toys", "inputs": inputs or {"text": "TextDelta"}, "outputs": outputs, "nodes": made}
    )
    return Graph(spec, HERE)


def chain(**config: Any) -> Graph:
    """text -> a -> b -> out."""
    return graph(
        {"a": ("Echo", {"text": "text"}, config), "b": ("Echo", {"text": "a.out"}, {})},
        {"out": "b.out", "half": "a.out"},
    )


def tagged(**config: Any) -> Graph:
    """text -> a -> b -> out, where ``a`` says who it is."""
    return graph(
        {"a": ("Tagged", {"text": "text"}, {"tag": "old"} | config), "b": ("Echo", {"text": "a.out"}, {})},
        {"out": "b.out", "half": "a.out"},
    )


def beside() -> Graph:
    """text -> a -> left, and text -> b -> right."""
    return graph(
        {"a": ("Echo", {"text": "text"}, {}), "b": ("Echo", {"text": "text"}, {})}, {"left": "a.out", "right": "b.out"}
    )


def flood(**config: Any) -> Graph:
    """text -> a -> blobs, and b beside it."""
    nodes = {"a": ("Flood", {"text": "text"}, config), "b": ("Echo", {"text": "text"}, {})}
    return graph(nodes, {"blobs": "a.blobs", "out": "b.out"})


def launch(made: Graph, launcher: str, **deploy: Any) -> App:
    """A running toy graph."""
    return og.launch(made, DeploySpec.model_validate(deploy), launcher)


def words(*texts: str) -> list[TextDelta]:
    """Packets."""
    return [TextDelta(one) for one in texts]


def eventually(true: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for something that another thread or process does; AssertionError when it does not."""
    until = time.monotonic() + within_s
    pause = threading.Event()
    while not true():
        assert time.monotonic() < until, f"not so within {within_s} s"
        pause.wait(0.005)


def held(app: App) -> int:
    """Requests that workers hold, as they say themselves."""
    return sum(handle.beat.requests for handle in app._deployment.handles.values())
