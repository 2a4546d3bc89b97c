"""A closed loop of callers: each asks its next question when its last answer has ended. So many are under way at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from benchmarks.model_app import Ask, Heard, ask
from omni_graph.runtime.app import App

PROMPT_TOKENS = (20, 40, 60, 80, 100, 120)
ANSWER_TOKENS = (16, 160)


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed loop did: answers in order of asking, and the seconds from the first question to the last answer."""

    heard: tuple[Heard, ...]
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return sum(len(one.token_ids) for one in self.heard) / self.seconds

    @property
    def sound_per_s(self) -> float:
        return sum(packet.sound for one in self.heard for packet in one.sound) / self.seconds


def text_asks(count: int, seed: int = 0) -> list[Ask]:
    """Prompts of 20, 40 ... 120 tokens, each another text; answers of 16 to 160 tokens; both uniform."""
    draw = Random(seed)
    return [Ask(f"text {draw.choice(PROMPT_TOKENS)} {which}", draw.randint(*ANSWER_TOKENS)) for which in range(count)]


def closed_loop(app: App, asks: Sequence[Ask], callers: int) -> Load:
    """Ask all of ``asks`` in order, ``callers`` at a time. Raises the first caller's error."""
    waiting = deque(enumerate(asks))
    heard: dict[int, Heard] = {}
    errors: list[BaseException] = []

    def take() -> tuple[int, Ask] | None:
        try:
            return waiting.popleft()
        except IndexError:  # another caller took the last one
            return None

    def call() -> None:
        try:
            while not errors and (taken := take()):
                number, request = taken
                heard[number] = ask(app, request)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Load(tuple(heard[number] for number in range(len(asks))), time.perf_counter() - began)
