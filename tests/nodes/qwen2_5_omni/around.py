"""What trouble around the model's stages meets: three answers under way, one at each moment, and what must hold after it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from omni_graph.runtime.app import App, Handle
from tests.nodes.qwen2_5_omni.apps import launch
from tests.nodes.qwen2_5_omni.test_recovery import MESSAGES, Answer, healthy
from tests.nodes.qwen2_5_omni.test_trouble import PARAMS
from tests.runtime.fault_matrix import processes, replicas
from tests.runtime.graphs import eventually, held

SHORT = {"thinker": {"max_tokens": 8, "temperature": 0.9}, "talker": {"max_tokens": 24}}
LOADED_S = 90.0
READ = (0, 1, 30)  # packets of each of the three


class Reading:
    """An answer as its caller reads it."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.answer = Answer()

    @classmethod
    def begin(cls, app: App, short: bool = False) -> Reading:
        params = SHORT if short else PARAMS
        return cls(app.start({"conversation": MESSAGES}, params=params, seed=7, deadline_s=240))

    def read(self, packets: int) -> None:
        for _ in range(packets):
            event = self.handle.next(timeout=LOADED_S)
            assert event is not None
            self.answer.read(event)

    def finish(self, right: Answer) -> int:
        """The rest; it is the right answer, it ended once, and every stage has forgotten it. How often it was replayed."""
        for event in self.handle:
            self.answer.read(event)
        self.answer.same_as(right)
        assert self.handle.next(timeout=1) is None
        assert self.handle.timings(LOADED_S), "a stage has not forgotten the request"
        return self.handle.retries


def whole_answer(app: App, short: bool = False) -> Answer:
    """One that nothing may disturb."""
    reading = Reading.begin(app, short)
    assert reading.finish(reading.answer) == 0
    return reading.answer


@dataclass
class Three:
    """Three answers under way: of the first nothing was read yet, of the second the first packet, of the last a part."""

    readings: list[Reading]
    right: Answer

    @classmethod
    def begin(cls, app: App) -> Three:
        right = whole_answer(app)
        readings = []
        for packets in reversed(READ):
            readings.append(Reading.begin(app))
            readings[-1].read(packets)
        return cls(readings, right)

    def release(self) -> None:
        """None of them waits for it."""

    def finish(self) -> list[int]:
        """The rest of each; how often they were replayed."""
        return [reading.finish(self.right) for reading in self.readings]


def epilogue(app: App, beside: Collection[int] = ()) -> None:
    """Whatever happened: nothing is left of it, and the next 20 requests succeed. ``beside``: processes of another app."""
    eventually(lambda: healthy(app), LOADED_S)
    eventually(lambda: not any(one["requests"] for one in replicas(app)) and held(app) == 0, LOADED_S)
    right = whole_answer(app, short=True)
    for _ in range(19):
        whole_answer(app, short=True).same_as(right)
    eventually(lambda: held(app) == 0)
    assert [app.status()["requests"][key] for key in ("running", "waiting", "paused")] == [0, 0, 0]
    if app.status()["launcher"] == "processes":
        eventually(lambda: processes() - set(beside) == {one["pid"] for one in replicas(app)})


# ---- in processes of their own


def hold(folder: str) -> None:
    """As the toys' holder (tests/runtime/test_frozen_holder.py): with three answers under way it waits for a word."""
    with launch(Path(folder), "low_latency", "processes") as app:
        three = Three.begin(app)
        before = {one["pid"] for one in replicas(app)}
        print(app.run_folder, flush=True)
        sys.stdin.readline()
        retries = three.finish()
        epilogue(app)
        print(*retries, {one["pid"] for one in replicas(app)} == before, flush=True)


class Speaker:
    """The model in the place of the toy of tests/ray/test_head.py."""

    answers = 5

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._right: Answer | None = None

    def launch(self) -> App:
        return launch(self._folder, "low_latency", "ray")

    def begin(self, app: App, folder: Path) -> Three:
        self._right = whole_answer(app, short=True)
        return Three.begin(app)

    def answer(self, app: App) -> None:
        assert self._right is not None
        whole_answer(app, short=True).same_as(self._right)

    def survive(self, app: App) -> None:
        right, reading = whole_answer(app), Reading.begin(app)
        reading.read(READ[-1])
        (talker,) = app.status()["stages"]["talker"]["replicas"]
        os.kill(talker["pid"], signal.SIGKILL)
        assert reading.finish(right) == 1
        epilogue(app)
