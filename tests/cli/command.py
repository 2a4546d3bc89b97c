"""Runs ``omni-graph`` in this process, as the console script does."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from omni_graph.cli.main import main


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    """Run ``omni-graph`` with ``arguments``."""
    before = sys.argv
    sys.argv = ["omni-graph", *arguments]
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    return Ran(code, out, err)
