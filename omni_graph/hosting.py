"""One node inside a worker: the Inbox and Outbox it sees, and the bookkeeping around each of its slices.

The node's code is called only from here. It is woken after a packet, room, an End, a Stop, an Open or a Close, and again
while its step says that more could be done; never in a spin, never missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from omni_graph.errors import FatalNodeError, FlowControlError, NodeError
from omni_graph.frames import Choice
from omni_graph.node import UNLIMITED, In, Node, Out, ports_of
from omni_graph.payload import max_packet_bytes, packet_bytes
from omni_graph.streams import Emit, InStream, OutStream

MAX_COUNTERS = 32


class Observer(Protocol):
    """Told what happens, never asked. Keeps its own time."""

    def opened(self, request: str, node: str, age_s: float) -> None:
        """The node has opened the request, ``age_s`` after the Gateway accepted it."""

    def computed(self, node: str, requests: Iterable[str], seconds: float) -> None:
        """A slice that worked for ``requests`` has just ended; it took ``seconds``."""

    def became(self, request: str, node: str, activity: str) -> None:
        """What the request does at this node from now on: waiting, queued or stalled."""

    def received(self, request: str, node: str, sent_at: float | None) -> None:
        """A packet arrived, sent at ``sent_at`` on this machine's clock; None: sent on another machine, by its own clock."""

    def sent(self, request: str, node: str, edge: int, size: int) -> None:
        """A packet of ``size`` payload bytes left on ``edge`` (-1: nobody reads it)."""

    def ended(self, request: str, node: str) -> None:
        """The node has ended the request."""

    def closed(self, request: str) -> str:
        """The worker forgets the request; the JSON of its timings."""


class NodeRequest:
    """What one node holds for one request."""

    __slots__ = ("activity", "choices", "done", "ended", "forced", "ins", "outs")

    def __init__(
        self, ins: dict[str, InStream], outs: dict[str, list[OutStream]], forced: Sequence[tuple[int, ...]] = ()
    ) -> None:
        self.ins = ins
        self.outs = outs
        self.choices = 0
        self.forced = forced
        self.done = False
        self.ended: set[str] = set()
        self.activity = "waiting"

    def streams(self) -> Iterable[OutStream]:
        return (stream for streams in self.outs.values() for stream in streams)

    def unread(self) -> bool:
        """Nothing that the node may still send would be read by anybody."""
        return all(stream.flow.ended or stream.flow.stopped for stream in self.streams())


class HostedNode:
    """Inbox and Outbox of one node, over all its requests."""

    def __init__(self, name: str, node: Node, emit: Emit, clock: Callable[[], float], observer: Observer) -> None:
        self.name = name
        self.node = node
        self.ports = ports_of(type(node))
        self.requests: dict[str, NodeRequest] = {}
        self.awake = False
        self._emit = emit
        self._clock = clock
        self._observer = observer
        self._ready: dict[str, dict[str, None]] = {port: {} for port in self.ports.inputs}
        self._drained: dict[str, dict[str, None]] = {port: {} for port in self.ports.inputs}
        self._worked: dict[str, None] = {}
        self._starved: dict[str, None] = {}
        self._active: dict[str, None] = {}  # whose activity is not "waiting"
        self._stepping = False
        self._to_close: list[str] = []
        self._unread: list[str] = []

    # ---- requests come and go

    def add(self, request: str, state: NodeRequest) -> None:
        """The request's streams are in place; inputs that the graph left unwired read as drained."""
        self.requests[request] = state
        for port in self.ports.inputs:
            if port not in state.ins:
                self._drained[port][request] = None
        self.awake = True

    def forget(self, request: str) -> None:
        """Free everything of the request here, the node's own state included. Idempotent."""
        state = self.requests.pop(request, None)
        for table in (*self._ready.values(), *self._drained.values()):
            table.pop(request, None)
        self._worked.pop(request, None)
        self._starved.pop(request, None)
        self._active.pop(request, None)
        if state is None or not state.done:
            self._close(request)
        self.awake = True

    def arrived(self, stream: InStream, sent_at: float) -> None:
        """A packet waits."""
        self._ready[stream.edge.reader_port][stream.request] = None
        self._observer.received(stream.request, self.name, sent_at if stream.one_clock else None)
        self._wake(stream.request)

    def writer_ended(self, stream: InStream) -> None:
        """An End came in."""
        if not stream.waiting:
            self._now_drained(self.requests[stream.request], stream)
        self._wake(stream.request)

    def room_changed(self, request: str) -> None:
        """Credit or a Stop came in; a node that nobody reads any more is ended."""
        state = self.requests[request]
        if state.done:
            return
        if state.unread():
            self._finish(request, state)
        self._starved.pop(request, None)
        self._wake(request)

    def _wake(self, request: str) -> None:
        self.awake = True
        state = self.requests.get(request)
        if state is not None and state.activity != "queued" and request not in self._starved and not state.done:
            self._become(request, state, "queued")

    def _become(self, request: str, state: NodeRequest, activity: str) -> None:
        state.activity = activity
        if activity == "waiting":
            self._active.pop(request, None)
        else:
            self._active[request] = None
        self._observer.became(request, self.name, activity)

    # ---- one slice

    def step(self) -> None:
        """One slice of the node. What it raises goes to the caller; ``worked`` then says for whom it was."""
        self._worked.clear()
        self._starved.clear()
        self.awake = False
        self._stepping = True
        started = self._clock()
        try:
            self.awake = bool(self.node.step(self, self)) or self.awake
        finally:
            self._stepping = False
            self._observer.computed(self.name, tuple(self._worked), self._clock() - started)
            self._close_ended()
            self._finish_unread()
        self._note_activities()

    def _note_activities(self) -> None:
        """What each request does from now on. One that waited, and was not touched, goes on waiting."""
        for request in {**self._active, **self._worked, **self._starved}:
            state = self.requests.get(request)
            if state is None or state.done:
                continue
            activity = self._activity(request)
            if activity != state.activity:
                self._become(request, state, activity)

    def _activity(self, request: str) -> str:
        if request in self._starved:
            return "stalled"
        if not self.awake:  # it had its chance: what waits for it is not what it needs next
            return "waiting"
        has_packets = any(request in table for table in self._ready.values())
        return "queued" if has_packets or request in self._worked else "waiting"

    def worked(self) -> Sequence[str]:
        """Requests of the last slice; all open ones where it touched none."""
        return tuple(self._worked) or tuple(request for request, state in self.requests.items() if not state.done)

    def counters(self) -> dict[str, int]:
        """What the node counts of itself, under its name; nothing where it does not."""
        count = getattr(self.node, "counters", None)
        counted = {} if count is None else dict(count())
        known = all(isinstance(name, str) and isinstance(value, int) for name, value in counted.items())
        if not known or len(counted) > MAX_COUNTERS:
            raise FatalNodeError(
                f"{self.name}.counters() gives {counted}; allowed: {MAX_COUNTERS} names with an int each"
            )
        return {f"{self.name}.{name}": value for name, value in counted.items()}

    # ---- Inbox

    def ready(self, port: In[Any]) -> Sequence[str]:
        return tuple(self._ready[port.name])

    def take(self, port: In[Any], request: str) -> Any:
        state = self._state(request)
        stream = state.ins.get(port.name)
        if stream is None or request not in self._ready[port.name]:
            raise FlowControlError(f"{self.name}.{port.name}: no packet waits for {request}: ask ready() first")
        choices, packet, credit = stream.take()
        if choices:
            self._merge(state, choices)
        if credit is not None:
            self._emit(stream.link, credit)
        table = self._ready[port.name]
        del table[request]
        if stream.waiting:
            table[request] = None  # behind the others: longest waiting first
        elif stream.flow.drained:
            self._now_drained(state, stream)
        self._worked[request] = None
        return packet

    def drained(self, port: In[Any]) -> Sequence[str]:
        return tuple(self._drained[port.name])

    def _now_drained(self, state: NodeRequest, stream: InStream) -> None:
        if not state.done:
            self._merge(state, stream.end_choices)
            self._drained[stream.edge.reader_port][stream.request] = None

    # ---- Outbox

    def routed(self, port: Out[Any], request: str) -> bool:
        return bool(self._readers(port, request))

    def room(self, port: Out[Any], request: str) -> int:
        room = min((stream.flow.room for stream in self._readers(port, request)), default=UNLIMITED)
        if room == 0:
            self._starved[request] = None
        return room

    def send(self, port: Out[Any], request: str, packet: Any) -> None:
        self._state(request)
        if type(packet) is not port.type:
            raise NodeError(f"{self.name}.{port.name} sends {port.type.__qualname__}, got {type(packet).__qualname__}")
        size = packet_bytes(packet)
        if size > max_packet_bytes(port.type):
            raise NodeError(
                f"{self.name}.{port.name}: a packet of {size} bytes; {port.type.__qualname__} allows "
                f"{max_packet_bytes(port.type)}: cut it by rows"
            )
        self._worked[request] = None
        self._put(port, request, packet, size)

    def _put(self, port: Out[Any], request: str, packet: Any, size: int) -> None:
        streams = self._readers(port, request)
        if any(stream.flow.room <= 0 for stream in streams):
            raise FlowControlError(f"{self.name}.{port.name}: a packet for {request} past its room: ask room() first")
        now = self._clock()
        for stream in streams:
            self._emit(stream.link, stream.data(packet, now))
            self._observer.sent(request, self.name, stream.edge.number, size)

    def _readers(self, port: Out[Any], request: str) -> list[OutStream]:
        return [stream for stream in self._state(request).outs.get(port.name, ()) if not stream.flow.stopped]

    def skippable(self, port: Out[Any], request: str) -> bool:
        readers = self._readers(port, request)
        return bool(readers) and all(stream.flow.sent < stream.accepted for stream in readers)

    def skip(self, port: Out[Any], request: str) -> None:
        if not self.skippable(port, request):
            raise FlowControlError(f"{self.name}.{port.name}: the packet that is due for {request} is not one to skip")
        self._worked[request] = None
        self._put(port, request, None, 0)

    def end(self, request: str, port: Out[Any] | None = None) -> None:
        state = self._state(request)
        self._worked[request] = None
        ports = tuple(self.ports.outputs) if port is None else (port.name,)
        state.ended.update(ports)
        for stream in (s for name in ports for s in state.outs.get(name, ())):
            stream.flow.end()
            self._flush_end(stream)
        if len(state.ended) == len(self.ports.outputs):
            self._finish(request, state)
        elif state.unread():
            self._unread.append(request)  # the node does not know: it may go on about it until the slice is over

    def choose(self, request: str, choice: tuple[int, ...]) -> None:
        state = self._state(request)
        self._worked[request] = None
        if state.choices < len(state.forced) and choice != state.forced[state.choices]:
            raise NodeError(f"{self.name} chose {choice} where the replay forces {state.forced[state.choices]}")
        self._merge(state, (Choice(self.name, state.choices, choice),))
        state.choices += 1

    def working(self, request: str) -> None:
        self._worked[request] = None

    # ---- the rest

    def _state(self, request: str) -> NodeRequest:
        state = self.requests.get(request)
        if state is None or state.done:
            raise FlowControlError(f"{self.name} is not open for {request}: it ended, or was never routed here")
        return state

    def _merge(self, state: NodeRequest, choices: Iterable[Choice]) -> None:
        for stream in state.streams():
            stream.ledger.add(choices)

    def _flush_end(self, stream: OutStream) -> None:
        frame = stream.end_if_due()
        if frame is not None:
            self._emit(stream.link, frame)

    def _finish(self, request: str, state: NodeRequest) -> None:
        """The node is done with the request: end its outputs, stop its inputs, free its state."""
        state.done = True
        for out in state.streams():
            out.flow.end()
            self._flush_end(out)
        for stream in state.ins.values():
            stop = stream.close()
            if stop is not None:
                self._emit(stream.link, stop)
        for table in (*self._ready.values(), *self._drained.values()):
            table.pop(request, None)
        self._starved.pop(request, None)
        self._active.pop(request, None)
        self._to_close.append(request)
        if not self._stepping:
            self._close_ended()

    def _finish_unread(self) -> None:
        """End what nobody reads any more, now that the slice in which that came about is over."""
        unread, self._unread = self._unread, []
        for request in unread:
            state = self.requests[request]
            if not state.done:
                self._finish(request, state)

    def _close_ended(self) -> None:
        """Close what ended during a slice after the slice, so that no node is closed inside its own step."""
        ended, self._to_close = self._to_close, []
        for request in ended:
            self._observer.ended(request, self.name)
            self._close(request)

    def _close(self, request: str) -> None:
        try:
            self.node.close(request)
        except Exception as error:
            raise FatalNodeError(f"{self.name}: close({request!r}) raised, so its state is unknown: {error}") from error
