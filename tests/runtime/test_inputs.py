"""Inputs that are made while the graph takes them: pulled at its pace, and a source that breaks fails its request alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import omni_graph as og
from omni_graph.errors import Code, RequestError
from omni_graph.payload import Array, TextDelta, VideoFrame
from omni_graph.runtime.handle import INPUT_PACKETS_WAITING, most_waiting
from tests.runtime.graphs import chain, eventually, held, launch, words


class Source:
    """Packets made one by one, counted."""

    def __init__(self, count: int, breaks_at: int = -1) -> None:
        self.made = 0
        self._count = count
        self._breaks_at = breaks_at

    def __iter__(self) -> Iterator[TextDelta]:
        for number in range(self._count):
            if number == self._breaks_at:
                raise RequestError("", Code.INVALID_INPUT, "a.wav: became shorter while it was read")
            self.made += 1
            yield TextDelta(f"w{number} " + "x" * 60_000)


@pytest.mark.parametrize("launcher", ["threads", "processes"])
def test_a_source_is_pulled_at_the_graphs_pace(launcher: str) -> None:
    with launch(chain(), launcher) as app:
        source, handle = Source(1000), app.open(outputs=["out"])
        handle.supply("text", source)
        eventually(lambda: app.paused == 1)  # nobody reads: 4 MiB wait for the caller, and what the windows hold
        assert app.status()["requests"]["running"] == 1
        assert source.made < 600
        assert sum(1 for _ in handle) == 1000 == source.made


def test_a_source_that_breaks_fails_its_request_alone() -> None:
    with launch(chain(), "threads") as app:
        other = app.open(outputs=["out"])
        handle = app.open(outputs=["out"])
        handle.supply("text", Source(100, breaks_at=40))
        with pytest.raises(og.RequestError) as error:
            list(handle)
        assert str(error.value) == "invalid_input: a.wav: became shorter while it was read"
        handle.timings()
        other.supply("text", words("still ", "here"))
        assert "".join(event.packet.text for event in other) == "STILL HERE"
        eventually(lambda: held(app) == 0)


@pytest.mark.parametrize(
    ("wrong", "why"), [(False, "ZeroDivisionError: division by zero"), (True, "may not ask its dep")]
)
def test_a_source_that_is_wrong_fails_its_request_alone(wrong: bool, why: str) -> None:
    """It may ask for what only the thread that waits for it could tell."""
    with launch(chain(), "threads") as app:

        def source() -> Iterator[TextDelta]:
            yield TextDelta("x")
            yield TextDelta(str(app.status() if wrong else 1 / 0))

        handle = app.open(outputs=["out"])
        handle.supply("text", source())
        with pytest.raises(og.RequestError, match=rf"^invalid_input: the source of an input failed: .*{why}"):
            list(handle)
        assert app.run({"text": words("y")}, outputs=["out"])["out"].text == "Y"
        eventually(lambda: held(app) == 0)


def test_a_source_that_nobody_reads_is_not_pulled() -> None:
    with launch(chain(), "threads", max_requests=1) as app:
        running = app.open(outputs=["out"])
        waiting, source = app.open(outputs=["out"]), Source(5)
        waiting.supply("text", source)
        running.write("text", TextDelta("x"))
        assert running.next(timeout=20) is not None
        assert source.made == 0
        waiting.cancel()
        with pytest.raises(og.Cancelled):
            list(waiting)
        assert source.made == 0


def test_write_waits_while_the_graph_is_behind() -> None:
    with launch(chain(), "threads") as app:
        handle, written = app.open(outputs=["out"]), list[int]()

        def write() -> None:
            for number in range(1000):
                handle.write("text", TextDelta(f"w{number} " + "x" * 60_000))
                written.append(number)
            handle.end("text")

        writer = threading.Thread(target=write)
        writer.start()
        waiting = INPUT_PACKETS_WAITING + 1
        eventually(
            lambda: handle._gateway.call(lambda core, now: core.waiting_input(handle.request, "text")) == waiting
        )
        assert app.paused == 1 and len(written) < 600  # nobody reads: the writer stands still
        assert sum(1 for _ in handle) == 1000
        writer.join()
        assert len(written) == 1000


def test_a_writer_that_waits_in_asyncio_holds_no_thread() -> None:
    async def main(app: og.App) -> int:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        handle = await og.AsyncApp(app).aopen(outputs=["out"])
        packet = TextDelta("x" * 60_000)

        async def write() -> None:
            for _ in range(1000):
                await handle.write("text", packet)
            handle.end("text")

        writer = asyncio.create_task(write())
        try:
            async with asyncio.timeout(20):
                while not await asyncio.to_thread(handle.handle.behind, "text", packet):
                    await asyncio.sleep(0)
                for _ in range(10):  # the graph stays behind, and its writer leaves us the only thread
                    assert await asyncio.to_thread(handle.handle.behind, "text", packet)
                read = [event async for event in handle]
            await writer
            return len(read)
        finally:
            handle.cancel()

    with launch(chain(), "threads") as app:
        assert asyncio.run(main(app)) == 1000


@pytest.mark.parametrize(("height", "most"), [(0, 64), (360, 64), (480, 48), (1080, 9), (2800, 1)])
def test_what_waits_for_the_graph_is_bounded_in_bytes_too(height: int, most: int) -> None:
    pixels = Array.of(np.broadcast_to(np.uint8(0), (height, 2 * height, 3)))
    assert most_waiting(VideoFrame(pixels, 0.0)) == most
