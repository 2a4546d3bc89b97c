"""``omni-graph scale STAGE=N``: more or fewer replicas of a stage of a running deployment."""

from __future__ import annotations

from typing import Annotated

import typer

from omni_graph.cli.options import DrainTimeoutOption, TokenOption, UrlOption
from omni_graph.cli.status import remote, show


def scale(
    change: Annotated[str, typer.Argument(metavar="STAGE=N", help="The stage, and how many replicas it shall have.")],
    url: UrlOption = None,
    token: TokenOption = None,
    drain_timeout: DrainTimeoutOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Bring a stage to N replicas; returns when it is done, and shows the deployment.

    New ones take requests when they are ready; of too many, the newest finish what they have and end.
    """
    stage, _, count = change.partition("=")
    if not stage or not count.isdecimal():
        raise typer.BadParameter(f"{change!r} must be STAGE=N", param_hint="'STAGE=N'")
    found = remote(url, token).post("/scale", stage=stage, replicas=int(count), drain_timeout_s=drain_timeout)
    show(found, as_json=as_json)
