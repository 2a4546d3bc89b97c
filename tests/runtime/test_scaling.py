"""A deployment that is changed under load: no request fails or is doubled, sessions stay, what fails changes nothing.

Replacements: test_replace.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import omni_graph as og
from omni_graph.payload import TextDelta
from omni_graph.runtime.app import App, Handle
from tests.runtime.graphs import chain, eventually, launch, tagged, words

LAUNCHERS = ["threads", "processes"]
PERIOD_S = 0.05


def who(app: App, session: str | None = None) -> str:
    """Tag, process and instance that serve a request."""
    text = app.run({"text": words("who?")}, outputs=["half"], session=session)["half"].text
    assert isinstance(text, str)
    return text


def begun(app: App, session: str | None = None) -> tuple[Handle, str]:
    """A request that has an answer already and is not over, and who serves it."""
    handle = app.open(outputs=["half"], session=session)
    return handle, say(handle, "who?")


def say(handle: Handle, text: str) -> str:
    handle.write("text", TextDelta(text))
    event = handle.next(timeout=20)
    assert event is not None
    return str(event.packet.text)


def finish(handle: Handle) -> None:
    handle.end("text")
    assert handle.next(timeout=20) is None


def replicas(app: App, stage: str = "a") -> list[str]:
    return [one["id"] for one in app.status()["stages"][stage]["replicas"]]


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[Future[object]]:
    """``work`` goes on in a thread; at the end it must have ended well."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield future
        future.result(timeout=60)


# ---- under load


class Load:
    """Twenty short requests a second until it is stopped; every answer is looked at."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._stop = threading.Event()
        self.answers: list[Future[str]] = []

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(16)
        self._pacer = threading.Thread(target=self._pace)
        self._pacer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pacer.join()
        self._pool.shutdown()

    def goes_on(self) -> None:
        """A few more have been asked."""
        before = len(self.answers)
        eventually(lambda: len(self.answers) > before + 5)

    def _pace(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.answers.append(self._pool.submit(self._one, len(self.answers)))

    def _one(self, number: int) -> str:
        """Who answered; the answer is whole, in order and not doubled, and was given at the first attempt."""
        asked = [f"{number}-{i} " for i in range(8)]
        handle = self._app.start({"text": words(*asked, "who?")}, outputs=["out"])
        text = self._app.collect(handle)["out"].text
        assert text.startswith("".join(asked)) and handle.retries == 0
        return str(text.removeprefix("".join(asked)))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_one_to_three_to_one_ten_times_and_a_replacement_lose_and_double_nothing(launcher: str) -> None:
    with launch(tagged(), launcher, max_requests=32) as app:
        with Load(app) as load:
            for turn in range(10):
                app.scale("a", 3)
                load.goes_on()
                if turn == 5:
                    app.replace("a", {"tag": "new"})
                app.scale("a", 1)
        answers = [future.result() for future in load.answers]
        counts = app.status()["requests"]
        assert (counts["completed"], counts["failed"], counts["cancelled"]) == (len(answers), 0, 0)
        assert len(set(answers)) > 5
        assert answers[0].startswith("OLD") and answers[-1].startswith("NEW")
        assert len(replicas(app)) == 1 and who(app).startswith("new")


# ---- scale


def test_scale_down_drains_the_newest_and_loses_nothing() -> None:
    with launch(tagged(), "threads") as app:
        app.scale("a", 2)
        first, second = begun(app), begun(app)
        assert first[1] != second[1] and replicas(app) == ["a/0.0", "a/1.0"]
        with meanwhile(lambda: app.scale("a", 1)) as scaled:
            eventually(
                lambda: [one["state"] for one in app.status()["stages"]["a"]["replicas"]] == ["ready", "draining"]
            )
            assert {who(app) for _ in range(3)} == {first[1]}
            assert say(second[0], "more") == "MORE" and not scaled.done()
            finish(second[0])
        assert replicas(app) == ["a/0.0"]
        finish(first[0])
        assert {first[0].retries, second[0].retries} == {0}


def test_stages_that_share_workers_are_scaled_together() -> None:
    with launch(chain(), "threads", stages={"b": {"with": "a"}}) as app:
        with pytest.raises(og.ScaleError, match="b lives in the workers of a"):
            app.scale("b", 2)
        app.scale("a", 2)
        assert replicas(app, "b") == replicas(app, "a") == ["a/0.0", "a/1.0"]
        assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"


def test_where_a_replica_cannot_start_the_others_stay_and_no_new_one_does(tmp_path: Path) -> None:
    full = tmp_path / "full"
    with launch(tagged(refuse_if=str(full)), "threads") as app:
        before = who(app)
        full.touch()
        with pytest.raises(og.LaunchError, match=r"(?s)a/[12]\.0 could not start.*no room for me"):
            app.scale("a", 3)
        assert replicas(app) == ["a/0.0"] and who(app) == before
        full.unlink()
        app.scale("a", 2)
        assert replicas(app) == ["a/0.0", "a/3.0"]


def test_what_cannot_be_asked_is_refused_with_what_can() -> None:
    with launch(tagged(), "threads") as app:
        for change, message in (
            (lambda: app.scale("aa", 2), "no stage 'aa'.*stages: a, b"),
            (lambda: app.scale("a", 0), "a: 0 replicas; at least 1"),
            (lambda: app.drain("a", replica=7), "no replica 7; there are: a/0"),
            (lambda: app.replace("a", {"tga": "x"}), "a.config.tga: is no key of its config.*tag"),
            (lambda: app.replace("a", {"tag": 3}), r"a.config.tag: takes str, got 3 \(int\)"),
        ):
            with pytest.raises(og.ScaleError, match=message):
                change()
        assert replicas(app) == ["a/0.0"]


def test_a_stage_that_was_not_started_cannot_be_scaled() -> None:
    with (
        og.launch(tagged(), launcher="threads", outputs=["half"]) as app,
        pytest.raises(og.ScaleError, match="not started"),
    ):
        app.scale("b", 2)


def test_changes_of_one_stage_wait_for_each_other() -> None:
    with launch(tagged(), "threads") as app:
        handle, _ = begun(app)
        with meanwhile(lambda: app.replace("a", {"tag": "new"})):
            eventually(lambda: len(replicas(app)) == 2)
            with pytest.raises(og.ScaleError, match="another change of it was still under way after 0 s"):
                app.scale("a", 3, timeout_s=0)
            app.scale("b", 2)
            finish(handle)
        assert (replicas(app), len(replicas(app, "b"))) == (["a/1.0"], 2)


def test_the_same_from_asyncio() -> None:
    async def change() -> None:
        async with og.alaunch(tagged(), launcher="threads") as app:
            await app.ascale("a", 2)
            await app.adrain("a", replica=0)
            await app.areplace("a", {"tag": "new"})
            assert replicas(app.app) == ["a/2.0"]
            first = await app.arun({"text": words("who?")}, outputs=["half"], session="mine")
            assert first["half"].text.startswith("new")

    asyncio.run(change())


# ---- drain


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_what_a_drain_does_not_wait_for_goes_on_elsewhere(launcher: str) -> None:
    """Also where nothing is retried: a drain is no fault."""
    with launch(tagged(), launcher, stages={"a": {"replicas": 2}}, retries=0) as app:
        handle = app.open(outputs=["out"])
        assert say(handle, "one ") == "ONE "
        index = next(i for i, one in enumerate(app.status()["stages"]["a"]["replicas"]) if one["requests"])
        app.drain("a", replica=index, drain_timeout_s=0)
        assert say(handle, "two ") == "TWO "
        finish(handle)
        handle.timings()
        assert handle.retries == 1 and replicas(app) == [f"a/{1 - index}.0"]


def test_the_deploy_file_says_how_long_a_drain_waits() -> None:
    with launch(tagged(), "threads", stages={"a": {"replicas": 2}}, drain_timeout_s=0) as app:
        handles = [app.open(outputs=["half"]) for _ in range(2)]
        assert [say(handle, "one") for handle in handles] == ["ONE", "ONE"]
        app.scale("a", 1)
        for handle in handles:
            assert say(handle, "more") == "MORE"
            finish(handle)
            handle.timings()
        assert sorted(handle.retries for handle in handles) == [0, 1]


def test_a_stage_out_of_service_refuses_by_name_and_comes_back() -> None:
    with launch(tagged(), "threads") as app:
        app.drain("a")
        assert app.status()["stages"]["a"] == {"state": "unavailable", "replicas": []}
        with pytest.raises(og.RequestError) as refused:
            who(app)
        assert (refused.value.code, refused.value.stage, refused.value.retryable) == ("unavailable", "a", True)
        app.scale("a", 1)
        assert who(app).startswith("old")


def test_a_deployment_that_closes_lets_what_runs_finish_and_admits_nothing() -> None:
    app = launch(tagged(), "threads")
    handle, _ = begun(app)
    with meanwhile(lambda: app.close(drain_s=60)):
        eventually(lambda: refused(app))
        assert say(handle, "last") == "LAST"
        finish(handle)
    app.close(drain_s=60)


def refused(app: App) -> bool:
    try:
        who(app)
    except og.RequestError as error:
        assert error.code == "closed"
        return True
    return False


# ---- sessions


def test_a_session_stays_on_its_replica_and_survives_its_loss() -> None:
    with launch(tagged(), "processes", stages={"a": {"replicas": 3}}) as app:
        mine = who(app, "mine")
        assert {who(app, "mine") for _ in range(4)} == {mine}
        pid = int(mine.split(":")[1])
        index = next(i for i, one in enumerate(app.status()["stages"]["a"]["replicas"]) if one["pid"] == pid)
        app.drain("a", replica=index, drain_timeout_s=0)
        moved = who(app, "mine")
        assert moved != mine and {who(app, "mine") for _ in range(4)} == {moved}


def test_a_session_has_a_name_of_a_bounded_length() -> None:
    with launch(tagged(), "threads") as app, pytest.raises(og.RequestError, match="1 to 256 letters; got 300"):
        who(app, "x" * 300)


# ---- overload


def test_a_refusal_names_the_full_stage_and_when_to_come_back() -> None:
    with launch(tagged(), "threads", stages={"a": {"streams": 1}}, max_requests=8, queue=1) as app:
        held = [app.open(outputs=["half"]) for _ in range(2)]
        with pytest.raises(og.Overloaded) as refused:
            who(app)
        assert refused.value.stage == "a" and 1 <= refused.value.retry_after_s <= 30 and refused.value.retryable
        for handle in held:
            finish(handle)
