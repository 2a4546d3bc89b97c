"""``draw`` writes the drawing to stdout or to a file, and fails in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_graph.draw import dot, mermaid
from tests.cli.command import command
from tests.core.toy_graphs import SPEECH, plan_of, write


def test_to_stdout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan, graph = plan_of(tmp_path, SPEECH), str(tmp_path / "graph.yaml")
    assert command(capsys, "draw", graph).out == mermaid(plan)
    assert command(capsys, "draw", graph, "--format", "dot").out == dot(plan)


def test_to_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan, out = plan_of(tmp_path, SPEECH), tmp_path / "graph.mmd"
    ran = command(capsys, "draw", str(tmp_path / "graph.yaml"), "-o", str(out))
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert out.read_text() == mermaid(plan)


def test_a_file_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = command(capsys, "draw", str(write(tmp_path, SPEECH)), "-o", str(tmp_path / "no" / "graph.mmd"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"omni-graph: cannot write {tmp_path}/no/graph.mmd: No such file or directory\n"


def test_a_wrong_graph_is_not_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = command(capsys, "draw", str(write(tmp_path, SPEECH.replace("echo.said}", "echo.sad}"))))
    assert (ran.code, ran.out) == (3, "")
    assert "error[OG007]" in ran.err
