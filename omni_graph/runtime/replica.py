"""What a launcher needs to start one replica, as JSON; and how a started replica is seen from outside.

The spec names node classes by import path; nothing in it is code or a live object, so it may cross any process border.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from omni_graph.frames import Address


@dataclass(frozen=True, slots=True)
class NodeStart:
    """One node of a worker: its name, its class, and the keyword arguments of its constructor."""

    name: str
    uses: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EdgeStart:
    """An edge that touches the worker; its payload type is that of the node's port."""

    number: int
    writer: str
    writer_port: str
    reader: str
    reader_port: str
    window: int


@dataclass(frozen=True, slots=True)
class Placement:
    """What a replica asks of its machine, and for how long; for launchers that choose one. ``memory`` in bytes."""

    cpu: float = 0.1
    gpu: float = 0.0
    memory: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    spread: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One replica. ``name`` is ``stage/index.incarnation``; ``folder`` is the graph's, for node files beside it; ``streams``
    are the requests that it takes at once."""

    name: str
    nodes: tuple[NodeStart, ...]
    edges: tuple[EdgeStart, ...]
    folder: str
    wiring: str
    bind: str
    run_folder: str
    threads: int
    max_step_s: float
    streams: int = 1
    nice: int = 0
    log_level: str = "INFO"
    preload: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    placement: Placement = Placement()

    @property
    def stage(self) -> str:
        """The stage whose replica this is."""
        return self.name.partition("/")[0]

    def to_json(self) -> str:
        """The spec as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ReplicaSpec:
        """The spec of ``to_json``."""
        raw = json.loads(text)
        raw["nodes"] = tuple(NodeStart(**one) for one in raw["nodes"])
        raw["edges"] = tuple(EdgeStart(**one) for one in raw["edges"])
        raw["preload"] = tuple(raw["preload"])
        raw["placement"] = Placement(**raw["placement"])
        return cls(**raw)


class State(StrEnum):
    PLACING = "placing"
    LOADING = "loading"
    READY = "ready"
    STUCK = "stuck"
    STOPPED = "stopped"
    FAILED = "failed"
    OOM = "oom"


STARTING = frozenset({State.PLACING, State.LOADING})
ENDED = frozenset({State.STOPPED, State.FAILED, State.OOM})


@dataclass(frozen=True, slots=True)
class Beat:
    """How a worker gets on: its steps so far, seconds in the running one (0: none), and its open requests,
    seconds in steps, packets that wait to be taken, and what its nodes count of themselves, as ``node.counter``."""

    step: int = 0
    in_step_s: float = 0.0
    requests: int = 0
    busy_s: float = 0.0
    queued_packets: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """A replica is being placed, loads, became ready or ended; ``detail`` says where it is or why it failed."""

    name: str
    state: State
    detail: str = ""
    address: Address | None = None


class Handle(Protocol):
    """A started replica, seen from the process that holds the deployment."""

    spec: ReplicaSpec
    state: State
    pid: int

    @property
    def beat(self) -> Beat:
        """How it gets on, as last heard."""

    def stop(self, grace_s: float) -> None:
        """Ask it to end, wait up to ``grace_s``, then make it."""

    def kill(self) -> None:
        """End it now, where the launcher can."""

    def frozen(self) -> bool:
        """Its process is on this machine and stopped, by a signal or a debugger."""

    def log_tail(self, lines: int = 20) -> str:
        """Its last log lines."""


class Launcher(Protocol):
    """Starts replicas. ``changed`` is called from any thread, with every Change of a replica's state."""

    name: str

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> Handle:
        """Start one; returns at once, in state placing or loading."""

    def bind(self, run_folder: str) -> str:
        """Where its replicas listen: ``memory:``, ``ipc://folder``, ``tcp://address``; empty: known once they are placed."""

    def prepare(self, specs: Sequence[ReplicaSpec]) -> None:
        """Before the first start: whatever all of them share."""

    def close(self) -> None:
        """Free what prepare made."""
