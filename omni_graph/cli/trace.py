"""``omni-graph trace FILE``: the waterfall and the critical path of a recorded request."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_graph.cli.terminal import console

if TYPE_CHECKING:
    from omni_graph.observe.trace import Trace


def trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What run --trace wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the picture.")] = False,
) -> None:
    """Show where the time of a recorded request went."""
    from omni_graph.observe.critical_path import critical_paths
    from omni_graph.observe.trace import read_trace
    from omni_graph.observe.waterfall import Waterfall, critical_path

    record = read_trace(file)
    if as_json:
        typer.echo(json.dumps(summary(record), indent=2))
        return
    out = console()
    out.print(Waterfall(record))
    for name, legs in critical_paths(record).items():
        if legs:
            out.print(critical_path(name, legs))


def summary(record: Trace) -> dict[str, Any]:
    """What ``--json`` prints."""
    from omni_graph.observe.critical_path import critical_paths

    paths = {
        name: [asdict(leg) | {"seconds": round(leg.seconds, 6)} for leg in legs]
        for name, legs in critical_paths(record).items()
    }
    edges = {name: dict(edge) for name, edge in record.edges.items()}
    return {"trace_id": record.trace_id, **record.timing(), "critical_path": paths, "edges": edges}
