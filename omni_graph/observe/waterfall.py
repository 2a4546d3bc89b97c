"""A trace as a waterfall for the terminal: a row per stage, a bar over the request's time, and what it spent.

It fits the width it is given: the bar takes what the numbers leave, and counts of packets and bytes go first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from omni_graph.observe.critical_path import Leg
from omni_graph.observe.trace import StageTiming, Trace

MIN_BAR, GOOD_BAR, MAX_BAR = 10, 24, 64
LOOK = {
    "computing": ("█", "green"),
    "stalled": ("▒", "red"),
    "queued": ("░", "yellow"),
    "waiting": ("·", "bright_black"),
}
TIMES = ("computing", "stalled", "queued", "waiting", "first out")
FLOWS = ("packets", "bytes")
LEGEND = {
    "computing": "computing",
    "stalled": "stalled for credit",
    "queued": "queued",
    "waiting": "waiting for input",
}


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The picture of a request, for a rich Console."""

    trace: Trace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._table(options.max_width)
        yield _legend()
        yield _totals(self.trace)

    def _table(self, width: int) -> Table:
        rows = [(name, *_numbers(stage)) for name, stage in self.trace.stages.items()]
        names: tuple[str, ...] = ("stage", *TIMES, *FLOWS)
        if width - _width_of(names, rows) < GOOD_BAR + 2:
            names = names[: -len(FLOWS)]
        bar = min(max(width - _width_of(names, rows) - 2, MIN_BAR), MAX_BAR)
        table = Table(box=None, padding=(0, 1), header_style="bold", expand=False)
        table.add_column("stage", no_wrap=True)
        table.add_column(f"0 to {_seconds(self.trace.total_s)}", no_wrap=True, min_width=bar)
        for name in names[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for (name, *numbers), stage in zip(rows, self.trace.stages.values(), strict=True):
            table.add_row(name, _bar(stage, self.trace.total_s, bar), *numbers[: len(names) - 1])
        return table


def _numbers(stage: StageTiming) -> tuple[str, ...]:
    spent = (stage["computing_s"], stage["stalled_s"], stage["queued_s"], stage["waiting_s"], stage["first_output_s"])
    return (*map(_seconds, spent), str(stage["packets"]), _size(stage["bytes"]))


def _width_of(names: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Columns of the terminal that all but the bar take, with a space on each side of each."""
    return sum(2 + max(len(name), *(len(row[i]) for row in rows), 0) for i, name in enumerate(names))


def _bar(stage: StageTiming, total: float, width: int) -> Text:
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
    legend = Text(" ")
    for activity, (symbol, style) in LOOK.items():
        legend.append(f"{symbol} ", style=style).append(f"{LEGEND[activity]}  ")
    legend.rstrip()
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


def critical_path(name: str, legs: Sequence[Leg]) -> Text:
    """A line that wraps: stage by stage what ``name`` waited for. Legs under a hundredth of it are left out."""
    least = sum(leg.seconds for leg in legs) / 100
    text = Text(f" {name.replace('_', ' ')}, critical path: ", style="bold")
    parts = [f"{leg.stage} {leg.state} {_seconds(leg.seconds)}" for leg in legs if leg.seconds >= least]
    return text.append(", ".join(parts), style="not bold")
