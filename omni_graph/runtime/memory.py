"""Whether the kernel ended a process for want of memory: the out-of-memory kills that its memory cgroup counts, cgroups(7).

Read before and after: a process that died by SIGKILL while the count grew is taken to be the one.
"""

from __future__ import annotations

from collections import deque
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
        file = _events_of(self._pid)
        if file is not None:
            self._looks.append((file, _count(file)))

    def grew(self) -> bool:
        """The kernel has ended a process of this group in the meantime."""
        if not self._looks:
            return False
        file = self._looks[-1][0]
        return _count(file) > next(count for seen, count in self._looks if seen == file)


def _events_of(pid: int) -> Path | None:
    """The file with the line ``oom_kill N``: of version 2, else of version 1."""
    try:
        lines = (PROCESSES / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            found.append(CGROUPS / "memory" / group.lstrip("/") / "memory.oom_control")
        elif not controllers:
            found.append(CGROUPS / group.lstrip("/") / "memory.events")
    return next((file for file in found if file.exists()), None)


def _count(file: Path) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
