"""The replicas of a deployment: started, watched, restarted, added and taken away. The supervisor's hands.

Only this file starts a replica, and only ``supervision`` decides when a dead one is started again. The Gateway is told of
every replica that serves, that is gone, and of every stage that can hope for one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from omni_graph.errors import Code, LaunchError
from omni_graph.runtime.gateway_loop import GatewayLoop
from omni_graph.runtime.place import Need, Replica
from omni_graph.runtime.replica import ENDED, STARTING, Beat, Change, Handle, Launcher, ReplicaSpec, State
from omni_graph.runtime.telling import one_line
from omni_graph.supervision import Supervision, slots_after_oom

log = logging.getLogger("omni_graph.supervisor")
WATCH_S = 0.1
DYING_S = 0.2  # a process whose link has ended may be ending by itself: so long it may take to be seen
STOP_GRACE_S = 5.0
CLOSED = "the deployment is closed"
OnChange = Callable[[Change], None]


@dataclass(slots=True)
class _Stage:
    supervision: Supervision = field(default_factory=Supervision)
    replicas: dict[int, Replica] = field(default_factory=dict)
    next_index: int = 0
    circuit_open: bool = False


class Replicas:
    """All replicas, by host stage. Thread-safe; changes come in from the launchers' threads."""

    def __init__(self, launcher: Launcher, gateway: GatewayLoop, on_change: OnChange | None) -> None:
        self._launcher = launcher
        self._gateway = gateway
        self._on_change = on_change
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.RLock()
        self._changed_state = threading.Condition(self._lock)
        self._closed = threading.Event()
        self._lost: deque[tuple[float, str, str]] = deque()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    # ---- who is there

    def __iter__(self) -> Iterator[Replica]:
        with self._lock:
            return iter([replica for stage in self._stages.values() for replica in stage.replicas.values()])

    def of(self, host: str) -> list[Replica]:
        """The replicas of a host stage, by index."""
        with self._lock:
            return list(self._stages.get(host, _Stage()).replicas.values())

    def health(self, host: str) -> str:
        """``ready``, ``unhealthy`` (its circuit is open), or ``unavailable``."""
        with self._lock:
            if any(replica.state is State.READY for replica in self.of(host)):
                return "ready"
            return "unhealthy" if self._stages[host].circuit_open else "unavailable"

    # ---- start

    def add(self, spec: ReplicaSpec, count: int = 1, revision: int = 0) -> list[Replica]:
        """Start ``count`` more replicas like ``spec``; returns at once. Raises LaunchError once the deployment is closed."""
        with self._lock:
            if self._closed.is_set():
                raise LaunchError(f"{spec.stage}: {CLOSED}")
            stage = self._stages.setdefault(spec.stage, _Stage())
            made = []
            for _ in range(count):
                replica = Replica(spec.stage, stage.next_index, spec, revision)
                stage.replicas[stage.next_index] = replica
                stage.next_index += 1
                made.append(replica)
            failed = [(replica, change) for replica in made if (change := self._start(replica)) is not None]
            self._tell_hope(spec.stage)
        for replica, change in failed:
            self._changed(replica, change)
        return made

    def _start(self, replica: Replica) -> Change | None:
        """Begin its next life. A Change where that ended at once; it is to be told when the lock is free."""
        replica.life += 1
        replica.restart_at = replica.ready_since = None
        replica.ending = ""
        replica.state = State.LOADING
        replica.handle = None
        spec = replace(replica.spec, name=replica.name)
        try:
            replica.handle = self._launcher.start(spec, lambda change: self._changed(replica, change))
        except Exception as error:  # no files, no memory: a life that ended at once, and the supervisor goes on
            log.error("replica %s could not be started", spec.name, exc_info=True)
            return Change(spec.name, State.FAILED, one_line(error))
        return None

    def wait_ready(self, replicas: Sequence[Replica], timeout_s: float) -> None:
        """Until all are ready. Raises LaunchError as soon as one has ended, with its last log lines, or at the timeout."""
        with self._changed_state:
            done = self._changed_state.wait_for(lambda: self._closed.is_set() or _settled(replicas), timeout_s)
        if self._closed.is_set():
            raise LaunchError(CLOSED)
        failed = next((replica for replica in replicas if replica.state in ENDED), None)
        if failed is not None:
            raise LaunchError(_why(failed))
        if not done:
            slow = ", ".join(f"{r.host}/{r.index}" for r in replicas if r.state in STARTING)
            raise LaunchError(f"not ready after {timeout_s:g} s: {slow}")

    # ---- changes

    def _changed(self, replica: Replica, change: Change) -> None:
        if self._on_change is not None:  # first, so that who waits for a state hears of it before the wait is over
            self._on_change(change)
        with self._changed_state:
            current = replica.name == change.name
            if current and not self._closed.is_set():
                self._take_in(replica, change)
                replica.state, replica.detail = change.state, change.detail
            self._changed_state.notify_all()

    def _take_in(self, replica: Replica, change: Change) -> None:
        if change.state is State.READY and change.address is not None:
            replica.ready_since = time.monotonic()
            self._stages[replica.host].circuit_open = False
            self._gateway.replica_up(replica.host, change.address, replica.revision, replica.slots)
            self._tell_hope(replica.host)
        elif change.state not in STARTING:
            code = Code.STUCK if change.state is State.STUCK else Code.REPLICA_DIED
            if not replica.going:
                log.error("replica %s: %s %s", change.name, change.state, change.detail)
            if change.state in ENDED and not replica.going and replica.restart_at is None:
                if change.state is State.OOM and not replica.ending:
                    self._shrink(replica)
                self._plan_restart(replica)
            replica.last_end = replica.ending or f"{change.state} {change.detail}".strip()
            self._gateway.replica_down(change.name, code, change.detail or f"replica {change.name} {change.state}")

    def _shrink(self, replica: Replica) -> None:
        aboard = 0 if replica.handle is None else replica.handle.beat.requests
        replica.slots = slots_after_oom(replica.slots, aboard)
        if replica.slots < replica.spec.streams:
            log.warning(
                "%s takes %d of %d requests at once from now on", replica.name, replica.slots, replica.spec.streams
            )

    def _forgive(self, replica: Replica) -> None:
        with self._lock:
            if replica.state is State.READY:
                name, slots = replica.name, replica.spec.streams
                replica.slots = slots
                self._gateway.post(lambda core, now: core.resize(name, slots, now))

    def _plan_restart(self, replica: Replica) -> None:
        """Decide when it comes back. A replica that never was ready is not tried again: start-up reports it."""
        if replica.life == 0 and replica.ready_since is None:
            return
        now = time.monotonic()
        stage = self._stages[replica.host]
        lived = 0.0 if replica.ready_since is None else now - replica.ready_since
        decision = stage.supervision.died(now, lived)
        replica.restart_at = decision.at
        stage.circuit_open = stage.circuit_open or decision.circuit_open
        if decision.circuit_open:
            log.error("stage %s keeps dying: nothing is started for %.0f s", replica.host, decision.at - now)
        self._tell_hope(replica.host)

    def _tell_hope(self, host: str) -> None:
        """Dead replicas come back, so requests wait for one; while the circuit is open they fail at once."""
        stage = self._stages[host]
        coming = {one.revision for one in stage.replicas.values() if not one.going and not stage.circuit_open}
        self._gateway.post(lambda core, now: core.expect(host, coming, now))

    # ---- the watch

    def _watch(self) -> None:
        while not self._closed.wait(WATCH_S):
            now = time.monotonic()
            while self._lost and now - self._lost[0][0] > DYING_S:
                _, name, reason = self._lost.popleft()
                with _told():
                    self._end_lost(name, reason)
            for replica in self:
                with _told():
                    self._look_at(replica, now)

    def _look_at(self, replica: Replica, now: float) -> None:
        need, why = replica.need(now) or (None, "")
        handle = replica.handle
        if need is Need.START:
            self._restart(replica)
        elif need is Need.END_FROZEN and handle is not None:
            self._kill(replica, handle, why)
        elif need is Need.END_STUCK and handle is not None:
            handle.state, replica.ending = State.STUCK, f"{State.STUCK} {why}"
            self._changed(replica, Change(handle.spec.name, State.STUCK, why))
            handle.kill()
            self._abandon(replica)
        elif need is Need.ALL_SLOTS:
            self._forgive(replica)

    def _restart(self, replica: Replica) -> None:
        with self._lock:
            if self._closed.is_set() or replica.going or replica.restart_at is None:
                return
            log.warning("starting %s/%d again, life %d", replica.host, replica.index, replica.life + 1)
            self._stages[replica.host].circuit_open = False
            failed = self._start(replica)
            self._tell_hope(replica.host)
        if failed is not None:
            self._changed(replica, failed)

    def _abandon(self, replica: Replica) -> None:
        """What cannot be killed (a thread) never ends by itself: its place is filled all the same."""
        with self._lock:
            if replica.restart_at is None and not replica.going and replica.state is State.STUCK:
                self._plan_restart(replica)

    def lost(self, name: str, reason: str) -> None:
        """The Gateway has lost its control link to a replica: dead or frozen, it is to end for good. Never blocks."""
        self._lost.append((time.monotonic(), name, reason))

    def _end_lost(self, name: str, reason: str) -> None:
        for replica in self:
            handle = replica.handle
            if handle is not None and handle.spec.name == name and handle.state is State.READY and not replica.going:
                self._kill(replica, handle, reason)

    @staticmethod
    def _kill(replica: Replica, handle: Handle, why: str) -> None:
        log.warning("ending %s: %s", handle.spec.name, why)
        replica.ending = f"ended by us: {why}"
        handle.kill()

    # ---- taking away

    def retire(self, replica: Replica) -> Handle | None:
        """It gets no new requests and does not come back. Idempotent."""
        with self._lock:
            replica.going = True
            handle = replica.handle
            self._tell_hope(replica.host)
        if handle is not None:
            self._gateway.call(lambda core, now: core.drain(handle.spec.name))
        return handle

    def remove(self, replica: Replica, drain_s: float) -> None:
        """Retire a replica and end it: it has up to ``drain_s`` seconds for the requests it has; what it still has then is
        replayed elsewhere."""
        handle = self.retire(replica)
        if handle is not None:
            name = handle.spec.name
            self._wait_idle(name, drain_s)
            why = f"{name} was drained and still at work after {drain_s:g} s"
            self._gateway.call(lambda core, now: core.replica_down(name, Code.DRAINED, why, now))
            handle.stop(STOP_GRACE_S)
        with self._lock:
            self._stages[replica.host].replicas.pop(replica.index, None)

    def _wait_idle(self, name: str, drain_s: float) -> None:
        until = time.monotonic() + drain_s
        while time.monotonic() < until and not self._closed.wait(0.01):
            if not self._gateway.call(lambda core, now: core.load().get(name, 0)):
                return

    def stop_watching(self) -> None:
        """The deployment closes: replicas that end from now on are meant to, and none is started."""
        with self._changed_state:
            self._closed.set()
            self._changed_state.notify_all()

    def close(self, grace_s: float) -> None:
        """End all of them. Idempotent."""
        self.stop_watching()
        handles = [replica.handle for replica in self if replica.handle is not None]
        stops = [threading.Thread(target=handle.stop, args=(grace_s,)) for handle in handles]
        for stop in stops:
            stop.start()
        for stop in stops:
            stop.join()

    def status(self, replica: Replica, load: dict[str, int]) -> dict[str, Any]:
        """One replica, as ``app.status()`` gives it; ``pid`` 0 where its process could not even be started."""
        handle = replica.handle
        beat = Beat() if handle is None else handle.beat
        return {
            "id": replica.name,
            "pid": 0 if handle is None else handle.pid,
            "host": getattr(handle, "host", "localhost"),
            "state": "draining" if replica.going else str(replica.state),
            "requests": load.get(replica.name, 0),
            "slots": replica.slots,
            "busy": round(beat.busy_s, 3),
            "queued_packets": beat.queued_packets,
            "counters": dict(beat.counters),
            "restarts": replica.life,
            "last_end": replica.last_end,
            "revision": replica.revision,
        }


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong is logged, and the watch goes on: nobody else looks after the replicas."""
    try:
        yield
    except Exception:
        log.critical("the watch over the replicas failed", exc_info=True)


def _settled(replicas: Sequence[Replica]) -> bool:
    states = {replica.state for replica in replicas}
    return STARTING.isdisjoint(states) or not ENDED.isdisjoint(states)


def _why(replica: Replica) -> str:
    tail = "" if replica.handle is None else replica.handle.log_tail()
    lines = f"\nlast log lines of {replica.name}:\n{tail}" if "Traceback" in tail else ""
    return f"{replica.name} could not start: {replica.detail}{lines}"
