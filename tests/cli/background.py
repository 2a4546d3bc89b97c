"""``omni-graph`` as a process of its own, in its own session and with its own temporary folder, to be stopped midway."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.runtime.graphs import eventually

WAIT_S = 60.0


class Background:
    """A command under way. ``err`` is what it has said so far; ``left`` what it leaves behind."""

    def __init__(self, folder: Path, *arguments: str, tmp: Path | None = None) -> None:
        """``tmp``: a temporary folder of the caller's."""
        self.folder = folder
        self._own_tmp = tmp is None
        self.tmp = tmp or Path(tempfile.mkdtemp(prefix="og"))  # short: a socket's path holds 107 bytes
        self.err = ""
        program = "import sys; sys.argv[0] = 'omni-graph'; from omni_graph.cli.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=os.environ | {"TMPDIR": str(self.tmp), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._watchdog = threading.Timer(3 * WAIT_S, self.process.kill)  # so that no read of ours waits for ever
        self._watchdog.daemon = True
        self._watchdog.start()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
        if self._own_tmp:
            shutil.rmtree(self.tmp)

    def read(self, count: int) -> bytes:
        """So much of its stdout; less where it ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read(count)

    def stop_reading(self) -> None:
        """Close our end of its stdout."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.err += line.decode()

    def signal(self, number: signal.Signals) -> None:
        """As a terminal does: to the whole group."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """Its exit code, once it has ended and said everything."""
        code = self.process.wait(WAIT_S)
        self._listener.join(WAIT_S)
        self.stop_reading()
        return code

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for what it does while it runs; what it said is shown when it ends, or takes too long, before."""

        def true_or_over() -> bool:
            return true() or self.process.poll() is not None

        try:
            eventually(true_or_over, 2 * WAIT_S)
        finally:
            assert true(), f"exit code {self.process.poll()}; it said:\n{self.err}"

    def leaves_nothing(self) -> None:
        """Assert it; what its end ends may take a moment."""
        eventually(lambda: self.left() == [])

    def left(self) -> list[str]:
        """Processes of its session, and what lies in its temporary folder (torch's own shared cache folder excepted)."""
        session = self.process.pid
        processes = [f"process {one.pid}" for one in psutil.process_iter() if _session(one.pid) == session]
        return processes + sorted(one.name for one in self.tmp.iterdir() if not one.name.startswith("torchinductor_"))


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
