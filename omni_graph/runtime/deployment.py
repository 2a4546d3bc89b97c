"""A running graph: its replicas and its Gateway. One per process and deployment.

The plan says what, the launcher how; this file only joins them. A replica that dies or is stuck is taken out at once; its
requests are replayed on others, or fail with a code; all others go on. ``scaling`` changes it while it runs.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from omni_graph.errors import LaunchError, RequestError
from omni_graph.frames import Links
from omni_graph.gateway import GatewayCore
from omni_graph.plan import Plan
from omni_graph.runtime.gateway_loop import GatewayLoop
from omni_graph.runtime.replica import Handle, Launcher, ReplicaSpec
from omni_graph.runtime.replicas import STOP_GRACE_S, OnChange, Replicas
from omni_graph.runtime.run_folder import RunFolder
from omni_graph.runtime.scaling import Scaling
from omni_graph.runtime.specs import host_spec, hosts_of, threads_each, topology

FINISH_POLL_S = 0.02
PREFIX = "omni-graph-"


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
    address = os.environ.get("RAY_ADDRESS", "local")  # Ray's own word for which Ray a program uses
    return RayLauncher(None if address == "local" else address)


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
        self.stages = tuple(plan.stages) if stages is None else tuple(stages)
        self._folder = RunFolder(PREFIX, tempfile.gettempdir())
        self.run_folder = self._folder.path
        self.gateway: GatewayLoop | None = None
        self.replicas: Replicas | None = None
        self._log_level = log_level
        self._hosts = hosts_of(plan, self.stages)
        try:
            self._start(on_change)
        except BaseException:
            self.close()
            raise

    def _spec(self, host: str, config: Mapping[str, Any]) -> ReplicaSpec:
        bind, threads = self.launcher.bind(self.run_folder), threads_each(self.plan, self._hosts)
        return host_spec(self.plan, host, bind, self.run_folder, threads, self._log_level, config)

    def _start(self, on_change: OnChange | None) -> None:
        self.launcher.prepare([self._spec(host, {}) for host in self._hosts])
        types = {edge.number: edge.type for edge in self.plan.edges}
        links = self.launcher.gateway_links(types, self.plan.wiring, self.run_folder)
        self.gateway = GatewayLoop(GatewayCore(topology(self.plan), links.address), links, self._lost)
        self.replicas = Replicas(self.launcher, self.gateway, on_change)
        self.scaling = Scaling(self.plan, self._hosts, self.replicas, self._spec)
        self.scaling.start()

    def _lost(self, name: str, reason: str) -> None:
        if self.replicas is not None:
            self.replicas.lost(name, reason)

    @property
    def handles(self) -> Mapping[str, Handle]:
        """The replicas that are there now, by name."""
        assert self.replicas is not None
        return {one.handle.spec.name: one.handle for one in self.replicas if one.handle is not None}

    # ---- status and end

    def paused(self) -> int:
        """Requests that wait for their caller to read."""
        assert self.gateway is not None
        return self.gateway.call(lambda core, now: len(core.paused()))

    def status(self) -> dict[str, Any]:
        """Requests and replicas, as interfaces.md gives it."""
        assert self.gateway is not None and self.replicas is not None
        counts, running, waiting, load, paused = self.gateway.call(
            lambda core, now: (dict(core.counts), core.running, core.waiting, dict(core.load()), len(core.paused()))
        )
        return {
            "graph": self.plan.graph,
            "launcher": self.launcher.name,
            "requests": {"running": running, "waiting": waiting, "paused": paused, **counts},
            "stages": {name: self._stage_status(self.plan.stages[name].host, load) for name in self.stages},
        }

    def _stage_status(self, host: str, load: dict[str, int]) -> dict[str, Any]:
        assert self.replicas is not None
        replicas = [self.replicas.status(one, load) for one in self.replicas.of(host)]
        return {"state": self.replicas.health(host), "replicas": replicas}

    def logs(self, stage: str | None, lines: int) -> dict[str, list[str]]:
        """The last log lines of each replica, of one stage or of all."""
        assert self.replicas is not None
        hosts = self._hosts if stage is None else (self.scaling.host_of(stage),)
        replicas = [one for host in hosts for one in self.replicas.of(host)]
        handles = [one.handle for one in replicas if one.handle is not None]
        return {handle.spec.name: handle.log_tail(lines).splitlines() for handle in handles}

    def close(self, drain_s: float = 0.0) -> None:
        """End requests, replicas and links; leave nothing behind. Idempotent.

        What runs has ``drain_s`` seconds to finish, in which nothing new is admitted.
        """
        if drain_s > 0:
            self._finish(drain_s)
        if self.replicas is not None:
            self.replicas.stop_watching()
        if self.gateway is not None:
            self.gateway.close(STOP_GRACE_S)
        if self.replicas is not None:
            self.replicas.close(STOP_GRACE_S)
        self.launcher.close()
        self._folder.remove()

    def _finish(self, drain_s: float) -> None:
        assert self.gateway is not None
        until, pause = time.monotonic() + drain_s, threading.Event()
        try:
            self.gateway.post(lambda core, now: core.refuse())
            while time.monotonic() < until and self.gateway.call(lambda core, now: core.running + core.waiting):
                pause.wait(FINISH_POLL_S)
        except RequestError:  # closed already
            return
