"""More of the fault matrix: processes that have no files or no memory left; stages that change with a request in them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from omni_graph.runtime.app import App
from tests.files import few_files
from tests.memory import confine
from tests.memory import little_memory as little_memory  # a fixture
from tests.runtime.fault_matrix import (
    MOMENTS,
    STAGES,
    WORDS,
    Client,
    Deployments,
    arm,
    epilogue,
    whole_answer,
)
from tests.runtime.graphs import eventually

LONG_S = 60.0


def cells(first: int = 0) -> Iterator[object]:
    """stage, moment: of each stage, one moment in the fast tier."""
    for row, stage in enumerate(STAGES):
        for moment in MOMENTS:
            marks = () if moment == MOMENTS[(row + first) % len(MOMENTS)] else (pytest.mark.slow,)
            yield pytest.param(stage, moment, marks=marks, id=f"{stage}-{moment.replace(' ', '_')}")


def of(app: App, stage: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = app.status()["stages"][stage]["replicas"]
    return found


# ---- no files


@pytest.mark.parametrize(("stage", "moment"), list(cells()))
def test_a_stage_without_files_is_replaced(stage: str, moment: str, deployments: Deployments, tmp_path: Path) -> None:
    """It could answer for a while yet, over the links that it has: a request may end before it does."""
    with deployments.at("files") as app:
        ((victim,), company) = of(app, stage), Client.open(app)
        company.say("with ")
        company.hear_answer()
        trouble = {"fault": "files", "moment": "queued" if moment == "queued" else "computing", "arms": str(tmp_path)}
        client, rest = Client.open(app, {stage: trouble}), WORDS
        if moment == "after first output":
            client.say(WORDS[0])
            client.hear_answer()
            rest = WORDS[1:]
        arm(tmp_path, 1)
        client.finish(rest)
        assert client.retries() <= 2
        company.finish(WORDS)
        assert company.retries() <= 1
        eventually(lambda: victim["pid"] not in {one["pid"] for one in of(app, stage)})
        epilogue(app)


@pytest.mark.parametrize(("stage", "moment"), list(cells(1)))
def test_a_gateway_without_files_loses_no_request(
    stage: str, moment: str, deployments: Deployments, tmp_path: Path
) -> None:
    """A stage that dies meanwhile cannot be started; requests go on when it can."""
    with deployments.at(f"files of the gateway, {moment}", max_step_s=LONG_S) as app:
        ((victim,), company) = of(app, stage), Client.open(app)
        company.say("with ")
        company.hear_answer()
        client, rest, _ = begun(app, stage, moment, tmp_path)
        with few_files(0):
            os.kill(victim["pid"], signal.SIGKILL)
            eventually(lambda: [one["pid"] for one in of(app, stage)] == [0])
        client.finish(rest)
        company.finish(WORDS)
        assert client.retries() == company.retries() == 1
        epilogue(app)


# ---- no memory


@pytest.mark.parametrize(("stage", "moment"), list(cells(2)))
def test_a_stage_that_the_kernel_ends_for_its_memory_is_replaced(
    stage: str, moment: str, deployments: Deployments, little_memory: Path, tmp_path: Path
) -> None:
    with deployments.at(f"memory, {moment}", max_step_s=LONG_S) as app:
        ((victim,), company) = of(app, stage), Client.open(app)
        confine(app, victim, little_memory)
        company.say("with ")
        company.hear_answer()
        trouble = {"fault": "swell", "moment": "queued" if moment == "queued" else "computing", "arms": str(tmp_path)}
        client, rest = Client.open(app, {stage: trouble}), WORDS
        if moment == "after first output":
            client.say(WORDS[0])
            client.hear_answer()
            rest = WORDS[1:]
        eventually(lambda: app._deployment.handles[victim["id"]].beat.requests == 2)
        arm(tmp_path, 1)
        client.finish(rest)
        company.finish(WORDS)
        assert client.retries() == 1 and company.retries() == 1
        (heir,) = of(app, stage)
        assert victim["pid"] != heir["pid"]
        assert heir["last_end"] == "oom the kernel ended the process for want of memory"
        assert (victim["slots"], heir["slots"]) == (16, 12)
        epilogue(app)


def test_a_process_that_wants_to_end_and_cannot_is_ended(deployments: Deployments, tmp_path: Path) -> None:
    """It would keep its memory, and nobody would know of it: another has its place."""
    with deployments.at("memory beside a thread", max_step_s=LONG_S) as app:
        client = Client.open(app, {"generator": {"fault": "memory beside a thread", "arms": str(tmp_path)}})
        arm(tmp_path, 1)
        client.finish(WORDS)
        assert client.retries() == 1
        epilogue(app)


# ---- changes


def begun(app: App, stage: str, moment: str, folder: Path) -> tuple[Client, tuple[str, ...], Callable[[], None]]:
    """A request at this moment, the words that it has not said yet, and what lets the step that it is in go on."""
    gate, arms = folder / "gate", folder / "arms"
    arms.mkdir()
    client = Client.open(app, {stage: {"fault": f"wait {gate}", "arms": str(arms)}})
    if moment == "queued":
        return client, WORDS, gate.touch
    if moment == "computing":
        arm(arms, 1)
        client.say(WORDS[0])
        eventually(lambda: not any(arms.iterdir()))
    else:
        client.say(WORDS[0])
        client.hear_answer()
    return client, WORDS[1:], gate.touch


@pytest.mark.parametrize(("stage", "moment"), list(cells()))
def test_a_replacement_waits_for_what_the_old_replica_has(
    stage: str, moment: str, deployments: Deployments, tmp_path: Path
) -> None:
    with deployments.at("changed", max_step_s=LONG_S) as app, ThreadPoolExecutor(1) as pool:
        (old,) = of(app, stage)
        client, rest, release = begun(app, stage, moment, tmp_path)
        replaced = pool.submit(app.replace, stage, {})
        eventually(lambda: [one["state"] for one in of(app, stage)] == ["draining", "ready"])
        whole_answer(app)
        release()
        client.finish(rest)
        assert client.retries() == 0
        replaced.result(timeout=60)
        assert [one["revision"] for one in of(app, stage)] == [old["revision"] + 1]
        epilogue(app)


@pytest.mark.parametrize(("stage", "moment"), list(cells(2)))
def test_one_to_three_to_one_replays_what_the_newest_had(
    stage: str, moment: str, deployments: Deployments, tmp_path: Path
) -> None:
    with deployments.at("changed", max_step_s=LONG_S) as app:
        (old,) = of(app, stage)
        client, rest, release = begun(app, stage, moment, tmp_path)
        app.scale(stage, 3)
        others = [Client.open(app) for _ in range(6)]
        for other in others:
            other.say(WORDS[0])
        app.scale(stage, 1, drain_timeout_s=0)
        release()
        client.finish(rest)
        for other in others:
            other.finish(WORDS[1:])
        assert client.retries() == 0
        assert {other.retries() for other in others} <= {0, 1}
        assert [one["id"] for one in of(app, stage)] == [old["id"]]
        epilogue(app)
