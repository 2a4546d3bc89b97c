"""What callers rely on, the same over threads and processes: order, results, failures that stay with their request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import omni_graph as og
from omni_graph.payload import Array, TextDelta
from omni_graph.runtime.app import App
from tests.runtime.graphs import chain, eventually, flood, graph, held, launch, words
from tests.runtime.toys import Numbers

LAUNCHERS = ["threads", "processes"]


@pytest.fixture(scope="module", params=LAUNCHERS)
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    with launch(chain(), request.param, stages={"a": {"replicas": 2}}, max_requests=8, queue=4) as running:
        yield running


def test_packets_come_out_in_order_and_whole(app: App) -> None:
    result = app.run({"text": words(*(f"w{i} " for i in range(300)))}, outputs=["out"])
    assert result["out"].text == "".join(f"W{i} " for i in range(300))


def test_every_stage_that_was_routed_is_timed(app: App) -> None:
    trace = app.run({"text": words("x", "y")}, outputs=["out"]).trace
    assert list(trace.stages) == ["a", "b"]
    assert trace.edges == {
        "a.out -> b.text": {"packets": 2, "bytes": 2},
        "b.out -> gateway.out": {"packets": 2, "bytes": 2},
    }
    for stage in trace.stages.values():
        spent = sum(stage[f"{kind}_s"] for kind in ("computing", "stalled", "queued", "waiting"))
        assert spent == pytest.approx(stage["ended_s"] - stage["opened_s"], abs=2e-5)


def test_an_output_that_is_not_asked_for_is_not_computed(app: App) -> None:
    trace = app.run({"text": words("x")}, outputs=["half"]).trace
    assert list(trace.stages) == ["a"]


def test_params_and_the_seed_reach_the_node(app: App) -> None:
    result = app.run({"text": words("seed?")}, outputs=["half"], params={"a": {"suffix": "!"}}, seed=7)
    assert result["half"].text == "7!"
    assert app.run({"text": words("seed?")}, outputs=["half"]).seed >= 0


@pytest.mark.parametrize(
    ("inputs", "asked", "params", "message"),
    [
        ({}, ["out"], {}, "needs the input 'text'"),
        ({"text": words("x"), "txt": words("x")}, ["out"], {}, "has no input 'txt'"),
        ({"text": 3}, ["out"], {}, "takes TextDelta packets; got int"),
        ({"text": words("x" * 70_000)}, ["out"], {}, "a packet of 70000 bytes; allowed: 65536"),
        ({"text": words("x")}, ["ot"], {}, "no output 'ot'"),
        ({"text": words("x")}, ["out"], {"c": {}}, "parameters for 'c'"),
        ({"text": words("x")}, ["out"], {"a": {"sufix": ""}}, "unknown parameter 'sufix'"),
        ({"text": words("x")}, ["out"], {"a": {"suffix": 3}}, "parameter 'suffix' is 3"),
    ],
)
def test_bad_requests_are_refused_before_they_start(
    app: App, inputs: dict, asked: list, params: dict, message: str
) -> None:
    with pytest.raises(og.RequestError, match=message) as error:
        app.run(inputs, outputs=asked, params=params)
    assert error.value.code == "invalid_input"


def test_an_input_is_given_whole_or_written_live(app: App) -> None:
    with pytest.raises(og.RequestError, match="input 'text' is given whole and is to be written live too") as error:
        app.start({"text": words("x")}, outputs=["out"], live=["text"])
    assert error.value.code == "invalid_input"


def test_what_a_node_raises_fails_that_request_alone(app: App) -> None:
    other = app.open(outputs=["out"])
    other.write("text", TextDelta("still "))
    with pytest.raises(og.RequestError) as error:
        app.run({"text": words("boom")}, outputs=["out"])
    assert (error.value.code, error.value.stage) == ("node_failed", "a")
    assert str(error.value).startswith("node_failed: a: ValueError: boom was said (toys.py:")
    assert "Traceback" in error.value.detail
    other.write("text", TextDelta("here"))
    other.end("text")
    assert "".join(event.packet.text for event in other) == "STILL HERE"


def test_live_inputs_stream_through(app: App) -> None:
    handle = app.open(outputs=["out"])
    for word in ("one ", "two ", "three "):
        handle.write("text", TextDelta(word))
        event = handle.next(timeout=20)
        assert event is not None and event.packet.text == word.upper()
    handle.end("text")
    assert handle.next(timeout=20) is None


def test_cancelled_requests_leave_no_state(app: App) -> None:
    handles = []
    for i in range(1000):
        handle = app.open(outputs=["out", "half"])
        for _ in range(i % 3):
            handle.write("text", TextDelta("x"))
        if i % 2:
            handle.end("text")
        if i % 5 == 0:
            handle.next(timeout=20) if i % 3 else None
        handle.cancel()
        handles.append(handle)
    for handle in handles:
        try:
            while handle.next(timeout=20) is not None:
                pass
        except og.Cancelled:
            pass
        handle.timings()
    eventually(lambda: held(app) == 0)
    assert app.run({"text": words("open?")}, outputs=["half"])["half"].text == "1"
    status = app.status()
    assert status["requests"]["running"] == status["requests"]["waiting"] == 0


def test_a_deadline_ends_the_request_everywhere(app: App) -> None:
    handle = app.open(outputs=["out"], deadline_s=0.2)
    handle.write("text", TextDelta("x"))
    with pytest.raises(og.DeadlineExceeded, match=r"not complete after 0.2 s"):
        for _ in handle:
            pass
    handle.timings()
    eventually(lambda: held(app) == 0)


def test_admission_is_bounded_and_says_what_is_full(app: App) -> None:
    running = [app.open(outputs=["out"]) for _ in range(8)]
    waiting = [app.open(outputs=["out"]) for _ in range(4)]
    with pytest.raises(og.Overloaded, match="8 running, 4 waiting") as error:
        app.open(outputs=["out"])
    assert error.value.retryable and error.value.stage in ("a", "b")
    for handle in (*running, *waiting):
        handle.write("text", TextDelta("x"))
        handle.end("text")
    assert ["".join(event.packet.text for event in handle) for handle in (*running, *waiting)] == ["X"] * 12


def test_a_dropped_output_is_not_waited_for(app: App) -> None:
    handle = app.open(outputs=["out", "half"])
    handle.drop("half")
    handle.write("text", TextDelta("x"))
    handle.end("text")
    assert {event.output for event in handle} <= {"out", "half"}


def test_status_names_every_replica(app: App) -> None:
    status = app.status()
    assert status["graph"] == "toys" and status["launcher"] in LAUNCHERS
    assert [replica["id"] for replica in status["stages"]["a"]["replicas"]] == ["a/0.0", "a/1.0"]
    assert all(stage["state"] == "ready" for stage in status["stages"].values())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_status_shows_what_a_node_counts_of_itself_soon_after_it_did(launcher: str) -> None:
    nodes = {"a": ("Counting", {"text": "text"}, {}), "b": ("Echo", {"text": "a.out"}, {})}
    with launch(graph(nodes, {"out": "b.out"}), launcher) as app:
        app.run({"text": words("x", "y", "z")}, outputs=["out"])
        stages = app.status()["stages"]
        assert stages["b"]["replicas"][0]["counters"] == {}
        eventually(lambda: app.status()["stages"]["a"]["replicas"][0]["counters"] == {"a.answers": 3})


def test_a_stage_may_yield_the_cores_to_the_others() -> None:
    with launch(chain(), "processes", stages={"a": {"nice": 3}}) as app:
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        answers = [app.run({"text": words("nice?")}, outputs=[out])[out].text for out in ("half", "out")]
    assert answers == [str(mine + 3)] * 2


def test_both_replicas_serve(app: App) -> None:
    if app.status()["launcher"] == "threads":
        pytest.skip("replicas in threads share one process id")
    handles = [app.start({"text": words("pid?")}, outputs=["half"]) for _ in range(6)]
    assert len({"".join(event.packet.text for event in handle) for handle in handles}) == 2


def test_asyncio_callers_share_the_app(app: App) -> None:
    async def main() -> list[str]:
        face = og.AsyncApp(app)
        results = await asyncio.gather(*(face.arun({"text": words(w)}, outputs=["out"]) for w in "abc"))
        streamed = [event.packet.text async for event in face.astream({"text": words(*"xyz")}, outputs=["out"])]
        return [result["out"].text for result in results] + streamed

    assert asyncio.run(main()) == ["A", "B", "C", "X", "Y", "Z"]


def test_many_threads_may_call(app: App) -> None:
    seen: list[str] = []
    callers = [
        threading.Thread(target=lambda i=i: seen.append(app.run({"text": words(f"t{i}")}, outputs=["out"])["out"].text))
        for i in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert sorted(seen) == [f"T{i}" for i in range(8)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_reader_that_stops_pauses_its_own_request_only(launcher: str) -> None:
    with launch(flood(count=400, size=65536), launcher) as app:
        slow = app.start({"text": words("go")}, outputs=["blobs"])
        eventually(lambda: app.paused == 1)
        for _ in range(3):
            assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"
        buffered = sum(event.size for event in slow._mailbox._events if hasattr(event, "size"))
        assert buffered <= (4 << 20) + 65536
        assert sum(1 for _ in slow) == 400


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_arrays_arrive_as_sent(launcher: str) -> None:
    made = graph({"a": ("Double", {"values": "values"}, {})}, {"out": "a.out"}, {"values": "./toys.py:Numbers"})
    with launch(made, launcher) as app:
        kind = app.plan.inputs["values"].type
        assert kind.__qualname__ == Numbers.__qualname__
        sent = [
            np.random.default_rng(i).standard_normal(n).astype(np.float32) for i, n in enumerate((0, 1, 1000, 200_000))
        ]
        result = app.run({"values": [kind(Array.of(one)) for one in sent]})
        for packet, one in zip(result["out"], sent, strict=True):
            np.testing.assert_array_equal(packet.values.values, one * 2)
