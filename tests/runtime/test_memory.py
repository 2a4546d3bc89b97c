"""What the kernel counts of a memory group tells an out-of-memory kill from any other, on both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_graph.runtime import memory

PID = 7
FIRST = (
    "9:cpu:/\n4:memory:/box\n0::/\n",
    "memory/box/memory.oom_control",
    "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
)
SECOND = ("0::/box\n", "box/memory.events", "low 0\noom 3\noom_kill {}\noom_group_kill 0\n")


class Machine:
    """A made-up /proc and /sys/fs/cgroup."""

    def __init__(self, folder: Path, version: tuple[str, str, str]) -> None:
        self._groups, self._events = version[1:]
        self._folder = folder
        self.process = folder / "proc" / str(PID) / "cgroup"
        self.process.parent.mkdir(parents=True)
        self.process.write_text(version[0])
        self.kills(0)

    @property
    def events(self) -> Path:
        return self._folder / "cgroups" / self._groups

    def kills(self, count: int, group: str = "box") -> None:
        file = self._folder / "cgroups" / self._groups.replace("box", group)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._events.format(count))

    def move(self, group: str) -> None:
        self.process.write_text(self.process.read_text().replace("/box", f"/{group}"))


@pytest.fixture(params=[FIRST, SECOND], ids=["v1", "v2"])
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(memory, "PROCESSES", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroups")
    return Machine(tmp_path, request.param)


def test_a_kill_in_its_group_is_seen_also_when_the_process_is_gone(machine: Machine) -> None:
    kills = memory.OomKills(PID)
    assert not kills.grew()
    machine.process.unlink()
    machine.kills(1)
    kills.look()  # too late: nothing to read any more
    assert kills.grew()


def test_a_look_just_after_the_kill_does_not_hide_it(machine: Machine) -> None:
    kills = memory.OomKills(PID)
    machine.kills(1)
    kills.look()
    assert kills.grew()


def test_a_look_while_it_ends_does_not_hide_it_either(machine: Machine) -> None:
    """Version 1 says of a process that is just ending that it is in the root."""
    kills = memory.OomKills(PID)
    machine.kills(1)
    machine.kills(0, ".")
    machine.move("")
    kills.look()
    assert kills.grew()


def test_a_container_has_its_group_as_the_root(machine: Machine) -> None:
    machine.move("docker/0123")
    machine.kills(4, ".")
    kills = memory.OomKills(PID)
    machine.kills(5, ".")
    assert kills.grew()


def test_a_count_that_cannot_be_read_is_no_count(machine: Machine) -> None:
    machine.kills(3)
    file = machine.events
    hidden = file.rename(file.with_name("hidden"))
    kills = memory.OomKills(PID)
    hidden.rename(file)
    assert not kills.grew()


def test_kills_of_long_ago_are_not_its_own(machine: Machine) -> None:
    kills = memory.OomKills(PID)
    machine.kills(5)
    kills.look()
    kills.look()
    assert not kills.grew()


def test_a_process_that_was_moved_is_looked_for_where_it_is(machine: Machine) -> None:
    kills = memory.OomKills(PID)
    machine.kills(3, "other")
    machine.move("other")
    kills.look()
    assert not kills.grew()
    machine.kills(4, "other")
    assert kills.grew()


def test_where_no_group_can_be_read_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROCESSES", tmp_path)
    assert not memory.OomKills(PID).grew()


def test_an_allocation_that_failed_is_told_from_other_errors() -> None:
    outer = RuntimeError("the node")
    outer.__cause__ = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
    assert memory.ran_out(outer) and memory.ran_out(MemoryError())
    assert not memory.ran_out(RuntimeError("no")) and not memory.ran_out(None)
