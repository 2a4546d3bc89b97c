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


UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The deployment, as `omni-graph up` printed it; the only one unless given."
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", metavar="T", envvar="OMNI_GRAPH_TOKEN", help="Its token, where it is not yours to find."),
]
DrainTimeoutOption = Annotated[
    float | None,
    typer.Option("--drain-timeout", metavar="S", min=0.0, help="Seconds to finish; else the deploy file's."),
]


class LauncherName(StrEnum):
    """Who starts the replicas."""

    THREADS = "threads"
    PROCESSES = "processes"
    RAY = "ray"


class LogLevel(StrEnum):
    """What the replicas write down."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LauncherOption = Annotated[
    LauncherName | None, typer.Option("--launcher", help="Who starts the stages; else the deploy file's.")
]
LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", case_sensitive=False, help="Of the replicas' log files.")
]


class ReportFormat(StrEnum):
    """How a report is written."""

    TEXT = "text"
    JSON = "json"


class DrawingFormat(StrEnum):
    """The languages of ``draw``."""

    MERMAID = "mermaid"
    DOT = "dot"
