"""The two shapes that most nodes have: MapNode (no state, batched) and StreamNode (a state per request). Both are Nodes.

The author writes what is computed; batching across requests, order, room and ends are kept here. Neither ever waits for a
batch to fill, and neither takes a packet while earlier results wait for room (lookahead 0).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from omni_graph.errors import NodeError, RequestError
from omni_graph.node import In, Inbox, Out, Outbox, Ports, ports_of

T = TypeVar("T")
U = TypeVar("U")
State = TypeVar("State")


class _OneToOne(ABC):
    """One In, one Out, and the failures that are still to be raised: a slice can raise only one."""

    max_batch: int = 8
    _ports: ClassVar[Ports]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        ports = ports_of(cls)
        if (not ports.inputs and not ports.outputs) and getattr(cls.forward, "__isabstractmethod__", False):
            return  # a shape in between, its ports still to be declared
        if len(ports.inputs) != 1 or len(ports.outputs) != 1:
            raise NodeError(
                f"{cls.__qualname__} has inputs ({', '.join(ports.inputs)}) and outputs ({', '.join(ports.outputs)}); "
                f"a {cls._kind()} has exactly one In and one Out: for other ports write a plain Node"
            )
        cls._ports = ports

    @classmethod
    def _kind(cls) -> str:
        return next(parent.__name__ for parent in cls.__mro__ if parent.__module__ == __name__)

    @abstractmethod
    def forward(self, *batch: Any) -> Any:
        """What the author writes."""

    @cached_property
    def _input(self) -> In[Any]:
        (port,) = self._ports.inputs.values()
        return port

    @cached_property
    def _output(self) -> Out[Any]:
        (port,) = self._ports.outputs.values()
        return port

    @cached_property
    def _failures(self) -> deque[RequestError]:
        """Made on first use, so that an author's ``__init__`` need not call ours."""
        return deque()

    def _fail(self, request: str, error: RequestError) -> None:
        """``error`` fails ``request``, when its turn to be raised comes."""
        failed = RequestError(request, error.code, error.message, stage=error.stage, retryable=error.retryable)
        self._failures.append(failed)

    def _failed(self) -> frozenset[str]:
        return frozenset(error.request for error in self._failures)

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures.popleft()

    def _forget_failures(self, request: str) -> None:
        kept = [error for error in self._failures if error.request != request]
        self._failures.clear()
        self._failures.extend(kept)


class MapNode(_OneToOne, Generic[T, U]):
    """One packet in, one packet out, no state: write ``forward(batch) -> batch``; declare one In and one Out.

    ``max_batch`` packets of any requests, several of one request too, go through ``forward`` at once; a lone packet goes
    alone, at once. A packet is only taken when its result has room.

    Failing: put a RequestError in the result's place to fail that packet's request (its ``request`` is filled in). Where
    ``forward`` *raises* a RequestError each packet is run again alone, which a map may be, and those that raise fail. Any
    other error fails every request of the batch.
    """

    def open(self, request: str, params: Any) -> None:
        """Nothing is kept for a request."""

    def close(self, request: str) -> None:
        """Nothing is kept for a request, but a failure that has not been raised yet."""
        self._forget_failures(request)

    @abstractmethod
    def forward(self, batch: list[T]) -> Sequence[U | RequestError]:
        """The results of ``batch``, one for each packet and in the same order."""

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        """One batch, and the ends that are due."""
        self._raise_failure()
        batch = self._take(inbox, outbox)
        if batch:
            self._send(batch, self._run([packet for _, packet in batch]), outbox)
        for request in inbox.drained(self._input):
            if request not in self._failed():
                outbox.end(request)
        self._raise_failure()
        return any(outbox.room(self._output, request) > 0 for request in inbox.ready(self._input))

    def _take(self, inbox: Inbox, outbox: Outbox) -> list[tuple[str, T]]:
        """Up to ``max_batch`` packets: one of each request in turn, longest waiting first, as far as there is room."""
        batch: list[tuple[str, T]] = []
        room = {request: outbox.room(self._output, request) for request in inbox.ready(self._input)}
        while len(batch) < self.max_batch:
            able = [request for request in inbox.ready(self._input) if room[request] > 0]
            if not able:
                break
            for request in able[: self.max_batch - len(batch)]:
                batch.append((request, inbox.take(self._input, request)))
                room[request] -= 1
        return batch

    def _run(self, packets: list[T]) -> Sequence[U | RequestError]:
        try:
            results = self.forward(packets)
        except RequestError as error:
            results = [error] if len(packets) == 1 else self._run_alone(packets, error)
        if len(results) != len(packets):
            raise NodeError(f"{type(self).__qualname__}.forward made {len(results)} results of {len(packets)} packets")
        return results

    def _run_alone(self, packets: list[T], error: RequestError) -> Sequence[U | RequestError]:
        """Whose fault is it? When nobody's alone, the batch's: the error then fails all of them."""
        results = [result for packet in packets for result in self._run([packet])]
        return results if any(isinstance(result, RequestError) for result in results) else [error] * len(packets)

    def _send(self, batch: list[tuple[str, T]], results: Sequence[U | RequestError], outbox: Outbox) -> None:
        failed: set[str] = set()
        for (request, _), result in zip(batch, results, strict=True):
            if request in failed:
                continue
            if isinstance(result, RequestError):
                failed.add(request)
                self._fail(request, result)
            else:
                outbox.send(self._output, request, result)


class _Stream(Generic[State]):
    """One request of a StreamNode: its state, and the packets that wait for room."""

    __slots__ = ("finished", "pending", "state")

    def __init__(self, state: State) -> None:
        self.state = state
        self.pending: deque[Any] = deque()
        self.finished = False


class StreamNode(_OneToOne, Generic[State, T, U]):
    """A state per request: write ``start``, ``forward`` and ``finish``; declare one In and one Out.

    The law, which ``check_stream`` tests: however the input is cut into chunks, the output as a whole is the same.
    ``forward`` gets up to ``max_batch`` requests at once, one chunk of each. A slice is one batch or one ``finish``.

    Failing: put a RequestError in the result's place to fail that request (its ``request`` is filled in). What ``forward``
    *raises* fails every request of the batch, since their states may be half advanced; what ``finish`` raises fails one.
    """

    @abstractmethod
    def start(self, params: Any) -> State:
        """A new request's state; ``params`` is the class's Params."""

    @abstractmethod
    def forward(self, states: list[State], chunks: list[T]) -> Sequence[U | Sequence[U] | RequestError | None]:
        """What each chunk makes final: nothing, one packet, or several. States are changed in place."""

    @abstractmethod
    def finish(self, state: State) -> U | Sequence[U] | RequestError | None:
        """What is left once the input has ended."""

    @cached_property
    def _streams(self) -> dict[str, _Stream[State]]:
        return {}

    def open(self, request: str, params: Any) -> None:
        """Make the request's state."""
        self._streams[request] = _Stream(self.start(params))

    def close(self, request: str) -> None:
        """Drop it."""
        self._streams.pop(request, None)
        self._forget_failures(request)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        """Finish one request or run one batch; then send what has room."""
        self._raise_failure()
        if not self._finish_one(inbox, outbox):
            self._run_batch(inbox, outbox)
        self._flush(outbox)
        self._raise_failure()
        return bool(self._able(inbox, outbox)) or self._unfinished(inbox) is not None

    def _unfinished(self, inbox: Inbox) -> str | None:
        drained = inbox.drained(self._input)
        return next((request for request in drained if not self._streams[request].finished), None)

    def _finish_one(self, inbox: Inbox, outbox: Outbox) -> bool:
        request = self._unfinished(inbox)
        if request is None:
            return False
        outbox.working(request)
        stream = self._streams[request]
        stream.finished = True
        try:
            self._queue(request, self.finish(stream.state))
        except RequestError as error:
            self._fail(request, error)
        return True

    def _able(self, inbox: Inbox, outbox: Outbox) -> list[str]:
        """Requests whose next chunk may be taken, longest waiting first."""
        return [
            request
            for request in inbox.ready(self._input)
            if not self._streams[request].pending and outbox.room(self._output, request) > 0
        ]

    def _run_batch(self, inbox: Inbox, outbox: Outbox) -> None:
        requests = self._able(inbox, outbox)[: self.max_batch]
        if not requests:
            return
        states = [self._streams[request].state for request in requests]
        chunks = [inbox.take(self._input, request) for request in requests]
        try:
            results = self.forward(states, chunks)
        except RequestError as error:
            results = [error] * len(requests)
        if len(results) != len(requests):
            raise NodeError(f"{type(self).__qualname__}.forward made {len(results)} results of {len(requests)} chunks")
        for request, result in zip(requests, results, strict=True):
            self._queue(request, result)

    def _queue(self, request: str, result: U | Sequence[U] | RequestError | None) -> None:
        if isinstance(result, RequestError):
            self._fail(request, result)
        elif isinstance(result, Sequence):
            self._streams[request].pending.extend(result)
        elif result is not None:
            self._streams[request].pending.append(result)

    def _flush(self, outbox: Outbox) -> None:
        """Send what has room, and end what is finished: an end needs no room."""
        failed = self._failed()
        for request, stream in self._streams.items():
            if request in failed or not (stream.pending or stream.finished):
                continue
            while stream.pending and outbox.room(self._output, request) > 0:
                outbox.send(self._output, request, stream.pending.popleft())
            if stream.finished and not stream.pending:
                outbox.end(request)
