"""``omni-graph trace FILE``: the waterfall of a recorded request."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def trace(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What run --trace wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the picture.")] = False,
) -> None:
    """Show where the time of a recorded request went."""
    from omni_graph.observe.trace import read_trace

    record = read_trace(file)
    if as_json:
        typer.echo(json.dumps(record.summary(), indent=2))
        return
    from rich.console import Console

    from omni_graph.observe.waterfall import waterfall

    Console(highlight=False, width=None if sys.stdout.isatty() else 150).print(waterfall(record))
