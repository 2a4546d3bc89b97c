"""Graph files for tests, and the faults that loading one brings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omni_graph.errors import Fault, GraphError
from omni_graph.load import load_deploy, load_graph
from omni_graph.plan import Plan, make_plan

TOYS = "tests.core.toy_nodes"

SPEECH = """\
api_version: omni_graph/v1
graph: speech
parameters:
  rate: 24000
inputs:
  question: TextDelta
outputs: {text: echo.said, speech: speak.audio}
nodes:
  echo: {uses: "tests.core.toy_nodes:Echo", inputs: {text: question}}
  speak:
    uses: tests.core.toy_nodes:Speak
    config: {rate: "${rate}"}
    inputs: {text: echo.said}
"""


def write(folder: Path, text: str, name: str = "graph.yaml") -> Path:
    """The text as a file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def nodes_only(nodes: str, outputs: str = "{out: echo.said}", inputs: str = "{question: TextDelta}") -> str:
    """A graph file around a block of nodes; ``@Class`` is a toy node."""
    body = "\n".join(f"  {line}" for line in nodes.strip().splitlines()).replace("@", f"{TOYS}:")
    return f"api_version: omni_graph/v1\ngraph: toy\ninputs: {inputs}\noutputs: {outputs}\nnodes:\n{body}\n"


def faults_of(action: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[Fault, ...]:
    """The faults of the GraphError that ``action`` raises; none where it raises none."""
    try:
        action(*arguments, **named)
    except GraphError as error:
        return error.faults
    return ()


def graph_faults(folder: Path, text: str, **named: Any) -> tuple[Fault, ...]:
    """The faults of a graph file."""
    return faults_of(load_graph, write(folder, text), **named)


def only_fault(folder: Path, text: str, **named: Any) -> Fault:
    """The one fault of a graph file: a mistake must not bring faults beside its own."""
    faults = graph_faults(folder, text, **named)
    assert len(faults) == 1, "\n".join(str(fault) for fault in faults) or "no fault"
    return faults[0]


def plan_of(folder: Path, text: str, deploy: str | None = None) -> Plan:
    """The plan of a graph file and a deploy file; of the latter, the lines after ``deploy:``."""
    graph = load_graph(write(folder, text))
    if deploy is None:
        return make_plan(graph)
    head = "api_version: omni_graph/v1\ndeploy: toy\n"
    return make_plan(graph, load_deploy(write(folder, head + deploy, "deploy.yaml")))


def deploy_faults(folder: Path, text: str, deploy: str) -> tuple[Fault, ...]:
    """The faults of a deploy file for a sound graph."""
    return faults_of(plan_of, folder, text, deploy)
