"""A running graph: its replicas, the supervisor that watches them, and the Gateway. One per process and deployment.

The plan says what, the launcher how; this file only joins them. A replica that dies or is stuck is taken out at once and its
requests fail with a code; all others go on.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from omni_graph.config import config_of
from omni_graph.errors import Code, LaunchError
from omni_graph.frames import Links
from omni_graph.gateway import GatewayCore, Topology
from omni_graph.plan import Plan, Stage
from omni_graph.runtime.gateway_loop import GatewayLoop
from omni_graph.runtime.replica import (
    ENDED,
    STARTING,
    Change,
    EdgeStart,
    Handle,
    Launcher,
    NodeStart,
    Placement,
    ReplicaSpec,
    State,
)
from omni_graph.wiring import Edge

log = logging.getLogger("omni_graph.deployment")
WATCH_S = 0.2
START_TIMEOUT_S = 900.0
STOP_GRACE_S = 5.0
OnChange = Callable[[Change], None]


class GatewayLauncher(Launcher, Protocol):
    """A launcher that can also join the Gateway to its replicas."""

    def gateway_links(self, types: Mapping[int, type], wiring: str, run_folder: str) -> Links:
        """The Gateway's end of all links."""


def make_launcher(name: str) -> GatewayLauncher:
    """The launcher called ``name``. Raises LaunchError for one that does not exist."""
    if name == "threads":
        from omni_graph.runtime.threads import ThreadLauncher

        return ThreadLauncher()
    if name == "processes":
        from omni_graph.runtime.processes import ProcessLauncher

        return ProcessLauncher()
    if name == "ray":
        return _ray_launcher()
    raise LaunchError(f"launcher {name!r}: allowed are threads, processes and ray")


def _ray_launcher() -> GatewayLauncher:
    try:
        from omni_graph.runtime.ray_launcher import RayLauncher
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise LaunchError("launcher 'ray' needs Ray: pip install 'omni-graph[ray]'") from None
    return RayLauncher()


class Deployment:
    """Starts on construction and raises LaunchError, with nothing left behind, when a replica cannot start.

    ``stages``: only these (the default: all); ``on_change`` hears every Change of a replica, from any thread.
    """

    def __init__(
        self,
        plan: Plan,
        launcher: GatewayLauncher,
        *,
        stages: Iterable[str] | None = None,
        on_change: OnChange | None = None,
        log_level: str = "INFO",
    ) -> None:
        self.plan = plan
        self.launcher = launcher
        self.handles: dict[str, Handle] = {}
        self._details: dict[str, str] = {}
        self._on_change = on_change
        self._started = threading.Condition()
        self._closed = threading.Event()
        self.run_folder = tempfile.mkdtemp(prefix="omni-graph-")
        self.stages = tuple(plan.stages) if stages is None else tuple(stages)
        self._specs = list(replica_specs(plan, self.stages, launcher.bind(self.run_folder), self.run_folder, log_level))
        self.gateway: GatewayLoop | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._watch, name="supervisor", daemon=True).start()

    # ---- start

    def _start(self) -> None:
        self.launcher.prepare(self._specs)
        types = {edge.number: edge.type for edge in self.plan.edges}
        links = self.launcher.gateway_links(types, self.plan.wiring, self.run_folder)
        self.gateway = GatewayLoop(GatewayCore(topology(self.plan), links.address), links)
        for spec in self._specs:
            self.handles[spec.name] = self.launcher.start(spec, self._changed)
        with self._started:
            done = self._started.wait_for(self._settled, START_TIMEOUT_S)
        failed = [handle for handle in self.handles.values() if handle.state in ENDED]
        if failed:
            raise LaunchError(_why(failed[0], self._details))
        if not done:
            slow = [name for name, handle in self.handles.items() if handle.state in STARTING]
            raise LaunchError(f"not ready after {START_TIMEOUT_S:g} s: {', '.join(slow)}")

    def _settled(self) -> bool:
        states = {handle.state for handle in self.handles.values()}
        return STARTING.isdisjoint(states) or State.FAILED in states

    # ---- changes

    def _changed(self, change: Change) -> None:
        self._details[change.name] = change.detail
        gateway = self.gateway
        if gateway is not None and not self._closed.is_set():
            if change.state is State.READY and change.address is not None:
                gateway.replica_up(change.name.partition("/")[0], change.address)
            elif change.state not in STARTING:
                log.error("replica %s: %s %s", change.name, change.state, change.detail)
                code = Code.STUCK if change.state is State.STUCK else Code.REPLICA_DIED
                gateway.replica_down(change.name, code, change.detail or f"replica {change.name} {change.state}")
        if self._on_change is not None:
            self._on_change(change)
        with self._started:
            self._started.notify_all()

    def _watch(self) -> None:
        """Find replicas that hang in a step: past the stage's ``max_step_s`` they are dead, whatever they still do."""
        while not self._closed.wait(WATCH_S):
            for handle in self.handles.values():
                if handle.state is State.READY and handle.beat.in_step_s > handle.spec.max_step_s:
                    handle.state = State.STUCK
                    detail = f"in one step for {handle.beat.in_step_s:.1f} s; max_step_s is {handle.spec.max_step_s:g}"
                    self._changed(Change(handle.spec.name, State.STUCK, detail))
                    handle.kill()

    # ---- status and end

    def paused(self) -> int:
        """Requests that wait for their caller to read."""
        assert self.gateway is not None
        return self.gateway.call(lambda core, now: len(core.paused()))

    def status(self) -> dict[str, Any]:
        """Requests and replicas, as interfaces.md gives it."""
        assert self.gateway is not None
        counts, running, waiting, load, paused = self.gateway.call(
            lambda core, now: (dict(core.counts), core.running, core.waiting, dict(core.load()), len(core.paused()))
        )
        stages: dict[str, Any] = {}
        for name in self.stages:
            host = self.plan.stages[name].host
            replicas = [_replica_status(handle, load) for handle in self.handles.values() if handle.spec.stage == host]
            ready = any(replica["state"] == State.READY for replica in replicas)
            stages[name] = {"state": "ready" if ready else "unavailable", "replicas": replicas}
        return {
            "graph": self.plan.graph,
            "launcher": self.launcher.name,
            "requests": {"running": running, "waiting": waiting, "paused": paused, **counts},
            "stages": stages,
        }

    def close(self) -> None:
        """End requests, replicas and links; leave nothing behind. Idempotent."""
        self._closed.set()
        if self.gateway is not None:
            self.gateway.close(STOP_GRACE_S)
        stops = [threading.Thread(target=handle.stop, args=(STOP_GRACE_S,)) for handle in self.handles.values()]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()
        self.launcher.close()
        shutil.rmtree(self.run_folder, ignore_errors=True)


def _why(handle: Handle, details: Mapping[str, str]) -> str:
    tail = handle.log_tail()
    lines = f"\nlast log lines of {handle.spec.name}:\n{tail}" if tail else ""
    return f"{handle.spec.name} could not start: {details.get(handle.spec.name, '')}{lines}"


def _replica_status(handle: Handle, load: Mapping[str, int]) -> dict[str, Any]:
    name = handle.spec.name
    return {
        "id": name,
        "pid": handle.pid,
        "host": "localhost",
        "state": str(handle.state),
        "requests": load.get(name, 0),
        "busy": round(handle.beat.busy_s, 3),
        "queued_packets": 0,
        "restarts": 0,
    }


def topology(plan: Plan) -> Topology:
    """What the Gateway needs of the plan."""
    hosts = {stage.host for stage in plan.stages.values()}
    return Topology(
        plan.edges,
        {name: stage.host for name, stage in plan.stages.items()},
        {host: plan.deploy.stage(host).streams for host in hosts},
        plan.deploy.max_requests,
        plan.deploy.queue,
    )


def replica_specs(
    plan: Plan, stages: Iterable[str], bind: str, run_folder: str, log_level: str
) -> Iterable[ReplicaSpec]:
    """A spec for every replica of every stage that has workers of its own."""
    asked = set(stages)
    hosts = list(dict.fromkeys(stage.host for name, stage in plan.stages.items() if name in asked))
    workers = sum(plan.deploy.stage(host).replicas for host in hosts)
    share = max(1, (os.cpu_count() or 1) // max(1, workers))
    for host in hosts:
        members = [stage for stage in plan.stages.values() if stage.host == host]
        names = {stage.name for stage in members}
        edges = tuple(_edge_start(edge) for edge in plan.edges if edge.writer in names or edge.reader in names)
        how = plan.deploy.stage(host)
        for index in range(how.replicas):
            yield ReplicaSpec(
                name=f"{host}/{index}.0",
                nodes=tuple(_node_start(stage, plan) for stage in members),
                edges=edges,
                folder=str(Path(plan.folder).resolve()),
                wiring=plan.wiring,
                bind=bind,
                run_folder=run_folder,
                threads=how.threads or share,
                max_step_s=how.max_step_s,
                log_level=log_level,
                preload=tuple(sorted({m for stage in members for m in getattr(stage.node_class, "preload", ())})),
                env=how.env,
                placement=Placement(how.cpu, how.gpu, how.memory, how.labels, how.spread),
            )


def _edge_start(edge: Edge) -> EdgeStart:
    return EdgeStart(edge.number, edge.writer, edge.writer_port, edge.reader, edge.reader_port, edge.window)


def _node_start(stage: Stage, plan: Plan) -> NodeStart:
    """Config, and what the framework gives to constructors that ask for it."""
    given = {"device": stage.spec.device, "kv_bytes": stage.spec.kv_bytes, "limits": plan.deploy.limits.model_dump()}
    wanted = config_of(stage.node_class).framework
    extra = {key: value for key, value in given.items() if key in wanted}
    return NodeStart(stage.name, stage.uses, {**stage.config, **extra})
