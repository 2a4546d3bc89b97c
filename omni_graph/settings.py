"""What changes a graph file's values before they are checked: ``--set``, parameters, ``${name}`` and ``${env:NAME}``.

Nothing else is templated and nothing is inherited. The environment is an argument. Values that a caller gives for a
parameter are taken literally, never substituted again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omni_graph.codes import FaultCode
from omni_graph.errors import Fault
from omni_graph.reader import Document, read_value
from omni_graph.source import Place, Source
from omni_graph.suggest import suggest

REFERENCE = re.compile(r"\$\{([^}]*)\}")
ENVIRONMENT = "env:"


@dataclass(frozen=True, slots=True)
class Setting:
    """One ``KEY=VALUE``: a parameter's name, or a dotted place in the file such as ``nodes.talker.config.max_batch``."""

    place: Place
    text: str


def with_settings(document: Document, settings: Sequence[str]) -> Document:
    """The document with every ``KEY=VALUE`` put in, in order; a wrong one is added to its faults."""
    faults = list(document.faults)
    placed = dict(document.source.settings)
    for text in settings:
        key, equals, value = text.partition("=")
        setting = Setting(_place(key), value)
        try:
            _put(document.data, setting, equals)
            placed[setting.place] = text
        except _Misplaced as problem:
            faults.append(Fault(problem.code, str(problem), "", f"--set {text}"))
    return Document(document.data, replace(document.source, settings=placed), tuple(faults))


class _Misplaced(Exception):
    def __init__(self, code: FaultCode, message: str) -> None:
        self.code = code
        super().__init__(message)


def _place(key: str) -> Place:
    return tuple(key.split(".")) if "." in key else ("parameters", key)


def _put(data: dict[str, Any], setting: Setting, equals: str) -> None:
    if not equals or not all(setting.place):
        raise _Misplaced(
            FaultCode.ILL_VALUE, "write it as KEY=VALUE, KEY a parameter or a place such as nodes.NODE.config.KEY"
        )
    *parents, last = setting.place
    node = data
    for depth in range(len(parents)):
        node = _child(node, tuple(parents[: depth + 1]))
    if parents != ["parameters"]:
        node[last] = read_value(setting.text)
    elif last in node:
        node[last] = _read(setting.text, like=node[last])
    else:
        raise _Misplaced(FaultCode.UNKNOWN_PARAMETER, f"the graph has no parameter `{last}`{suggest(last, node)}")


def _child(node: dict[str, Any], place: Place) -> dict[str, Any]:
    """The mapping at ``place`` inside ``node``; made where a part of the file may be left out, never a node."""
    name = place[-1]
    if place[:-1] in {("nodes",), ("inputs",)} and name not in node:
        raise _Misplaced(FaultCode.UNKNOWN_NODE, f"`{place[0]}` has no `{name}`{suggest(name, node)}")
    child = {} if node.get(name) is None else node[name]
    if isinstance(child, str) and len(place) == 4 and place[2] == "inputs":
        child = {"from": child}
    if isinstance(child, str) and len(place) == 2 and place[0] == "inputs":
        child = {"type": child}
    if not isinstance(child, dict):
        raise _Misplaced(FaultCode.ILL_VALUE, f"`{'.'.join(place)}` is not a mapping; set it as a whole")
    node[name] = child
    return child


def _read(text: str, like: object) -> Any:
    """``text`` as YAML, except in place of a text: a folder called ``2024`` is no number."""
    return text if isinstance(like, str) and not REFERENCE.search(like) else read_value(text)


@dataclass(slots=True)
class Substitution:
    """Replaces ``${...}`` in a tree. ``failed`` are the places it could not; ``used`` the parameters it met."""

    source: Source
    environ: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    failed: set[Place] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    def tree(self, value: Any, place: Place) -> Any:
        """``value`` with every reference in it replaced; ``place`` is where it stands."""
        if isinstance(value, dict):
            return {name: self.tree(item, (*place, name)) for name, item in value.items()}
        if isinstance(value, list):
            return [self.tree(item, (*place, str(index))) for index, item in enumerate(value)]
        return self._text(value, place) if isinstance(value, str) and "${" in value else value

    def _text(self, text: str, place: Place) -> Any:
        whole = REFERENCE.fullmatch(text)
        if whole:
            value = self._value(whole[1], place)
            return text if place in self.failed else value
        if "${" in REFERENCE.sub("", text):
            self._fail(FaultCode.UNKNOWN_PARAMETER, place, f"`{text}` has a `${{` that is not closed")
            return text
        return REFERENCE.sub(lambda match: self._inside(match[1], place), text)

    def _inside(self, reference: str, place: Place) -> str:
        value = self._value(reference, place)
        if isinstance(value, dict | list):
            self._fail(
                FaultCode.ILL_VALUE, place, f"`${{{reference}}}` is not a single value and cannot stand in a text"
            )
        if isinstance(value, bool):
            return "true" if value else "false"
        return "" if value is None else str(value)

    def _value(self, reference: str, place: Place) -> Any:
        if reference.startswith(ENVIRONMENT):
            return self._environment(reference.removeprefix(ENVIRONMENT), place)
        self.used.add(reference)
        if reference in self.parameters:
            return self.parameters[reference]
        if place[0] == "parameters":
            why = f"`${{{reference}}}`: a parameter's default may refer to the environment only, not to a parameter"
        else:
            why = f"the graph has no parameter `{reference}`{suggest(reference, self.parameters)}"
        return self._fail(FaultCode.UNKNOWN_PARAMETER, place, why)

    def _environment(self, reference: str, place: Place) -> Any:
        name, has_default, default = reference.partition(":-")
        if name in self.environ:
            return _read(self.environ[name], like=read_value(default) if has_default else None)
        if has_default:
            return read_value(default)
        return self._fail(
            FaultCode.NO_ENVIRONMENT, place, f"the environment has no {name}; set it, or write ${{env:{name}:-default}}"
        )

    def _fail(self, code: FaultCode, place: Place, message: str) -> None:
        self.failed.add(place)
        self.faults.append(self.source.at_value(code, place, message))
