"""``explain`` says what a code means, in either case, and suggests the nearest where there is none."""

from __future__ import annotations

import pytest

from omni_graph.codes import FaultCode
from omni_graph.errors import Code
from omni_graph.explain import REQUEST_CODES, explanation
from tests.cli.command import command


def test_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    for written in ("OG007", "og007"):
        ran = command(capsys, "explain", written)
        assert (ran.code, ran.out, ran.err) == (0, explanation(FaultCode.UNKNOWN_PORT) + "\n", "")


def test_no_such_code(capsys: pytest.CaptureFixture[str]) -> None:
    ran = command(capsys, "explain", "OG999")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no error code `OG999` (did you mean `OG0" in ran.err


def test_every_code_of_a_request_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(REQUEST_CODES) == set(Code)
    ran = command(capsys, "explain", "overloaded")
    assert ran.code == 0 and "Trying again may help" in ran.out and "What to do" in ran.out
