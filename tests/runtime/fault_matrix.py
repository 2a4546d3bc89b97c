"""What the cells of the fault matrix share: the speaking toy deployed, a client that checks its answer, the epilogue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import omni_graph as og
from omni_graph.graph import Graph
from omni_graph.load import load_graph
from omni_graph.payload import TextDelta
from omni_graph.runtime.app import App, Handle
from omni_graph.spec import DeploySpec
from tests.runtime.graphs import HERE, eventually, held
from tests.runtime.speech import TOKENS_A_WORD, speech_of

STAGES = ("encoder", "generator", "vocoder")
MOMENTS = ("queued", "computing", "after first output")
MAX_STEP_S = 0.6
OUTPUTS = ["text", "speech"]
WORDS = ("how ", "are ", "you ", "then")
READ_S = 60.0
SPEAKING = HERE / "speaking.yaml"


def speaking() -> Graph:
    """words -> encoder -> generator -> vocoder -> speech, and the generator's text."""
    return load_graph(SPEAKING)


def launch_speaking(launcher: str = "processes", **deploy: Any) -> App:
    """A running speaker."""
    return og.launch(speaking(), DeploySpec.model_validate(deploy), launcher)


class Deployments:
    """One app after another: a new one for every fault and moment, so that no stage dies too often in one."""

    def __init__(self) -> None:
        self._key: object = None
        self.app: App | None = None

    @contextmanager
    def at(self, key: object, max_step_s: float = MAX_STEP_S, **deploy: Any) -> Iterator[App]:
        """The app of ``key``; a cell that fails takes it along."""
        if self.app is None or key != self._key:
            self.close()
            stages = {stage: {"max_step_s": max_step_s} for stage in STAGES}
            self.app, self._key = launch_speaking(stages=stages, **deploy), key
        try:
            yield self.app
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.app is not None:
            self.app.close()
        self.app = None


def arm(folder: Path, times: int) -> None:
    """So often trouble strikes."""
    for number in range(times):
        (folder / str(number)).touch()


@dataclass
class Client:
    """One request as its caller lives it: words are written one by one, and all that came is kept."""

    handle: Handle
    words: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    chunks: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def open(cls, app: App, params: Mapping[str, Mapping[str, Any]] | None = None) -> Client:
        return cls(app.open(outputs=OUTPUTS, params=params, deadline_s=120))

    def say(self, word: str) -> None:
        self.words.append(word)
        self.handle.write("words", TextDelta(word))

    def hear(self) -> bool:
        """One packet; False after the last."""
        event = self.handle.next(timeout=READ_S)
        if event is None:
            return False
        if event.output == "text":
            self.tokens += event.packet.token_ids
        else:
            self.chunks.append(np.array(event.packet.samples.values))
        return True

    def hear_answer(self) -> None:
        """All that one word brings: so nothing of it is still under way."""
        due = TOKENS_A_WORD * len(self.words)
        while min(len(self.tokens), len(self.chunks)) < due:
            assert self.hear()

    def finish(self, words: tuple[str, ...] = ()) -> None:
        """The rest of the words and of the answer; it is whole, and it is the one that goes with its tokens."""
        for word in words:
            self.say(word)
        self.handle.end("words")
        while self.hear():
            pass
        self.check()

    def check(self) -> None:
        assert len(self.tokens) == TOKENS_A_WORD * len(self.words)
        assert len(self.chunks) == len(self.tokens) + 1
        np.testing.assert_allclose(np.concatenate(self.chunks), speech_of(self.words, self.tokens), atol=1e-4)

    def retries(self) -> int:
        """How often it was replayed; every stage has forgotten it then."""
        assert self.handle.timings(READ_S), "a stage has not forgotten the request"
        return self.handle.retries


@dataclass
class Three:
    """Three requests under way, one at each moment of the matrix: one fault from outside meets all of them.

    ``computing`` is in a step of the generator that lasts until ``release``; ``queued`` waits behind it.
    """

    clients: dict[str, Client]
    gate: Path

    @classmethod
    def begin(cls, app: App, folder: Path) -> Three:
        clients = {moment: Client.open(app) for moment in ("queued", "after first output")}
        clients["after first output"].say(WORDS[0])
        clients["after first output"].hear_answer()
        gate, arms = folder / "gate", folder / "arms"
        arms.mkdir()
        clients["computing"] = Client.open(app, {"generator": {"fault": f"wait {gate}", "arms": str(arms)}})
        arm(arms, 1)
        clients["computing"].say(WORDS[0])
        eventually(lambda: not any(arms.iterdir()))
        clients["queued"].say(WORDS[0])
        return cls(clients, gate)

    def release(self) -> None:
        """The step goes on."""
        self.gate.touch()

    def finish(self) -> list[int]:
        """The rest of each, whole, and one end; how often they were replayed."""
        for moment in MOMENTS:
            self.clients[moment].finish(WORDS[1:])
            assert self.clients[moment].handle.next(timeout=1) is None
        return [self.clients[moment].retries() for moment in MOMENTS]


def whole_answer(app: App) -> Client:
    """A request that nothing may disturb."""
    client = Client.open(app)
    client.finish(WORDS)
    assert client.retries() == 0
    return client


# ---- after a fault


def replicas(app: App) -> list[dict[str, Any]]:
    return [replica for stage in app.status()["stages"].values() for replica in stage["replicas"]]


def epilogue(app: App) -> None:
    """Whatever happened: nothing is left of it, and the next 20 requests succeed."""
    eventually(lambda: all(one["state"] == "ready" for one in replicas(app)), within_s=60)
    eventually(lambda: not any(one["requests"] for one in replicas(app)) and held(app) == 0)
    assert {key: app.status()["requests"][key] for key in ("running", "waiting", "paused")} == dict.fromkeys(
        ("running", "waiting", "paused"), 0
    )
    for _ in range(20):
        whole_answer(app)
    eventually(lambda: held(app) == 0)
    if app.status()["launcher"] == "processes":
        eventually(lambda: processes() == {one["pid"] for one in replicas(app)})
        eventually(lambda: sockets(app) == live_sockets(app))


def processes() -> set[int]:
    """Everything that the fork server has started and that is still there."""
    found = set()
    for child in psutil.Process().children():
        try:
            found |= {one.pid for one in child.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return found


def sockets(app: App) -> set[str]:
    return {path.name for path in (app.run_folder / "sockets").iterdir()}


def live_sockets(app: App) -> set[str]:
    """The sockets of the replicas that are there, and of the Gateway."""
    gateway = app._deployment.gateway
    assert gateway is not None
    endpoints = [handle.address.endpoint for handle in app._deployment.handles.values()]  # type: ignore[attr-defined]
    return {Path(endpoint).name for endpoint in [*endpoints, gateway._links.address.endpoint]}
