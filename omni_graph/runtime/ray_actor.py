"""The inside of a Ray actor: one worker in a thread of its own, and what the launcher may ask about it.

Calls carry JSON text, never a packet. The actor restarts nothing and judges nothing; when it has ended, its process waits to
be ended by the launcher, or by Ray with the process that launched it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import ray

from omni_graph.errors import LinkError
from omni_graph.frames import Address, Links
from omni_graph.runtime import child
from omni_graph.runtime.memory import ran_out
from omni_graph.runtime.replica import ENDED, Beat, ReplicaSpec, State
from omni_graph.runtime.telling import for_log, one_line
from omni_graph.runtime.worker import Worker

ANSWER_S = 1.0  # a call for news is answered after this long at the latest, also when there is none
TAIL_LINES = 40
SOCKETS = "sockets"  # of a run's folder: where ipc listens
log = logging.getLogger("omni_graph.worker")


@dataclass(frozen=True, slots=True)
class Launched:
    """What a replica must know of who launched it. ``across``: its links reach other machines, over tcp and encrypted."""

    machine: str
    gateway: Address
    across: bool

    @classmethod
    def from_json(cls, text: str) -> Launched:
        """The Launched of ``to_json``."""
        raw = json.loads(text)
        return cls(raw["machine"], Address(**raw["gateway"]), raw["across"])

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Home:
    """Where an actor lives. Two processes with the same ``machine`` mean the same process by a pid."""

    pid: int
    machine: str
    address: str

    @classmethod
    def from_json(cls, text: str) -> Home:
        """The Home of ``to_json``."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class News:
    """How a replica is; ``serial`` grows with every change of state. ``tail``: last log lines, once it has failed."""

    serial: int
    state: State
    detail: str = ""
    address: Address | None = None
    beat: Beat = field(default_factory=Beat)
    tail: str = ""

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> News:
        """The News of ``to_json``."""
        raw = json.loads(text)
        raw["state"] = State(raw["state"])
        raw["address"] = Address(**raw["address"]) if raw["address"] else None
        raw["beat"] = Beat(**raw["beat"])
        return cls(**raw)


class ReplicaActor:
    """One replica: a ReplicaSpec and a Launched, as JSON. A spec without a folder has its files where the process runs."""

    def __init__(self, spec_json: str, launched_json: str) -> None:
        spec = ReplicaSpec.from_json(spec_json)
        self._spec = replace(spec, folder=spec.folder or os.getcwd())
        self._launched = Launched.from_json(launched_json)
        self._is_guest = self._launched.machine != machine()
        self._worker: Worker | None = None
        self._news = News(1, State.LOADING)
        self._changed = threading.Condition()
        child.log_path(self._spec).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        child.log_to_file(self._spec)
        _leave_ctrl_c_to_the_launcher()
        threading.Thread(target=self._run, name=self._spec.name, daemon=True).start()

    def home(self) -> str:
        """A Home, as JSON."""
        return Home(os.getpid(), machine(), node_address()).to_json()

    def news(self, seen: int) -> str:
        """A News, as JSON: at once when ``seen`` is not its serial, else as the worker gets on, or after ``ANSWER_S``."""
        until = time.monotonic() + ANSWER_S
        with self._changed:
            while self._news.serial == seen and time.monotonic() < until:
                self._changed.wait(child.BEAT_S)
                beat = self._beat()
                if beat.in_step_s or beat != self._news.beat:
                    break
            self._news = replace(self._news, beat=self._beat())
            return self._news.to_json()

    def stop(self) -> None:
        """Let the worker return after the slice it is in."""
        if self._worker is not None:
            self._worker.stop()

    def log_tail(self, lines: int) -> str:
        """The last log lines."""
        return tail_of(child.log_path(self._spec), lines)

    def _beat(self) -> Beat:
        return Beat() if self._worker is None else self._worker.progress()

    def _run(self) -> None:
        os.nice(self._spec.nice)  # of this thread, and what it starts inherits it
        try:
            worker = Worker(self._spec, self._make_links, child.require_a_file)
            self._worker = worker
            self._become(State.READY, address=worker.links.address)
            worker.run()
        except BaseException as error:  # a node's SystemExit too: nobody else would hear of it in this thread
            log.critical("ended: %s", for_log(error))
            self._become(State.OOM if ran_out(error) else State.FAILED, one_line(error))
            return
        self._become(State.STOPPED)
        if self._is_guest:
            _tidy(self._spec)

    def _make_links(self, spec: ReplicaSpec, types: Mapping[int, type]) -> Links:
        from omni_graph.links.keys import Curve, KeyPair
        from omni_graph.links.profile import BETWEEN_HOSTS, ONE_HOST
        from omni_graph.links.sockets import ZmqLinks

        if self._launched.across:
            curve = Curve(KeyPair(), (self._launched.gateway,))
            return ZmqLinks(
                spec.name, binds(spec.bind, node_address()), types, spec.wiring, curve=curve, heartbeat=BETWEEN_HOSTS
            )
        if self._is_guest:
            raise LinkError(f"placed on {node_address()}, but Ray was one machine at launch: launch the graph again")
        return ZmqLinks(spec.name, spec.bind, types, spec.wiring, heartbeat=ONE_HOST)

    def _become(self, state: State, detail: str = "", address: Address | None = None) -> None:
        tail = self.log_tail(TAIL_LINES) if state in (State.FAILED, State.OOM) else ""
        with self._changed:
            assert self._news.state not in ENDED, "a worker ends once"
            self._news = News(self._news.serial + 1, state, detail, address, tail=tail)
            self._changed.notify_all()


def machine() -> str:
    """This machine since its last start, and within it the process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def node_address() -> str:
    """The address by which the other machines of the cluster know this one, whatever interfaces it has."""
    address: str = ray.util.get_node_ip_address()
    return address


def binds(ipc: str, address: str) -> tuple[str, ...]:
    """Where to listen on a cluster: for this machine, unless there is no ``ipc``, and for the others."""
    return tuple(one for one in (ipc, f"tcp://{address}") if one)


def tail_of(path: Path, lines: int) -> str:
    """The last lines of a file; nothing when there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _leave_ctrl_c_to_the_launcher() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _tidy(spec: ReplicaSpec) -> None:
    """On a machine where the launcher cannot: the log goes with a replica that ended in order, the folder with the last."""
    path = child.log_path(spec)
    path.unlink(missing_ok=True)
    run_folder = Path(spec.run_folder)
    for folder in (path.parent, run_folder / SOCKETS, run_folder):
        try:
            folder.rmdir()
        except OSError:
            continue  # another replica is still there
