"""A simulated caller: writes its input, reads its outputs, and knows what it must and what it may be told."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from omni_graph.errors import REPLAYED, Code, RequestError
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_request import Ended, OutputPacket, Released, Submission
from tests.core.sim_oracle import Violation
from tests.core.sim_shapes import Shape

if TYPE_CHECKING:
    from tests.core.sim_setting import Undisturbed


class Client:
    """One request. ``expected`` None: nobody knows the right answer yet. ``once``: it passes a stage that must run only
    once; ``may_repeat``: it does not, and its inputs are kept for a replay."""

    def __init__(self, name: str, supply: Sequence[Any], seed: int, outputs: tuple[str, ...]) -> None:
        self.name, self.seed, self.outputs = name, seed, outputs
        self.expected: Undisturbed | None = None
        self.script = 0
        self.supply = deque(supply)
        self.deadline_s = 1e9
        self.slow = False
        self.asked = self.input_ended = self.cancelled = self.tripped = self.released = self.stuck = False
        self.asked_at = 0.0
        self.once, self.may_repeat = False, True
        self.attempts = 0
        self.ended: Ended | None = None
        self.dropped: set[str] = set()
        self.route: set[str] = set()
        self.buffer: deque[OutputPacket] = deque()
        self.got: dict[str, list[Any]] = {output: [] for output in outputs}

    @property
    def can_act(self) -> bool:
        return not self.asked or not self.input_ended or bool(self.buffer)

    def act(self, gateway: GatewayCore, shape: Shape, now: float, rng: random.Random) -> None:
        """Ask; then write and read, in any order. RequestError when it is refused."""
        if not self.asked:
            self.asked, self.asked_at = True, now
            stages = shape.stages(self.outputs)
            gateway.submit(Submission(self.name, stages, self.outputs, "{}", self.seed, self.deadline_s), now)
        elif self.buffer and (self.input_ended or rng.random() < 0.5):
            event = self.buffer.popleft()
            gateway.read(self.name, event.output, event.size, now)
        elif self.supply:
            gateway.write(self.name, "in", [self.supply.popleft()], now)
        else:
            self.input_ended = True
            gateway.end_input(self.name, "in", now)

    def drop(self, output: str) -> None:
        """Read no more of it, and nothing of what waits."""
        self.dropped.add(output)
        self.buffer = deque(event for event in self.buffer if event.output != output)

    def refused(self, code: Code, dead: Collection[str]) -> None:
        """The Gateway would not have it."""
        if code is not Code.UNAVAILABLE or not dead:
            raise Violation(f"{self.name} was refused: {code}")
        self.input_ended = self.released = True
        self.ended = Ended(RequestError(self.name, code, ""), 0.0)

    def hears(self, event: OutputPacket | Ended | Released) -> str | None:
        """What is wrong with the event, if anything is."""
        if isinstance(event, Released):
            wrong = self.ended is None or self.released
            self.released = True
            return "released before its end, or twice" if wrong else None
        if self.ended is not None:
            return f"{type(event).__name__} after the terminal event"
        if isinstance(event, Ended):
            self.ended = event
            return None if event.error else self._wrong_answer()
        if event.output in self.dropped:
            return f"a packet of {event.output}, which it had dropped"
        self.got[event.output].append(event.packet)
        self.buffer.append(event)
        return None

    def _wrong_answer(self) -> str | None:
        for output in set(self.outputs) - self.dropped:
            if self.expected is not None and tuple(self.got[output]) != self.expected.packets[output]:
                return f"{output} is {self.got[output]}, undisturbed it is {self.expected.packets[output]}"
        return None

    def excused(self, error: RequestError, cuts: Sequence[set[str]], dead: set[str], retries: int) -> bool:
        """Has something happened to this request that explains such an end?"""
        died, losses = self.route & dead, self.losses(cuts, dead)
        hosts = [name.partition("/")[0] for name in died]
        reasons = {
            Code.CANCELLED: self.cancelled,
            Code.NODE_FAILED: self.tripped,
            Code.DEADLINE_EXCEEDED: self.deadline_s < 1e8,
            Code.UNAVAILABLE: bool(dead) and (not self.route or self.attempts > 0),
            Code.WEDGED: self.stuck,
            Code.POISON: any(hosts.count(host) > 1 for host in hosts),
        }
        if error.code in REPLAYED:
            known = losses > 0 if error.code is Code.LINK_LOST else bool(died)
            return known and (losses > retries or not self.may_repeat)
        return reasons.get(error.code, False)

    def losses(self, cuts: Sequence[set[str]], dead: set[str]) -> int:
        """Replicas and links of its attempts that were lost so far."""
        ends = {*self.route, "gateway"}
        return len(self.route & dead) + sum(cut <= ends for cut in cuts)

    def progress(self) -> str:
        got = {output: len(packets) for output, packets in self.got.items()}
        return f"{len(self.supply)} packets to write, {len(self.buffer)} to read, got {got}"
