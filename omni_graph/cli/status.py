"""``omni-graph status``: the stages and replicas of a running deployment, as a table or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_graph.cli.options import TokenOption, UrlOption

if TYPE_CHECKING:
    from rich.table import Table

    from omni_graph.cli.remote import Remote

COLUMNS = ("id", "state", "revision", "pid", "host", "requests", "busy", "queued_packets", "restarts")
HEADS = ("replica", "state", "revision", "pid", "host", "requests", "busy s", "queued", "restarts")


def status(
    url: UrlOption = None,
    token: TokenOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
) -> None:
    """Show the stages and replicas of a running deployment."""
    show(remote(url, token).get("/status"), as_json=as_json)


def remote(url: str | None, token: str | None) -> Remote:
    """The deployment that the options mean."""
    from omni_graph.cli.places import find, state_folder
    from omni_graph.cli.remote import Remote

    return Remote(find(url, token, state_folder(os.environ)))


def show(found: Mapping[str, Any], *, as_json: bool) -> None:
    """What ``app.status()`` gives."""
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from omni_graph.cli.terminal import console

    counts = ", ".join(f"{count} {name}" for name, count in found["requests"].items())
    out = console()
    out.print(f"{found['graph']} on {found['launcher']}: {counts}", markup=False)
    out.print(_table(found["stages"]))
    for line in (*_counters(found["stages"]), *_ends(found["stages"])):
        out.print(line, markup=False)


def _counters(stages: Mapping[str, Any]) -> list[str]:
    """A line for each replica whose nodes count something of themselves."""
    counted = {replica["id"]: replica["counters"] for stage in stages.values() for replica in stage["replicas"]}
    texts = {name: ", ".join(f"{key} {value}" for key, value in counters.items()) for name, counters in counted.items()}
    return [f"{name}: {text}" for name, text in texts.items() if text]


def _ends(stages: Mapping[str, Any]) -> list[str]:
    """A line for each replica that has died before: how, and how many requests it takes since."""
    replicas = [replica for stage in stages.values() for replica in stage["replicas"] if replica["last_end"]]
    return [f"{one['id']}: takes {one['slots']} requests; its life before: {one['last_end']}" for one in replicas]


def _table(stages: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table("stage", *HEADS, box=None, pad_edge=False)
    for name, stage in stages.items():
        rows = [[str(replica[key]) for key in COLUMNS] for replica in stage["replicas"]]
        for number, row in enumerate(rows or [["-", stage["state"]]]):
            table.add_row("" if number else name, *row)
    return table
