"""What a person sees while stages start: a line per replica as it is placed, loads and is ready; on a terminal dim ones."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from omni_graph.cli.starting import starting
from omni_graph.load import load_graph
from omni_graph.plan import Plan, make_plan
from omni_graph.runtime.replica import Change, State
from omni_graph.spec import DeploySpec

SUMMARY = re.compile(r"1 stages ready in \d+\.\d s")
FIRST, SECOND = "talk/0.0", "talk/1.0"
STARTED = (
    Change(FIRST, State.PLACING),
    Change(SECOND, State.PLACING),
    Change(FIRST, State.LOADING, "on 127.0.0.1"),
    Change(SECOND, State.LOADING, "on [fe80::1]"),
    Change(SECOND, State.READY),
    Change(FIRST, State.READY),
)
LINES = [
    "talk/0: placing",
    "talk/1: placing",
    "talk/0: loading on 127.0.0.1",
    "talk/1: loading on [fe80::1]",
    "talk/1: ready",
    "talk/0: ready",
]
ENDED = (Change(FIRST, State.FAILED, "exit code 70"), Change(SECOND, State.OOM, "for want of memory"))


class Terminal(io.StringIO):
    """One that keeps what it was shown; ``broken``: its window is closed."""

    broken = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.broken:
            raise OSError("nobody is there")
        return super().write(text)

    def lines(self) -> list[str]:
        """What was written, without what moves and colours it, and without the spinner's."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip() and "starting" not in line]


@pytest.fixture
def plan() -> Plan:
    """One stage of two replicas."""
    deploy = DeploySpec.model_validate({"stages": {"talk": {"replicas": 2}}})
    return make_plan(load_graph(str(Path(__file__).parent / "talk.yaml")), deploy)


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here on stderr is one; not of a fixture, since pytest puts its own there before each test."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return made


def tell(plan: Plan, *changes: Change) -> Callable[[Change], None]:
    """These changes, in a start that succeeds."""
    with starting(plan, tuple(plan.outputs)) as on_change:
        for change in changes:
            on_change(change)
    return on_change


def test_into_a_pipe_a_line_per_replica_and_how_long_it_took(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    tell(plan, *STARTED)
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines == LINES and SUMMARY.fullmatch(last)


def test_on_a_terminal_the_same_lines_above_the_spinner(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    tell(plan, *STARTED)
    *lines, last = terminal.lines()
    assert lines == LINES and SUMMARY.fullmatch(last)
    assert all(f"\x1b[2m{line.partition(' ')[0]}" in terminal.getvalue() for line in lines), "dim"
    for text in ("0 of 2 replicas ready; loading talk", "2 of 2 replicas ready"):
        assert f"starting 1 stages: {text}" in terminal.getvalue()


def test_a_failure_is_left_to_who_tells_its_reason(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it count as ready; and where the start fails there is no summary."""

    def fail() -> None:
        with starting(plan, tuple(plan.outputs)) as on_change:
            for change in ENDED:
                on_change(change)
            raise RuntimeError("talk/0.0 could not start")

    with pytest.raises(RuntimeError):
        fail()
    assert capsys.readouterr().err == ""
    terminal = on_a_terminal(monkeypatch)
    with pytest.raises(RuntimeError):
        fail()
    assert terminal.lines() == [] and "0 of 2 replicas ready" in terminal.getvalue()


def test_who_starts_does_not_fail_because_nobody_watches(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    on_change = tell(plan, *STARTED)
    terminal.broken = True
    on_change(Change(FIRST, State.LOADING))
