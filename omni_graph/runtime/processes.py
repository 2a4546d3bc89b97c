"""Launcher `processes`: one process per replica, joined by ZMQ over ipc. No Ray.

A fork server imports what the nodes ask for (``preload``) once; replicas are forked from it, never from this process, which
has threads. A reader thread per replica turns its JSON lines, and its end, into Changes.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

from omni_graph.files import require_files
from omni_graph.frames import Address, Links
from omni_graph.runtime import child
from omni_graph.runtime.memory import OUT_OF_MEMORY, OomKills
from omni_graph.runtime.replica import ENDED, Beat, Change, ReplicaSpec, State

FILES = 16  # more than a start opens here, the pipes to the fork server with it
log = logging.getLogger("omni_graph.supervisor")
ENDING_S = 5.0  # one that said that it has ended has so long for it; a thread of its node's own may keep it
SILENT_S = 3.0  # one that serves beats once a second at least (child.BEAT_S); one that is silent so long is in a step


class ProcessHandle:
    """A replica in a process of its own."""

    def __init__(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> None:
        self.spec = spec
        self.state = State.LOADING
        self.address: Address | None = None
        self._beat, self._heard_at = Beat(), time.monotonic()
        self._changed = changed
        self._log = child.log_path(spec)
        require_files(FILES)  # or none is opened: what a start that fails half-way has opened, nobody closes
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=child.main, args=(spec.to_json(), theirs), name=spec.name, daemon=True)
        with _main_of_our_own():
            self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0
        self._oom_kills = OomKills(self.pid)
        self._reader = threading.Thread(target=self._read, args=(ours,), name=f"watch {spec.name}", daemon=True)
        self._reader.start()

    @property
    def beat(self) -> Beat:
        """As last heard. One that cannot even beat is in a step that holds the interpreter's lock."""
        silent = time.monotonic() - self._heard_at
        if silent > SILENT_S and self.state is State.READY:
            return replace(self._beat, in_step_s=self._beat.in_step_s + silent)
        return self._beat

    def _read(self, pipe: Connection) -> None:
        """Until the process has ended: its death closes the pipe at once."""
        try:
            while self.state not in ENDED:
                self._on_line(json.loads(pipe.recv_bytes(maxlength=1 << 20)))
            if not wait([self._process.sentinel], ENDING_S):
                self._process.kill()
        except (EOFError, OSError):
            pass
        except Exception:
            log.exception("%s: what it said could not be taken in; it is ended", self.spec.name)
            self._process.kill()
        wait([self._process.sentinel])
        with _starting:  # a start asks how every child has ended, and of two threads that ask at once one is told 255
            self._process.join()
        self._remove_socket()
        if self.state not in ENDED:
            killed = self._process.exitcode == -signal.SIGKILL and self.state is not State.STUCK
            if killed and self._oom_kills.grew():
                self._become(State.OOM, OUT_OF_MEMORY)
            else:
                self._become(State.FAILED, f"the process ended by itself: {_how(self._process.exitcode)}")
        pipe.close()

    def _on_line(self, line: Mapping[str, object]) -> None:
        beat, address = line.get("beat"), line.get("address")
        if isinstance(beat, dict):
            self._beat, self._heard_at = Beat(**beat), time.monotonic()
            self._oom_kills.look()
            return
        if isinstance(address, dict):
            self.address = Address(**address)
        self._heard_at = time.monotonic()
        self._become(State(str(line["state"])), str(line.get("detail", "")))

    def _remove_socket(self) -> None:
        """A process that was killed leaves the file of its socket."""
        if self.address is not None and self.address.endpoint.startswith("ipc://"):
            Path(self.address.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)

    def _become(self, state: State, detail: str = "") -> None:
        self.state = state
        self._changed(Change(self.spec.name, state, detail, self.address))

    def stop(self, grace_s: float) -> None:
        if self._reader.is_alive():
            self._process.terminate()
        self._reader.join(grace_s)
        self.kill()

    def kill(self) -> None:
        if self._reader.is_alive():
            self._process.kill()
        self._reader.join(5.0)

    def frozen(self) -> bool:
        return is_stopped(self.pid)

    def log_tail(self, lines: int = 20) -> str:
        try:
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class ProcessLauncher:
    """Replicas as processes; ``transport`` is ``ipc``, or ``tcp`` over the loopback."""

    name = "processes"

    def __init__(self, transport: str = "ipc") -> None:
        self._transport = transport

    def prepare(self, specs: Sequence[ReplicaSpec]) -> None:
        (Path(specs[0].run_folder) / "logs").mkdir(exist_ok=True)
        preload = sorted({module for spec in specs for module in spec.preload})
        multiprocessing.set_forkserver_preload(["omni_graph.runtime.child", *preload])
        before = {key: os.environ.get(key) for key in child.thread_environment(1)}
        os.environ.update(child.thread_environment(min(spec.threads for spec in specs)))
        try:
            from multiprocessing import forkserver

            forkserver.ensure_running()
        finally:
            _restore(before)

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> ProcessHandle:
        return ProcessHandle(spec, changed)

    def bind(self, run_folder: str) -> str:
        return f"ipc://{run_folder}/sockets" if self._transport == "ipc" else "tcp://127.0.0.1"

    def gateway_links(self, types: Mapping[int, type], wiring: str, run_folder: str) -> Links:
        """The Gateway's end."""
        from omni_graph.links.profile import ONE_HOST
        from omni_graph.links.sockets import ZmqLinks

        return ZmqLinks("gateway", self.bind(run_folder), types, wiring, heartbeat=ONE_HOST)

    def close(self) -> None:
        pass


def is_stopped(pid: int) -> bool:
    """The process exists and is stopped by a signal (state T of proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


_starting = threading.Lock()


@contextmanager
def _main_of_our_own() -> Iterator[None]:
    """multiprocessing imports the caller's main script again in every child, which runs it again where it has no guard.
    A replica needs nothing of it, so it is shown an empty one."""
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _restore(before: Mapping[str, str | None]) -> None:
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        known = {int(one): one.name for one in signal.Signals}
        return f"killed by {known.get(-code, f'signal {-code}')}"
    return f"exit code {code}"
