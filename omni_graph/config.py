"""A node's ``config``: its constructor's keyword arguments, with their types, as a graph file may set them.

Values are checked as they are written, strictly and without conversion: the constructor gets exactly these.
"""

from __future__ import annotations

import inspect
import typing
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

FRAMEWORK_KEYS = ("device", "kv_bytes", "limits")
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """One keyword argument. ``annotation`` is its type, None where it names nothing that can be found at check."""

    name: str
    annotation: Any
    written: str
    default: Any

    @property
    def required(self) -> bool:
        """The graph file must set it."""
        return self.default is REQUIRED

    def problem(self, value: object) -> str:
        """Why ``value`` cannot be given, with both types; empty where it can."""
        adapter = _adapter(self.annotation)
        if adapter is None:
            return f"its type {self.written} is none that a graph file can write"
        try:
            adapter.validate_python(value, strict=True)
        except ValidationError:
            return f"takes {self.written}, got {value!r} ({type(value).__name__})"
        return ""

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema of the value; anything where the type cannot be written down."""
        adapter = _adapter(self.annotation)
        return {} if adapter is None else adapter.json_schema()


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation) if annotation is not None else None
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None


@dataclass(frozen=True, slots=True)
class Config:
    """What a node's constructor takes: the keys of ``config``, those the framework gives, and whether any key is taken."""

    keys: dict[str, ConfigKey]
    framework: tuple[str, ...]
    open_ended: bool


def config_of(cls: type) -> Config:
    """The config of a node class, from its constructor's signature."""
    parameters = inspect.signature(cls).parameters.values()
    named = [parameter for parameter in parameters if parameter.kind in NAMED]
    scope = _scope(cls)
    return Config(
        {parameter.name: _key(parameter, scope) for parameter in named if parameter.name not in FRAMEWORK_KEYS},
        tuple(parameter.name for parameter in named if parameter.name in FRAMEWORK_KEYS),
        any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters),
    )


def _scope(cls: type) -> dict[str, Any]:
    """The names that the constructor's annotations are written in: those of the class that defines it."""
    constructor = next(vars(owner)["__init__"] for owner in cls.__mro__ if "__init__" in vars(owner))
    scope: dict[str, Any] = getattr(constructor, "__globals__", {})
    return scope


def _key(parameter: inspect.Parameter, scope: dict[str, Any]) -> ConfigKey:
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return ConfigKey(parameter.name, Any, "any value", parameter.default)
    written = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return ConfigKey(parameter.name, _resolved(annotation, scope), written, parameter.default)


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    """The type itself; None for a name that the module imports only for type checkers."""
    try:
        return typing.get_type_hints(SimpleNamespace(__annotations__={"value": annotation}), globalns=scope)["value"]
    except (NameError, AttributeError, TypeError):
        return None
