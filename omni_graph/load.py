"""YAML -> spec. Every fault has file, line, column and the nearest known name, and all of them are raised at once.

A graph is checked here with every rule that needs no deployment, so a Graph that ``load_graph`` returned is sound. Reads
the named file and nothing else; the environment is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_graph.codes import FaultCode
from omni_graph.errors import Fault, GraphError
from omni_graph.graph import Graph
from omni_graph.reader import Document, read_file
from omni_graph.rules import graph_faults
from omni_graph.settings import Substitution, with_settings
from omni_graph.source import in_order
from omni_graph.spec import DeploySpec, GraphSpec
from omni_graph.suggest import suggest
from omni_graph.validate import Validated, validate

PACKAGE = Path(__file__).parent
# installed, and in a source checkout
GRAPH_FOLDERS = (PACKAGE / "_graphs", PACKAGE.parent / "graphs")
SUFFIXES = (".yaml", ".yml")


def load_graph(
    path_or_name: str | Path,
    parameters: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Graph:
    """The graph at a path, else the graph of that name in the package, checked.

    ``parameters`` are values for the graph's parameters; ``settings`` are ``KEY=VALUE`` as of ``--set``. ``environ`` is
    what ``${env:NAME}`` reads: none unless given. Raises GraphError with every fault found.
    """
    path = find_graph(path_or_name)
    document = with_settings(read_file(path, str(path)), settings)
    filled = _filled(document, parameters or {}, environ or {})
    validated: Validated[GraphSpec] = validate(GraphSpec, filled.document)
    later = list(validated.faults)
    graph = None
    if validated.spec is not None:
        graph = Graph(validated.spec, path.parent, filled.document.source, filled.unused)
        later += graph_faults(graph, validated.broken)
    faults = [*filled.document.faults, *(fault for fault in later if not _is_echo(fault, filled))]
    if faults or graph is None:
        raise GraphError(in_order(faults))
    return graph


def load_deploy(path: str | Path) -> DeploySpec:
    """The deployment at ``path``, by itself; ``make_plan`` checks it against a graph. Raises GraphError."""
    document = read_file(Path(path), str(path))
    validated: Validated[DeploySpec] = validate(DeploySpec, document)
    faults = (*document.faults, *validated.faults)
    if faults or validated.spec is None:
        raise GraphError(in_order(faults))
    return validated.spec.at(document.source)


def find_graph(path_or_name: str | Path) -> Path:
    """The file of a graph given by path or by name. Raises GraphError, with the names in the package."""
    path = Path(path_or_name)
    if path.is_file() or path.suffix in SUFFIXES or len(path.parts) > 1:
        return path
    names = packaged_graphs()
    if str(path_or_name) in names:
        return names[str(path_or_name)]
    message = f"there is no file and no graph called `{path_or_name}`{suggest(str(path_or_name), names)}"
    raise GraphError([Fault(FaultCode.UNREADABLE, message)])


def packaged_graphs() -> dict[str, Path]:
    """Name -> file of the graphs that come with the package."""
    folder = next(folder for folder in GRAPH_FOLDERS if folder.is_dir())
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


@dataclass(frozen=True, slots=True)
class _Filled:
    """``failed`` are the paths whose references could not be replaced: what is said of them later is no news."""

    document: Document
    unused: tuple[str, ...]
    failed: frozenset[str]


def _filled(document: Document, given: Mapping[str, Any], environ: Mapping[str, str]) -> _Filled:
    """The document with every ``${...}`` replaced. A setting stands above a given value, and that above a default."""
    source, data = document.source, document.data
    declared = data.get("parameters")
    if not isinstance(declared, dict):
        return _filled_with(document, {}, Substitution(source, environ), environ)
    defaults = Substitution(source, environ)
    literal = {name: given[name] for name in declared if name in given}
    literal |= {name: value for name, value in declared.items() if ("parameters", name) in source.settings}
    values = {
        name: literal[name] if name in literal else defaults.tree(value, ("parameters", name))
        for name, value in declared.items()
    }
    defaults.faults += [_unknown_parameter(name, declared) for name in given if name not in declared]
    return _filled_with(document, values, defaults, environ)


def _filled_with(
    document: Document, values: Mapping[str, Any], defaults: Substitution, environ: Mapping[str, str]
) -> _Filled:
    body = Substitution(document.source, environ, values)
    data = {name: body.tree(value, (name,)) for name, value in document.data.items() if name != "parameters"}
    if "parameters" in document.data:
        data["parameters"] = values or document.data["parameters"]
    faults = (*document.faults, *defaults.faults, *body.faults)
    unused = tuple(name for name in values if name not in body.used)
    failed = frozenset(".".join(place) for place in defaults.failed | body.failed)
    return _Filled(Document(data, document.source, faults), unused, failed)


def _is_echo(fault: Fault, filled: _Filled) -> bool:
    """Is the fault only that a reference which failed was not replaced? Not so for a fault of the key."""
    return fault.path in filled.failed and fault.code not in {FaultCode.UNKNOWN_KEY, FaultCode.CONFIG_KEY}


def _unknown_parameter(name: str, declared: Mapping[str, Any]) -> Fault:
    message = f"the graph has no parameter `{name}`{suggest(name, declared)}"
    return Fault(FaultCode.UNKNOWN_PARAMETER, message, "parameters")
