"""A simulated listener: from packets of sound and when they came, when sound can begin and whether it runs dry. Pure.

A machine that is slower than real time can play nothing without a gap. So the listener's clock is slowed: a second of sound
lasts ``pace`` seconds. Either the pace is the machine's own and the listener waits as long as that needs, or the listener
starts with the first packet and the pace is as slow as that needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packet:
    """``sound`` seconds of it, which came ``at`` seconds after the request was sent."""

    at: float
    sound: float


def own_pace(packets: Sequence[Packet]) -> float:
    """Seconds that this machine takes for a second of sound, from the first packet to the last; at least 1, real time."""
    before_last = sum(one.sound for one in packets[:-1])
    return max(1.0, (packets[-1].at - packets[0].at) / before_last) if before_last else 1.0


def start_at(packets: Sequence[Packet], pace: float) -> float:
    """The earliest moment to begin with the first packet so that no later one comes too late."""
    return max(one.at - pace * before for one, before in _with_sound_before(packets))


def slowest_pace(packets: Sequence[Packet]) -> float:
    """The least pace, at least 1, at which a listener who begins with the first packet never runs dry."""
    first = packets[0].at
    return max((1.0, *((one.at - first) / before for one, before in _with_sound_before(packets) if before)))


def underruns(packets: Sequence[Packet], pace: float) -> int:
    """How often a listener who begins with the first packet, and plays on when sound comes again, runs dry."""
    dry, until = 0, packets[0].at
    for one in packets:
        dry += one.at > until + 1e-9
        until = max(until, one.at) + pace * one.sound
    return dry


def _with_sound_before(packets: Sequence[Packet]) -> Iterator[tuple[Packet, float]]:
    before = 0.0
    for one in packets:
        yield one, before
        before += one.sound
