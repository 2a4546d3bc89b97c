"""The nodes that installed packages offer, and a card of any node class: ports, types, config, params.

Nodes are found by the entry-point group ``omni_graph.nodes``, so this package names none. Reading a card builds no node.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

from omni_graph.config import Config, config_of
from omni_graph.node import In, Out, params_class, ports_of
from omni_graph.resolve import node_class

GROUP = "omni_graph.nodes"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A node that a package offers: ``qwen2_5_omni.thinker``, and what a graph file writes after ``uses:``."""

    name: str
    uses: str


@dataclass(frozen=True, slots=True)
class ParamCard:
    """One field of a node's per-request Params, as text."""

    name: str
    type: str
    default: str


@dataclass(frozen=True, slots=True)
class NodeCard:
    """What a person needs to use a node in a graph file."""

    uses: str
    summary: str
    inputs: tuple[In[Any], ...]
    outputs: tuple[Out[Any], ...]
    config: Config
    params: tuple[ParamCard, ...]


def catalog() -> tuple[CatalogEntry, ...]:
    """Every offered node, by name."""
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    return tuple(CatalogEntry(name, uses) for name, uses in sorted(found.items()))


def matching(name: str, entries: Iterable[CatalogEntry]) -> tuple[CatalogEntry, ...]:
    """The entries that ``name`` may mean: the whole name, its last part, the class, or what stands after ``uses:``."""
    return tuple(
        entry
        for entry in entries
        if name in (entry.name, entry.name.rpartition(".")[2], entry.uses, entry.uses.rpartition(":")[2])
    )


def node_card(uses: str, folder: Path) -> NodeCard:
    """The card of the class that ``uses`` names. Raises GraphError where it cannot be imported."""
    cls = node_class(uses, folder)
    ports = ports_of(cls)
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    inputs, outputs = tuple(ports.inputs.values()), tuple(ports.outputs.values())
    return NodeCard(uses, summary, inputs, outputs, config_of(cls), _params(cls))


def _params(cls: type) -> tuple[ParamCard, ...]:
    params = params_class(cls)
    hints = get_type_hints(params)
    return tuple(
        ParamCard(
            field.name, inspect.formatannotation(hints[field.name]), _default(field.default, field.default_factory)
        )
        for field in fields(params)
    )


def _default(value: object, factory: Any) -> str:
    if value is not MISSING:
        return repr(value)
    return repr(factory()) if factory is not MISSING else "required"
