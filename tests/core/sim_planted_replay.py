"""Faults planted in recovery, one rule left out at a time; they join ``PLANTED``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import omni_graph.core as core_module
from omni_graph.admission import Admission, WaitingLine
from omni_graph.choices import ChoiceLedger
from omni_graph.core import WorkerCore
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_outputs import RequestOutputs
from omni_graph.gateway_request import Ended, GatewayRequest
from omni_graph.hosting import HostedNode
from omni_graph.recovery import Loss, Recovery
from omni_graph.replay import Accepted, KeptInputs
from omni_graph.router import Router
from omni_graph.streams import OutStream
from tests.core.sim_nodes import Choosing
from tests.core.sim_planted import planted

# ---- attempts


@planted("omni", WorkerCore, "_on_edge", replay=True)
def a_worker_takes_late_frames_of_any_attempt(original: Any) -> Any:
    def on_edge(self: WorkerCore, link: Any, frame: Any) -> None:
        opened = self._requests.get(frame.request)
        original(self, link, frame if opened is None else replace(frame, attempt=opened.attempt))

    return on_edge


@planted("omni", GatewayCore, "_on_edge", replay=True)
def the_gateway_takes_late_frames_of_any_attempt(original: Any) -> Any:
    def on_edge(self: GatewayCore, link: Any, frame: Any, now: float) -> None:
        one = self._requests.get(frame.request)
        original(self, link, frame if one is None else replace(frame, attempt=one.attempt), now)

    return on_edge


@planted("chain", Recovery, "_release_if_closed", replay=True)
def a_replay_begins_before_all_have_forgotten(original: Any) -> Any:
    def release(self: Recovery, one: GatewayRequest, *rest: Any) -> None:
        if one.state == "resetting":
            one.closing = set()
        original(self, one, *rest)

    return release


@planted("chain", WorkerCore, "_report", replay=True)
def a_worker_goes_on_after_its_report(original: Any) -> Any:
    def report(self: WorkerCore, told: Any) -> None:
        self._emit(core_module.CONTROL, told)

    return report


@planted("chain", WaitingLine, "join", replay=True)
def a_replay_does_not_wait_in_line(original: Any) -> Any:
    def join(self: WaitingLine, one: GatewayRequest) -> None:
        if not one.attempt:
            original(self, one)

    return join


@planted("chain", Recovery, "_reset", replay=True)
def a_loss_is_an_end_and_is_replayed_all_the_same(original: Any) -> Any:
    def reset(self: Recovery, one: GatewayRequest, loss: Loss) -> None:
        original(self, one, loss)
        self._mail.tell(one.request, Ended(one.failure, 0.0))

    return reset


@planted("omni", Recovery, "_know_better", replay=True)
def every_report_uses_up_a_retry(original: Any) -> Any:
    def know_better(self: Recovery, one: GatewayRequest, loss: Loss) -> None:
        original(self, one, loss)
        one.faults += one.state == "resetting"

    return know_better


@planted("chain", GatewayRequest, "may_move", replay=True)
def what_must_run_once_is_replayed(original: Any) -> Any:
    return property(lambda self: self._inputs.replayable)


@planted("chain", GatewayRequest, "may_follow", replay=True)
def a_retry_is_not_used(original: Any) -> Any:
    return property(lambda self: False)


@planted("chain", Router, "share", replay=True)
def probation_never_ends(original: Any) -> Any:
    return lambda self, request: None


# ---- links


@planted("omni", WorkerCore, "old_links", replay=True)
def a_worker_keeps_the_link_that_its_peer_has_lost(original: Any) -> Any:
    return lambda self: []


@planted("chain", GatewayCore, "old_links", replay=True)
def the_gateway_keeps_the_link_that_a_replica_has_lost(original: Any) -> Any:
    return lambda self: []


@planted("chain", Loss, "peer_of", replay=True)
def a_reset_does_not_name_the_peer(original: Any) -> Any:
    return lambda self, name: ""


# ---- choices


@planted("diamond", ChoiceLedger, "add", replay=True)
def a_choice_that_came_two_ways_is_carried_twice(original: Any) -> Any:
    def add(self: ChoiceLedger, choices: Any) -> None:
        for choice in choices:
            self._next[choice.node] = choice.index + 1
            self._pending.append(choice)

    return add


@planted("omni", Choosing, "choose", replay=True)
def a_choice_is_told_after_its_fruit(original: Any) -> Any:
    def choose(self: Choosing, request: str, sides: int, outbox: Any) -> int:
        state = self.requests[request]
        if "late" in state:
            outbox.choose(request, state.pop("late"))
        index, forced = state["count"], state["forced"]
        chosen: int = forced[index][0] if index < len(forced) else self.draw(state["seed"], index, sides)
        state["late"] = (chosen,)
        state["count"] += 1
        return chosen

    return choose


class Deaf:
    """A memory that learns nothing."""

    def learn(self, choices: Any) -> None: ...


def learning_only_from(wanted: str, original: Any) -> Any:
    def on_supply(self: RequestOutputs, link: Any, frame: Any) -> None:
        known = self._choices
        if self._streams[frame.edge].edge.reader_port != wanted:
            self._choices = Deaf()  # type: ignore[assignment]
        original(self, link, frame)
        self._choices = known

    return on_supply


@planted("omni", RequestOutputs, "on_supply", replay=True)
def choices_are_learned_from_text_only(original: Any) -> Any:
    return learning_only_from("text", original)


@planted("omni", RequestOutputs, "on_supply", replay=True)
def choices_are_learned_from_speech_only(original: Any) -> Any:
    return learning_only_from("speech", original)


@planted("chain", RequestOutputs, "forced", replay=True)
def nothing_is_forced(original: Any) -> Any:
    return lambda self: ()


@planted("omni", Admission, "_frame", replay=True)
def only_the_first_node_of_a_replica_is_told_its_choices(original: Any) -> Any:
    def frame(self: Admission, one: GatewayRequest, to: Any, *rest: Any) -> Any:
        made = original(self, one, to, *rest)
        return replace(made, forced=tuple(c for c in made.forced if to.name.startswith(c.node + "/")))

    return frame


@planted("chain", core_module, "_force", replay=True)
def a_node_is_not_told_what_it_chose(original: Any) -> Any:
    return lambda node, request, forced: None


@planted("chain", HostedNode, "_merge", replay=True)
def choices_taken_do_not_travel_on(original: Any) -> Any:
    def merge(self: HostedNode, state: Any, choices: Any) -> None:
        original(self, state, [choice for choice in choices if choice.node == self.name])

    return merge


@planted("early", OutStream, "end_if_due", replay=True)
def the_end_brings_no_choices(original: Any) -> Any:
    def end_if_due(self: OutStream) -> Any:
        frame = original(self)
        return None if frame is None else replace(frame, choices=())

    return end_if_due


# ---- what the client has


@planted("omni", HostedNode, "skip", replay=True)
def a_skipped_packet_does_not_count(original: Any) -> Any:
    return lambda self, port, request: None


@planted("omni", HostedNode, "skippable", replay=True)
def one_packet_too_many_is_skipped(original: Any) -> Any:
    def skippable(self: HostedNode, port: Any, request: str) -> bool:
        readers = self._readers(port, request)
        return bool(readers) and all(s.accepted and s.flow.sent <= s.accepted for s in readers)

    return skippable


@planted("chain", RequestOutputs, "rewind", replay=True)
def the_client_gets_what_it_has(original: Any) -> Any:
    def rewind(self: RequestOutputs) -> None:
        original(self)
        self._accepted = {name: Accepted() for name in self._accepted}

    return rewind


@planted("readers", RequestOutputs, "add_stream", replay=True)
def a_dropped_output_comes_again_in_a_replay(original: Any) -> Any:
    def add_stream(self: RequestOutputs, attempt: int, *rest: Any) -> None:
        dropped = self._dropped
        self._dropped = set() if attempt > 1 else dropped
        original(self, attempt, *rest)

    return add_stream


@planted("chain", KeptInputs, "rewind", replay=True)
def inputs_are_not_given_again(original: Any) -> Any:
    return lambda self: self._taken.clear()


@planted("chain", KeptInputs, "rewind", replay=True)
def inputs_are_given_again_behind_what_is_new(original: Any) -> Any:
    def rewind(self: KeptInputs) -> None:
        for name, packets in self._taken.items():
            self._supplies[name]._ready.extend(packets)
        self._taken.clear()

    return rewind
