"""Launcher `threads`: every replica a thread of this process, packets by reference.

The interpreter lock is shared, and a hung node cannot be killed: it is reported stuck and left behind. The switch interval
is shortened while replicas run, so that a computing stage does not hold up the others' credit.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from omni_graph.frames import Address, Links
from omni_graph.links.memory import MemoryHub, MemoryLinks
from omni_graph.runtime.replica import Beat, Change, ReplicaSpec, State
from omni_graph.runtime.telling import for_log, one_line
from omni_graph.runtime.worker import Worker

SWITCH_INTERVAL_S = 0.0005
LOG_LINES = 1000


class _OwnLines(logging.Handler):
    """Keeps what the thread that made it logs, in ``lines``."""

    def __init__(self, spec: ReplicaSpec, lines: deque[str]) -> None:
        super().__init__(spec.log_level)
        self.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {spec.name} %(message)s"))
        self._thread = threading.get_ident()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._lines.extend(self.format(record).splitlines())


@contextmanager
def _kept(spec: ReplicaSpec, lines: deque[str]) -> Iterator[None]:
    """What this thread logs meanwhile is in ``lines`` too."""
    handler, logger = _OwnLines(spec, lines), logging.getLogger("omni_graph")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class ThreadHandle:
    """A replica in a thread."""

    def __init__(
        self, spec: ReplicaSpec, hub: MemoryHub, loading: threading.Lock, changed: Callable[[Change], None]
    ) -> None:
        self.spec = spec
        self.state = State.LOADING
        self.address: Address | None = None
        self.pid = os.getpid()
        self._hub = hub
        self._loading = loading
        self._changed = changed
        self._worker: Worker | None = None
        self._stopping = False
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._thread = threading.Thread(target=self._run, name=spec.name, daemon=True)
        self._thread.start()

    @property
    def beat(self) -> Beat:
        worker = self._worker
        return Beat() if worker is None else worker.progress()

    def _run(self) -> None:
        try:
            with _kept(self.spec, self._log):
                with self._loading:  # one at a time: large modules do not survive being imported by two threads at once
                    worker = None if self._stopping else Worker(self.spec, self._links)
                if worker is not None:
                    self._serve(worker)
        except Exception as error:
            self._log.extend(for_log(error).splitlines())
            logging.getLogger("omni_graph.worker").error("%s ended: %s", self.spec.name, for_log(error))
            self._become(State.FAILED, one_line(error))
            return
        self._become(State.STOPPED)

    def _serve(self, worker: Worker) -> None:
        self._worker, self.address = worker, worker.links.address
        if self._stopping:  # while it was loading
            worker.stop()
        else:
            self._become(State.READY)
        worker.run()

    def _links(self, spec: ReplicaSpec, types: Mapping[int, type]) -> Links:
        return MemoryLinks(self._hub, spec.name, spec.wiring)

    def _become(self, state: State, detail: str = "") -> None:
        self.state = state
        self._changed(Change(self.spec.name, state, detail, self.address))

    def stop(self, grace_s: float) -> None:
        self.kill()
        self._thread.join(grace_s)

    def kill(self) -> None:
        """A thread cannot be killed; it is told to stop and left behind."""
        self._stopping = True
        if self._worker is not None:
            self._worker.stop()

    def frozen(self) -> bool:
        return False

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(list(self._log)[-lines:])


class ThreadLauncher:
    """Replicas as threads; ``hub`` joins them and the Gateway."""

    name = "threads"

    def __init__(self) -> None:
        self.hub = MemoryHub()
        self._loading = threading.Lock()
        self._interval = sys.getswitchinterval()

    def prepare(self, specs: Sequence[ReplicaSpec]) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def start(self, spec: ReplicaSpec, changed: Callable[[Change], None]) -> ThreadHandle:
        return ThreadHandle(spec, self.hub, self._loading, changed)

    def bind(self, run_folder: str) -> str:
        return "memory:"

    def gateway_links(self, types: Mapping[int, type], wiring: str, run_folder: str) -> Links:
        """The Gateway's end."""
        return MemoryLinks(self.hub, "gateway", wiring)

    def close(self) -> None:
        sys.setswitchinterval(self._interval)
