"""Stages on two hosts behind one cable: what crosses it, and kills, freezes and cuts in the middle of an answer.

The epilogue of the fault matrix follows each: nothing is left, and the next 20 requests succeed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import omni_graph as og
from omni_graph.graph import Graph
from omni_graph.runtime.app import App
from tests.ray.hosts import HERE, THERE, TwoHosts, run_on
from tests.ray.hosts import hosts as hosts  # a fixture
from tests.runtime import test_fault_matrix_callers as alone
from tests.runtime.fault_matrix import STAGES, WORDS, Client, Three, epilogue, replicas, speaking
from tests.runtime.graphs import beside, chain, eventually, words

SECRET = "what passes between the stages is nobody's affair "


def test_packets_cross_the_cable_encrypted_and_nothing_is_left_there(hosts: TwoHosts) -> None:
    before = hosts.files_there()
    with run_on(hosts, chain(), ["a"], ["b"]) as app, hosts.listening() as heard:
        result = app.run({"text": words(*[SECRET] * 300)}, outputs=["out"])
        handles = app._deployment.handles
    assert result["out"].text == SECRET.upper() * 300
    assert len(heard) > 2 * 300 * len(SECRET)  # to b and back to the Gateway
    assert b"nobody's affair" not in heard and b"NOBODY'S AFFAIR" not in heard
    for name, host in (("a/0.0", HERE), ("b/0.0", THERE)):
        address = handles[name].address
        assert f" tcp://{host}:" in address.endpoint and len(address.public_key) == 40
    assert hosts.files_there() == before


@pytest.fixture
def app(hosts: TwoHosts) -> Iterator[App]:
    """The generator there, its neighbours here: every edge crosses the cable. New for each test: no stage dies too often."""
    with speaker(hosts) as running:
        yield running


def speaker(hosts: TwoHosts, **deploy: Any) -> App:
    return run_on(hosts, speaking(), ["encoder", "vocoder"], ["generator"], **deploy)


def replica(app: App, stage: str) -> dict[str, Any]:
    (one,) = app.status()["stages"][stage]["replicas"]
    return one


def halfway(app: App) -> Client:
    """A request whose first word is answered, with nothing under way."""
    client = Client.open(app)
    client.say(WORDS[0])
    client.hear_answer()
    return client


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_or_frozen_stage_costs_a_pause(stage: str, number: signal.Signals, app: App, hosts: TwoHosts) -> None:
    client = halfway(app)
    hosts.process(replica(app, stage)).send_signal(number)
    client.finish(WORDS[1:])
    assert client.retries() == 1
    epilogue(app)


# ---- the cable: what is queued, computed, and half answered meanwhile


def is_lost(app: App) -> bool:
    """The Gateway has noticed that the generator is gone."""
    return bool(app.status()["stages"]["generator"]["state"] != "ready")


@pytest.mark.parametrize(
    "seconds", [pytest.param(0.2, marks=pytest.mark.slow), 1.0, pytest.param(3.0, marks=pytest.mark.slow)]
)
def test_a_cut_costs_a_pause_at_most(seconds: float, app: App, hosts: TwoHosts, tmp_path: Path) -> None:
    """Three seconds are noticed, and then nothing but a replay helps; whether a second is, is a matter of luck."""
    three = Three.begin(app, tmp_path)
    with hosts.cut():
        three.release()
        threading.Event().wait(seconds)
        if seconds == 3:
            eventually(lambda: is_lost(app))
    assert {max(three.finish())} <= ({1} if seconds == 3 else {0, 1})
    epilogue(app)


@pytest.mark.parametrize("mute", [HERE, pytest.param(THERE, marks=pytest.mark.slow)], ids=["here", "there"])
def test_a_cut_in_one_direction_is_healed_by_a_replay(mute: str, app: App, hosts: TwoHosts, tmp_path: Path) -> None:
    three = Three.begin(app, tmp_path)
    with hosts.mute(mute):
        three.release()
        eventually(lambda: is_lost(app))
    assert three.finish() == [1, 1, 1]
    epilogue(app)


@pytest.mark.parametrize("stage", ["encoder", "generator"])
def test_a_replica_that_dies_behind_the_cut_is_replaced(stage: str, hosts: TwoHosts, tmp_path: Path) -> None:
    """Nobody there is left to end the connection: at this end it stays half open until silence tells."""
    here = [one for one in STAGES if one != stage]
    with run_on(hosts, speaking(), here, [stage]) as app:
        three = Three.begin(app, tmp_path)
        with hosts.cut():
            hosts.process(replica(app, stage)).kill()
            three.release()
            eventually(lambda: app.status()["stages"][stage]["state"] != "ready")
        assert three.finish() == [1, 1, 1]
        epilogue(app)


def test_a_host_that_crashes_and_comes_back_costs_a_pause(app: App, hosts: TwoHosts, tmp_path: Path) -> None:
    three = Three.begin(app, tmp_path)
    hosts.crash_there()
    three.release()
    hosts.start_there()
    assert three.finish() == [1, 1, 1]
    epilogue(app)


@pytest.mark.slow
@pytest.mark.parametrize("mute", ["", HERE, THERE], ids=["both ways", "here", "there"])
def test_a_cut_that_stays_fails_what_may_not_be_replayed(mute: str, hosts: TwoHosts) -> None:
    with speaker(hosts, retries=0) as app:
        client = halfway(app)
        with hosts.mute(mute) if mute else hosts.cut(), pytest.raises(og.RequestError) as error:
            client.finish(WORDS[1:])
        assert (error.value.code, error.value.stage) == ("replica_died", "generator")
        epilogue(app)


@pytest.mark.slow
def test_a_cut_that_stays_ends_requests_at_their_deadline_and_what_needs_one_side_goes_on(hosts: TwoHosts) -> None:
    with run_on(hosts, beside(), ["a"], ["b"]) as app:
        waiting = app.open(outputs=["right"], deadline_s=6)
        waiting.write("text", words("x")[0])
        assert waiting.next(timeout=20)
        with hosts.cut():
            with pytest.raises(og.DeadlineExceeded):
                waiting.next(timeout=20)
            assert app.run({"text": words("y")}, outputs=["left"])["left"].text == "Y"
            assert {name: stage["state"] for name, stage in app.status()["stages"].items()} == {
                "a": "ready",
                "b": "unavailable",
            }
        assert app.run({"text": words("z")}, outputs=["right"])["right"].text == "Z"


# ---- nobody reads


@pytest.mark.slow
def test_a_caller_that_does_not_read_costs_what_its_windows_hold(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has much to say is there, its caller here; the memory of both is counted."""

    def launch(made: Graph, _: str, **deploy: Any) -> App:
        return run_on(hosts, made, ["b"], ["a"], **deploy)

    def resident(app: App) -> int:
        ours = (psutil.Process(), *map(hosts.process, replicas(app)))
        return sum(one.memory_info().rss for one in ours)

    monkeypatch.setattr(alone, "launch", launch)
    monkeypatch.setattr(alone, "resident", resident)
    alone.test_a_caller_that_does_not_read_costs_what_its_windows_hold(alone.STALLED_S)
