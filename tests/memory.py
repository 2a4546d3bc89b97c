"""A memory group of one test's own: the kernel ends the process in it that wants more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from omni_graph.runtime.app import App
from omni_graph.runtime.memory import CGROUPS
from tests.runtime.graphs import eventually

GROUP_BYTES = 512 << 20
SECOND = (CGROUPS / "cgroup.controllers").exists()
LIMIT = "memory.max" if SECOND else "memory.limit_in_bytes"


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A replica that is confined to it gets no more than GROUP_BYTES of new memory."""
    group = (CGROUPS if SECOND else CGROUPS / "memory") / f"omni-graph-{os.getpid()}"
    try:
        group.mkdir()
        (group / LIMIT).write_text(str(GROUP_BYTES))
    except OSError as error:
        if group.exists():
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield group
    eventually(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def confine(app: App, replica: Mapping[str, Any], group: Path) -> None:
    """Into the group, and whoever watches over the replica has seen it there: that is looked at once a second."""
    (group / "cgroup.procs").write_text(str(replica["pid"]))
    handle: Any = app._deployment.handles[replica["id"]]
    eventually(lambda: bool(handle._oom_kills._looks[-1][0].parent == group))


def starve(pid: int, group: Path) -> None:
    """Into the group, in which there is no new memory at all."""
    (group / LIMIT).write_text("0")
    (group / "cgroup.procs").write_text(str(pid))
