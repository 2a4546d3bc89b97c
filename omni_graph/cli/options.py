"""The arguments that several commands share. Imports nothing but typer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

GraphArgument = Annotated[
    str, typer.Argument(metavar="GRAPH", help="A graph file, or the name of a graph in the package.")
]
DeployOption = Annotated[str | None, typer.Option("--deploy", metavar="FILE", help="A deploy file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="K=V", help="Set a parameter, or a place such as nodes.NODE.config.KEY."),
]


class ReportFormat(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"


class DrawingFormat(StrEnum):
    """The languages of ``draw``."""

    MERMAID = "mermaid"
    DOT = "dot"
