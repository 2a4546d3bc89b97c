"""Launcher `ray`: every replica an actor. Ray places and starts them; packets go from replica to replica, never through it.

Ray restarts nothing. How a replica gets on is told by a call that waits for news; that it is dead is seen by its process
(a pidfd, in a millisecond) on this machine and by the Gateway's control link everywhere, and said by Ray last.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError

from omni_graph.frames import GATEWAY, Address, Links
from omni_graph.runtime import child
from omni_graph.runtime.memory import OUT_OF_MEMORY, OomKills
from omni_graph.runtime.processes import is_stopped
from omni_graph.runtime.ray_actor import SOCKETS, Home, Launched, News, ReplicaActor, binds, machine, tail_of
from omni_graph.runtime.ray_cluster import RayCluster
from omni_graph.runtime.ray_placement import actor_options, never_fits, shortage
from omni_graph.runtime.replica import ENDED, Beat, Change, ReplicaSpec, State

SILENT_S = 3.0  # an actor answers every second; one that is silent for longer is taken to be in a step
HEAR_S = 1.0  # a process that has not heard Ray's kill by then is killed from here
END_S = 5.0


class RayHandle:
    """A replica in an actor."""

    def __init__(
        self,
        spec: ReplicaSpec,
        launched: Launched,
        cluster: RayCluster,
        working_dir: str | None,
        changed: Callable[[Change], None],
    ) -> None:
        self.spec = spec
        self.state = State.PLACING
        self.address: Address | None = None
        self.pid = 0
        self.host = ""
        self._cluster = cluster
        self._changed = changed
        self._home: Home | None = None
        self._beat, self._heard_at = Beat(), time.monotonic()
        self._tail = ""
        self._stopping = False
        self._pidfd: int | None = None
        self._oom_kills: OomKills | None = None
        self._lock = threading.Lock()
        options = actor_options(spec, working_dir)
        self._actor: Any = ray.remote(ReplicaActor).options(**options).remote(spec.to_json(), launched.to_json())
        self._threads: list[threading.Thread] = []
        self._follower = self._watch("follow", self._follow)

    @property
    def beat(self) -> Beat:
        """As last heard. One that has not answered for long is in a step, as far as anybody can tell."""
        silent = time.monotonic() - self._heard_at
        if self._beat.in_step_s or (silent > SILENT_S and self.state is State.READY):
            return replace(self._beat, in_step_s=self._beat.in_step_s + silent)
        return self._beat

    # ---- its life

    def _watch(self, what: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"{what} {self.spec.name}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _follow(self) -> None:
        try:
            self._changed(Change(self.spec.name, State.PLACING))
            seen = 0
            placed = self._place()
            while placed and self.state not in ENDED:
                news = News.from_json(ray.get(self._actor.news.remote(seen)))
                seen = self._on_news(news, seen)
        except RayError as error:
            self._die(_first_line(error))
        if self.state in (State.FAILED, State.OOM):
            ray.kill(self._actor, no_restart=True)

    def _place(self) -> bool:
        hopeless = never_fits(self.spec.placement, self._cluster.machines()) if self._cluster.local else ""
        if hopeless:
            self._become(State.FAILED, f"cannot be placed: {hopeless}")
            return False
        home = self._actor.home.remote()
        patience_s = self.spec.placement.timeout_s
        placed, _ = ray.wait([home], timeout=patience_s)
        if not placed:
            reason = (
                shortage(self.spec.placement, self._cluster.machines()) or "no resource is short; see Ray's own logs"
            )
            self._become(State.FAILED, f"not placed after {patience_s:g} s: {reason}")
            return False
        self._settle(Home.from_json(ray.get(home)))
        return True

    def _settle(self, home: Home) -> None:
        self._home, self.pid, self.host = home, home.pid, home.address
        if home.machine == machine():
            try:
                self._pidfd = os.pidfd_open(home.pid)
            except ProcessLookupError:
                self._die("the process ended by itself")
                return
            except OSError as error:
                self._die(f"its process cannot be watched from here: {error}")
                return
            self._oom_kills = OomKills(home.pid)
            self._watch("until gone", self._until_gone)
        self._become(State.LOADING, f"on {home.address}")

    def _on_news(self, news: News, seen: int) -> int:
        self._beat, self._heard_at = news.beat, time.monotonic()
        if self._oom_kills is not None:
            self._oom_kills.look()
        if news.serial != seen and news.state is not State.LOADING:
            self.address = news.address or self.address
            self._tail = news.tail
            self._become(news.state, news.detail)
        return news.serial

    def _until_gone(self) -> None:
        """Until the process is dead, whatever Ray knows of it."""
        assert self._pidfd is not None and self._oom_kills is not None
        gone = select.poll()
        gone.register(self._pidfd, select.POLLIN)
        gone.poll()
        if self._oom_kills.grew() and not self._stopping and self.state is not State.STUCK:
            self._become(State.OOM, OUT_OF_MEMORY)
        self._die("the process ended by itself")
        with self._lock:
            os.close(self._pidfd)
            self._pidfd = None

    def _die(self, detail: str) -> None:
        self._become(State.STOPPED if self._stopping else State.FAILED, detail)

    def _become(self, state: State, detail: str = "") -> None:
        with self._lock:
            if self.state in ENDED:
                return
            self.state = state
        self._changed(Change(self.spec.name, state, detail, self.address))

    # ---- its end

    def stop(self, grace_s: float) -> None:
        self._stopping = True
        if self.state is State.READY:
            self._actor.stop.remote()
            self._follower.join(grace_s)
        ray.kill(self._actor, no_restart=True)
        self._join(HEAR_S)
        self.kill()
        self._join(END_S)

    def kill(self) -> None:
        """At once, without waiting. A process that is stopped does not hear Ray; on this machine it need not."""
        with self._lock, suppress(ProcessLookupError):  # it is dead, and we have not been told yet
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        ray.kill(self._actor, no_restart=True)

    def _join(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    def frozen(self) -> bool:
        return self._pidfd is not None and is_stopped(self.pid)

    def log_tail(self, lines: int = 20) -> str:
        if self._home is None or self._home.machine == machine():
            return tail_of(child.log_path(self.spec), lines)
        if self.state in ENDED:
            return "\n".join(self._tail.splitlines()[-lines:])
        text: str = ray.get(self._actor.log_tail.remote(lines), timeout=END_S)
        return text


class RayLauncher:
    """Replicas as Ray actors. ``address`` of a cluster; None: a local Ray, of this machine and for this process.

    A replica that has no place in time (``Placement.timeout_s``) fails, and its message says which resource is short.
    ``ipc`` False: also replicas on one machine talk over tcp, where Ray has more than one node.
    """

    name = "ray"

    def __init__(self, address: str | None = None, *, ipc: bool = True) -> None:
        self._address = address
        self._ipc = ipc
        self._cluster: RayCluster | None = None
        self._launched: Launched | None = None
        self._across = False
        self._working_dir: str | None = None

    def prepare(self, specs: Sequence[ReplicaSpec]) -> None:
        self._cluster = RayCluster(self._address)
        self._across = not self._cluster.is_one_machine()
        files = any(node.uses.partition(":")[0].endswith(".py") for spec in specs for node in spec.nodes)
        if self._across and files:
            self._working_dir = self._cluster.upload(specs[0].folder)

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> RayHandle:
        assert self._cluster is not None and self._launched is not None, "prepare and gateway_links come first"
        placed = spec if self._working_dir is None else replace(spec, folder="")
        return RayHandle(placed, self._launched, self._cluster, self._working_dir, changed)

    def bind(self, run_folder: str) -> str:
        """For peers on the same machine; each replica adds tcp, on the address that its machine has in the cluster."""
        return f"ipc://{run_folder}/{SOCKETS}" if self._ipc else ""

    def gateway_links(self, types: Mapping[int, type], wiring: str, run_folder: str) -> Links:
        """The Gateway's end."""
        links = self._make_links(types, wiring, self.bind(run_folder))
        self._launched = Launched(machine(), links.address, self._across)
        return links

    def _make_links(self, types: Mapping[int, type], wiring: str, ipc: str) -> Links:
        from omni_graph.links.keys import Curve, KeyPair
        from omni_graph.links.profile import BETWEEN_HOSTS, ONE_HOST
        from omni_graph.links.sockets import ZmqLinks

        assert self._cluster is not None, "prepare comes first"
        if not self._across:
            return ZmqLinks(GATEWAY, ipc, types, wiring, heartbeat=ONE_HOST)
        return ZmqLinks(
            GATEWAY, binds(ipc, self._cluster.address), types, wiring, curve=Curve(KeyPair()), heartbeat=BETWEEN_HOSTS
        )

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()


def _first_line(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
