"""How much of a core processes use while nothing is asked of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]


def deployment_pids() -> list[int]:
    """This process, where the Gateway and the supervisor live, and everything it has started."""
    return [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]


def busy_share(pids: Iterable[int], seconds: float) -> float:
    """Processor time that ``pids`` use in the next ``seconds``, all together, as a share of one core."""
    processes = [psutil.Process(pid) for pid in pids]
    before = [process.cpu_times() for process in processes]
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    after = [process.cpu_times() for process in processes]
    used = float(sum(b.user + b.system - a.user - a.system for a, b in zip(before, after, strict=True)))
    return used / took
