"""Replicas of a stage are replaced one by one by others, of another config or with other weights, while requests go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import omni_graph as og
from omni_graph.runtime.app import App, Handle
from tests.runtime.graphs import eventually, graph, launch, tagged
from tests.runtime.test_scaling import LAUNCHERS, begun, finish, meanwhile, replicas, say, who


def of(app: App) -> list[dict[str, Any]]:
    """The replicas of ``a``."""
    found: list[dict[str, Any]] = app.status()["stages"]["a"]["replicas"]
    return found


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_new_revision_serves_new_requests_and_the_old_one_finishes_its_own(launcher: str) -> None:
    with launch(tagged(), launcher) as app:
        handle, old = begun(app)
        with meanwhile(lambda: app.replace("a", {"tag": "new"})):
            eventually(lambda: "draining" in [one["state"] for one in of(app)])
            assert who(app).startswith("new:")
            assert say(handle, "who?") == old
            finish(handle)
        assert [(one["id"], one["revision"]) for one in of(app)] == [("a/1.0", 1)]
        app.scale("a", 2)
        assert {one["revision"] for one in of(app)} == {1}


def test_an_answer_is_not_finished_by_a_revision_that_did_not_begin_it() -> None:
    with launch(tagged(), "threads") as app:
        handle, _ = begun(app)
        waiting = app.open(outputs=["half"])
        app.replace("a", {"tag": "new"}, drain_timeout_s=0)
        with pytest.raises(og.RequestError) as error:
            handle.next(timeout=20)
        assert error.value.code == "unavailable" and "revision 0, on which the answer began" in error.value.message
        assert say(waiting, "who?").startswith("new")
        finish(waiting)


def test_a_revision_that_cannot_start_leaves_the_old_one(tmp_path: Path) -> None:
    with launch(tagged(), "threads", stages={"a": {"replicas": 2}}) as app:
        with pytest.raises(
            og.LaunchError, match=r"0 of 2 replicas of a were replaced; the others stay: a/2\.0 could not start"
        ):
            app.replace("a", {"tag": "new", "refuse_if": str(tmp_path)})
        assert replicas(app) == ["a/0.0", "a/1.0"] and who(app).startswith("old")
        app.replace("a", {"tag": "newer"})
        assert replicas(app) == ["a/3.0", "a/4.0"] and who(app).startswith("newer")


def test_replicas_are_replaced_one_by_one() -> None:
    """The second is not touched until the first has gone, and there is never more than one beyond the two."""
    with launch(tagged(), "threads", stages={"a": {"replicas": 2}}) as app:
        handles: dict[str, Handle] = {}
        for _ in range(2):
            handle, _ = begun(app)
            (busy,) = {one["id"] for one in of(app) if one["requests"]} - handles.keys()
            handles[busy] = handle
        with meanwhile(lambda: app.replace("a", {"tag": "new"})):
            for old, others in (("a/0.0", ("a/1.0", "a/2.0")), ("a/1.0", ("a/2.0", "a/3.0"))):
                due = {old: "draining"} | dict.fromkeys(others, "ready")
                eventually(lambda due=due: at_most_three(app) == due)  # type: ignore[misc]
                for _ in range(20):
                    who(app)
                    assert at_most_three(app) == due
                finish(handles[old])
        for handle in handles.values():
            assert handle.timings() and handle.retries == 0
        assert replicas(app) == ["a/2.0", "a/3.0"]


def at_most_three(app: App) -> dict[str, str]:
    """The states of the replicas of ``a``, by name."""
    states = {one["id"]: one["state"] for one in of(app)}
    assert len(states) <= 3
    return states


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_changed_weights_are_served_after_a_replacement_without_a_change(launcher: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_text("the first")
    made = graph({"a": ("Weighted", {"text": "text"}, {"weights": str(weights)})}, {"half": "a.out"})
    with launch(made, launcher) as app:
        weights.write_text("the second")
        assert who(app) == "the first"
        app.replace("a", {})
        assert who(app) == "the second"
