"""Faults planted in the core, one rule left out at a time: the simulation must find every one of them.

Each is a context in which one method is replaced. ``PLANTED`` says in which setting to look for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from omni_graph.core import CONTROL, WorkerCore
from omni_graph.credit import StreamReceiver, StreamSender
from omni_graph.frames import Data
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_outputs import RequestOutputs
from omni_graph.gateway_request import GatewayRequest
from omni_graph.hosting import HostedNode
from omni_graph.recovery import Recovery
from omni_graph.router import Router
from omni_graph.streams import InStream, OutStream
from tests.core.sim_setting import Setting, replaying

PLANTED: dict[str, tuple[Setting, Callable[[], Any]]] = {}
Fault = Callable[..., Any]


def planted(shape: str, owner: Any, name: str, *, replay: bool = False) -> Callable[[Fault], Fault]:
    """Register ``fault(original)``, which makes the method that stands in for ``owner.name``."""

    def register(fault: Fault) -> Fault:
        @contextmanager
        def plant() -> Iterator[None]:
            with mock.patch.object(owner, name, fault(getattr(owner, name))):
                yield

        PLANTED[fault.__name__] = (replaying(shape) if replay else Setting(shape), plant)
        return fault

    return register


# ---- credit


@planted("chain", WorkerCore, "_on_supply")
def credit_on_arrival(original: Any) -> Any:
    def on_supply(self: WorkerCore, opened: Any, link: Any, frame: Any) -> None:
        original(self, opened, link, frame)
        stream = opened.ins[frame.edge]
        if isinstance(frame, Data) and not stream.flow.closed:
            stream.flow.limit = stream.flow.received + stream.edge.window
            self._emit(link, replace(stream.credit(), taken=stream.flow.received))

    return on_supply


@planted("chain", StreamReceiver, "_grant")
def credit_is_never_returned(original: Any) -> Any:
    return lambda self: None


@planted("chain", StreamSender, "end_due")
def end_before_the_first_credit(original: Any) -> Any:
    def end_due(self: StreamSender) -> bool:
        due = self.ended and not self.end_sent and not self.stopped
        self.end_sent = self.end_sent or due
        return due

    return end_due


@planted("diamond", HostedNode, "room")
def edge_wide_window(original: Any) -> Any:
    def outstanding(self: HostedNode, port: Any, edge: int) -> int:
        streams = (
            s for state in self.requests.values() for s in state.outs.get(port.name, ()) if s.edge.number == edge
        )
        live = [s for s in streams if s.flow.limit is not None and not s.flow.stopped]
        return sum(s.flow.sent - (s.flow.limit - s.edge.window) for s in live)

    def room(self: HostedNode, port: Any, request: str) -> int:
        streams = self.requests[request].outs.get(port.name, ())
        left = [s.edge.window - outstanding(self, port, s.edge.number) for s in streams if not s.flow.stopped]
        return max(0, min([original(self, port, request), *left]))

    return room


@planted("early", HostedNode, "room")
def a_stopped_reader_still_counts(original: Any) -> Any:
    def room(self: HostedNode, port: Any, request: str) -> int:
        return min((s.flow.room for s in self.requests[request].outs.get(port.name, ())), default=1 << 62)

    return room


@planted("chain", HostedNode, "room_changed")
def room_does_not_wake(original: Any) -> Any:
    def room_changed(self: HostedNode, request: str) -> None:
        awake = self.awake
        original(self, request)
        self.awake = awake

    return room_changed


@planted("chain", HostedNode, "writer_ended")
def an_end_does_not_wake(original: Any) -> Any:
    def writer_ended(self: HostedNode, stream: InStream) -> None:
        awake = self.awake
        original(self, stream)
        self.awake = awake

    return writer_ended


@planted("chain", InStream, "take")
def packets_out_of_order(original: Any) -> Any:
    def take(self: InStream) -> Any:
        self.waiting.reverse()
        return original(self)

    return take


# ---- starting and stopping


@planted("chain", WorkerCore, "_start_streams")
def no_grant_at_open(original: Any) -> Any:
    def start(self: WorkerCore, opened: Any) -> None:
        self._heard.clear()
        original(self, opened)

    return start


@planted("chain", WorkerCore, "_start_streams")
def a_grant_without_a_link(original: Any) -> Any:
    def start(self: WorkerCore, opened: Any) -> None:
        self._heard.update(stream.link for stream in opened.ins.values())
        original(self, opened)

    return start


@planted("early", InStream, "on_start")
def no_stop_on_the_start_of_an_ended_node(original: Any) -> Any:
    def on_start(self: InStream) -> Any:
        self.started = True
        return self.credit()

    return on_start


@planted("early", InStream, "close")
def no_stop_upstream(original: Any) -> Any:
    def close(self: InStream) -> None:
        original(self)

    return close


@planted("early", InStream, "close")
def a_stop_without_a_link(original: Any) -> Any:
    def close(self: InStream) -> Any:
        self.linked = True
        return original(self)

    return close


@planted("readers", HostedNode, "_now_drained")
def an_end_reaches_into_an_ended_node(original: Any) -> Any:
    def now_drained(self: HostedNode, state: Any, stream: InStream) -> None:
        self._merge(state, stream.end_choices)
        original(self, state, stream)

    return now_drained


# ---- choices and attempts


@planted("chain", OutStream, "end_if_due")
def choices_dropped_on_the_end(original: Any) -> Any:
    def end_if_due(self: OutStream) -> Any:
        frame = original(self)
        return None if frame is None else replace(frame, choices=())

    return end_if_due


@planted("chain", HostedNode, "_merge")
def choices_taken_are_not_handed_on(original: Any) -> Any:
    def merge(self: HostedNode, state: Any, choices: Any) -> None:
        original(self, state, [choice for choice in choices if choice.node == self.name])

    return merge


@planted("diamond", HostedNode, "writer_ended")
def choices_of_an_end_before_it_drains(original: Any) -> Any:
    def writer_ended(self: HostedNode, stream: InStream) -> None:
        self._merge(self.requests[stream.request], stream.end_choices)
        original(self, stream)

    return writer_ended


@planted("chain", WorkerCore, "_on_edge")
def a_worker_takes_any_attempt(original: Any) -> Any:
    def on_edge(self: WorkerCore, link: Any, frame: Any) -> None:
        opened = self._requests.get(frame.request)
        original(self, link, frame if opened is None else replace(frame, attempt=opened.attempt))

    return on_edge


@planted("chain", GatewayCore, "_open_here")
def the_gateway_takes_any_attempt(original: Any) -> Any:
    def open_here(self: GatewayCore, frame: Any) -> Any:
        one = self._requests.get(frame.request)
        return one if one is not None and one.state == "open" else None

    return open_here


# ---- ends of requests


@planted("chain", Recovery, "_release_if_closed")
def closed_is_not_awaited(original: Any) -> Any:
    def release(self: Recovery, one: GatewayRequest, now: float) -> None:
        one.closing = set()
        original(self, one, now)

    return release


@planted("chain", Recovery, "end")
def two_terminal_events(original: Any) -> Any:
    def end(self: Recovery, one: GatewayRequest, *reason: Any) -> None:
        one.state = "open" if one.state == "closing" else one.state
        original(self, one, *reason)

    return end


@planted("chain", WorkerCore, "_forget")
def a_reset_keeps_the_nodes_state(original: Any) -> Any:
    def forget(self: WorkerCore, request: str) -> str:
        self._requests.pop(request)
        return "{}"

    return forget


@planted("chain", WorkerCore, "_fail")
def one_failure_fails_everybody(original: Any) -> Any:
    def fail(self: WorkerCore, requests: Any, node: str, error: Exception) -> None:
        original(self, tuple(self._requests), node, error)

    return fail


@planted("chain", Router, "_best")
def slots_do_not_bind(original: Any) -> Any:
    def best(self: Router, host: str, *wishes: Any) -> Any:
        return next(iter(self._replicas[host].values()), None)

    return best


@planted("readers", RequestOutputs, "drop")
def an_output_dropped_in_the_queue_comes_all_the_same(original: Any) -> Any:
    def drop(self: RequestOutputs, output: str) -> None:
        if self._streams:
            original(self, output)

    return drop


# ---- losses


@planted("chain", Router, "remove")
def a_death_goes_unnoticed(original: Any) -> Any:
    def remove(self: Router, name: str) -> tuple[str, ...]:
        original(self, name)
        return ()

    return remove


@planted("diamond", WorkerCore, "_lose")
def a_lost_link_is_not_reported(original: Any) -> Any:
    return lambda self, links, code, reason: list(links)


@planted("chain", WorkerCore, "lost")
def a_worker_outlives_the_gateways_word(original: Any) -> Any:
    def lost(self: WorkerCore, link: Any, reason: str) -> None:
        if link != CONTROL:
            original(self, link, reason)

    return lost


# ---- the wedge watch


@planted("chain", WorkerCore, "_states")
def a_busy_node_calls_itself_idle(original: Any) -> Any:
    return lambda self: tuple(state._replace(idle=True) for state in original(self))


@planted("chain", InStream, "counts")
def an_end_under_way_is_not_seen(original: Any) -> Any:
    def counts(self: InStream) -> Any:
        return original(self)._replace(limit=(1 << 63) - 1)

    return counts
