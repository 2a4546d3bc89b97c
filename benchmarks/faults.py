"""``faults``: how long the loss of a replica is not noticed, and how long its client waits for the next packet.

A request is under way when its replica is killed, stopped, or stays in a step. Noticed: the supervisor tells of it. The next
packet: a new process has started, the request was replayed there, and goes on. Beside it, when Ray tells the caller of an
actor that is killed in a call.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import omni_graph as og
from benchmarks import ray_hop
from benchmarks.command import Options
from benchmarks.report import OURS, Goal, Of, Report, Series
from omni_graph.graph import Graph
from omni_graph.payload import TextDelta
from omni_graph.runtime.app import App
from omni_graph.runtime.processes import is_stopped
from omni_graph.runtime.replica import STARTING, Change, State
from omni_graph.spec import DeploySpec, GraphSpec

RAYS_WORD = "Ray tells the caller of a killed actor"
ECHO, STAGE = "benchmarks.fault_nodes:Echo", "echo"
MAX_STEP_S = 0.5
A_DEPLOYMENT = 3  # deaths: with one more in half a minute a stage is given up for a while
ROUNDS = 12


@dataclass
class Lost:
    """When which replica was told to be gone."""

    at: dict[str, float] = field(default_factory=dict)

    def __call__(self, change: Change) -> None:
        if change.state not in STARTING and change.state is not State.READY:
            self.at.setdefault(change.name, time.perf_counter())


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike(pid, once)`` and ``word``, which is written next; ``noticed_s`` is the goal, None: none is set."""

    name: str
    strike: Callable[[int, Path], object]
    word: str = "x"
    noticed_s: float | None = None


def _stop(pid: int, once: Path) -> None:
    """Returns once it is: a word that it hears just before is answered, as if nothing had been."""
    os.kill(pid, signal.SIGSTOP)
    while not is_stopped(pid):
        pass


FAULTS = (
    Fault("kill -9", lambda pid, once: os.kill(pid, signal.SIGKILL), noticed_s=0.1),
    Fault("stopped (SIGSTOP)", _stop, noticed_s=0.5),
    Fault(f"in one step, max_step_s {MAX_STEP_S:g}", lambda pid, once: once.touch(), word="hang"),
)


def run(report: Report, options: Options) -> None:
    """Fill the report."""
    report.notes.append(
        "a toy node, so that nothing is loaded; next_packet_s holds the start of a process and the replay"
    )
    rounds = 1 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="omni-graph-") as folder, _quiet():
        once = Path(folder) / "once"
        if options.quick or not ray_hop.installed():
            told: tuple[tuple[float, ...], ...] = ()
            report.notes.append("nothing of Ray was measured: not installed, or a quick run")
            _launcher(report, "processes", once, rounds, told)
            return
        from omni_graph.runtime.ray_cluster import RayCluster

        cluster = RayCluster(None)
        try:
            told = tuple((_rays_word(),) for _ in range(rounds))
            for launcher in ("processes", "ray"):
                _launcher(report, launcher, once, rounds, told)
        finally:
            cluster.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """The supervisor tells of no death: they are what is asked for."""
    log = logging.getLogger("omni_graph.supervisor")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _launcher(report: Report, launcher: str, once: Path, rounds: int, told: tuple[tuple[float, ...], ...]) -> None:
    for fault in FAULTS:
        times = _times(launcher, fault, once, rounds)
        case = f"{launcher}: {fault.name}"
        goal = None if fault.noticed_s is None else Goal(Of.OURS, at_most=fault.noticed_s)
        noticed = Series(case, "noticed_s", OURS, tuple((one,) for one, _ in times))
        if told and fault is FAULTS[0]:
            report.compare(noticed, Series(case, "noticed_s", RAYS_WORD, told), goal)
        else:
            report.alone(noticed, "since it was so", goal)
        report.alone(noticed_most(noticed), "the longest of the rounds", goal)
        report.alone(Series(case, "next_packet_s", OURS, tuple((one,) for _, one in times)), "at the client")


def noticed_most(noticed: Series) -> Series:
    """The longest of its samples, as a series."""
    return Series(noticed.case, "most_noticed_s", OURS, ((max(one for (one,) in noticed.rounds),),))


def _times(launcher: str, fault: Fault, once: Path, rounds: int) -> list[tuple[float, float]]:
    """(noticed, next packet), in seconds since the fault."""
    times: list[tuple[float, float]] = []
    while len(times) < rounds:
        lost = Lost()
        with _launch(launcher, once, lost) as app:
            times += [_time(app, fault, once, lost) for _ in range(min(A_DEPLOYMENT, rounds - len(times)))]
    return times


def _launch(launcher: str, once: Path, lost: Lost) -> App:
    nodes = {STAGE: {"uses": ECHO, "inputs": {"text": "text"}, "config": {"once": str(once)}}}
    outputs = {"out": f"{STAGE}.out"}
    spec = {"graph": "faults", "inputs": {"text": "TextDelta"}, "outputs": outputs, "nodes": nodes}
    deploy = DeploySpec.model_validate({"stages": {STAGE: {"max_step_s": MAX_STEP_S}}})
    return og.launch(Graph(GraphSpec.model_validate(spec)), deploy, launcher, on_change=lost)


def _time(app: App, fault: Fault, once: Path, lost: Lost) -> tuple[float, float]:
    handle = app.open(outputs=["out"])
    _hear(handle, "first")
    (replica,) = app.status()["stages"][STAGE]["replicas"]
    began = time.perf_counter()
    fault.strike(replica["pid"], once)
    _hear(handle, fault.word)
    ended = time.perf_counter()
    handle.end("text")
    if handle.next(timeout=10.0) is not None or replica["id"] not in lost.at:
        raise RuntimeError(f"{fault.name}: the request went on as if nothing had been")
    return lost.at[replica["id"]] - began, ended - began


def _hear(handle: Any, word: str) -> None:
    handle.write("text", TextDelta(word))
    event = handle.next(timeout=30.0)
    if event is None or event.packet.text != word:
        raise RuntimeError(f"{word!r} was answered with {event}")


class _Waiter:
    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def wait(self) -> None:
        """For ever."""
        time.sleep(3600)


def _rays_word() -> float:
    """Seconds from the kill of an actor until its caller hears of it, in a call."""
    import ray

    actor: Any = ray.remote(num_cpus=0, max_restarts=0)(_Waiter).remote()
    pid, call = ray.get(actor.pid.remote()), actor.wait.remote()
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    try:
        ray.get(call)
    except ray.exceptions.RayError:
        return time.perf_counter() - began
    raise RuntimeError("a killed actor answered")
