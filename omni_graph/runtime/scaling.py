"""Changes of a running deployment: more replicas of a stage, fewer, and all of them replaced one by one. They lose nothing.

Replicas starts and ends them; this file decides which, and with what. Changes of one stage wait for each other, those of
different stages do not. A change that fails leaves the replicas that were there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from omni_graph.config import config_of
from omni_graph.errors import LaunchError, ScaleError
from omni_graph.plan import Plan
from omni_graph.runtime.place import Replica
from omni_graph.runtime.replica import ReplicaSpec
from omni_graph.runtime.replicas import Replicas
from omni_graph.suggest import suggest

START_TIMEOUT_S = 900.0
MakeSpec = Callable[[str, Mapping[str, Any]], ReplicaSpec]


@dataclass(slots=True)
class _Line:
    """What the next replica of a stage is started with. ``newest``: the highest revision ever tried."""

    spec: ReplicaSpec
    config: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0
    newest: int = 0
    turn: threading.Lock = field(default_factory=threading.Lock)


class Scaling:
    """``make_spec(host, config)`` is the spec of a replica whose own node's config is changed so."""

    def __init__(self, plan: Plan, hosts: Sequence[str], replicas: Replicas, make_spec: MakeSpec) -> None:
        self._plan = plan
        self._replicas = replicas
        self._make_spec = make_spec
        self._lines = {host: _Line(make_spec(host, {})) for host in hosts}

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """The replicas of the deploy file, until all are ready. Raises LaunchError."""
        made = [
            replica
            for host, line in self._lines.items()
            for replica in self._replicas.add(line.spec, self._plan.deploy.stage(host).replicas)
        ]
        self._replicas.wait_ready(made, timeout_s)

    def scale(self, stage: str, count: int, timeout_s: float, drain_timeout_s: float | None = None) -> None:
        """Bring a stage to ``count`` replicas; see App.scale."""
        line = self._line(stage)
        if count < 1:
            raise ScaleError(f"{stage}: {count} replicas; at least 1 (to take a stage out of service, drain it)")
        with _turn(stage, line, timeout_s) as left:
            there = self._there(stage)
            if count > len(there):
                self._start(line.spec, count - len(there), line.revision, left(), drain_timeout_s)
            self._take_away(there[count:], drain_timeout_s)

    def drain(self, stage: str, replica: int | None, timeout_s: float, drain_timeout_s: float | None = None) -> None:
        """End one replica of a stage, or all; see App.drain."""
        line = self._line(stage)
        with _turn(stage, line, timeout_s):
            there = self._there(stage)
            chosen = [one for one in there if replica is None or one.index == replica]
            if not chosen:
                known = ", ".join(f"{one.host}/{one.index}" for one in there) or "none"
                raise ScaleError(f"{stage}: no replica {stage if replica is None else replica}; there are: {known}")
            self._take_away(chosen, drain_timeout_s)

    def replace(
        self, stage: str, config: Mapping[str, Any], timeout_s: float, drain_timeout_s: float | None = None
    ) -> None:
        """Replace a stage's replicas one by one; see App.replace."""
        line = self._line(stage)
        self._check_config(stage, config)
        with _turn(stage, line, timeout_s) as left:
            changed = {**line.config, **config}
            spec, revision = self._make_spec(stage, changed), line.newest + 1
            line.newest = revision
            there = self._there(stage)
            for number, old in enumerate(there):
                try:
                    self._start(spec, 1, revision, left(), drain_timeout_s)
                except LaunchError as error:
                    stay = f"{number} of {len(there)} replicas of {stage} were replaced; the others stay"
                    raise LaunchError(f"{stay}: {error}") from None
                line.spec, line.config, line.revision = spec, changed, revision
                self._replicas.remove(old, self._drain_s(drain_timeout_s))
            line.spec, line.config, line.revision = spec, changed, revision

    # ---- what may be asked

    def host_of(self, stage: str) -> str:
        """The stage in whose workers it lives. Raises ScaleError for one that is not there."""
        stages = self._plan.stages
        if stage not in stages:
            raise ScaleError(f"no stage {stage!r}{suggest(stage, stages)}; stages: {', '.join(stages)}")
        host = stages[stage].host
        if host not in self._lines:
            raise ScaleError(f"{stage} was not started in this deployment")
        return host

    def _line(self, stage: str) -> _Line:
        host = self.host_of(stage)
        if host != stage:
            raise ScaleError(f"{stage} lives in the workers of {host} and has none of its own; change {host}")
        return self._lines[host]

    def _check_config(self, stage: str, config: Mapping[str, Any]) -> None:
        takes = config_of(self._plan.stages[stage].node_class)
        for name, value in config.items():
            if name in takes.keys:
                problem = takes.keys[name].problem(value)
            else:
                problem = "" if takes.open_ended else f"is no key of its config{suggest(name, takes.keys)}"
            if problem:
                raise ScaleError(f"{stage}.config.{name}: {problem}")

    # ---- starting and ending

    def _there(self, stage: str) -> list[Replica]:
        """The replicas of a stage that are to stay, the oldest first."""
        return sorted((one for one in self._replicas.of(stage) if not one.going), key=lambda one: one.index)

    def _start(
        self, spec: ReplicaSpec, count: int, revision: int, timeout_s: float, drain_timeout_s: float | None
    ) -> None:
        """More replicas, or none: where one cannot start, the others are taken away again."""
        made = self._replicas.add(spec, count, revision)
        try:
            self._replicas.wait_ready(made, timeout_s)
        except BaseException:
            self._take_away(made, drain_timeout_s)
            raise

    def _take_away(self, replicas: Sequence[Replica], drain_timeout_s: float | None) -> None:
        """Side by side, the newest first: they have the same time to finish, and none takes over what another leaves."""
        if not replicas:
            return
        drain_s = self._drain_s(drain_timeout_s)
        for one in replicas:
            self._replicas.retire(one)
        with ThreadPoolExecutor(len(replicas), thread_name_prefix="drain") as pool:
            for done in [pool.submit(self._replicas.remove, one, drain_s) for one in reversed(replicas)]:
                done.result()

    def _drain_s(self, asked: float | None) -> float:
        return self._plan.deploy.drain_timeout_s if asked is None else asked


@contextmanager
def _turn(stage: str, line: _Line, timeout_s: float) -> Iterator[Callable[[], float]]:
    """Nobody else changes the stage meanwhile. Yields what tells the seconds that are left."""
    until = time.monotonic() + timeout_s
    if not line.turn.acquire(timeout=timeout_s):
        raise ScaleError(f"{stage}: another change of it was still under way after {timeout_s:g} s")
    try:
        yield lambda: max(0.0, until - time.monotonic())
    finally:
        line.turn.release()
