"""Who may talk to whom: the Hello both ends exchange, the Refusal that ends a link with a reason, and the goodbye.

Hello and Refusal have a layout that never changes, so that two versions can tell each other what they are. A routing id
says which side the opener takes: ``side|token|name|called``. Knows no socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.frames import GATEWAY, PROTOCOL_VERSION, Frame, Goaway, Hello, Leaving, LinkId, LinkLost, Side

REASON_CHARACTERS = 500
MAX_NAME_BYTES = 100  # two of them, a side and a token make a routing id of 255 bytes at most


@dataclass(frozen=True, slots=True)
class Refusal:
    """The sender has ended this link: it was dropped, is not acceptable, or carried a bad message. Nothing follows."""

    reason: str


def refusal(reason: str) -> Refusal:
    """A Refusal whose text can always travel, whatever the error it quotes."""
    return Refusal(reason.encode(errors="replace").decode()[:REASON_CHARACTERS])


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


def name_fault(name: str) -> str:
    """Why a peer may not have this name; empty when it may."""
    size = len(name.encode())
    if not 1 <= size <= MAX_NAME_BYTES or "|" in name:
        return f"a link name of {size} bytes, {name[:40]!r}; allowed: 1 to {MAX_NAME_BYTES} bytes and no |"
    return ""


def require_name(name: str) -> None:
    """FlowControlError when nobody may have this name."""
    fault = name_fault(name)
    if fault:
        raise FlowControlError(fault)


def new_routing_id(name: str, side: Side, token: str, called: str) -> bytes:
    """What an opener calls its connection to ``called``; ``token`` is never used twice."""
    return f"{side.value}|{token}|{name}|{called}".encode()


def caller(routing_id: bytes, ours: Hello, frames: Sequence[object], known_as: str = "") -> LinkId:
    """The link that an opener's first message makes, named as its acceptor does. LinkError when it may not.

    ``known_as``: whose key it proved, where links are encrypted; it may not call itself anything else.
    """
    theirs = checked_hello(ours, frames)
    if len(frames) != 1:
        raise LinkError("a Hello must stand alone in its message")
    try:
        word, _, name, called = routing_id.decode().split("|")
        side = Side(word)
    except ValueError:
        raise LinkError("a routing id that is not side|token|name|called") from None
    if called != ours.name:
        raise LinkError(f"{called} expected, {ours.name} found")
    if known_as and known_as != theirs.name:
        raise LinkError(f"the key of {known_as} was used by {theirs.name}")
    if name != theirs.name or not opens(name, side):
        raise LinkError(f"{theirs.name} may not open a link as {side.value} of {name}")
    return link_at_acceptor(name, side)


def checked_hello(ours: Hello, frames: Sequence[object], called: str = "") -> Hello:
    """The Hello that must come first, from whom we ``called`` if we did. LinkError when it is absent or does not fit."""
    theirs = frames[0]
    if not isinstance(theirs, Hello):
        raise LinkError(f"{type(theirs).__name__} before Hello")
    if called and theirs.name != called:
        raise LinkError(f"{called} expected, {theirs.name} found")
    reason = mismatch(ours, theirs)
    if reason:
        raise LinkError(reason)
    return theirs


def up_to_goodbye(frames: Sequence[Frame]) -> tuple[Sequence[Frame], bool]:
    """The frames before the first Goaway(closing), which ends a link, and whether there was one."""
    for index, frame in enumerate(frames):
        if isinstance(frame, Goaway) and frame.reason is Leaving.CLOSING:
            return frames[:index], True
    return frames, False


def announced(peer: str) -> LinkLost:
    """What a Goaway(closing) from ``peer`` becomes."""
    return LinkLost(f"{peer} is closing", announced=True)
