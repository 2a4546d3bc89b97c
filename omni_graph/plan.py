"""Spec + node classes -> Plan: what the runtime starts and joins. Pure: no socket, no clock, no node is built.

A Plan exists only of a graph that keeps every rule; anything else is one GraphError with all faults.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_graph.bound import MemoryBound, memory_bound
from omni_graph.codes import FaultCode
from omni_graph.deploy_rules import DEPLOY_RULES
from omni_graph.errors import Fault, GraphError
from omni_graph.facts import Facts, gather
from omni_graph.frames import GATEWAY
from omni_graph.graph import Graph
from omni_graph.paths import Pair, fork_joins, reachable, topological_order
from omni_graph.payload import max_packet_bytes, payload_fields
from omni_graph.rules import GRAPH_RULES
from omni_graph.source import in_order
from omni_graph.spec import DeploySpec, StageSpec
from omni_graph.suggest import suggest
from omni_graph.wiring import Edge

__all__ = ["GATEWAY", "Edge", "ForkJoin", "GraphInput", "Plan", "Stage", "make_plan"]
SOURCE, SINK = "gateway", "gateway (outputs)"


@dataclass(frozen=True, slots=True)
class Stage:
    """A node as deployed. It lives in the workers of ``host``: its own, or those of the stage it is ``with:``."""

    name: str
    uses: str
    node_class: type
    config: Mapping[str, Any]
    host: str
    spec: StageSpec


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An input of the graph and the numbers of the edges that carry it."""

    type: type
    optional: bool
    edges: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ForkJoin:
    """``fork`` feeds ``join`` along several arms; ``arms`` are the edges that enter it. It must serve each on demand."""

    fork: str
    join: str
    arms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked graph under a deployment. ``stages`` are in topological order; ``edges[n].number`` is n.

    ``notes`` are worth a person's look and refused nothing.
    """

    graph: str
    folder: Path
    stages: Mapping[str, Stage]
    edges: tuple[Edge, ...]
    inputs: Mapping[str, GraphInput]
    outputs: Mapping[str, int]
    deploy: DeploySpec
    bound: MemoryBound
    joins: tuple[ForkJoin, ...]
    notes: tuple[str, ...]

    def needed(self, outputs: Iterable[str]) -> tuple[str, ...]:
        """The stages that ``outputs`` need, in topological order. Raises GraphError for an output that is not there."""
        asked = list(outputs)
        faults = [_unknown_output(name, self.outputs) for name in asked if name not in self.outputs]
        if faults:
            raise GraphError(faults)
        backwards = [(edge.reader, edge.writer) for edge in self.edges if not edge.is_input and not edge.is_output]
        needed = reachable([self.edges[self.outputs[name]].writer for name in asked], backwards)
        return tuple(name for name in self.stages if name in needed)

    @property
    def wiring(self) -> str:
        """SHA-256 of nodes, edges and payload types: two workers that differ in it must not talk."""
        payloads = {edge.type.__qualname__: _payload_shape(edge.type) for edge in self.edges}
        nodes = [[stage.name, stage.uses] for stage in self.stages.values()]
        edges = [[edge.number, edge.name, edge.type.__qualname__, edge.window] for edge in self.edges]
        text = json.dumps([nodes, edges, sorted(payloads.items())], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def make_plan(graph: Graph, deploy: DeploySpec | None = None) -> Plan:
    """Check every rule and plan the graph; without ``deploy``, one replica of each stage in threads.

    Raises GraphError with all faults of both files.
    """
    facts = gather(graph, deploy or DeploySpec())
    faults = [fault for rule in (*GRAPH_RULES, *DEPLOY_RULES) for fault in rule(facts)]
    if faults:
        raise GraphError(in_order(faults))
    pairs = [pair for pair in facts.pairs if GATEWAY not in pair]
    order = topological_order(tuple(facts.spec.nodes), pairs)
    return Plan(
        graph.name,
        graph.folder,
        {name: _stage(facts, name) for name in order},
        facts.edges,
        {name: _input(facts, name) for name in facts.spec.inputs},
        {edge.reader_port: edge.number for edge in facts.edges if edge.is_output},
        facts.deploy,
        memory_bound(facts.edges, facts.classes, facts.deploy),
        _joins(order, facts.edges),
        tuple(_notes(facts)),
    )


def _stage(facts: Facts, name: str) -> Stage:
    node, spec = facts.spec.nodes[name], facts.deploy.stage(name)
    return Stage(name, node.uses, facts.classes[name], node.config, spec.with_ or name, spec)


def _input(facts: Facts, name: str) -> GraphInput:
    edges = tuple(edge.number for edge in facts.edges if edge.is_input and edge.writer_port == name)
    return GraphInput(facts.input_types[name], facts.spec.inputs[name].optional, edges)


def _joins(order: Sequence[str], edges: Sequence[Edge]) -> tuple[ForkJoin, ...]:
    """The fork-join pairs, the Gateway's two ends among them: a client that writes inputs, and one that reads outputs."""
    pairs = [(SOURCE if edge.is_input else edge.writer, SINK if edge.is_output else edge.reader) for edge in edges]
    return tuple(_join(pair, pairs, edges) for pair in fork_joins((SOURCE, *order, SINK), pairs))


def _join(pair: Pair, pairs: Sequence[Pair], edges: Sequence[Edge]) -> ForkJoin:
    fork, join = pair
    reached = reachable([fork], pairs)
    arms = tuple(edge.name for edge, ends in zip(edges, pairs) if ends[1] == join and ends[0] in reached)
    return ForkJoin(fork, GATEWAY if join == SINK else join, arms)


def _notes(facts: Facts) -> Iterator[str]:
    deploy = facts.deploy
    for name in facts.spec.nodes:
        host = deploy.stage(deploy.stage(name).with_ or name)
        if host.replicas * host.streams < deploy.max_requests:
            room = f"{host.replicas} x {host.streams} = {host.replicas * host.streams}"
            yield f"stage {name} serves {room} requests at once, under max_requests {deploy.max_requests}"
    read = {edge.writer_port for edge in facts.edges if edge.is_input}
    yield from (f"no node reads the graph input {name}" for name in facts.spec.inputs if name not in read)
    yield from (f"no value refers to the parameter {name}" for name in facts.graph.unused)
    for wire in facts.unwired:
        yield f"{wire.reader}.{wire.reader_port} is left unwired: the graph has no {wire.source}"


def _unknown_output(name: str, outputs: Mapping[str, int]) -> Fault:
    return Fault(FaultCode.UNKNOWN_NODE, f"the graph has no output `{name}`{suggest(name, outputs)}", "outputs")


def _payload_shape(cls: type) -> list[Any]:
    fields = [[name, inspect.formatannotation(hint)] for name, hint in payload_fields(cls)]
    return [max_packet_bytes(cls), fields]
