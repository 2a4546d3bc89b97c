"""More of the fault matrix: callers that do not read what they asked for, and more callers than there are places."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import psutil
import pytest

import omni_graph as og
from omni_graph.payload import TextDelta
from omni_graph.runtime.app import App
from tests.runtime.fault_matrix import (
    READ_S,
    STAGES,
    WORDS,
    Client,
    Deployments,
    epilogue,
    launch_speaking,
    replicas,
    whole_answer,
)
from tests.runtime.graphs import eventually, flood, held, launch, words
from tests.runtime.speech import CHUNK, TOKENS_A_WORD, speech_of

STALLED_S, LONG_S = 4.0, 60.0
PLACES = 4
BLOB_BYTES, OUTPUT_BYTES, FEW_BYTES = 65536, 1 << 20, 4096
GROWN_BYTES = 16 << 20  # the allocator's own
MANY, FEW = 1 << 20, 1000  # words
stalls = pytest.mark.parametrize("seconds", [STALLED_S, pytest.param(LONG_S, marks=pytest.mark.slow)])


def resident(app: App) -> int:
    """Bytes of memory of this process and of the replicas."""
    return sum(psutil.Process(pid).memory_info().rss for pid in (os.getpid(), *(one["pid"] for one in replicas(app))))


# ---- nobody reads


@stalls
def test_a_caller_that_does_not_read_costs_what_its_windows_hold(seconds: float) -> None:
    """``a`` has 4 GB to say. Once the request is paused nothing more is kept of it, and its neighbour is served."""
    with launch(flood(count=1 << 16, size=BLOB_BYTES), "processes", limits={"output_bytes": OUTPUT_BYTES}) as app:
        stalled = app.open(outputs=["blobs"])
        stalled.write("text", words("go")[0])
        eventually(lambda: app.paused == 1)
        app.run({"text": words("x")}, outputs=["out"])
        before, until = resident(app), time.monotonic() + seconds
        while time.monotonic() < until:
            assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"
            assert app.paused == 1 and sum(one["queued_packets"] for one in replicas(app)) == 0
        assert resident(app) - before < GROWN_BYTES
        for _ in range(OUTPUT_BYTES // BLOB_BYTES * 2):
            event = stalled.next(timeout=READ_S)
            assert event is not None and len(event.packet.data) == BLOB_BYTES
        stalled.cancel()
        eventually(lambda: held(app) == 0 and app.paused == 0)
        for _ in range(20):
            assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"


class Prompter:
    """A million words for one request; ``said`` of them the graph has taken."""

    def __init__(self) -> None:
        self.said = 0

    def __iter__(self) -> Iterator[TextDelta]:
        for self.said in range(1, MANY + 1):
            yield TextDelta("more ")


@stalls
def test_a_caller_that_does_not_listen_stops_every_stage_for_itself_alone(seconds: float) -> None:
    """Where its speech is not read, the stages before take no word more, and its neighbour is served by the same ones."""
    with launch_speaking(limits={"output_bytes": FEW_BYTES}) as app:
        windows = {stage: sum(edge.window for edge in app.plan.edges if edge.reader == stage) for stage in STAGES}
        stalled, prompter = Client.open(app), Prompter()
        stalled.handle.supply("words", prompter)
        eventually(lambda: app.paused == 1)
        whole_answer(app)
        before, until, said = resident(app), time.monotonic() + seconds, [prompter.said]
        while time.monotonic() < until:
            whole_answer(app)
            said.append(prompter.said)
            assert app.paused == 1
            for one in replicas(app):  # its own packets, and perhaps those of a neighbour
                assert one["queued_packets"] <= 2 * windows[one["id"].partition("/")[0]]
        assert said[len(said) // 2] == prompter.said < FEW
        assert resident(app) - before < GROWN_BYTES
        while prompter.said == said[-1]:
            assert stalled.hear()
        spoken_rightly(stalled)
        stalled.handle.cancel()
        epilogue(app)


def spoken_rightly(client: Client) -> None:
    """What has come so far is the beginning of what goes with its tokens."""
    whole = min(len(client.tokens), len(client.chunks)) // TOKENS_A_WORD
    assert whole > 0
    count = whole * TOKENS_A_WORD
    right = speech_of(["more "] * whole, client.tokens[:count])[: count * CHUNK]
    np.testing.assert_allclose(np.concatenate(client.chunks[:count]), right, atol=1e-4)


# ---- too many callers


@pytest.mark.parametrize("killed", ["", *STAGES])
def test_three_times_as_many_callers_as_there_are_places(killed: str, deployments: Deployments) -> None:
    """Whoever is refused comes again at once, and hears where there is no room and when to come: all have their answers,
    no more than allowed are in the deployment, and it is never without work. Also while a stage dies."""
    with deployments.at("overload", max_requests=PLACES, queue=PLACES) as app, ThreadPoolExecutor(6 * PLACES) as pool:
        callers = [pool.submit(insist, app, 4) for _ in range(6 * PLACES)]
        if killed:
            (victim,) = app.status()["stages"][killed]["replicas"]
            os.kill(victim["pid"], signal.SIGKILL)
        seen: list[dict[str, int]] = []
        while wait(callers, timeout=0.01).not_done:
            seen.append(app.status()["requests"])
        refusals = [caller.result() for caller in callers]
        assert sum(refusals) > 0
        most = {key: max(one[key] for one in seen) for key in ("running", "waiting")}
        if killed:  # those that are replayed wait too
            assert most["running"] <= PLACES and most["waiting"] <= 2 * PLACES
        else:
            assert most == {"running": PLACES, "waiting": PLACES}
            full = [one["running"] == PLACES for one in seen[: len(seen) // 2]]
            assert sum(full) > len(full) / 2
        epilogue(app)


def insist(app: App, answers: int) -> int:
    """So many answers, whole; how often there was no room for one."""
    refused = 0
    while answers:
        try:
            client = Client.open(app)
        except og.Overloaded as error:
            assert error.stage in STAGES and 1 <= error.retry_after_s <= 30 and error.retryable
            refused += 1
            threading.Event().wait(0.005)
            continue
        client.finish(WORDS)
        assert client.retries() <= 1
        answers -= 1
    return refused
