"""Whether a process ended for want of memory: by an error of its own, or by the kernel.

The kernel counts its out-of-memory kills by memory cgroup, cgroups(7). Read before and after: a process that died by SIGKILL
(over Ray: in any way) while the count grew is taken to be the one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

PROCESSES, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
OUT_OF_MEMORY = "the kernel ended the process for want of memory"


class OomKills:
    """Of the group that one process is in. Look from time to time while it lives: a process may be moved, and what became
    of others before the look before the last is not held against it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._looks: deque[tuple[Path, int]] = deque(maxlen=2)
        self.look()

    def look(self) -> None:
        """Nothing is learnt where no group can be read, or once the process is gone."""
        seen = _look(self._pid)
        if seen is not None:
            self._looks.append(seen)

    def grew(self) -> bool:
        """The kernel has ended a process of this group in the meantime. Of any group that it was seen in: of a process that
        is just ending, version 1 says that it is in the root."""
        return any((_count(file) or 0) > count for file, count in self._looks)


def ran_out(error: BaseException | None) -> bool:
    """An allocation failed in the process itself, of its own memory or of a device's (torch's OutOfMemoryError)."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        error = error.__cause__
    return False


def _look(pid: int) -> tuple[Path, int] | None:
    """The file that counts for a process, and its count now."""
    for file in _candidates(pid):
        count = _count(file)
        if count is not None:
            return file, count
    return None


def _candidates(pid: int) -> Iterator[Path]:
    """Of version 1, then of version 2. A container may see its group as the host names it, and have it as the root."""
    try:
        lines = (PROCESSES / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in sorted(lines, key=lambda line: "memory" not in line.split(":")[1]):
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield CGROUPS / "memory" / group.lstrip("/") / "memory.oom_control"
            yield CGROUPS / "memory" / "memory.oom_control"
        elif not controllers:
            yield CGROUPS / group.lstrip("/") / "memory.events"
            yield CGROUPS / "memory.events"


def _count(file: Path) -> int | None:
    """None where it cannot be read."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
