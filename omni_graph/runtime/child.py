"""The inside of a replica process: logs to its file, tells its parent how it is, and runs the worker.

The pipe to the parent carries JSON lines one way (state and beats); the parent says nothing on it, but when it closes, the
parent is gone and the process ends. Nothing that crosses it is ever unpickled.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from omni_graph.files import require_files
from omni_graph.frames import Links
from omni_graph.runtime.memory import ran_out
from omni_graph.runtime.replica import ReplicaSpec, State
from omni_graph.runtime.telling import for_log, one_line
from omni_graph.runtime.worker import Worker

LOOK_S = 0.5  # how often the beat looks at the worker, and
BEAT_S = 1.0  # how seldom it speaks while there is no news: an idle deployment must cost nothing
EXIT_FAILED = 70


def log_path(spec: ReplicaSpec) -> Path:
    """Where a replica logs: one file per replica in the run's folder."""
    return Path(spec.run_folder) / "logs" / (spec.name.replace("/", "-") + ".log")


def main(spec_json: str, pipe: Connection) -> None:
    """Entry point of the process."""
    spec = ReplicaSpec.from_json(spec_json)
    os.environ.update(thread_environment(spec.threads))
    os.environ.update(spec.env)
    os.nice(spec.nice)  # of this thread, and what it starts inherits it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    log_to_file(spec)
    parent = _Parent(pipe)
    try:
        worker = Worker(spec, make_links, require_a_file)
    except Exception as error:
        logging.getLogger("omni_graph.worker").critical("could not start: %s", for_log(error))
        parent.tell(state=State.FAILED, detail=one_line(error))
        sys.exit(EXIT_FAILED)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    parent.watch(worker)
    address = worker.links.address
    parent.tell(state=State.READY, address=asdict(address))
    try:
        worker.run()
    except Exception as error:
        logging.getLogger("omni_graph.worker").critical("ended: %s", for_log(error))
        parent.tell(state=State.OOM if ran_out(error) else State.FAILED, detail=one_line(error))
        sys.exit(EXIT_FAILED)
    parent.tell(state=State.STOPPED)


def thread_environment(threads: int) -> dict[str, str]:
    """What must be set before torch is imported: the thread counts, and waiting threads that do not spin."""
    count = str(threads)
    return {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OMP_WAIT_POLICY": "passive"}


def make_links(spec: ReplicaSpec, types: Mapping[int, type]) -> Links:
    """ZMQ links, bound where the spec says."""
    from omni_graph.links.profile import ONE_HOST
    from omni_graph.links.sockets import ZmqLinks

    return ZmqLinks(spec.name, spec.bind, types, spec.wiring, heartbeat=ONE_HOST)


def require_a_file() -> None:
    """OSError when there is none left: this process can have no new peer then, and another is to take its place."""
    require_files(1)


def log_to_file(spec: ReplicaSpec) -> None:
    """From here on, what this process logs and prints goes to the replica's file."""
    path = log_path(spec)
    file = path.open("a", buffering=1)
    os.dup2(file.fileno(), sys.stdout.fileno())
    os.dup2(file.fileno(), sys.stderr.fileno())
    logging.basicConfig(
        stream=file, level=spec.log_level, format=f"%(asctime)s %(levelname)s {spec.name} %(message)s", force=True
    )


class _Parent:
    """The way to the parent. Its silence for ever is fine; its end is ours."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def tell(self, **what: object) -> None:
        try:
            with self._lock:
                self._pipe.send_bytes(json.dumps(what).encode())
        except OSError:
            os._exit(EXIT_FAILED)

    def watch(self, worker: Worker) -> None:
        """Beat without a pause: a long step is not taken for a dead process, and a silent process for a hung one."""
        threading.Thread(target=self._beat, args=(worker,), name="beat", daemon=True).start()
        threading.Thread(target=self._until_gone, name="parent", daemon=True).start()

    def _beat(self, worker: Worker) -> None:
        said_at, last = 0.0, None
        while True:
            time.sleep(LOOK_S)
            now, beat = time.monotonic(), worker.progress()
            if beat != last or now - said_at >= BEAT_S:
                self.tell(beat=asdict(beat))
                said_at, last = now, beat

    def _until_gone(self) -> None:
        try:
            self._pipe.recv_bytes()
        except (EOFError, OSError):
            os._exit(EXIT_FAILED)
