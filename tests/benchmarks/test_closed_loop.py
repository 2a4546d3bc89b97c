"""A closed loop ends with every answer, or with the error of a caller, whatever that is."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import closed_loop


def test_all_are_asked_once_and_heard_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_loop, "ask", lambda app, request: request)
    asks = closed_loop.text_asks(40)
    assert list(closed_loop.closed_loop(None, asks, 7).heard) == asks  # type: ignore[arg-type]


def test_an_error_that_looks_like_the_end_of_the_work_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(app: Any, request: Any) -> Any:
        raise IndexError("in an answer")

    monkeypatch.setattr(closed_loop, "ask", ask)
    with pytest.raises(IndexError, match="in an answer"):
        closed_loop.closed_loop(None, closed_loop.text_asks(4), 2)  # type: ignore[arg-type]
