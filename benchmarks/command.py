"""One bench by name: run it, show the table, write the JSON and the plot. Called by ``omni-graph bench``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console

from benchmarks.machine import this_machine
from benchmarks.measure import seconds
from benchmarks.plot import svg
from benchmarks.report import Report
from benchmarks.table import show

# name -> module; its ``run(report, options)`` fills the report
BENCHES = {
    "start": "benchmarks.start",
    "hop": "benchmarks.hop",
    "overhead": "benchmarks.overhead",
    "faults": "benchmarks.faults",
    "first_audio": "benchmarks.first_audio",
    "total": "benchmarks.total",
    "throughput": "benchmarks.throughput",
    "throughput_speech": "benchmarks.throughput_speech",
    "join": "benchmarks.join",
    "slow_client": "benchmarks.slow_client",
    "live": "benchmarks.live",
}


@dataclass(frozen=True, slots=True)
class Options:
    """``quick``: only to see that it runs, its figures mean nothing. ``streams``: only this many requests over one link."""

    quick: bool = False
    streams: int | None = None


def run(name: str, json_file: Path | None, plot_file: Path | None, options: Options) -> Report:
    """Run bench ``name`` (a key of BENCHES). The table goes to stdout."""
    report = Report(name, this_machine(), options.quick)
    if options.quick:
        report.notes.append("a quick run: it shows that the bench works; its figures mean nothing")
    if float(report.machine.machine["cores_busy_at_start"]) > 0.25:
        report.notes.append("the machine was not idle when this began (cores_busy_at_start): judge ratios, not times")
    took_s = seconds(lambda: import_module(BENCHES[name]).run(report, options))
    report.notes.append(f"this took {took_s:.0f} s")
    if json_file is not None:
        json_file.write_text(report.to_json(), encoding="utf-8")
    if plot_file is not None:
        plot_file.write_text(svg(report), encoding="utf-8")
    show(report, Console(width=None if sys.stdout.isatty() else 170))
    return report
