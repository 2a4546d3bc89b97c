"""``omni-graph draw``: a graph as Mermaid or DOT text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from omni_graph.cli.options import DrawingFormat, GraphArgument, SetOption
from omni_graph.errors import OmniGraphError


def draw(
    graph: GraphArgument,
    settings: SetOption = None,
    format: Annotated[DrawingFormat, typer.Option(help="The drawing's language.")] = DrawingFormat.MERMAID,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write to FILE.")] = None,
) -> None:
    """Draw a graph.

    The payload type stands on every edge.
    """
    from omni_graph.draw import dot, mermaid
    from omni_graph.load import load_graph
    from omni_graph.plan import make_plan

    plan = make_plan(load_graph(graph, settings=settings or [], environ=os.environ))
    text = mermaid(plan) if format is DrawingFormat.MERMAID else dot(plan)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OmniGraphError(f"cannot write {output}: {error.strerror}") from None
