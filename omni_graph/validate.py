"""A document -> a spec, with pydantic's errors told as Faults: unknown keys, missing keys, ill-typed values.

Where only a part is wrong, the spec of the rest comes back beside the faults, with the names of the parts left out, so
that the rules can look at the rest in the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from omni_graph.codes import FaultCode
from omni_graph.errors import Fault
from omni_graph.reader import Document
from omni_graph.source import Place, Source
from omni_graph.spec import RESERVED
from omni_graph.suggest import suggest

S = TypeVar("S", bound=BaseModel)
PARTS = frozenset({"nodes", "inputs", "outputs", "stages"})
UNKNOWN = "extra_forbidden"
MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Validated(Generic[S]):
    """``broken`` are the nodes and graph inputs that were left out because their own entry is wrong."""

    spec: S | None
    faults: tuple[Fault, ...] = ()
    broken: frozenset[str] = frozenset()


def validate(model: type[S], document: Document) -> Validated[S]:
    """The spec that the document writes; where it is wrong, the faults and, if it can be made, the spec of the rest."""
    try:
        return Validated(model.model_validate(document.data))
    except ValidationError as error:
        errors = error.errors(include_url=False)
    faults = tuple(_fault(model, document.source, detail) for detail in errors)
    places = [(_place(detail), str(detail["type"])) for detail in errors]
    broken = frozenset(place[1] for place, kind in places if _breaks(place, kind))
    try:
        return Validated(model.model_validate(_rest(document.data, places)), faults, broken)
    except ValidationError:
        return Validated(None, faults, broken)


def _place(detail: ErrorDetails) -> Place:
    return tuple(str(part) for part in detail["loc"] if part != "[key]")


def _breaks(place: Place, kind: str) -> bool:
    return len(place) > 1 and place[0] in PARTS and kind != UNKNOWN


def _rest(data: Mapping[str, Any], places: Iterable[tuple[Place, str]]) -> Any:
    """The data without its unknown keys and broken parts."""
    rest = _copied(data)
    rest.setdefault("graph", "unnamed")
    for place, kind in places:
        _remove(rest, place[:2] if _breaks(place, kind) else place)
    return rest


def _copied(value: Any) -> Any:
    return {name: _copied(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def _remove(node: Any, place: Place) -> None:
    for part in place[:-1]:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(place[-1], None)


def _fault(model: type[BaseModel], source: Source, detail: ErrorDetails) -> Fault:
    place = _place(detail)
    if detail["type"] == UNKNOWN:
        known = suggest(place[-1], _keys(model, place[:-1]))
        return source.at_key(FaultCode.UNKNOWN_KEY, place, f"unknown key `{place[-1]}`{known}")
    if detail["type"] == MISSING:
        return source.at_key(FaultCode.ILL_VALUE, place[:-1], f"the key `{place[-1]}` is missing")
    if detail["type"] == RESERVED:
        return source.at_key(FaultCode.RESERVED_NAME, place, detail["msg"])
    if detail["loc"][-1] == "[key]":
        name = f"`{place[-1]}` is not a name: letters, digits, _ and -, at most 64, no digit first"
        return source.at_key(FaultCode.ILL_VALUE, place, name)
    return source.at_value(FaultCode.ILL_VALUE, place, f"{_sentence(detail)}, got {_shown(detail['input'])}")


def _sentence(detail: ErrorDetails) -> str:
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return text.split(" or instance of ")[0].replace("valid dictionary", "mapping")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _keys(model: type[BaseModel], place: Place) -> list[str]:
    """The keys that may stand in the mapping at ``place``."""
    found: Any = model
    for part in place:
        found = _inside(found, part)
    if not _is_model(found):
        return []
    return [str(field.validation_alias or name) for name, field in found.model_fields.items()]


def _inside(annotation: Any, part: str) -> Any:
    if _is_model(annotation):
        fields = annotation.model_fields
        matching = [field for name, field in fields.items() if part in (name, field.validation_alias)]
        return matching[0].annotation if matching else None
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
