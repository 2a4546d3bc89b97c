"""Graphs of nodes that tell where they live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni_graph.graph import Graph
from omni_graph.runtime.app import App
from omni_graph.spec import GraphSpec
from tests.runtime.graphs import words


def where(*names: str) -> Graph:
    """A stage for every name, side by side, each with an output of its own."""
    spec = {
        "graph": "where",
        "inputs": {"text": "TextDelta"},
        "outputs": {name: f"{name}.out" for name in names},
        "nodes": {name: {"uses": "./toys.py:Where", "inputs": {"text": "text"}} for name in names},
    }
    return Graph(GraphSpec.model_validate(spec), Path(__file__).parent)


def asked(app: App, name: str) -> dict[str, Any]:
    """What the stage tells of itself."""
    told: dict[str, Any] = json.loads(app.run({"text": words("where?")}, outputs=[name])[name].text)
    return told
