"""What a caller gives for a request -> packets of each input's type. What can be refused without a stage is refused here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_graph.conversation import conversation_packets
from omni_graph.errors import Code, NodeError, RequestError
from omni_graph.node import make_params
from omni_graph.payload import Conversation, max_packet_bytes, packet_bytes
from omni_graph.plan import GraphInput, Plan
from omni_graph.spec import Limits


def read_inputs(
    plan: Plan,
    given: Mapping[str, Any],
    outputs: Iterable[str],
    folder: Path | None = None,
    live: Iterable[str] = (),
) -> dict[str, Iterable[Any]]:
    """The packets of every graph input that ``outputs`` need, none for one that is ``live`` or optional and not given.

    Files that messages name are looked at here and read later, piece by piece. Raises RequestError(invalid_input).
    """
    live = tuple(live)
    if both := sorted(given.keys() & set(live)):
        message = f"input {both[0]!r} is given whole and is to be written live too; leave one of them out"
        raise RequestError("", Code.INVALID_INPUT, message)
    read = check_inputs(plan, (*given, *live), plan.needed(outputs))
    packets = {
        name: input_packets(name, plan.inputs[name].type, value, folder, plan.deploy.limits)
        for name, value in given.items()
    }
    return {name: packets.get(name, ()) for name in read}


def input_packets(
    name: str, kind: type, value: Any, folder: Path | None = None, limits: Limits | None = None
) -> Iterable[Any]:
    """``value`` is a packet, a sequence of packets, messages for a Conversation, or text where the type can ``parse`` it.

    Raises RequestError(invalid_input) that names the input.
    """
    if isinstance(value, kind):
        packets: Sequence[Any] = (value,)
    elif kind is Conversation and not _packets_of(kind, value):
        return conversation_packets(value, folder, limits)
    elif isinstance(value, str) and hasattr(kind, "parse"):
        packets = kind.parse(value)
    elif _packets_of(kind, value):
        packets = tuple(value)
    else:
        raise RequestError(
            "", Code.INVALID_INPUT, f"input {name!r} takes {kind.__name__} packets; got {type(value).__name__}"
        )
    for packet in packets:
        check_packet(name, kind, packet)
    return packets


def _packets_of(kind: type, value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, kind) for one in value)


def check_packet(name: str, kind: type, packet: Any) -> None:
    """Type and size of one packet of an input."""
    if type(packet) is not kind:
        raise RequestError("", Code.INVALID_INPUT, f"input {name!r} takes {kind.__name__}; got {type(packet).__name__}")
    size, allowed = packet_bytes(packet), max_packet_bytes(kind)
    if size > allowed:
        raise RequestError("", Code.INVALID_INPUT, f"input {name!r}: a packet of {size} bytes; allowed: {allowed}")


def inputs_of(plan: Plan, stages: Iterable[str]) -> Mapping[str, GraphInput]:
    """The graph inputs that the routed ``stages`` read."""
    routed = set(stages)
    return {
        name: one
        for name, one in plan.inputs.items()
        if any(plan.edges[number].reader in routed for number in one.edges)
    }


def check_inputs(plan: Plan, given: Iterable[str], stages: Iterable[str]) -> Mapping[str, GraphInput]:
    """The graph inputs that the routed ``stages`` read; every required one must be given, and no other."""
    read = inputs_of(plan, stages)
    given = set(given)
    unknown = sorted(given - set(plan.inputs))
    missing = sorted(name for name, one in read.items() if not one.optional and name not in given)
    if unknown or missing:
        what = f"has no input {unknown[0]!r}" if unknown else f"needs the input {missing[0]!r}"
        inputs = ", ".join(plan.inputs) or "none"
        raise RequestError("", Code.INVALID_INPUT, f"the graph {what}; inputs: {inputs}")
    return read


def check_outputs(plan: Plan, outputs: Iterable[str] | None) -> tuple[str, ...]:
    """The outputs asked for, all for None; every one must exist."""
    asked = tuple(plan.outputs if outputs is None else outputs)
    unknown = [name for name in asked if name not in plan.outputs]
    if unknown or not asked:
        what = f"no output {unknown[0]!r}" if unknown else "no output asked for"
        raise RequestError("", Code.INVALID_INPUT, f"{what}; the graph's outputs: {', '.join(plan.outputs)}")
    return asked


def check_params(plan: Plan, params: Mapping[str, Mapping[str, Any]]) -> None:
    """Every stage and parameter is known and of its type."""
    for stage, values in params.items():
        if stage not in plan.stages:
            raise RequestError("", Code.INVALID_INPUT, f"parameters for {stage!r}: stages are {', '.join(plan.stages)}")
        try:
            make_params(plan.stages[stage].node_class, values)
        except NodeError as error:
            raise RequestError("", Code.INVALID_INPUT, f"{stage}: {error}", stage=stage) from None
