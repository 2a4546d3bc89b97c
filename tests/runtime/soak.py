"""The program of the soak: many short requests with cancels, kills and slow readers, in a process of its own.

Kills are spread so that no stage loses more than three replicas in thirty seconds: its circuit would open, as it should.
Memory, files and threads are taken at two moments of rest, after ``warm`` requests and at the end, and printed as JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import psutil

import omni_graph as og
from omni_graph.gateway_request import Ended
from omni_graph.runtime.app import App, Handle
from omni_graph.supervision import DEATHS, WITHIN_S
from tests.runtime.fault_matrix import (
    OUTPUTS,
    STAGES,
    Client,
    epilogue,
    launch_speaking,
    processes,
    replicas,
    whole_answer,
)
from tests.runtime.graphs import eventually, held

CALLERS = 12
SLICE = 1000
WATCHED = 64  # the latest ended requests, still listened to for a second end


@dataclass
class Ends:
    """How requests ended, and what came after the end of any of them."""

    submitted: int = 0
    by_code: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    twice: int = 0
    _recent: deque[Handle] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, handle: Handle, code: str) -> None:
        """One has ended for its caller; every stage forgets it, and it must not end again."""
        assert handle.timings(30.0), "a stage has not forgotten a request"
        with self._lock:
            self.by_code[code] += 1
            self.retries += handle.retries
            self._recent.append(handle)
            if len(self._recent) > WATCHED:
                self._listen(self._recent.popleft())

    def _listen(self, handle: Handle) -> None:
        while (event := handle._mailbox.get_now()) is not None:
            self.twice += isinstance(event, Ended)

    def listen_to_all(self) -> None:
        with self._lock:
            while self._recent:
                self._listen(self._recent.popleft())


class Kills:
    """Replicas that are killed, never more in a stage than leave its circuit closed."""

    def __init__(self, app: App, chance: random.Random) -> None:
        self._app, self._chance = app, chance
        self._times: dict[str, deque[float]] = {stage: deque(maxlen=DEATHS) for stage in STAGES}
        self.done = 0

    def one(self) -> None:
        """Kill a replica of a stage that can bear it; none where no stage can."""
        now = time.monotonic()
        able = [stage for stage, times in self._times.items() if not _full(times, now)]
        ready = {stage: [one for one in replicas(self._app) if _serves(one, stage)] for stage in able}
        able = [stage for stage in able if len(ready[stage]) > 1]
        if able:
            stage = self._chance.choice(able)
            self._times[stage].append(now)
            self.done += 1
            os.kill(self._chance.choice(ready[stage])["pid"], signal.SIGKILL)


def _full(times: deque[float], now: float) -> bool:
    return len(times) == DEATHS and now - times[0] < WITHIN_S + 5


def _serves(replica: dict[str, object], stage: str) -> bool:
    return str(replica["id"]).startswith(stage) and replica["state"] == "ready"


@dataclass(frozen=True)
class Rest:
    """What is held while nothing runs: resident bytes of this process and of each worker, files and threads of this one."""

    parent: int
    workers: dict[int, int]
    files: int
    threads: int


def at_rest(app: App, ends: Ends, before: Rest | None = None) -> Rest:
    """Everything is ready, nothing runs, nobody holds anything; a link that has ended has given its files back."""
    eventually(lambda: all(one["state"] == "ready" for one in replicas(app)), within_s=90)
    for _ in range(4 * len(replicas(app))):  # so that every link is there that could be
        ends.submitted += 1
        ends.ended(whole_answer(app).handle, "completed")
    eventually(lambda: not any(one["requests"] for one in replicas(app)) and held(app) == 0)
    eventually(lambda: processes() == {one["pid"] for one in replicas(app)})
    me = psutil.Process()
    if before is not None:
        eventually(lambda: me.num_fds() <= before.files and me.num_threads() <= before.threads)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free, malloc keeps as it likes
    workers = {one["pid"]: psutil.Process(one["pid"]).memory_info().rss for one in replicas(app)}
    return Rest(me.memory_info().rss, workers, me.num_fds(), me.num_threads())


def one_request(app: App, number: int, chance: random.Random, ends: Ends) -> None:
    """It is heard to its end, slowly or not, or cancelled at some moment."""
    manner = chance.choices(["whole", "slow", "cancelled at once", "cancelled later"], [80, 10, 5, 5])[0]
    words = tuple(chance.choice(("ja ", "so ", "how ", "then ")) for _ in range(chance.randint(1, 3)))
    client = Client(app.open(outputs=OUTPUTS, deadline_s=120))
    try:
        converse(client, words, manner, chance)
        code = "completed"
    except og.RequestError as error:
        code = str(error.code)
    ends.ended(client.handle, code)


def converse(client: Client, words: tuple[str, ...], manner: str, chance: random.Random) -> None:
    if manner == "cancelled at once":
        client.handle.cancel()
    if manner == "cancelled later":
        client.say(words[0])
        for _ in range(chance.randint(0, 5)):
            client.hear()
        client.handle.cancel()
    if manner == "slow":
        client.say(words[0])
        threading.Event().wait(0.02)  # it reads nothing for a while, and so do others behind it
        words = words[1:]
    client.finish(words)


def soak(app: App, count: int, kill_every: int, kills: Kills, ends: Ends, chance: random.Random) -> None:
    """``count`` requests of several callers, and a kill for every ``kill_every`` of them that the stages can bear."""
    seeds = [chance.random() for _ in range(count)]
    ends.submitted += count
    with ThreadPoolExecutor(CALLERS) as pool:
        futures = deque(maxlen=count)
        for number, seed in enumerate(seeds):
            futures.append(pool.submit(one_request, app, number, random.Random(seed), ends))
            if len(futures) > 2 * CALLERS:
                futures.popleft().result(timeout=150)
            if number % kill_every == kill_every // 2:
                kills.one()
        for future in futures:
            future.result(timeout=150)


def soak_in_slices(app: App, count: int, kill_every: int, kills: Kills, ends: Ends, chance: random.Random) -> None:
    """A thousand at a time, and cycles collected after each: their chance peaks are no growth, what stays reachable is."""
    for done in range(0, count, SLICE):
        soak(app, min(SLICE, count - done), kill_every, kills, ends, chance)
        gc.collect()


def main(count: int, warm: int, kill_every: int) -> None:
    """``count`` requests, ``warm`` of them before the first look; one JSON line of what was seen."""
    chance, ends = random.Random(7), Ends()
    stages = {stage: {"replicas": 2} for stage in STAGES}
    with launch_speaking(stages=stages, retries=6) as app:
        kills = Kills(app, chance)
        soak_in_slices(app, warm, kill_every, kills, ends, chance)
        first = at_rest(app, ends)
        soak_in_slices(app, count - warm, kill_every, kills, ends, chance)
        last = at_rest(app, ends, first)
        ends.listen_to_all()
        told = app.status()["requests"]
        seen = {
            "submitted": ends.submitted,
            "ended": dict(ends.by_code),
            "told": {code: told[code] for code in ("completed", "failed", "cancelled")},
            "twice": ends.twice,
            "retries": ends.retries,
            "killed": kills.done,
            "first": asdict(first),
            "last": asdict(last),
        }
        epilogue(app)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
