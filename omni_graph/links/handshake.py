"""Who may talk to whom: the Hello both ends exchange, and the Refusal that ends a link with a reason.

Both have a layout that never changes, so that two versions can tell each other what they are. Knows no socket.
"""

from __future__ import annotations

from dataclasses import dataclass

from omni_graph.frames import GATEWAY, PROTOCOL_VERSION, Hello, LinkId, Side

REASON_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Refusal:
    """The sender has ended this link: it was dropped, is not acceptable, or carried a bad message. Nothing follows."""

    reason: str


def hello(name: str, wiring: str) -> Hello:
    """What ``name`` says first on every link."""
    return Hello(PROTOCOL_VERSION, wiring, name)


def mismatch(ours: Hello, theirs: Hello) -> str:
    """Why these two must not talk, with both values; empty when they may."""
    if ours.version != theirs.version:
        return f"protocol version {ours.version} at {ours.name}, {theirs.version} at {theirs.name}"
    if ours.wiring != theirs.wiring:
        return f"wiring {ours.wiring!r} at {ours.name}, {theirs.wiring!r} at {theirs.name}"
    return ""


def opens(name: str, side: Side) -> bool:
    """Does ``name`` open links of this side? Writers do, and the Gateway for control; all others are opened to us."""
    return side is Side.WRITES or (side is Side.CONTROL and name == GATEWAY)


def link_at_acceptor(opener: str, side: Side) -> LinkId:
    """The acceptor's LinkId for a link that ``opener`` opened as its ``side``."""
    return LinkId(opener, Side.READS if side is Side.WRITES else side)
