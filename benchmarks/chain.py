"""A chain of pass-through nodes, deployed: the smallest graph of a given length."""

from __future__ import annotations

import omni_graph as og
from omni_graph.graph import Graph
from omni_graph.runtime.app import App
from omni_graph.spec import DeploySpec, GraphSpec

PASSTHROUGH = "omni_nodes.basic.passthrough:Passthrough"


def chain(length: int) -> Graph:
    """text -> node 0 -> ... -> out."""
    sources = ["text", *(f"n{number}.out" for number in range(length))]
    nodes = {f"n{number}": {"uses": PASSTHROUGH, "inputs": {"text": sources[number]}} for number in range(length)}
    return Graph(
        GraphSpec.model_validate(
            {"graph": "chain", "inputs": {"text": "TextDelta"}, "outputs": {"out": sources[-1]}, "nodes": nodes}
        )
    )


def launch_chain(length: int, launcher: str) -> App:
    """It runs. Without retries: a figure with a restart in it is none."""
    return og.launch(chain(length), DeploySpec(retries=0), launcher)
