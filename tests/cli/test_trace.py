"""``trace`` shows a recorded request at any width, as data, and says which line of a damaged file is wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from omni_graph.observe.critical_path import Leg, critical_paths
from omni_graph.observe.trace import Trace, read_trace
from omni_graph.observe.waterfall import Waterfall
from tests.cli.command import command

TALK = str(Path(__file__).parent / "talk.yaml")


def stage(*spans: tuple[str, float, float], edges: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A stage line of a trace file."""
    spent = {f"{name}_s": 0.0 for name in ("computing", "stalled", "queued", "waiting", "transit")}
    ends = {"opened_s": spans[0][1] if spans else 0.0, "ended_s": spans[-1][2] if spans else 0.0}
    flow = {"first_output_s": None, "packets": 0, "bytes": 0, "edges": edges or {}}
    return {**spent, **ends, **flow, "spans": [list(span) for span in spans], **changes}


FLOW = {"packets": 3, "bytes": 4096}
TWO_STAGES = Trace(
    "t" * 32,
    "r-1",
    "two",
    total_s=10.0,
    first_text_s=None,
    first_audio_s=6.0,
    stages={
        "think": stage(("waiting", 0, 1), ("computing", 1, 4), ("stalled", 4, 5), ("computing", 5, 8)),
        "speak": stage(
            ("waiting", 0, 4.5), ("computing", 4.5, 6), ("waiting", 6, 8.25), ("queued", 8.25, 8.5), ("computing", 8.5, 9.5),
            edges={"1": {**FLOW, "first_s": 6.0}}, transit_s=None,
        ),
    },
    edges={"think.text -> speak.text": FLOW, "speak.sound -> gateway.speech": FLOW},
)  # fmt: skip


@pytest.fixture
def recorded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Path:
    """A trace as ``run`` writes it."""
    file = tmp_path / "trace.jsonl"
    ran = command(
        capsys, "run", TALK, "--input", "text=go", "--trace", str(file), "--speech", str(tmp_path / "a.wav"), "--json"
    )
    assert ran.code == 0
    (tmp_path / "run.json").write_text(ran.out)
    return file


def test_the_recorded_request_is_the_one_that_ran(capsys: pytest.CaptureFixture[str], recorded: Path) -> None:
    ran = command(capsys, "trace", str(recorded), "--json")
    shown, was = json.loads(ran.out), json.loads((recorded.parent / "run.json").read_text())
    assert (ran.code, ran.err) == (0, "")
    keys = ["trace_id", "first_text_s", "first_audio_s", "total_s", "stages", "critical_path", "edges"]
    assert list(shown) == keys
    assert {key: shown[key] for key in keys[1:5]} == was["timing"] and shown["trace_id"] == was["trace_id"]
    assert set(shown["edges"]) == {"talk.said -> gateway.text", "talk.sound -> gateway.speech"}
    assert shown["edges"]["talk.sound -> gateway.speech"] == {"packets": 3, "bytes": 3 * (800 * 4 + 8)}
    for name in ("first_audio", "total"):
        path = shown["critical_path"][name]
        assert sum(leg["seconds"] for leg in path) == pytest.approx(shown[f"{name}_s"], abs=1e-4)
        assert {"talk"} <= {leg["stage"] for leg in path} <= {"talk", "gateway"}


def test_the_picture_goes_to_stdout(capsys: pytest.CaptureFixture[str], recorded: Path) -> None:
    ran = command(capsys, "trace", str(recorded))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0].split()[0] == "stage" and ran.out.splitlines()[1].split()[0] == "talk"
    assert "first audio, critical path: " in ran.out


@pytest.mark.parametrize(("width", "bar"), [(80, 24), (120, 48), (160, 64)])
def test_a_row_is_a_line_at_any_width(width: int, bar: int) -> None:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(Waterfall(TWO_STAGES))
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    head, think, speak, legend, totals = (line.rstrip() for line in lines)
    assert max(map(len, lines)) <= width
    assert head.split()[0] == "stage" and (think.split()[0], speak.split()[0]) == ("think", "speak")
    for name in ("computing", "stalled", "queued", "waiting", "first out"):
        assert name in head
    assert ("bytes" in head) == (width >= 120)
    assert sum(think.count(symbol) for symbol in "█▒░·") == pytest.approx(bar * 0.8, abs=2)  # it ended at 8 of 10 s
    assert "stalled for credit" in legend and totals == " first audio 6.00 s   total 10.00 s"


def test_the_critical_path_goes_upstream_where_a_stage_waits() -> None:
    assert critical_paths(TWO_STAGES) == {
        "first_audio": [
            Leg("think", "waiting", 1.0),
            Leg("think", "computing", 3.0),
            Leg("speak", "transit", 0.5),
            Leg("speak", "computing", 1.5),
        ],
        "total": [
            Leg("think", "waiting", 1.0),
            Leg("think", "computing", 6.0),
            Leg("think", "stalled", 1.0),
            Leg("speak", "transit", 0.25),
            Leg("speak", "queued", 0.25),
            Leg("speak", "computing", 1.0),
            Leg("gateway", "transit", 0.5),
        ],
    }


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    TWO_STAGES.write(tmp_path / "t.jsonl")
    again = read_trace(tmp_path / "t.jsonl")
    assert (again.edges, again.first_audio_s, again.trace_id) == (TWO_STAGES.edges, 6.0, TWO_STAGES.trace_id)
    assert critical_paths(again) == critical_paths(TWO_STAGES)
    assert [stage["transit_s"] for stage in again.timing()["stages"].values()] == [0.0, None]


HEAD = {"type": "request", "trace_id": "t", "request": "r", "graph": "g", "total_s": 1.0}
HEAD |= {"first_text_s": None, "first_audio_s": None}
ECHO = {"type": "stage", "stage": "echo", **stage(("computing", 0, 1))}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello"], ":1: not a line of a trace (JSON with type request, stage or edge)"),
        ([HEAD, {"type": "span"}], ":2: not a line of a trace"),
        (["[" * 100_000], ":1: not a line of a trace"),
        ([], ": a trace has one line of type 'request'; this file has 0"),
        ([HEAD, HEAD], ": a trace has one line of type 'request'; this file has 2"),
        ([{**HEAD, "total_s": "long"}], ":1: not a trace of this version: total_s: "),
        ([{**HEAD, "total_s": float("nan")}], ":1: not a trace of this version: total_s: "),
        ([HEAD, {**ECHO, "computing_s": -1}], ":2: not a trace of this version: computing_s: "),
        ([HEAD, {**ECHO, "spans": [["resting", 0, 1]]}], ":2: not a trace of this version: spans.0.0: "),
        ([HEAD, {**ECHO, "stage": None}], ":2: not a trace of this version: its name: "),
        ([HEAD, {"type": "edge", "edge": "a to b", **FLOW}], ":2: not a trace of this version: its name: "),
        ([HEAD, ECHO, {"type": "edge", "edge": "echo.a -> b.c", **FLOW}], "names b, which has no line of type 'stage'"),
    ],
)
def test_a_damaged_file_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, lines: list[Any], message: str
) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    ran = command(capsys, "trace", str(file))
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith(f"omni-graph: {file}:") and message in ran.err


def test_a_circle_in_a_file_ends_too(tmp_path: Path) -> None:
    edges = ("echo.a -> tail.b", "tail.a -> echo.b")
    lines = [{**HEAD, "first_audio_s": 0.9}, ECHO, {**ECHO, "stage": "tail", "spans": [["waiting", 0, 1]]}]
    lines += [{"type": "edge", "edge": edge, **FLOW} for edge in edges]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, moment in (("first_audio", 0.9), ("total", 1.0)):
        assert sum(leg.seconds for leg in critical_paths(read_trace(tmp_path / "t.jsonl"))[name]) == moment


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = command(capsys, "trace", str(tmp_path / "no.jsonl"))
    assert (ran.code, ran.err) == (1, f"omni-graph: {tmp_path}/no.jsonl: cannot be read: No such file or directory\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert command(capsys, "trace", str(tmp_path / "bytes")).err.endswith("cannot be read: not UTF-8 text\n")
