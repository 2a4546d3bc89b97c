"""The fault matrix: every fault in every stage of a speaking toy, at three moments, and the same epilogue after each.

Nothing is left anywhere, and the next 20 requests succeed. One moment of each cell runs in ``make test``, all in
``make test-slow``. Elsewhere: no files left, no memory left, replacements and scaling in test_fault_matrix_processes.py;
callers that do not read, and too many callers, in test_fault_matrix_callers.py; the process of the Gateway stopped in
test_frozen_holder.py, killed in tests/cli/test_holder_killed.py; Ray's head killed or frozen in tests/ray/test_head.py, cut
off in tests/ray/test_two_hosts_head.py; cuts between hosts, both ways, one way and with a death behind them, in
tests/ray/test_two_hosts.py and tests/links/test_network.py, which need namespaces; a slow or sliced wire in
tests/links/test_slow_wire.py; one name twice, a peer that comes again, and messages of too many parts in
tests/links/test_attack.py; the model in tests/nodes/qwen2_5_omni/test_recovery.py, test_trouble.py
and test_trouble_around.py. What comes in another order, late, or to a replica that was taken for dead and talks on is
simulated (tests/core/simulation.py); a clock that steps changes nothing, because only monotonic clocks are read.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

import omni_graph as og
from omni_graph.payload import TextDelta
from tests.runtime.fault_matrix import (
    MAX_STEP_S,
    MOMENTS,
    STAGES,
    WORDS,
    Client,
    Deployments,
    arm,
    epilogue,
    launch_speaking,
    live_sockets,
    replicas,
    whole_answer,
)
from tests.runtime.graphs import eventually


@dataclass(frozen=True)
class Fault:
    """What a node does, how often, and what comes of it: an answer (no code), or the code of its one failure.

    ``company``: how often another request in the same replicas may be replayed. ``stages``: where it can happen.
    """

    name: str
    times: int = 1
    codes: tuple[str, ...] = ()
    company: int = 1
    stages: tuple[str, ...] = STAGES

    def __str__(self) -> str:
        return f"{self.name} x{self.times}".replace(" ", "_")


FAULTS = (
    Fault("sigkill"),
    Fault("sigstop"),
    Fault("spin"),
    Fault("deadlock"),
    Fault("gil"),
    Fault("exit"),
    Fault("exit", times=3, codes=("poison",), company=3),
    Fault("cut out"),
    Fault("cut off"),
    Fault("raise", codes=("node_failed",), company=0),
    Fault("shape", codes=("node_failed",), company=0),
    Fault("numeric", codes=("numeric",), company=0),
    Fault("nan field", codes=("node_failed", "numeric"), company=0, stages=("encoder",)),
    Fault("ill field", codes=("node_failed",), company=0),
    Fault("wrong payload", codes=("node_failed",), company=0),
    Fault("memory"),
    Fault("memory", times=3, codes=("poison",), company=3),
)
SENT = ("nan field", "ill field", "wrong payload")  # shows in what is sent, so only between taking and sending


def cells() -> Iterator[object]:
    """(fault, moment), stage: of each, one moment in the fast tier."""
    for row, fault in enumerate(FAULTS):
        moments = [moment for moment in MOMENTS if fault.name not in SENT or moment != "queued"]
        for column, stage in enumerate(fault.stages):
            for moment in moments:
                fast = moment == moments[(row + column) % len(moments)]
                marks = () if fast else (pytest.mark.slow,)
                yield pytest.param(fault, stage, moment, marks=marks, id=f"{fault}-{stage}-{moment.replace(' ', '_')}")


@pytest.mark.parametrize(("fault", "stage", "moment"), list(cells()))
def test_a_fault_costs_its_own_request_at_most(
    fault: Fault, stage: str, moment: str, deployments: Deployments, tmp_path: Path
) -> None:
    with deployments.at((fault, moment) if fault.times > 1 else fault) as app:
        before = {one["pid"] for one in replicas(app)}
        company = Client.open(app)
        company.say("with ")
        company.hear_answer()
        trouble = {
            "fault": fault.name,
            "moment": "queued" if moment == "queued" else "computing",
            "arms": str(tmp_path),
        }
        client = Client.open(app, {stage: trouble})
        rest = WORDS
        if moment == "after first output":
            client.say(WORDS[0])
            client.hear_answer()
            rest = WORDS[1:]
        arm(tmp_path, fault.times)
        end(client, rest, fault, stage)
        company.finish(WORDS)
        assert company.retries() <= fault.company
        epilogue(app)
        if fault.company == 0:
            assert {one["pid"] for one in replicas(app)} == before


def end(client: Client, rest: tuple[str, ...], fault: Fault, stage: str) -> None:
    """It completes, by a replay; or fails once, with the right code and the right name."""
    if fault.codes:
        with pytest.raises(og.RequestError) as error:
            client.finish(rest)
        assert error.value.code in fault.codes and error.value.stage == stage
        assert not error.value.retryable
        client.retries()
    else:
        client.finish(rest)
        assert 1 <= client.retries() <= 2


# ---- from outside


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("queued", marks=pytest.mark.slow),
        "after first output",
        pytest.param("ended", marks=pytest.mark.slow),
    ],
)
def test_a_kill_from_outside_at_any_moment(stage: str, moment: str, deployments: Deployments) -> None:
    with deployments.at(f"killed {moment}") as app:
        client = Client.open(app)
        rest = list(WORDS)
        if moment != "queued":
            client.say(rest.pop(0))
            client.hear_answer()
        (victim,) = app.status()["stages"][stage]["replicas"]
        if moment == "ended":
            client.finish(tuple(rest))
            os.kill(victim["pid"], signal.SIGKILL)
            assert client.retries() == 0
        else:
            os.kill(victim["pid"], signal.SIGKILL)
            client.finish(tuple(rest))
            assert client.retries() == 1
        eventually(lambda: victim["pid"] not in {one["pid"] for one in replicas(app)}, within_s=60)
        epilogue(app)


def test_a_process_that_was_stopped_is_not_heard_again(deployments: Deployments) -> None:
    """It is ended before it could go on; where its life was too short a stop to matter, it just goes on."""
    with deployments.at("stopped") as app:
        client = Client.open(app)
        client.say(WORDS[0])
        client.hear_answer()
        (victim,) = app.status()["stages"]["generator"]["replicas"]
        os.kill(victim["pid"], signal.SIGSTOP)
        client.finish(WORDS[1:])
        assert client.retries() == 1
        with pytest.raises(ProcessLookupError):
            os.kill(victim["pid"], signal.SIGCONT)
        epilogue(app)


@pytest.mark.parametrize("stage", ["encoder", "generator"])
def test_a_thread_that_was_stuck_is_not_heard_when_it_goes_on(stage: str, tmp_path: Path) -> None:
    """A thread cannot be killed: it wakes after its request was replayed, says what it has to say, and ends."""
    gate = tmp_path / "gate"
    arms = tmp_path / "arms"
    arms.mkdir()
    stages = {stage: {"max_step_s": MAX_STEP_S}}
    with launch_speaking("threads", stages=stages) as app:
        client = Client.open(app, {stage: {"fault": f"wait {gate}", "arms": str(arms)}})
        client.say(WORDS[0])
        client.hear_answer()
        arm(arms, 1)
        old = app._deployment.handles[f"{stage}/0.0"]
        client.say(WORDS[1])
        client.hear_answer()
        gate.touch()
        old._thread.join(20)  # type: ignore[attr-defined]
        assert not old._thread.is_alive()  # type: ignore[attr-defined]
        client.finish(WORDS[2:])
        assert client.retries() == 1
        epilogue(app)


@pytest.mark.parametrize(
    "ends", [("encoder/0.0", "generator/0.0"), ("generator/0.0", "vocoder/0.0"), ("gateway", "vocoder/0.0")]
)
def test_a_link_that_is_cut_costs_a_replay(ends: tuple[str, str]) -> None:
    with launch_speaking("threads") as app:
        client = Client.open(app)
        client.say(WORDS[0])
        client.hear_answer()
        app._deployment.launcher.hub.cut(*ends)  # type: ignore[attr-defined]
        client.finish(WORDS[1:])
        assert client.retries() == 1
        epilogue(app)


@pytest.mark.parametrize("moment", ["queued", pytest.param("after first output", marks=pytest.mark.slow)])
def test_strangers_at_every_socket_disturb_nobody(moment: str, deployments: Deployments) -> None:
    """Raw bytes, half a greeting, messages of a stranger, a pickle: to the sockets of all replicas and of the Gateway."""
    with deployments.at("strangers") as app:
        client = Client.open(app)
        rest = WORDS
        if moment != "queued":
            client.say(WORDS[0])
            client.hear_answer()
            rest = WORDS[1:]
        before = {one["pid"] for one in replicas(app)}
        with zmq.Context() as context:
            for name in sorted(live_sockets(app)):
                pester(context, app.run_folder / "sockets" / name)
            client.finish(rest)
            assert client.retries() == 0
            assert {one["pid"] for one in replicas(app)} == before
        epilogue(app)


def pester(context: zmq.Context[zmq.Socket[bytes]], path: Path) -> None:
    chance = random.Random(str(path))
    for junk in (b"", chance.randbytes(64), b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f", chance.randbytes(100_000)):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(path))
            try:
                raw.sendall(junk)
            except (BrokenPipeError, ConnectionResetError):
                continue
    stranger = context.socket(zmq.DEALER)
    stranger.linger = 0
    stranger.connect(f"ipc://{path}")
    for message in ([b""], [chance.randbytes(64)], [pickle.dumps({"a": 1})], [b"x"] * 2000):
        stranger.send_multipart(message)
    stranger.poll(50)
    stranger.close()


def test_a_client_that_stops_reading_stops_nobody_else(deployments: Deployments) -> None:
    with deployments.at("stalled", limits={"output_bytes": 65536}) as app:
        slow = Client.open(app)
        eventually(lambda: write_on(slow) or app.paused == 1, within_s=60)
        for _ in range(5):
            whole_answer(app)
        slow.finish()
        assert slow.retries() == 0
        epilogue(app)


def write_on(client: Client) -> bool:
    """One more word; never blocks, because nothing like as many as may wait are written."""
    client.say("more ")
    return False


@pytest.mark.parametrize("packet", [TextDelta(3), TextDelta("x", ("a",)), TextDelta("x", usage=(("n", 1 << 70),))])  # type: ignore[arg-type]
def test_a_packet_of_a_caller_that_is_none_fails_its_request_alone(packet: TextDelta, deployments: Deployments) -> None:
    with deployments.at("callers") as app:
        company = Client.open(app)
        company.say(WORDS[0])
        company.hear_answer()
        client = Client.open(app)
        client.handle.write("words", packet)
        with pytest.raises(og.RequestError) as error:
            client.finish()
        assert error.value.code == "invalid_input" and "input 'words'" in error.value.message
        company.finish(WORDS[1:])
        assert company.retries() == 0
        epilogue(app)
