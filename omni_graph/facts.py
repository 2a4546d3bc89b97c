"""What can be known of a graph that may be wrong: classes that import, wires as written, edges whose ends exist.

Gathers and judges nothing, so that each rule can be a function of these facts. What cannot be known is absent here, and
is one rule's fault alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from omni_graph.codes import FaultCode
from omni_graph.errors import Fault, GraphError
from omni_graph.frames import GATEWAY
from omni_graph.graph import Graph
from omni_graph.node import Ports, ports_of
from omni_graph.payload import default_window
from omni_graph.resolve import node_class, payload_class
from omni_graph.source import Place
from omni_graph.spec import DeploySpec, GraphSpec, Wire
from omni_graph.wiring import Edge


@dataclass(frozen=True, slots=True)
class PlacedWire:
    """A wire as written at ``place``: ``source`` feeds ``reader.reader_port``. A graph input's writer is the Gateway."""

    place: Place
    reader: str
    reader_port: str
    source: str
    window: int | None
    optional: bool = False

    @property
    def writer(self) -> str:
        return self.source.rpartition(".")[0] or GATEWAY

    @property
    def writer_port(self) -> str:
        return self.source.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Facts:
    """``wires`` lead from something the graph has, or should have; ``unwired`` are optional ones that do not.

    ``pairs`` are (writer, reader) of wires between names that exist. ``complete``: no name is missing or broken, so that
    what is not reachable truly is not.
    """

    graph: Graph
    deploy: DeploySpec
    broken: frozenset[str]
    classes: Mapping[str, type]
    ports: Mapping[str, Ports]
    input_types: Mapping[str, type]
    unresolved: tuple[Fault, ...]
    wires: tuple[PlacedWire, ...]
    unwired: tuple[PlacedWire, ...]
    edges: tuple[Edge, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def spec(self) -> GraphSpec:
        return self.graph.spec

    @property
    def complete(self) -> bool:
        return not self.broken and all(has_writer(self.spec, wire) for wire in self.wires)


def gather(graph: Graph, deploy: DeploySpec, broken: frozenset[str] = frozenset()) -> Facts:
    """Import every class the graph names and look at every wire. ``broken`` are names whose own entry is wrong."""
    spec, faults = graph.spec, list[Fault]()
    uses = {name: (node.uses, ("nodes", name, "uses")) for name, node in spec.nodes.items()}
    types = {name: (entry.type, ("inputs", name, "type")) for name, entry in spec.inputs.items()}
    classes = _resolved(graph, uses, node_class, faults)
    input_types = _resolved(graph, types, payload_class, faults)
    ports = {name: ports_of(cls) for name, cls in classes.items()}
    written = tuple(_wires(spec))
    unwired = tuple(wire for wire in written if wire.optional and not _may_exist(spec, wire, broken))
    wires = tuple(wire for wire in written if wire not in unwired)
    return Facts(
        graph,
        deploy,
        broken,
        classes,
        ports,
        input_types,
        tuple(faults),
        wires,
        unwired,
        tuple(_edges(wires, ports, input_types)),
        tuple((wire.writer, wire.reader) for wire in wires if has_writer(spec, wire)),
    )


def has_writer(spec: GraphSpec, wire: PlacedWire) -> bool:
    """Does the graph have the node, or the graph input, that the wire comes from?"""
    if "." in wire.source:
        return wire.writer in spec.nodes
    return wire.reader != GATEWAY and wire.writer_port in spec.inputs


def _may_exist(spec: GraphSpec, wire: PlacedWire, broken: frozenset[str]) -> bool:
    name = wire.writer_port if wire.writer == GATEWAY else wire.writer
    return has_writer(spec, wire) or name in broken


def _resolved(
    graph: Graph, names: Mapping[str, tuple[str, Place]], resolve: Callable[[str, Path], type], faults: list[Fault]
) -> dict[str, type]:
    found = {}
    for name, (written, place) in names.items():
        try:
            found[name] = resolve(written, graph.folder)
        except GraphError as error:
            faults += [_placed(graph, fault, place) for fault in error.faults]
    return found


def _placed(graph: Graph, fault: Fault, place: Place) -> Fault:
    at = graph.source.at_value(FaultCode(fault.code), place, fault.message)
    return replace(at, path=".".join(place))


def _wires(spec: GraphSpec) -> Iterator[PlacedWire]:
    """Every wire of the file: each node's inputs, then the graph's outputs. Their order numbers the edges."""
    for reader, node in spec.nodes.items():
        for port, wire in node.inputs.items():
            yield _node_wire(reader, port, wire)
    for name, source in spec.outputs.items():
        yield PlacedWire(("outputs", name), GATEWAY, name, source, None)


def _node_wire(reader: str, port: str, wire: Wire) -> PlacedWire:
    return PlacedWire(("nodes", reader, "inputs", port), reader, port, wire.source, wire.window, wire.optional)


def _edges(
    wires: tuple[PlacedWire, ...], ports: Mapping[str, Ports], input_types: Mapping[str, type]
) -> Iterator[Edge]:
    for number, wire in enumerate(wires):
        written, read = writer_type(wire, ports, input_types), reader_type(wire, ports)
        carried = written if wire.reader == GATEWAY else read
        if written is not None and carried is not None:
            window = wire.window or default_window(carried)
            yield Edge(number, wire.writer, wire.writer_port, wire.reader, wire.reader_port, carried, window)


def writer_type(wire: PlacedWire, ports: Mapping[str, Ports], input_types: Mapping[str, type]) -> type | None:
    """The payload that the wire's source sends; None where that is not known."""
    if wire.writer == GATEWAY:
        return input_types.get(wire.writer_port)
    port = ports[wire.writer].outputs.get(wire.writer_port) if wire.writer in ports else None
    return port.type if port else None


def reader_type(wire: PlacedWire, ports: Mapping[str, Ports]) -> type | None:
    """The payload that the wire's reader takes; None where that is not known, and for a graph output."""
    port = ports[wire.reader].inputs.get(wire.reader_port) if wire.reader in ports else None
    return port.type if port else None
