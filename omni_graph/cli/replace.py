"""``omni-graph replace STAGE --set K=V``: the replicas of a stage of a running deployment, one by one, by a new revision."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from omni_graph.cli.options import DrainTimeoutOption, TokenOption, UrlOption
from omni_graph.cli.status import remote, show


def replace(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="The stage.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="Set a value of its node's config.")
    ] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    drain_timeout: DrainTimeoutOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Start a new replica for each of a stage, then end the old one; returns when it is done, and shows the deployment.

    Without --set nothing changes but the processes: weights are read again. An answer ends on the revision it began on.
    """
    config = dict(_setting(text) for text in settings or ())
    found = remote(url, token).post("/replace", stage=stage, config=config, drain_timeout_s=drain_timeout)
    show(found, as_json=as_json)


def _setting(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``; the value is read as in a graph file."""
    from omni_graph.reader import read_value

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} must be KEY=VALUE", param_hint="'--set'")
    found = read_value(value)
    try:
        json.dumps(found, allow_nan=False)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: a value is sent as JSON, which has no .nan and no .inf", param_hint="'--set'"
        ) from None
    return key, found
