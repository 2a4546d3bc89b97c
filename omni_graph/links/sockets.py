"""Links over ZMQ, ipc or tcp: one bound ROUTER for the links that peers open, one DEALER for each that we open.

A connection is a link and its life: it carries a Hello both ways, then frames, and once it ends it never carries one
again. A peer that sends a bad message loses its link and nothing else happens. One thread uses this; any may ``wake``.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from uuid import uuid4

import zmq

from omni_graph.errors import FlowControlError, LinkError
from omni_graph.files import require_files
from omni_graph.frames import Address, Frame, Goaway, Hello, Leaving, LinkId, LinkLost
from omni_graph.links import wire
from omni_graph.links.codec import Codec, Message, WireFrame
from omni_graph.links.counters import LinkCounters, Tally
from omni_graph.links.endpoints import IPC, TCP, bind_endpoints, connect_endpoint, listing
from omni_graph.links.gate import Gate
from omni_graph.links.handshake import (
    REASON_CHARACTERS,
    Refusal,
    announced,
    caller,
    checked_hello,
    hello,
    name_fault,
    new_routing_id,
    opens,
    refusal,
    require_name,
    up_to_goodbye,
)
from omni_graph.links.incoming import Incoming
from omni_graph.links.keys import Curve
from omni_graph.links.mailbox import Arrivals, Mailbox
from omni_graph.links.outgoing import Outgoing
from omni_graph.links.profile import LAN, Heartbeat, require_libzmq, socket_options
from omni_graph.links.wake import Waker

FILES = 32  # more than links open before they have a peer, and pyzmq with them
BATCH = 1024  # messages of one socket in one poll
GOODBYE_MS = 1000  # a Goaway has this long to leave after its link is closed
TOLD_SINGLY, TOLD_EVERY = 20, 1000  # of the bad messages, the first 20 are logged, then one in 1,000
_log = logging.getLogger(__name__)


class ZmqLinks:
    """The Links of one worker or Gateway.

    ``bind``: ``ipc:///directory`` (mode 0700, ours), ``tcp://a.b.c.d[:port]``, or one of each; off loopback tcp needs
    ``curve``. GraphError for anything wider. ``types``: every edge of the plan and its payload class. ``wiring`` must be
    equal at both ends of a link. ``curve``: tcp links are encrypted, and only who was introduced may connect; ipc links
    are not. ``context`` is ended by ``close`` only when it was made here; it can hold one ZmqLinks with ``curve``.
    """

    def __init__(
        self,
        name: str,
        bind: str | Sequence[str],
        types: Mapping[int, type],
        wiring: str = "",
        *,
        curve: Curve | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        heartbeat: Heartbeat = LAN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        require_libzmq(zmq.zmq_version_info())
        require_name(name)
        self._codec = Codec(types)
        self._hello = hello(name, wiring)
        self._heartbeat = heartbeat
        self._clock = clock
        self._keys = None if curve is None else curve.keys
        endpoints = bind_endpoints(bind, self._keys)
        try:
            require_files(FILES)  # libzmq ends the process where it gets none for a context
            wire.start_collector()
        except OSError as error:
            raise LinkError(f"{name} cannot open its links: {error}") from error
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context() if context is None else context
        self._owns_context = context is None
        self._waker = Waker()
        self._gate: Gate | None = None
        self._addresses = {address.name: address for address in (curve.introduced if curve else ())}
        try:
            self._gate = Gate(self._context, curve, self._clock, self._waker.wake) if curve else None
            self._incoming = Incoming(self._context, endpoints, self._options, self._keys)
        except zmq.ZMQError as error:
            self._end_context()
            _unlink(endpoints)
            raise LinkError(f"{name} cannot bind {' '.join(endpoints)}: {error}") from error
        self.address = Address(name, listing(self._incoming.endpoints), self._keys.public if self._keys else "")
        self._poller = zmq.Poller()
        for source in (self._incoming.socket, self._incoming.monitor.socket, self._waker.fd):
            self._poller.register(source, zmq.POLLIN)
        self._token = uuid4().hex[:16]
        self._serial = count(1)
        self._outgoing: dict[LinkId, Outgoing] = {}
        self._sources: dict[object, Outgoing] = {}
        self._mailbox = Mailbox()
        self._woken = False
        self._closed = False
        self._tally = Tally()

    def counters(self) -> LinkCounters:
        """Totals so far."""
        return self._tally.snapshot()

    def introduce(self, address: Address) -> None:
        """How to reach a peer, before the first send to it; where links are encrypted, also that it may connect."""
        self._addresses[address.name] = address
        if self._gate is not None:
            self._gate.admit(address)

    # ---- receiving

    def poll(self, timeout: float) -> Arrivals:
        """What has arrived, by link; see Links.poll. LinkError when encrypted links can no longer be accepted."""
        deadline = self._clock() + timeout
        left = 0.0 if self._mailbox else timeout
        while not self._closed:
            self._collect(left)
            if self._gate is not None:
                self._gate.require_alive()
            left = deadline - self._clock()
            if self._mailbox or self._woken or left <= 0:
                break
        self._woken = False
        return self._mailbox.take()

    def _collect(self, timeout: float) -> None:
        probe = self._incoming.until_probe(self._clock())
        wait = timeout if probe is None else min(timeout, probe)
        ready = {source for source, _ in self._poller.poll(max(0, math.ceil(wait * 1000)))}
        if self._waker.fd in ready:
            self._waker.clear()
            self._woken = True
        for outgoing in {self._sources[source] for source in ready if source in self._sources}:
            self._read_outgoing(outgoing, outgoing.monitor.socket in ready)
        if probe is not None or not ready.isdisjoint({self._incoming.socket, self._incoming.monitor.socket}):
            self._read_incoming(self._incoming.monitor.socket in ready)

    def _read_outgoing(self, outgoing: Outgoing, news: bool) -> None:
        """``news``: its monitor has something to tell, which is heard before the messages that came before it."""
        reason = outgoing.lost() if news else ""
        for message in outgoing.receive(BATCH):
            self._count_received(message)
            self._hear_peer(outgoing, message)
            if self._outgoing.get(outgoing.link) is not outgoing:
                return
        if reason:
            self._lose(outgoing.link, LinkLost(reason))

    def _hear_peer(self, outgoing: Outgoing, message: Message) -> None:
        if message == wire.PROBE:
            return
        try:
            frames = self._codec.decode(message)
            if not outgoing.greeted and not isinstance(frames[0], Refusal):
                checked_hello(self._hello, frames, outgoing.link.peer)
                outgoing.greeted = True
                frames = frames[1:]
            self._deliver(outgoing.link, frames)
        except LinkError as error:
            self._refuse(outgoing.link, str(error))

    def _read_incoming(self, news: bool) -> None:
        now = self._clock()
        if news:
            self._tally.add("refused_callers", self._incoming.note_ends(now))
        messages = 0
        for routing_id, known_as, message in self._incoming.receive(BATCH):
            messages += 1
            self._count_received(message)
            self._hear_caller(routing_id, known_as, message)
        if messages < BATCH and self._incoming.until_probe(now) == 0.0:
            for link in self._incoming.lost(now):
                self._lose(link, LinkLost(f"lost {link.peer}: its connection ended"))

    def _hear_caller(self, routing_id: bytes, known_as: str, message: Message) -> None:
        link = self._incoming.link_of(routing_id)
        if self._incoming.is_over(routing_id):
            self._tally.add("dropped")
        elif link is None:
            self._accept(routing_id, known_as, message)
        elif message != wire.PROBE:
            try:
                self._deliver(link, self._codec.decode(message))
            except LinkError as error:
                self._refuse(link, str(error))

    def _accept(self, routing_id: bytes, known_as: str, message: Message) -> None:
        try:
            if self._closed:
                raise LinkError(f"{self.address.name} is closing")
            link = caller(routing_id, self._hello, self._codec.decode(message), known_as)
        except LinkError as error:
            self._note_bad(f"refused a link from {routing_id!r}: {error}")
            self._incoming.refuse(routing_id, self._encode(refusal(str(error))))
            return
        if link in self._incoming:
            self._lose(link, LinkLost(f"{link.peer} opened the link anew"))
        self._incoming.accept(routing_id, link)
        self._transmit(link, self._encode(self._hello))

    def _deliver(self, link: LinkId, frames: Sequence[WireFrame]) -> None:
        refused = [frame.reason for frame in frames if isinstance(frame, Refusal)]
        if refused:
            self._lose(link, LinkLost(f"{link.peer} ended the link: {refused[0]}"))
            return
        whole, leaving = up_to_goodbye([frame for frame in frames if not isinstance(frame, Refusal)])
        if any(isinstance(frame, Hello) for frame in whole):
            raise LinkError("a second Hello")
        self._mailbox.add(link, whole)
        self._tally.add("frames_received", len(whole))
        if leaving:
            self._lose(link, announced(link.peer))

    # ---- sending

    def send(self, link: LinkId, frames: Sequence[Frame]) -> None:
        """Send in order; never blocks; see Links.send. FlowControlError when a frame is not legal: nothing is sent then."""
        if self._closed:
            raise FlowControlError(f"send on the links of {self.address.name}, which are closed")
        whole, leaving = up_to_goodbye(frames)
        messages = self._codec.encode([*whole, Goaway(Leaving.CLOSING)] if leaving else whole)
        if not messages:
            return
        if not self._is_open(link):
            self._tally.add("dropped", len(frames))
            return
        for message in messages:
            if not self._transmit(link, message):
                reason = self._outgoing[link].lost() if link in self._outgoing else ""
                self._lose(link, LinkLost(reason or f"lost {link.peer}: its connection ended"))
                return
        self._tally.add("frames_sent", len(whole))
        if leaving:
            self._forget(link, GOODBYE_MS)

    def drop(self, link: LinkId) -> None:
        """End a link without waiting; the peer sees LinkLost, we do not."""
        self._mailbox.discard(link)
        if link in self._incoming:
            self._transmit(link, self._encode(refusal(f"{self.address.name} dropped the link")))
        self._forget(link, 0)

    def _is_open(self, link: LinkId) -> bool:
        if self._mailbox.owes_loss(link):
            return False
        if link not in self._outgoing and link not in self._incoming and opens(self.address.name, link.side):
            self._open(link)
        return link in self._outgoing or link in self._incoming

    def _open(self, link: LinkId) -> None:
        try:
            outgoing = self._connect(link)
        except (LinkError, zmq.ZMQError, OSError) as error:
            self._lose(link, LinkLost(f"no link to {link.peer}: {error}"))
            return
        self._outgoing[link] = outgoing
        for source in (outgoing.socket, outgoing.monitor.socket):
            self._sources[source] = outgoing
            self._poller.register(source, zmq.POLLIN)
        self._transmit(link, self._encode(self._hello))

    def _connect(self, link: LinkId) -> Outgoing:
        address = self._addresses.get(link.peer)
        if address is None or name_fault(link.peer):
            raise LinkError(name_fault(link.peer) or "its address is unknown")
        endpoint = connect_endpoint(address, self._keys)
        name = new_routing_id(self.address.name, link.side, f"{self._token}-{next(self._serial)}", link.peer)
        public_key = address.public_key if endpoint.startswith(TCP) else ""
        return Outgoing(self._context, link, endpoint, name, self._options(endpoint), self._keys, public_key)

    def _transmit(self, link: LinkId, message: Message) -> bool:
        outgoing = self._outgoing.get(link)
        sent = outgoing.send(message) if outgoing else self._incoming.send(link, message)
        if sent:
            self._tally.add("messages_sent")
            self._tally.add("bytes_sent", wire.message_bytes(message))
        return sent

    # ---- ends

    def _refuse(self, link: LinkId, reason: str) -> None:
        """End a link whose peer broke the rules, and tell it why."""
        text = f"refused {link.peer}: {reason}"
        self._note_bad(text)
        self._transmit(link, self._encode(refusal(text)))
        self._forget(link, GOODBYE_MS)
        self._lose(link, LinkLost(text))

    def _note_bad(self, text: str) -> None:
        """Count a bad message and log it, with the count; not each of very many: no peer may fill the log."""
        self._tally.add("bad_messages")
        number = self._tally.snapshot().bad_messages
        if number <= TOLD_SINGLY or number % TOLD_EVERY == 0:
            _log.warning("%s: bad message %d: %s", self.address.name, number, text[:REASON_CHARACTERS])

    def _lose(self, link: LinkId, loss: LinkLost) -> None:
        self._forget(link, 0)
        self._mailbox.lose(link, loss)

    def _forget(self, link: LinkId, linger_ms: int) -> None:
        outgoing = self._outgoing.pop(link, None)
        if outgoing is not None:
            for source in (outgoing.socket, outgoing.monitor.socket):
                del self._sources[source]
                self._poller.unregister(source)
            outgoing.close(linger_ms)
        if link in self._incoming:
            self._incoming.end(link)

    def wake(self) -> None:
        """Make a blocked poll return. Thread-safe."""
        self._waker.wake()

    def close(self, drain_s: float) -> None:
        """Goaway on every link, up to ``drain_s`` seconds for what was sent to leave, then free everything. Idempotent."""
        if self._closed:
            return
        self._closed = True
        deadline = self._clock() + drain_s
        goodbye = self._encode(Goaway(Leaving.CLOSING))
        for link in [*self._outgoing, *self._incoming.links()]:
            self._transmit(link, goodbye)
        for link in list(self._outgoing):
            self._forget(link, math.ceil(drain_s * 1000))
        self._await_callers(deadline)
        self._incoming.close(max(0, math.ceil((deadline - self._clock()) * 1000)))
        self._end_context()
        self._mailbox.take()
        _unlink(self._incoming.endpoints)

    def _await_callers(self, deadline: float) -> None:
        """A peer that has read our Goaway disconnects: wait for that, since its unread messages die with the ROUTER."""
        while self._incoming.links() and (left := deadline - self._clock()) > 0:
            self._collect(left)

    def _end_context(self) -> None:
        """Free what the sockets, closed by now, stood on."""
        if self._gate is not None:
            self._gate.close()
        if self._owns_context:
            self._context.term()
        self._waker.close()

    def _options(self, endpoint: str) -> dict[int, int]:
        return socket_options(self._heartbeat, self._codec.max_part_bytes, endpoint)

    def _encode(self, frame: WireFrame) -> Message:
        (message,) = self._codec.encode([frame])
        return message

    def _count_received(self, message: Message) -> None:
        self._tally.add("messages_received")
        self._tally.add("bytes_received", wire.message_bytes(message))


def _unlink(endpoints: Sequence[str]) -> None:
    """Remove the socket files of ipc endpoints; libzmq leaves them, and some may not have been made."""
    for endpoint in endpoints:
        if endpoint.startswith(IPC):
            Path(endpoint.removeprefix(IPC)).unlink(missing_ok=True)
