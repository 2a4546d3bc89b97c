"""``omni-graph nodes``: the nodes that are installed, or one node's ports, types, config and params."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omni_graph.errors import Fault, GraphError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omni_graph.catalog import CatalogEntry, NodeCard
    from omni_graph.config import ConfigKey
    from omni_graph.node import In, Out


def nodes(
    node: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="A name of the list, or as after `uses:`.")
    ] = None,
) -> None:
    """List the nodes, or show one.

    A node is shown with its ports, their types, its config and the params of a request.
    """
    from omni_graph.catalog import catalog, node_card

    if node is None:
        _list(catalog())
        return
    uses = node if ":" in node else _named(node, catalog())
    typer.echo(_card(node_card(uses, Path())))


def _list(entries: Iterable[CatalogEntry]) -> None:
    """Every node on a line; those that cannot be imported are told on stderr, and the command then fails."""
    from omni_graph.catalog import node_card

    faults: list[Fault] = []
    for entry in entries:
        try:
            card = node_card(entry.uses, Path())
        except GraphError as error:
            faults += error.faults
            continue
        typer.echo(
            f"{entry.name}  ({entry.uses})\n    {_ports(card.inputs)} -> {_ports(card.outputs)}\n    {card.summary}"
        )
    if faults:
        raise GraphError(faults)


def _ports(ports: Iterable[In[Any] | Out[Any]]) -> str:
    return ", ".join(f"{port.name}: {port.type.__qualname__}" for port in ports) or "nothing"


def _named(name: str, entries: tuple[CatalogEntry, ...]) -> str:
    from omni_graph.catalog import matching
    from omni_graph.suggest import suggest

    found = matching(name, entries)
    if len(found) == 1:
        return found[0].uses
    if found:
        raise typer.BadParameter(f"`{name}` may be any of {', '.join(entry.name for entry in found)}")
    raise typer.BadParameter(f"there is no node `{name}`{suggest(name, [entry.name for entry in entries])}")


def _card(card: NodeCard) -> str:
    config = [_config_line(key) for key in card.config.keys.values()]
    config += [f"{name}: given by the framework, from the deploy file" for name in card.config.framework]
    sections = {
        "inputs": [_port_line(port) for port in card.inputs],
        "outputs": [_port_line(port) for port in card.outputs],
        "config": config,
        "params of a request": [f"{param.name}: {param.type} = {param.default}" for param in card.params],
    }
    blocks = [f"{card.uses}\n{card.summary}"]
    blocks += ["\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections.items() if lines]
    return "\n\n".join(blocks)


def _port_line(port: In[Any] | Out[Any]) -> str:
    return f"{port.name}: {port.type.__module__}.{port.type.__qualname__}{' (optional)' if port.optional else ''}"


def _config_line(key: ConfigKey) -> str:
    return (
        f"{key.name}: {key.written}{' (required)' if key.default is inspect.Parameter.empty else f' = {key.default!r}'}"
    )
