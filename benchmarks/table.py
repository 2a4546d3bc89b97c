"""A report as a table on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.report import Report, Row

TIMES = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9))
MET = {True: "[green]met", False: "[red]missed", None: ""}


def show(report: Report, console: Console) -> None:
    """Print the rows, then the notes."""
    table = Table(title=f"{report.bench}: {report.machine.machine['cpu']}, {report.machine.machine['cores']} cores")
    for column in ("case", "metric", "ours", "against", "", "ratio", "of the rounds", "goal", ""):
        table.add_column(column, justify="right" if column in ("ours", "against", "ratio") else "left")
    for number, row in enumerate(report.rows):
        spread = report.spreads.get(number)
        table.add_row(*_cells(row, f"{spread.low:.3g} to {spread.high:.3g}" if spread else ""))
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False)


def _cells(row: Row, spread: str) -> tuple[str, ...]:
    against = "" if row.against is None else _figure(row.against, row.metric)
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    return (
        row.case,
        row.metric,
        _figure(row.ours, row.metric),
        against,
        row.against_name,
        ratio,
        spread,
        row.goal or "",
        MET[row.met],
    )


def _figure(value: float, metric: str) -> str:
    """Times in the unit that suits them, all else as it is."""
    if not metric.endswith(("_s", "s_per_node")) or metric.endswith("_per_s"):
        return f"{value:.4g}"
    unit, scale = next((one for one in TIMES if value >= one[1]), TIMES[-1])
    return f"{value / scale:.3g} {unit}"
