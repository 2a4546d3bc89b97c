"""``omni-graph schema``: JSON Schema of the graph and deploy files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def schema(
    graph: Annotated[bool, typer.Option("--graph/--deploy", help="Of the graph file, or of the deploy file.")] = True,
) -> None:
    """Print the JSON Schema of a file.

    With it an editor completes and checks graph files, `config` of the installed nodes included.
    """
    from omni_graph.catalog import catalog, node_card
    from omni_graph.schema import deploy_schema, graph_schema

    found = graph_schema(node_card(entry.uses, Path()) for entry in catalog()) if graph else deploy_schema()
    typer.echo(json.dumps(found, indent=2))
