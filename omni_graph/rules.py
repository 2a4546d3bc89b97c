"""What a graph must keep: one function, one code, one sentence of error for each rule. (Deployments: deploy_rules.)

Pure functions of Facts. A rule says nothing about what another rule has already refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from omni_graph.codes import FaultCode
from omni_graph.config import Config, config_of
from omni_graph.errors import Fault, NodeError
from omni_graph.facts import Facts, PlacedWire, gather, has_writer, reader_type, writer_type
from omni_graph.frames import GATEWAY
from omni_graph.graph import Graph
from omni_graph.node import In, params_class
from omni_graph.paths import cycles, reachable
from omni_graph.spec import DeploySpec
from omni_graph.suggest import suggest

Rule = Callable[[Facts], Iterable[Fault]]
METHODS = ("open", "step", "close")


def graph_faults(graph: Graph, broken: frozenset[str] = frozenset()) -> list[Fault]:
    """Everything wrong with a graph that can be said without a deployment."""
    facts = gather(graph, DeploySpec(), broken)
    return [fault for rule in GRAPH_RULES for fault in rule(facts)]


def classes_resolve(facts: Facts) -> Iterator[Fault]:
    """OG008: every ``uses`` names a class that can be imported."""
    yield from (fault for fault in facts.unresolved if fault.code == FaultCode.NOT_IMPORTABLE)


def payloads_resolve(facts: Facts) -> Iterator[Fault]:
    """OG010: every graph input names a payload."""
    yield from (fault for fault in facts.unresolved if fault.code == FaultCode.UNKNOWN_PAYLOAD)


def classes_are_nodes(facts: Facts) -> Iterator[Fault]:
    """OG009: every class has the methods of a node, at least one port, and a Params that is a frozen dataclass."""
    for name, cls in facts.classes.items():
        problem = _no_node(facts, name, cls)
        if problem:
            message = f"{cls.__qualname__} is not a node: {problem}"
            yield facts.graph.source.at_value(FaultCode.NOT_A_NODE, ("nodes", name, "uses"), message)


def _no_node(facts: Facts, name: str, cls: type) -> str:
    missing = [method for method in METHODS if not callable(getattr(cls, method, None))]
    if missing:
        return f"it has no {', '.join(missing)}"
    if not (facts.ports[name].inputs or facts.ports[name].outputs):
        return "it has no port; write ports as class attributes, `text = In(TextDelta)`"
    try:
        params_class(cls)
    except NodeError as error:
        return str(error)
    return ""


def sources_exist(facts: Facts) -> Iterator[Fault]:
    """OG006: every wire comes from a node or a graph input that is there."""
    for wire in facts.wires:
        name = wire.writer if "." in wire.source else wire.source
        if not has_writer(facts.spec, wire) and name not in facts.broken:
            yield _at(facts, wire, FaultCode.UNKNOWN_NODE, _no_source(facts, wire))


def _no_source(facts: Facts, wire: PlacedWire) -> str:
    nodes, inputs = facts.spec.nodes, facts.spec.inputs
    if "." in wire.source:
        return f"`{wire.source}`: the graph has no node `{wire.writer}`{suggest(wire.writer, nodes)}"
    if wire.source in nodes:
        ports = facts.ports[wire.source].outputs if wire.source in facts.ports else ()
        return f"`{wire.source}` is a node; name its port{suggest('', ports, f'{wire.source}.{{}}')}"
    if wire.reader == GATEWAY:
        return f"`{wire.source}` is not `node.port`{suggest(wire.source, nodes)}"
    return f"the graph has no input `{wire.source}`{suggest(wire.source, [*inputs, *nodes])}"


def ports_exist(facts: Facts) -> Iterator[Fault]:
    """OG007: every wire leaves an output port of its writer and enters an input port of its reader."""
    for wire in facts.wires:
        if wire.writer in facts.ports and wire.writer_port not in facts.ports[wire.writer].outputs:
            known = suggest(wire.writer_port, facts.ports[wire.writer].outputs, f"{wire.writer}.{{}}")
            message = f"`{wire.source}` is not a port of node `{wire.writer}`{known}"
            yield _at(facts, wire, FaultCode.UNKNOWN_PORT, message)
    for wire in (*facts.wires, *facts.unwired):
        if wire.reader in facts.ports and wire.reader_port not in facts.ports[wire.reader].inputs:
            known = suggest(wire.reader_port, facts.ports[wire.reader].inputs)
            message = f"`{wire.reader_port}` is not an input of node `{wire.reader}`{known}"
            yield facts.graph.source.at_key(FaultCode.UNKNOWN_PORT, wire.place, message)


def types_agree(facts: Facts) -> Iterator[Fault]:
    """OG011: both ends of a wire carry the same class."""
    for wire in facts.wires:
        sent, taken = writer_type(wire, facts.ports, facts.input_types), reader_type(wire, facts.ports)
        if sent is not None and taken is not None and sent is not taken:
            left, right = _type_names(sent, taken)
            message = f"`{wire.source}` sends {left}, but `{wire.reader}.{wire.reader_port}` takes {right}"
            yield _at(facts, wire, FaultCode.TYPES_DIFFER, message)


def _type_names(left: type, right: type) -> tuple[str, str]:
    if left.__qualname__ != right.__qualname__:
        return left.__qualname__, right.__qualname__
    return f"{left.__module__}.{left.__qualname__}", f"{right.__module__}.{right.__qualname__}"


def inputs_are_fed(facts: Facts) -> Iterator[Fault]:
    """OG012: every input port that is not optional is fed. (A port is fed twice only by a duplicate key: OG002.)"""
    for name, port in _unfed(facts):
        message = f"nothing feeds the input `{port.name}`, which takes {port.type.__qualname__}"
        yield facts.graph.source.at_key(FaultCode.NOT_FED, ("nodes", name), message)


def _unfed(facts: Facts) -> Iterator[tuple[str, In[Any]]]:
    fed = {(wire.reader, wire.reader_port) for wire in facts.wires}
    for name, ports in facts.ports.items():
        for port in ports.inputs.values():
            if not port.optional and (name, port.name) not in fed:
                yield name, port


def graph_is_acyclic(facts: Facts) -> Iterator[Fault]:
    """OG013: no wire leads back to where it came from."""
    for cycle in cycles(tuple(facts.spec.nodes), facts.pairs):
        message = f"the nodes {' -> '.join(cycle)} form a cycle; a loop belongs inside one node"
        yield facts.graph.source.at_key(FaultCode.CYCLE, ("nodes", cycle[0]), message)


def outputs_are_reachable(facts: Facts) -> Iterator[Fault]:
    """OG014: something can arrive at every output: it comes from a graph input, or from a node that has no input port."""
    if not facts.complete:
        return
    forward = [pair for pair in facts.pairs if pair[1] != GATEWAY]
    reached = reachable([GATEWAY, *_sources(facts), *_refused(facts)], forward)
    for wire in facts.wires:
        if wire.reader == GATEWAY and wire.writer not in reached:
            message = f"nothing arrives at `{wire.source}`: no graph input leads to node `{wire.writer}`"
            yield _at(facts, wire, FaultCode.UNREACHABLE_OUTPUT, message)


def _sources(facts: Facts) -> Iterator[str]:
    yield from (name for name, ports in facts.ports.items() if not ports.inputs)


def _refused(facts: Facts) -> Iterator[str]:
    """Nodes that another rule refuses; what arrives at them once they are mended is not known."""
    yield from (name for name in facts.spec.nodes if name not in facts.ports)
    yield from (name for name, _ in _unfed(facts))
    for cycle in cycles(tuple(facts.spec.nodes), facts.pairs):
        yield from cycle


def nodes_are_useful(facts: Facts) -> Iterator[Fault]:
    """OG015: every node leads to an output of the graph."""
    if not facts.complete:
        return
    backwards = [(reader, writer) for writer, reader in facts.pairs if writer != GATEWAY]
    needed = reachable([GATEWAY], backwards)
    for name in facts.spec.nodes:
        if name not in needed:
            message = "no output of the graph needs this node; remove it, or name it under `outputs`"
            yield facts.graph.source.at_key(FaultCode.USELESS_NODE, ("nodes", name), message)


def config_keys_are_known(facts: Facts) -> Iterator[Fault]:
    """OG016: every ``config`` key is an argument of the node's constructor, and every argument it needs is there."""
    for name, cls in facts.classes.items():
        written, config = facts.spec.nodes[name].config, config_of(cls)
        for key in written:
            problem = _wrong_key(key, config, cls)
            if problem:
                yield facts.graph.source.at_key(FaultCode.CONFIG_KEY, ("nodes", name, "config", key), problem)
        missing = [f"`{key.name}`" for key in config.keys.values() if key.required and key.name not in written]
        if missing:
            message = f"{cls.__qualname__} needs the config {', '.join(missing)}"
            yield facts.graph.source.at_key(FaultCode.CONFIG_KEY, ("nodes", name, "config"), message)


def _wrong_key(key: str, config: Config, cls: type) -> str:
    if key in config.framework:
        return f"`{key}` is given by the framework; set it for the stage in the deploy file"
    if key in config.keys or config.open_ended:
        return ""
    return f"{cls.__qualname__} takes no `{key}`{suggest(key, config.keys)}"


def config_values_fit(facts: Facts) -> Iterator[Fault]:
    """OG017: every ``config`` value has the type that the constructor declares."""
    for name, cls in facts.classes.items():
        keys = config_of(cls).keys
        for key, value in facts.spec.nodes[name].config.items():
            problem = keys[key].problem(value) if key in keys else ""
            if problem:
                place = ("nodes", name, "config", key)
                yield facts.graph.source.at_value(FaultCode.CONFIG_VALUE, place, f"`{key}`: {problem}")


def _at(facts: Facts, wire: PlacedWire, code: FaultCode, message: str) -> Fault:
    return facts.graph.source.at_value(code, wire.place, message, inside=("from",))


GRAPH_RULES: tuple[Rule, ...] = (
    classes_resolve,
    classes_are_nodes,
    payloads_resolve,
    sources_exist,
    ports_exist,
    types_agree,
    inputs_are_fed,
    graph_is_acyclic,
    outputs_are_reachable,
    nodes_are_useful,
    config_keys_are_known,
    config_values_fit,
)
