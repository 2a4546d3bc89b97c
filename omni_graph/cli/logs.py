"""``omni-graph logs [STAGE]``: the last lines that the replicas of a running deployment have logged."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

import typer

from omni_graph.cli.options import TokenOption, UrlOption
from omni_graph.cli.status import remote


def logs(
    stage: Annotated[str | None, typer.Argument(metavar="STAGE", help="One stage; all unless given.")] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    lines: Annotated[int, typer.Option("--lines", metavar="N", min=1, max=10_000, help="Of each replica.")] = 200,
) -> None:
    """Show the last log lines of each replica, each with its replica's name."""
    query = urlencode({"lines": lines} | ({"stage": stage} if stage is not None else {}))
    for name, found in remote(url, token).get(f"/logs?{query}")["logs"].items():
        for line in found:
            typer.echo(line if f" {name} " in line else f"{name} {line}")
