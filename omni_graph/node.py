"""What a stage author writes: ports, and the Node protocol. One thread calls a node; it never blocks on I/O.

No socket, actor, span or coroutine is in sight here. Demand comes in through ``Outbox.room``.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from omni_graph.errors import NodeError
from omni_graph.payload import payload_fields

T = TypeVar("T")
UNLIMITED = 1 << 62


class _Port(Generic[T]):
    """A typed end of a node; a class attribute, named by the attribute it is bound to."""

    def __init__(self, type: type[T], *, optional: bool = False) -> None:
        payload_fields(type)
        self.type = type
        self.optional = optional
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.type.__qualname__}, name={self.name!r})"


class In(_Port[T]):
    """An input port. ``optional=True``: the graph may leave it unwired; it then reads as ended with no packet."""


class Out(_Port[T]):
    """An output port; any number of readers, also none."""


@dataclass(frozen=True, slots=True)
class NoParams:
    """The Params of a node that takes none."""


class Inbox(Protocol):
    """What has arrived for a node, by port and request."""

    def ready(self, port: In[Any]) -> Sequence[str]:
        """Requests that have a packet waiting on ``port``, longest waiting first."""

    def take(self, port: In[T], request: str) -> T:
        """Consume the next packet. This, and not its arrival, is what returns credit to the writer."""

    def drained(self, port: In[Any]) -> Sequence[str]:
        """Requests with nothing more to come: the writer has ended and every packet was taken."""


class Outbox(Protocol):
    """Where a node's packets go."""

    def routed(self, port: Out[Any], request: str) -> bool:
        """Does anyone read this output for this request? Do not compute what nobody reads."""

    def room(self, port: Out[Any], request: str) -> int:
        """How many packets may be sent now; ``UNLIMITED`` where nobody reads."""

    def send(self, port: Out[T], request: str, packet: T) -> None:
        """Send one packet. Past ``room``: FlowControlError, at the line that did it."""

    def skippable(self, port: Out[Any], request: str) -> bool:
        """In a replay: whoever reads this output already has the packet that is due now; ``skip`` it."""

    def skip(self, port: Out[Any], request: str) -> None:
        """Count the next packet as sent without computing it; only where ``skippable``, and within ``room``."""

    def end(self, request: str, port: Out[Any] | None = None) -> None:
        """This output, or all of them, are complete. A node that has ended everything is closed for the request."""

    def choose(self, request: str, choice: tuple[int, ...]) -> None:
        """Record a decision (a sampled token, a frame of codes), before any send or end that depends on it."""

    def working(self, request: str) -> None:
        """This slice computes for ``request`` although it neither takes nor sends: for timings and for blame."""


@runtime_checkable
class Node(Protocol):
    """A unit of computation. Ports are class attributes; ``config`` keys are the constructor's keyword arguments.

    A constructor that has a ``device`` argument is given the stage's device. ``Params`` is a frozen dataclass of what a
    request may set; a field called ``seed`` is filled with the request's seed. ``lookahead`` is how many packets a request
    the node may take while it has no room. ``preload`` names modules that a fork server imports once for all replicas.
    ``replay = False``: it has a side effect and must not run twice. A node that calls ``choose`` also has
    ``force(request, choices)``, called right after ``open`` in a replay: it must choose these again, in order, first.
    ``counters() -> Mapping[str, int]``, where a node has it: figures of its own for the deployment's status, read between
    its slices, so that it must be quick.
    """

    def open(self, request: str, params: Any) -> None:
        """A request was routed here."""

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        """One slice of work, about 100 ms at most; True = more could be done now."""

    def close(self, request: str) -> None:
        """Ended, cancelled or failed: free its state. Idempotent."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a node class, by name, in the order they are declared."""

    inputs: dict[str, In[Any]]
    outputs: dict[str, Out[Any]]


def ports_of(cls: type) -> Ports:
    """The In and Out class attributes of ``cls`` and its parents."""
    inputs: dict[str, In[Any]] = {}
    outputs: dict[str, Out[Any]] = {}
    for owner in reversed(cls.__mro__):
        for name, value in vars(owner).items():
            if isinstance(value, In):
                inputs[name] = value
            elif isinstance(value, Out):
                outputs[name] = value
    return Ports(inputs, outputs)


def params_class(cls: type) -> type:
    """The node's Params class, ``NoParams`` where it has none. Raises NodeError when it is not a frozen dataclass."""
    params: type = getattr(cls, "Params", NoParams)
    if not is_dataclass(params) or not params.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise NodeError(f"{cls.__qualname__}.Params must be a frozen dataclass")
    if any(field.init is False for field in fields(params)):
        raise NodeError(f"{cls.__qualname__}.Params: every field must be settable")
    return params


def lookahead_of(cls: type) -> int:
    """Packets a request that the node may take without room downstream."""
    return int(getattr(cls, "lookahead", 0))


def make_params(cls: type, values: Mapping[str, Any], seed: int = 0) -> Any:
    """The Params of node class ``cls`` from a request's values; JSON lists become tuples.

    Raises NodeError naming the unknown or ill-typed value and what is allowed.
    """
    params = params_class(cls)
    known = {field.name for field in fields(params)} - {"seed"}
    unknown = sorted(set(values) - known)
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise NodeError(f"unknown parameter {unknown[0]!r}; allowed: {allowed}")
    hints = typing.get_type_hints(params)
    filled = {name: _checked(name, hints[name], value) for name, value in values.items()}
    if any(field.name == "seed" for field in fields(params)):
        filled["seed"] = seed
    try:
        return params(**filled)
    except (TypeError, ValueError) as error:
        raise NodeError(f"parameters {dict(values)!r}: {error}") from error


def _checked(name: str, hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if _is_a(hint, value):
        return value
    raise NodeError(f"parameter {name!r} is {value!r}; allowed: {getattr(hint, '__name__', hint)}")


def _is_a(hint: Any, value: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_is_a(item, one) for one in value)
    if origin in (typing.Union, types.UnionType):
        return any(_is_a(one, value) for one in typing.get_args(hint))
    if hint in (int, float):
        return isinstance(value, hint) and not isinstance(value, bool)
    return isinstance(value, hint)
