"""A report as a picture: every row's ratio on one logarithmic axis, its spread over the rounds, and its goal. SVG text.

Left of 1 we are below what we are held against. Rows without a ratio are listed without a mark, never left out.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from benchmarks.report import Of, Report, Row, Spread

LABEL, AXIS, RIGHT, LINE, TOP = 430, 420, 150, 22, 64  # pixels
MET_COLOUR = {True: "#1a7f37", False: "#cf222e", None: "#57606a"}


def svg(report: Report) -> str:
    """The whole document."""
    height = TOP + LINE * len(report.rows) + 40
    width = LABEL + AXIS + RIGHT
    low, high = _decades(report)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(12, 24, f"{report.bench}: ours / against, median and range of the rounds; | is the goal", "start", 15),
        *(_grid(10.0**power, low, high, height) for power in range(low, high + 1)),
        *(
            _row(row, report.spreads.get(number), TOP + LINE * number, low, high)
            for number, row in enumerate(report.rows)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _decades(report: Report) -> tuple[int, int]:
    """Powers of ten that hold every ratio and every goal."""
    values = [row.ratio for row in report.rows if row.ratio]
    values += [bound for row in report.rows if (bound := _bound(row)) is not None]
    values += [end for spread in report.spreads.values() for end in (spread.low, spread.high) if end > 0]
    return math.floor(math.log10(min(values, default=1))), max(1, math.ceil(math.log10(max(values, default=1))))


def _bound(row: Row) -> float | None:
    if row.goal is None or not row.goal.startswith(f"{Of.RATIO} "):
        return None
    return float(row.goal.split()[-1])


def _x(value: float, low: int, high: int) -> float:
    return LABEL + AXIS * (math.log10(value) - low) / (high - low)


def _grid(value: float, low: int, high: int, height: int) -> str:
    x, stroke = _x(value, low, high), "#8c959f" if value == 1 else "#d0d7de"
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 14}" y2="{height - 30}" stroke="{stroke}"/>'
    return line + _text(x, height - 12, f"{value:g}", "middle")


def _row(row: Row, spread: Spread | None, y: int, low: int, high: int) -> str:
    colour = MET_COLOUR[row.met]
    marks = [_text(LABEL - 12, y + 4, f"{row.case}, {row.metric} / {row.against_name}", "end")]
    if row.ratio:
        if spread is not None and spread.low > 0:
            ends = f'x1="{_x(spread.low, low, high):.1f}" x2="{_x(spread.high, low, high):.1f}"'
            marks.append(f'<line {ends} y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>')
        marks.append(f'<circle cx="{_x(row.ratio, low, high):.1f}" cy="{y}" r="4" fill="{colour}"/>')
        marks.append(_text(LABEL + AXIS + 12, y + 4, f"{row.ratio:.3g}", "start"))
    bound = _bound(row)
    if bound:
        x = _x(bound, low, high)
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="#0969da" stroke-width="2"/>')
    return "\n".join(marks)


def _text(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
