"""What a figure was measured on, and with what: the part of a report that a reader needs to judge the rest.

Never a host name, a user or a path.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("omni-graph", "pyzmq", "msgpack", "numpy", "torch", "transformers", "ray")
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Machine:
    """``machine``: cpu, cores, memory in bytes, kernel, and the cores others kept busy in the second before it began."""

    machine: dict[str, str | int | float]
    versions: dict[str, str]
    commit: str


def this_machine() -> Machine:
    """The machine, the versions and the commit, now."""
    machine: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "cores_busy_at_start": round(_cores_busy(), 2),
    }
    versions = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    return Machine(machine, versions, _commit())


def _cores_busy(over_s: float = 1.0) -> float:
    """Cores that others keep busy while this process waits. Not the load average: it remembers the bench before."""
    before = _idle_s()
    began = time.perf_counter()
    time.sleep(over_s)
    idle_cores = (_idle_s() - before) / (time.perf_counter() - began)
    return max(0.0, (os.cpu_count() or 1) - idle_cores)


def _idle_s() -> float:
    """Seconds that all cores together have been idle, waiting for a disk included (proc(5), /proc/stat)."""
    _, _user, _nice, _system, idle, waiting, *_ = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of the source tree, with ``+`` when the program's own files differ from it."""
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "../omni_graph", "../nodes", ".", ":!results")
    return f"{commit}+" if commit and changed else commit or "unknown"


def _git(*arguments: str) -> str:
    try:
        ran = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
