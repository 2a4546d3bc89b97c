"""Links with one planted fault each. ``check_link`` must find every one, by the rule that it breaks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from omni_graph.frames import Address, Data, Frame, Goaway, Leaving, LinkId, LinkLost, Side, Start
from omni_graph.links.memory import MemoryHub, MemoryLinks
from omni_graph.payload import Array, AudioChunk

Arrivals = list[tuple[LinkId, Sequence[Frame | LinkLost]]]


class Broken:
    """Passes everything on to MemoryLinks; a fault overrides one thing."""

    def __init__(self, hub: MemoryHub, name: str, wiring: str) -> None:
        self._links = MemoryLinks(hub, name, wiring)
        self.address: Address = self._links.address

    def introduce(self, address: Address) -> None:
        self._links.introduce(address)

    def poll(self, timeout: float) -> Arrivals:
        arrived = self._links.poll(timeout)
        return [(link, changed) for link, events in arrived if (changed := self.hear(link, list(events)))]

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return events

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        self._links.send(link, frames)

    def drop(self, link: LinkId) -> None:
        self._links.drop(link)

    def wake(self) -> None:
        self._links.wake()

    def close(self, drain_s: float) -> None:
        self._links.close(drain_s)


class LosesEverySeventhFrame(Broken):
    breaks = "required_order_is_kept_in_both_directions"
    sent = 0

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        kept = []
        for frame in frames:
            self.sent += 1
            if self.sent % 7:
                kept.append(frame)
        super().send(link, kept)


class SendsSomeTwice(Broken):
    breaks = "required_order_is_kept_in_both_directions"

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        super().send(link, [*frames, *frames[-1:]] if len(frames) > 6 else frames)


class ReversesWhatArrives(Broken):
    breaks = "required_order_is_kept_in_both_directions"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return events[::-1]


class SwapsSides(Broken):
    breaks = "required_order_is_kept_in_both_directions"

    def poll(self, timeout: float) -> Arrivals:
        return [(LinkId(link.peer, Side.CONTROL), events) for link, events in super().poll(timeout)]


class ForgetsChoices(Broken):
    breaks = "required_every_frame_arrives_equal"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return [replace(event, choices=()) if isinstance(event, Data) else event for event in events]


class _ChangesArrays(Broken):
    breaks = "required_arrays_arrive_bit_for_bit"

    def change(self, array: Array) -> Array:
        return array

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return [self._changed(event) for event in events]

    def _changed(self, event: Frame | LinkLost) -> Frame | LinkLost:
        if not isinstance(event, Data) or not isinstance(event.packet, AudioChunk):
            return event
        return replace(event, packet=replace(event.packet, samples=self.change(event.packet.samples)))


class FlipsABitOfBigArrays(_ChangesArrays):
    def change(self, array: Array) -> Array:
        if array.nbytes < 1 << 20:
            return array
        values = array.values.copy()
        values.view("uint8")[777] ^= 1
        return Array.of(values, array.dtype)


class LosesTheBfloat16Tag(_ChangesArrays):
    def change(self, array: Array) -> Array:
        return Array(array.values, "uint16") if array.dtype == "bfloat16" else array


class GivesNoDimensionOne(_ChangesArrays):
    def change(self, array: Array) -> Array:
        return array if array.shape else Array.of(array.values.reshape(1), array.dtype)


class HandsOutWritableArrays(_ChangesArrays):
    def change(self, array: Array) -> Array:
        return Array(array.values.copy(), array.dtype)


class CutsLongSends(Broken):
    breaks = "required_one_send_may_carry_many_frames"

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        super().send(link, frames[:512])


class HasOneLinkForBothWays(Broken):
    breaks = "required_the_links_of_a_pair_are_independent"

    def drop(self, link: LinkId) -> None:
        for side in Side:
            super().drop(LinkId(link.peer, side))


class BlocksWhenNobodyPolls(Broken):
    breaks = "required_send_never_blocks"
    sent = 0

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        self.sent += len(frames)
        if self.sent > 9000:
            threading.Event().wait(2)
        super().send(link, frames)


class TellsTheDropper(Broken):
    breaks = "required_a_drop_is_told_to_the_peer_alone"

    def __init__(self, hub: MemoryHub, name: str, wiring: str) -> None:
        super().__init__(hub, name, wiring)
        self.told: list[LinkId] = []

    def drop(self, link: LinkId) -> None:
        super().drop(link)
        self.told.append(link)

    def poll(self, timeout: float) -> Arrivals:
        told, self.told = self.told, []
        return [*((link, [LinkLost("dropped")]) for link in told), *super().poll(timeout)]


class DropsInSilence(Broken):
    breaks = "required_the_links_of_a_pair_are_independent"

    def drop(self, link: LinkId) -> None:
        pass


class DropRaisesForUnknownLinks(Broken):
    breaks = "required_dropping_nothing_is_harmless"

    def __init__(self, hub: MemoryHub, name: str, wiring: str) -> None:
        super().__init__(hub, name, wiring)
        self.known: set[LinkId] = set()

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        self.known.add(link)
        super().send(link, frames)

    def drop(self, link: LinkId) -> None:
        if link not in self.known:
            raise KeyError(link)
        super().drop(link)


class SwallowsLosses(Broken):
    breaks = "required_a_loss_is_told_once_at_both_ends"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return [event for event in events if not isinstance(event, LinkLost) or "cut" not in event.reason]


class TellsLossesTwice(Broken):
    breaks = "required_a_loss_is_told_once_at_both_ends"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return [again for event in events for again in ([event, event] if "cut" in str(event) else [event])]


class CallsEveryLossAnnounced(Broken):
    breaks = "required_a_loss_is_told_once_at_both_ends"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return [replace(event, announced=True) if isinstance(event, LinkLost) else event for event in events]


class DeliversAfterTheLoss(Broken):
    breaks = "required_a_loss_is_told_once_at_both_ends"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        late: list[Frame | LinkLost] = [Start("late", 1, 0)]
        return [*events, *late] if any("cut" in str(event) for event in events) else events


class ResumesInSilence(Broken):
    """Keeps what was sent around a loss and sends it again on the next link."""

    breaks = "required_a_lost_link_is_not_resumed"

    def __init__(self, hub: MemoryHub, name: str, wiring: str) -> None:
        super().__init__(hub, name, wiring)
        self.recent: dict[LinkId, deque[Frame]] = {}
        self.lost: set[LinkId] = set()

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        kept = self.recent.setdefault(link, deque(maxlen=2))
        if link in self.lost:
            self.lost.discard(link)
            frames = [*kept, *frames]
        kept.extend(frame for frame in frames if isinstance(frame, Start) and frame.request != "request-1")
        super().send(link, frames)

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        if any("cut" in str(event) for event in events):
            self.lost.add(link)
        return events


class LosesAllLinksTogether(Broken):
    breaks = "required_losing_one_link_leaves_the_others"

    def __init__(self, hub: MemoryHub, name: str, wiring: str) -> None:
        super().__init__(hub, name, wiring)
        self.used: set[LinkId] = set()

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        self.used.add(link)
        super().send(link, frames)

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        if any("cut" in str(event) for event in events):
            for other in self.used - {link}:
                self.drop(other)
        return events


class RaisesForUnknownPeers(Broken):
    breaks = "required_an_unknown_peer_is_a_loss"

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        if link.peer == "stranger/0.0":
            raise KeyError(link.peer)
        super().send(link, frames)


class CallsAMissingLinkALoss(Broken):
    breaks = "required_a_reply_without_a_link_is_no_error"

    def __init__(self, hub: MemoryHub, name: str, wiring: str) -> None:
        super().__init__(hub, name, wiring)
        self.heard_of: set[LinkId] = set()
        self.missing: list[LinkId] = []

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        if link.side is Side.READS and link not in self.heard_of:
            self.missing.append(link)
        super().send(link, frames)

    def poll(self, timeout: float) -> Arrivals:
        missing, self.missing = self.missing, []
        arrived = super().poll(timeout)
        self.heard_of |= {link for link, _ in arrived}
        return [*((link, [LinkLost("no link")]) for link in missing), *arrived]


class TalksAcrossWirings(Broken):
    breaks = "required_other_wiring_is_refused_naming_both"

    def __init__(self, hub: MemoryHub, name: str, wiring: str) -> None:
        super().__init__(hub, name, "any")


class KeepsTheOtherWiringToItself(Broken):
    breaks = "required_other_wiring_is_refused_naming_both"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return [replace(e, reason=e.reason.replace("-of-b", "")) if isinstance(e, LinkLost) else e for e in events]


class SleepsThroughWakes(Broken):
    breaks = "required_wake_returns_a_blocked_poll"

    def wake(self) -> None:
        pass


class LosesEveryOtherWake(Broken):
    breaks = "required_wake_returns_a_blocked_poll"
    wakes = 0

    def wake(self) -> None:
        self.wakes += 1
        if self.wakes % 2:
            super().wake()


class ClosesWithoutAWord(Broken):
    breaks = "required_close_is_announced"

    def close(self, drain_s: float) -> None:
        self._links._hub.cut(self.address.name, self.address.name)
        for link in list(self._links._ends):
            self._links.drop(link)
        super().close(drain_s)


class LosesWhatWasSentBeforeClose(Broken):
    breaks = "required_close_is_announced"

    def hear(self, link: LinkId, events: list[Frame | LinkLost]) -> list[Frame | LinkLost]:
        return [events[-1]] if isinstance(events[-1], LinkLost) and events[-1].announced else events


class NeverSaysGoodbye(Broken):
    breaks = "required_a_goodbye_ends_one_link"

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        super().send(link, [frame for frame in frames if frame != Goaway(Leaving.CLOSING)])


FAULTS: tuple[type[Broken], ...] = (
    LosesEverySeventhFrame,
    SendsSomeTwice,
    ReversesWhatArrives,
    SwapsSides,
    ForgetsChoices,
    FlipsABitOfBigArrays,
    LosesTheBfloat16Tag,
    GivesNoDimensionOne,
    HandsOutWritableArrays,
    CutsLongSends,
    HasOneLinkForBothWays,
    BlocksWhenNobodyPolls,
    TellsTheDropper,
    DropsInSilence,
    DropRaisesForUnknownLinks,
    SwallowsLosses,
    TellsLossesTwice,
    CallsEveryLossAnnounced,
    DeliversAfterTheLoss,
    ResumesInSilence,
    LosesAllLinksTogether,
    RaisesForUnknownPeers,
    CallsAMissingLinkALoss,
    TalksAcrossWirings,
    KeepsTheOtherWiringToItself,
    SleepsThroughWakes,
    LosesEveryOtherWake,
    ClosesWithoutAWord,
    LosesWhatWasSentBeforeClose,
    NeverSaysGoodbye,
)
