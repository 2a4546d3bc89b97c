"""Plan -> Mermaid or DOT text, with the payload type on every edge. Pure text; renders nothing."""

from __future__ import annotations

import html
from collections.abc import Iterator

from omni_graph.plan import Plan
from omni_graph.wiring import Edge


def mermaid(plan: Plan) -> str:
    """A Mermaid flowchart: round ends are the graph's inputs and outputs, boxes its nodes."""
    return "\n".join(["flowchart LR", *(f"  {line}" for line in _mermaid_lines(plan))]) + "\n"


def _mermaid_lines(plan: Plan) -> Iterator[str]:
    ids = _ids(plan)
    for name in plan.inputs:
        yield f'{ids["input", name]}(["{name}"])'
    for name, stage in plan.stages.items():
        yield f'{ids["node", name]}["{name}<br/>{_class(stage.uses)}"]'
    for name in plan.outputs:
        yield f'{ids["output", name]}(["{name}"])'
    for edge in plan.edges:
        writer, reader = _ends(edge)
        yield f'{ids[writer]} -- "{html.escape(_label(edge))}" --> {ids[reader]}'


def dot(plan: Plan) -> str:
    """A Graphviz digraph: ellipses are the graph's inputs and outputs, boxes its nodes."""
    return "\n".join([f'digraph "{plan.graph}" {{', *(f"  {line}" for line in _dot_lines(plan)), "}"]) + "\n"


def _dot_lines(plan: Plan) -> Iterator[str]:
    ids = _ids(plan)
    yield "rankdir=LR;"
    yield "node [shape=box];"
    for name in plan.inputs:
        yield f'{ids["input", name]} [label="{name}", shape=ellipse];'
    for name, stage in plan.stages.items():
        yield f'{ids["node", name]} [label="{name}\\n{_class(stage.uses)}"];'
    for name in plan.outputs:
        yield f'{ids["output", name]} [label="{name}", shape=ellipse];'
    for edge in plan.edges:
        writer, reader = _ends(edge)
        yield f'{ids[writer]} -> {ids[reader]} [label="{_label(edge)}"];'


def _ids(plan: Plan) -> dict[tuple[str, str], str]:
    """Short ids, so that no name (``end``, ``audio-encoder``) can be a word of either language."""
    ids = {("input", name): f"i{number}" for number, name in enumerate(plan.inputs)}
    ids |= {("node", name): f"n{number}" for number, name in enumerate(plan.stages)}
    return ids | {("output", name): f"o{number}" for number, name in enumerate(plan.outputs)}


def _ends(edge: Edge) -> tuple[tuple[str, str], tuple[str, str]]:
    writer = ("input", edge.writer_port) if edge.is_input else ("node", edge.writer)
    reader = ("output", edge.reader_port) if edge.is_output else ("node", edge.reader)
    return writer, reader


def _label(edge: Edge) -> str:
    """``states → prompt: PromptStates``; one port name where both ends have it, and none of the graph's own ends."""
    ports = [] if edge.is_input else [edge.writer_port]
    if not edge.is_output and edge.reader_port not in ports:
        ports.append(edge.reader_port)
    return f"{' → '.join(ports)}: {edge.type.__qualname__}"


def _class(uses: str) -> str:
    return uses.rpartition(":")[2]
