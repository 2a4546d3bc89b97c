"""A trace as a waterfall for the terminal: a row per stage, a bar over the request's time, and what it spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from omni_graph.observe.trace import Trace

WIDTH = 36
LOOK = {
    "computing": ("█", "green"),
    "stalled": ("▒", "red"),
    "queued": ("░", "yellow"),
    "waiting": ("·", "bright_black"),
}


def waterfall(trace: Trace, width: int = WIDTH) -> RenderableType:
    """The picture of a request; ``width`` columns for its whole time."""
    table = Table(box=None, padding=(0, 1), header_style="bold", expand=False)
    table.add_column("stage", no_wrap=True)
    table.add_column(f"0 to {_seconds(trace.total_s)}", no_wrap=True)
    for name in ("computing", "stalled", "queued", "waiting", "first out"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("packets", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for name, stage in trace.stages.items():
        spent = (_seconds(stage[f"{key}_s"]) for key in LOOK)
        first = _seconds(stage["first_output_s"])
        row = (*spent, first, str(stage["packets"]), _size(stage["bytes"]))
        table.add_row(name, _bar(stage, trace.total_s, width), *row)
    return Group(table, _legend(), _totals(trace))


def _bar(stage: Mapping[str, Any], total: float, width: int) -> Text:
    """Each cell shows what took most of its time; nothing before the stage opened and after it ended."""
    cells: list[dict[str, float]] = [{} for _ in range(width)]
    scale = width / total if total > 0 else 0.0
    for activity, start, end in stage["spans"]:
        first, last = start * scale, min(end * scale, width)
        for index in range(int(first), min(int(last) + 1, width)):
            covered = min(last, index + 1) - max(first, index)
            cells[index][activity] = cells[index].get(activity, 0.0) + max(0.0, covered)
    bar = Text()
    for cell in cells:
        symbol, style = LOOK[max(cell, key=cell.__getitem__)] if cell else (" ", "")
        bar.append(symbol, style=style)
    return bar


def _legend() -> Text:
    words = {
        "computing": "computing",
        "stalled": "stalled for credit",
        "queued": "queued",
        "waiting": "waiting for input",
    }
    legend = Text(" ")
    for activity, (symbol, style) in LOOK.items():
        legend.append(f"{symbol} ", style=style).append(f"{words[activity]}  ")
    return legend


def _totals(trace: Trace) -> Text:
    parts = [("first text", trace.first_text_s), ("first audio", trace.first_audio_s), ("total", trace.total_s)]
    shown = [f"{name} {_seconds(value)}" for name, value in parts if value is not None]
    return Text(" " + "   ".join(shown), style="bold")


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
