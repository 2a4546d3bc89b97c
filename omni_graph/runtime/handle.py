"""One request as its caller holds it: inputs written, packets read, cancelled. From any thread; read from one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from omni_graph.errors import Code, RequestError
from omni_graph.gateway_request import Ended, OutputPacket, Released, Submission
from omni_graph.payload import packet_bytes
from omni_graph.runtime.gateway_loop import GatewayLoop
from omni_graph.runtime.inputs import check_packet
from omni_graph.runtime.mailbox import Mailbox

INPUT_PACKETS_WAITING = 64
INPUT_BYTES_WAITING = 64 << 20
BEHIND_POLL_S = 0.01
TIMINGS_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """A packet of an output, in order of arrival."""

    output: str
    packet: Any


class Handle:
    """One request under way. Write and end its inputs, read its events, cancel it; from any thread, read from one."""

    def __init__(
        self,
        gateway: GatewayLoop,
        submission: Submission,
        inputs: Mapping[str, type],
        undecided: Iterable[str] = (),
    ) -> None:
        """``undecided``: inputs that end when the first event is asked for, where nothing was written to them until then."""
        self.request = submission.request
        self.seed = submission.seed
        self.outputs = submission.outputs
        self.trace_id = submission.traceparent.split("-")[1]
        self.stages: Mapping[str, Any] = {}
        self.retries = 0
        self.total_s = 0.0
        self._gateway = gateway
        self._inputs = dict(inputs)
        self._undecided = set(undecided)
        self._deciding = threading.Lock()
        self._mailbox = Mailbox(partial(_read_back, gateway, submission.request))  # not of ``self``: no cycle
        self._error: RequestError | None = None
        self._ended = False
        self._gateway.submit(submission, self._mailbox.put)

    # ---- inputs

    def write(self, name: str, packet: Any) -> None:
        """One packet of an input. Waits while many have not left yet: the graph's pace is the writer's."""
        behind = self.put(name, packet)
        while behind:
            threading.Event().wait(BEHIND_POLL_S)
            behind = self.behind(name, packet)

    def put(self, name: str, packet: Any) -> bool:
        """``write`` without its wait. True: the graph is ``behind``, and whoever puts more all the same fills the memory."""
        with self._deciding:
            kind = self._inputs.get(name)
            if kind is None:
                known = ", ".join(self._inputs) or "none"
                message = f"no input {name!r} to write to; still open: {known}"
                raise RequestError(self.request, Code.INVALID_INPUT, message)
            check_packet(name, kind, packet)
            self._undecided.discard(name)
        return self._gateway.call(lambda core, now: self._put(core, name, packet, now))

    def behind(self, name: str, packet: Any) -> bool:
        """Do more packets of an input wait to leave than ``most_waiting`` allows after this one?"""
        return self._gateway.call(lambda core, now: self._behind(core, name, packet))

    def _put(self, core: Any, name: str, packet: Any, now: float) -> bool:
        core.write(self.request, name, (packet,), now)
        return self._behind(core, name, packet)

    def _behind(self, core: Any, name: str, packet: Any) -> bool:
        return bool(core.waiting_input(self.request, name) > most_waiting(packet))

    def supply(self, name: str, packets: Iterable[Any]) -> None:
        """A whole input at once; it leaves as the graph takes it. What is no sequence is pulled in the Gateway's thread."""
        self._gateway.post(lambda core, now: core.write(self.request, name, packets, now))
        self.end(name)

    def end(self, name: str) -> None:
        """The input is complete."""
        self._inputs.pop(name, None)
        self._undecided.discard(name)
        self._gateway.post(lambda core, now: core.end_input(self.request, name, now))

    # ---- outputs

    def __iter__(self) -> Iterator[PacketEvent]:
        """Packets in order of arrival until the request has ended. Raises its RequestError if it did not complete."""
        while (event := self.next()) is not None:
            yield event

    def next(self, timeout: float | None = None) -> PacketEvent | None:
        """The next packet; None after the last. Raises RequestError when the request failed, TimeoutError after
        ``timeout`` seconds without an event."""
        self._decide()
        while not self._ended:
            event = self._mailbox.get(timeout)
            if event is None:
                raise TimeoutError(f"{self.request}: nothing for {timeout} s")
            packet = self._on(event)
            if packet is not None:
                return packet
        if self._error is not None:
            raise self._error
        return None

    def _decide(self) -> None:
        """Who reads has begun to write what he will write."""
        with self._deciding:
            for name in tuple(self._undecided):
                self.end(name)

    def _on(self, event: Any) -> PacketEvent | None:
        if isinstance(event, OutputPacket):
            return PacketEvent(event.output, event.packet)
        if isinstance(event, Ended):
            self._ended, self._error, self.total_s = True, event.error, event.after_s
        return None

    def next_now(self) -> PacketEvent | None:
        """The next packet if one is there; see ``ended``."""
        self._decide()
        while not self._ended and (event := self._mailbox.get_now()) is not None:
            packet = self._on(event)
            if packet is not None:
                return packet
        if self._error is not None:
            raise self._error
        return None

    def on_arrival(self, listener: Callable[[], None] | None) -> None:
        """Call ``listener`` from another thread whenever an event arrives; for event loops."""
        self._mailbox.on_arrival = listener

    @property
    def ended(self) -> bool:
        """The terminal event has been read."""
        return self._ended

    def drop(self, output: str) -> None:
        """This output is not wanted any more: what only it needs is stopped."""
        self._gateway.post(lambda core, now: core.drop(self.request, output, now))

    def cancel(self) -> None:
        """Give up: every stage forgets the request. Harmless after its end."""
        self._gateway.post(lambda core, now: core.cancel(self.request, now))

    def timings(self, wait_s: float = TIMINGS_WAIT_S) -> Mapping[str, Any]:
        """What each stage spent, once all have forgotten the request; {} when one does not answer in time."""
        while not self.stages:
            event = self._mailbox.get(wait_s)
            if event is None:
                break
            if isinstance(event, Released):
                self.stages, self.retries = event.timings, event.retries
                break
        return self.stages


def most_waiting(packet: Any) -> int:
    """Packets that may wait to leave before the writer of this one waits: 64, or 64 MiB of its size, but at least 1."""
    return max(1, min(INPUT_PACKETS_WAITING, INPUT_BYTES_WAITING // max(1, packet_bytes(packet))))


def _read_back(gateway: GatewayLoop, request: str, taken: Mapping[str, int]) -> None:
    def read(core: Any, now: float) -> None:
        for output, size in taken.items():
            core.read(request, output, size, now)

    gateway.post(read)
