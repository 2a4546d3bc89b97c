"""YAML text -> plain values with the place of each. Never builds an object, never follows a tag.

YAML 1.2 (``no`` is a text). The only import of ruamel. Invariant: whatever is wrong with the text becomes a Fault at its
line, and what can be read is returned beside the faults, so that one look finds them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omni_graph.codes import FaultCode
from omni_graph.errors import Fault, GraphError
from omni_graph.source import Mark, Place, Source

if TYPE_CHECKING:
    from ruamel.yaml import YAML

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 32
MAX_BRACKETS = 256
TAG = "tag:yaml.org,2002:"
SCALARS = frozenset({"int", "float", "bool", "null"})
TEXTS = frozenset({"str", "timestamp"})
DIRECTIVE = re.compile(r"(?:\s*(?:#.*)?\n)*%")


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says: a tree of mappings, lists, texts, numbers, booleans and None; its places; what is wrong."""

    data: Any
    source: Source
    faults: tuple[Fault, ...]


def read_file(path: Path, shown: str) -> Document:
    """The document at ``path``, called ``shown`` in messages. Raises GraphError for what is no readable YAML file."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(shown, f"cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise _unreadable(shown, "is over 1 MiB; a graph or deploy file is far smaller")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(shown, f"is not UTF-8 text: byte 0x{raw[error.start]:02x} at offset {error.start}") from None
    return read_yaml(text, shown)


def read_yaml(text: str, shown: str) -> Document:
    """The one document in ``text``. Raises GraphError where there is none, or more, or no mapping."""
    from ruamel.yaml.nodes import MappingNode

    source = Source(shown, tuple(text.splitlines()))
    if DIRECTIVE.match(text):
        raise GraphError(
            [Fault(FaultCode.UNREADABLE, "YAML directives (%) are not allowed; it is YAML 1.2", "", shown)]
        )
    if _deepest(text) > MAX_BRACKETS:
        raise _unreadable(shown, f"has more than {MAX_BRACKETS} brackets open at once")
    yaml = _parser()
    root = _compose(yaml, text, source)
    if root is None:
        raise _unreadable(shown, "is empty")
    if not isinstance(root, MappingNode):
        raise _unreadable(shown, "is not a mapping; the first line is `api_version: omni_graph/v1`")
    tree = _Tree(yaml, source)
    data = tree.value(root, (), 0)
    return Document(data, Source(shown, source.lines, tree.keys, tree.values), tuple(tree.faults))


def read_value(text: str) -> Any:
    """The value of a ``--set`` or of an environment variable, read as YAML: ``4``, ``true``, ``[a, b]`` or plain text.

    Text that is not YAML by itself (``a: b: c``, ``C:\\``) is text.
    """
    try:
        yaml = _parser()
        root = _compose(yaml, text, Source())
        tree = _Tree(yaml, Source())
        value = "" if root is None else tree.value(root, (), 0)
    except GraphError:
        return text
    return text if tree.faults else value


def _deepest(text: str) -> int:
    """How many brackets are open at once, at most; YAML scanners take quadratic time in that."""
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text))
    return max(accumulate(steps), default=0)


def _parser() -> YAML:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True)


def _compose(yaml: YAML, text: str, source: Source) -> Any:
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return yaml.compose(text)
    except MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(at.line + 1, at.column + 1, 1)
        why = " ".join(part for part in (error.context, error.problem) if part)
        raise GraphError([source.at_mark(FaultCode.UNREADABLE, mark, f"not YAML: {why}")]) from None
    except YAMLError as error:
        raise _unreadable(source.file, f"is not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise _unreadable(source.file, f"is nested more than {MAX_DEPTH} levels deep") from None


def _unreadable(shown: str, why: str) -> GraphError:
    return GraphError([Fault(FaultCode.UNREADABLE, f"the file {why}", "", shown)])


@dataclass(slots=True)
class _Tree:
    """Composed YAML nodes -> values. Counts what aliases expand to, so that a small file cannot become a large one."""

    yaml: YAML
    source: Source
    keys: dict[Place, Mark] = field(default_factory=dict)
    values: dict[Place, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    count: int = 0

    def value(self, node: Any, place: Place, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_NODES:
            raise _unreadable(
                self.source.file, f"has more than {MAX_DEPTH} levels or {MAX_NODES} values, aliases expanded"
            )
        self.values[place] = _mark(node, self.source)
        if node.id == "mapping":
            return self._mapping(node, place, depth)
        if node.id == "sequence":
            return [self.value(item, (*place, str(i)), depth + 1) for i, item in enumerate(node.value)]
        return self._scalar(node, place)

    def _mapping(self, node: Any, place: Place, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if key_node.id == "scalar" else None
            mark = _mark(key_node, self.source)
            if key is None or key_node.tag not in {f"{TAG}{name}" for name in TEXTS}:
                self._fault(FaultCode.ILL_VALUE, mark, "a key must be plain text; merge keys (<<) are not supported")
            elif key in result:
                first = self.keys[(*place, key)]
                self._fault(
                    FaultCode.DUPLICATE_KEY,
                    mark,
                    f"`{key}` is written twice in this mapping, first in line {first.line}",
                    (*place, key),
                )
            else:
                self.keys[(*place, key)] = mark
                result[key] = self.value(value_node, (*place, key), depth + 1)
        return result

    def _scalar(self, node: Any, place: Place) -> Any:
        kind = str(node.tag).removeprefix(TAG)
        if kind in TEXTS:
            return node.value
        mark = _mark(node, self.source)
        if kind not in SCALARS:
            self._fault(FaultCode.ILL_VALUE, mark, f"the tag {node.tag} is not allowed; remove it", place)
            return node.value
        try:
            return self.yaml.constructor.yaml_constructors[node.tag](self.yaml.constructor, node)
        except ValueError:
            self._fault(FaultCode.ILL_VALUE, mark, "not a number that can be read; quote it if it is text", place)
            return node.value

    def _fault(self, code: FaultCode, mark: Mark, message: str, place: Place = ()) -> None:
        self.faults.append(self.source.at_mark(code, mark, message, place))


def _mark(node: Any, source: Source) -> Mark:
    start, end = node.start_mark, node.end_mark
    line = source.lines[start.line] if start.line < len(source.lines) else ""
    width = end.column - start.column if end.line == start.line else len(line) - start.column
    return Mark(start.line + 1, start.column + 1, max(1, width))
