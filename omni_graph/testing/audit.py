"""A node under watch: the same ports and Params, with an Inbox and an Outbox that hold each call to the rules.

A broken rule is kept as well as raised: the core would take it for an error of the node, like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from omni_graph.node import In, Inbox, Node, Out, Outbox, lookahead_of, params_class, ports_of
from omni_graph.payload import max_packet_bytes, packet_bytes, payload_fields

IDLE_SLICES = 1000


class RuleBroken(AssertionError):
    """A node does what no node may do. ``rule`` is its name in ``RULES``."""

    def __init__(self, rule: str, message: str) -> None:
        self.rule = rule
        super().__init__(f"rule {rule}: {message}")


class Audit:
    """What a node did in one run, and the first rule it broke."""

    def __init__(self, node: Node) -> None:
        ports = ports_of(type(node))
        self.name = type(node).__qualname__
        self.outputs = tuple(ports.outputs.values())
        self.lookahead = lookahead_of(type(node))
        self.broken: RuleBroken | None = None
        self.open: set[str] = set()
        self.packets: list[tuple[str, Any, int]] = []
        self.choices: dict[str, list[tuple[int, ...]]] = {}
        self.taken_without_room: Counter[str] = Counter()
        self.ended: set[tuple[str, str]] = set()
        self.moved = False
        self.idle_slices = 0

    def fail(self, rule: str, message: str) -> None:
        """Keep the first, and raise."""
        self.broken = self.broken or RuleBroken(rule, f"{self.name}{message}")
        raise self.broken

    def check_open(self, request: str, what: str) -> None:
        if request not in self.open:
            self.fail("close", f" calls {what} for a request that is not open here: it was closed, or never opened")

    def saw(self, where: str, packet: Any) -> None:
        """Remember a packet as it is now."""
        self.moved = True
        self.packets.append((where, packet, fingerprint(packet)))

    def check_unchanged(self) -> None:
        """No packet, taken or sent, has changed since."""
        for where, packet, before in self.packets:
            if fingerprint(packet) != before:
                self.fail("immutable", f".{where}: a {type(packet).__qualname__} changed after it was sent")

    def slice_done(self, more: bool) -> None:
        """Count slices that say there is more to do and do none of it."""
        self.idle_slices = 0 if self.moved or not more else self.idle_slices + 1
        self.moved = False
        if self.idle_slices > IDLE_SLICES:
            self.fail("spin", f".step returned True {IDLE_SLICES} times and neither took, sent nor worked")


def fingerprint(packet: Any) -> int:
    """A hash over every field of a packet, array contents included."""
    cls: type = type(packet)
    return hash(tuple(getattr(packet, name) for name, _ in payload_fields(cls)))


def watch(node: Node, audit: Audit) -> Node:
    """``node`` behind the audit, as a node of its own class with the same ports."""
    cls = type(node)
    ports = ports_of(cls)
    members: dict[str, Any] = {
        **ports.inputs,
        **ports.outputs,
        "Params": params_class(cls),
        "lookahead": lookahead_of(cls),
    }
    if hasattr(node, "force"):
        members["force"] = staticmethod(node.force)
    watched: Node = type(f"Watched{cls.__name__}", (_WatchedNode,), members)(node, audit)
    return watched


class _WatchedNode:
    def __init__(self, node: Node, audit: Audit) -> None:
        self._node = node
        self._audit = audit

    def open(self, request: str, params: Any) -> None:
        self._audit.open.add(request)
        self._audit.moved = True
        self._node.open(request, params)

    def close(self, request: str) -> None:
        self._audit.open.discard(request)
        self._audit.moved = True
        self._node.close(request)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        watched = _WatchedOutbox(outbox, self._audit)
        more = bool(self._node.step(_WatchedInbox(inbox, watched, self._audit), watched))
        self._audit.slice_done(more)
        return more


class _WatchedInbox:
    def __init__(self, inbox: Inbox, outbox: Outbox, audit: Audit) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._audit = audit

    def ready(self, port: In[Any]) -> Sequence[str]:
        return self._inbox.ready(port)

    def drained(self, port: In[Any]) -> Sequence[str]:
        return self._inbox.drained(port)

    def take(self, port: In[Any], request: str) -> Any:
        audit = self._audit
        audit.check_open(request, "take")
        live = [p for p in audit.outputs if (request, p.name) not in audit.ended and self._outbox.routed(p, request)]
        if live and all(self._outbox.room(one, request) <= 0 for one in live):
            audit.taken_without_room[request] += 1
            if audit.taken_without_room[request] > audit.lookahead:
                count = audit.taken_without_room[request]
                audit.fail("lookahead", f".{port.name}: {count} packets taken without room; allowed: {audit.lookahead}")
        else:
            audit.taken_without_room[request] = 0
        packet = self._inbox.take(port, request)
        audit.saw(port.name, packet)
        return packet


class _WatchedOutbox:
    def __init__(self, outbox: Outbox, audit: Audit) -> None:
        self._outbox = outbox
        self._audit = audit

    def routed(self, port: Out[Any], request: str) -> bool:
        self._audit.check_open(request, "routed")
        return self._outbox.routed(port, request)

    def room(self, port: Out[Any], request: str) -> int:
        self._audit.check_open(request, "room")
        return self._outbox.room(port, request)

    def send(self, port: Out[Any], request: str, packet: Any) -> None:
        audit = self._audit
        audit.check_open(request, "send")
        if type(packet) is not port.type:
            audit.fail("type", f".{port.name} sends {port.type.__qualname__}, got {type(packet).__qualname__}")
        size, most = packet_bytes(packet), max_packet_bytes(port.type)
        if size > most:
            audit.fail("size", f".{port.name}: a packet of {size} bytes; {port.type.__qualname__} allows {most}")
        if (request, port.name) in audit.ended:
            audit.fail("ends", f".{port.name}: a packet after the end")
        if self._outbox.room(port, request) <= 0:
            audit.fail("room", f".{port.name}: a packet past its room")
        audit.saw(port.name, packet)
        self._outbox.send(port, request, packet)

    def skippable(self, port: Out[Any], request: str) -> bool:
        self._audit.check_open(request, "skippable")
        return self._outbox.skippable(port, request)

    def skip(self, port: Out[Any], request: str) -> None:
        self._audit.check_open(request, "skip")
        self._audit.moved = True
        self._outbox.skip(port, request)

    def end(self, request: str, port: Out[Any] | None = None) -> None:
        self._audit.check_open(request, "end")
        self._audit.moved = True
        self._audit.ended |= {(request, one.name) for one in self._audit.outputs if port in (None, one)}
        self._outbox.end(request, port)

    def choose(self, request: str, choice: tuple[int, ...]) -> None:
        self._audit.check_open(request, "choose")
        if type(choice) is not tuple or not all(type(value) is int for value in choice):
            self._audit.fail("choose", f": a choice is a tuple of int, got {choice!r}")
        self._audit.moved = True
        self._audit.choices.setdefault(request, []).append(choice)
        self._outbox.choose(request, choice)

    def working(self, request: str) -> None:
        self._audit.check_open(request, "working")
        self._audit.moved = True
        self._outbox.working(request)
