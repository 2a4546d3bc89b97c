"""The benchmarks run, compare what they say they compare, and write all of it. Their figures are no test's business."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import Machine
from benchmarks.measure import interleaved, percentile
from benchmarks.plot import svg
from benchmarks.report import OURS, Goal, Of, Report, Series, median_interval
from omni_graph.cli import bench as bench_command
from tests.cli.command import command

ROW = ["bench", "case", "metric", "ours", "against", "against_name", "ratio", "goal", "met"]
METRICS = {
    "start": {"wall_s", "modules", "heavy_modules"},
    "hop": {"one_way_s", "p99_one_way_s", "cores"},
    "overhead": {"packets_per_s", "latency_s", "added_s_per_node"},
    "faults": {"noticed_s", "most_noticed_s", "next_packet_s"},
}
OF_MODELS = {
    "first_audio": {"first_audio_s", "steady_first_audio_s", "pace", "underruns"},
    "total": {"total_s"},
    "throughput": {"tokens_per_s", "requests_per_s", "total_s"},
    "throughput_speech": {"sound_s_per_s", "requests_per_s", "real_time_factor", "first_audio_s"},
    "join": {"total_s", "first_audio_s"},
    "slow_client": {"tokens_per_s", "slow_requests_paused", "resident_bytes"},
    "live": {"first_audio_s"},
}


def report() -> Report:
    return Report("hop", Machine({"cpu": "abacus", "cores": 1, "cores_busy_at_start": 0.0}, {}, "c0ffee"))


def series(of: str, *rounds: tuple[float, ...]) -> Series:
    return Series("64 B", "one_way_s", of, rounds)


@pytest.mark.parametrize("name", [*METRICS, *(pytest.param(name, marks=pytest.mark.slow) for name in OF_MODELS)])
def test_a_bench_runs_and_its_json_is_whole(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "out.svg"
    ran = command(capsys, "bench", name, "--quick", "--json", str(out), "--plot", str(plot))
    assert ran.code == 0, ran.err
    record = json.loads(out.read_text())
    assert record["bench"] == name and record["quick"] is True
    assert {"cpu", "cores", "memory_bytes", "kernel"} <= set(record["machine"])
    assert record["versions"]["omni-graph"] and record["commit"]
    assert {row["metric"] for row in record["rows"]} == (METRICS | OF_MODELS)[name]
    for row in record["rows"]:
        _check_row(row, record["samples"])
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    assert record["rows"][0]["case"] in ran.out


def _check_row(row: dict[str, Any], samples: list[dict[str, Any]]) -> None:
    """A row has all its keys, stands on kept samples, and says why it has no other side where it has none."""
    assert list(row) == ROW
    assert any(one["case"] == row["case"] and one["of"] == OURS and one["rounds"] for one in samples)
    assert row["against_name"]
    if row["against"] is not None:
        assert row["ratio"] is not None
        assert row["met"] is not None or row["goal"] is None


def test_nothing_in_a_report_says_whose_machine_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert command(capsys, "bench", "start", "--quick", "--json", str(out)).code == 0
    text = out.read_text()
    assert str(Path.home()) not in text and str(Path(__file__).parents[2]) not in text


def test_an_unknown_bench_is_named_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    ran = command(capsys, "bench", "warp")
    assert ran.code == 2
    assert "warp" in ran.err and "start, hop, overhead" in ran.err


def test_streams_is_refused_where_it_means_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "bench", "start", "--streams", "4").code == 2


def test_without_the_source_tree_it_says_where_the_benchmarks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_command, "SOURCE_TREE", tmp_path)
    ran = command(capsys, "bench", "start")
    assert ran.code == 1
    assert "in the source tree" in ran.err


def test_a_ratio_is_taken_inside_each_round() -> None:
    """The machine slowed down threefold after the first round: both sides did, so the ratio stays."""
    found = report()
    row = found.compare(series(OURS, (2.0,), (6.0,), (6.0,)), series("raw", (1.0,), (3.0,), (3.0,)))
    assert row.ratio == 2.0
    assert (row.ours, row.against) == (6.0, 3.0)
    assert (found.spreads[0].low, found.spreads[0].high) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(Of.RATIO, at_most=2.0), True),
        (Goal(Of.RATIO, at_most=1.9), False),
        (Goal(Of.RATIO, at_least=2.0), True),
        (Goal(Of.RATIO, at_least=2.1), False),
        (Goal(Of.OURS, at_most=4.0), True),
        (Goal(Of.OURS, at_most=3.9), False),
        (Goal(Of.MORE, at_most=2.0), True),
        (Goal(Of.MORE, at_most=1.9), False),
    ],
    ids=str,
)
def test_a_goal_is_met_or_missed(goal: Goal, met: bool) -> None:
    assert report().compare(series(OURS, (4.0,)), series("raw", (2.0,)), goal).met is met


def test_what_was_measured_once_stands_against_every_round() -> None:
    row = report().compare(series(OURS, (2.0,), (3.0,), (7.0,)), series("raw", (1.0,)))
    assert (row.ratio, row.against) == (3.0, 1.0)


@pytest.mark.parametrize(("goal", "met"), [(0.97, True), (1.1, False)])
def test_a_goal_near_one_is_met_where_the_interval_reaches_it(goal: float, met: bool) -> None:
    rounds = [0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 1.0]
    row = report().compare(
        series(OURS, *((one,) for one in rounds)),
        series("raw", *((1.0,) for _ in rounds)),
        Goal(Of.INTERVAL, at_least=goal),
    )
    assert (row.ratio, row.met) == (0.95, met)


@pytest.mark.parametrize(("samples", "cut"), [(1, 0), (5, 0), (7, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_the_interval_of_a_median_is_the_tabled_one(samples: int, cut: int) -> None:
    """Order statistics of the sign test, two-sided 5%; below 6 samples no interval is that sure."""
    assert median_interval(range(samples)) == (cut, samples - 1 - cut)


def test_a_goal_against_what_was_not_measured_is_neither_met_nor_missed() -> None:
    row = report().alone(series(OURS, (4.0,)), "Ray actor call: not installed", Goal(Of.RATIO, at_most=1.0))
    assert (row.met, row.ratio, row.against) == (None, None, None)
    assert "not installed" in row.against_name


def test_the_plot_shows_every_row_the_lost_and_the_lonely_too() -> None:
    found = report()
    found.compare(series(OURS, (9.0,)), series("<raw>", (1.0,)), Goal(Of.RATIO, at_most=2.0))
    found.alone(series(OURS, (9.0,)), "Ray: not installed")
    text = "".join(ElementTree.fromstring(svg(found)).itertext())
    assert "<raw>" in text and "Ray: not installed" in text


def test_sides_take_turns_and_the_first_turn_does_not_count() -> None:
    turns: list[str] = []

    def side(name: str) -> list[float]:
        turns.append(name)
        return [float(len(turns))]

    found = interleaved(2, {"a": lambda: side("a"), "b": lambda: side("b")})
    assert turns == ["a", "b", "a", "b", "b", "a"]
    assert found == {"a": ((3.0,), (6.0,)), "b": ((4.0,), (5.0,))}


def test_percentiles_are_samples() -> None:
    samples = [float(one) for one in range(100, 0, -1)]
    assert percentile(0.99)(samples) == 99.0
    assert percentile(0.5)(samples) == 50.0
    assert percentile(0.99)([7.0]) == 7.0
