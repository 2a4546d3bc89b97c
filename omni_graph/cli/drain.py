"""``omni-graph drain STAGE[/REPLICA]``: take replicas of a running deployment out of service."""

from __future__ import annotations

from typing import Annotated

import typer

from omni_graph.cli.options import DrainTimeoutOption, TokenOption, UrlOption
from omni_graph.cli.status import remote, show


def drain(
    which: Annotated[
        str, typer.Argument(metavar="STAGE[/REPLICA]", help="The stage, or one replica, such as thinker/0.")
    ],
    url: UrlOption = None,
    token: TokenOption = None,
    drain_timeout: DrainTimeoutOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Let replicas finish what they have, and end them; returns when it is done, and shows the deployment.

    A stage without a replica refuses requests until it is scaled up again.
    """
    stage, slash, replica = which.partition("/")
    index = replica.partition(".")[0]
    if not stage or (slash and not index.isdecimal()):
        raise typer.BadParameter(f"{which!r} must be STAGE or STAGE/REPLICA", param_hint="'STAGE[/REPLICA]'")
    number = int(index) if slash else None
    found = remote(url, token).post("/drain", stage=stage, replica=number, drain_timeout_s=drain_timeout)
    show(found, as_json=as_json)
