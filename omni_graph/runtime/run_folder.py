"""A folder that lives as long as its maker: ours alone (0700), under a lock that ends with the process, however that ends.

A maker that is killed leaves its folder; whoever makes the next one removes it. Whether a maker lives is told by the lock
and by nothing else: never by age, never by a process id, which another process may have by now.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from omni_graph.links.folders import privacy_fault

LOCK = "lock"
SWEEP_S = 1.0  # a launch looks no longer for leftovers; the next one goes on


class RunFolder:
    """``path``: a new folder ``PREFIX...`` in ``parent``. What was left there under such names is removed first."""

    def __init__(self, prefix: str, parent: str) -> None:
        sweep(prefix, parent)
        self.path = tempfile.mkdtemp(prefix=prefix, dir=parent)
        try:
            self._lock = _new_lock(Path(self.path))
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise
        self._open = True
        self._removing = threading.Lock()

    def remove(self) -> None:
        """The folder and all that is in it. Idempotent."""
        with self._removing:  # a descriptor that is closed twice may be another's by then
            if self._open:
                self._open = False
                shutil.rmtree(self.path, ignore_errors=True)
                os.close(self._lock)


def sweep(prefix: str, parent: str, within_s: float = SWEEP_S) -> None:
    """Remove the folders of this name in ``parent`` that are ours alone and whose maker is no more; start no further one
    after ``within_s`` seconds. Folders without a lock are being made, or are none of these."""
    until = time.monotonic() + within_s
    for folder in _named(prefix, parent):
        if time.monotonic() > until:
            return
        try:
            lock = None if privacy_fault(folder) else _lock(folder)
        except OSError:  # held, or gone meanwhile, or without a lock
            continue
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _named(prefix: str, parent: str) -> Iterator[Path]:
    try:
        with os.scandir(parent) as entries:
            yield from (Path(entry.path) for entry in entries if entry.name.startswith(prefix))
    except OSError:  # a folder to make folders in may be one that must not be listed
        return


def _new_lock(folder: Path) -> int:
    """Held before anybody can see it under its name."""
    fresh = folder / f"{LOCK}.new"
    lock = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fresh.rename(folder / LOCK)
    return lock


def _lock(folder: Path) -> int:
    """The lock of a folder, taken. OSError when its maker lives."""
    lock = os.open(folder / LOCK, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
