"""The table of a deployment's replicas, from what ``app.status()`` gives."""

from __future__ import annotations

from typing import Any

import pytest

from omni_graph.cli.status import COLUMNS, show


def stage(name: str, counters: dict[str, int], last_end: str = "") -> dict[str, Any]:
    known = {"id": f"{name}/0.0", "counters": counters, "slots": 12, "last_end": last_end}
    replica = {**dict.fromkeys(COLUMNS, 0), **known}
    return {"state": "ready", "replicas": [replica]}


def test_counters_stand_below_the_table_a_line_for_each_replica_that_has_any(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stages = {"thinker": stage("thinker", {"thinker.hits": 3, "thinker.asked": 4}), "quiet": stage("quiet", {})}
    show({"graph": "g", "launcher": "threads", "requests": {"running": 0}, "stages": stages}, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "thinker/0.0: thinker.hits 3, thinker.asked 4"


def test_who_has_died_before_is_told_with_the_reason_and_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    stages = {"dit": stage("dit", {}, "oom the kernel ended it"), "quiet": stage("quiet", {})}
    show({"graph": "g", "launcher": "threads", "requests": {"running": 0}, "stages": stages}, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "dit/0.0: takes 12 requests; its life before: oom the kernel ended it"
    )
