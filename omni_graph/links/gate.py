"""Who may finish a CURVE handshake: the ZAP handler (ZeroMQ RFC 27) of one ZMQ context, in a thread of its own.

A key that has been introduced passes as the name it was introduced for. One that has not waits: its Open may be on its way
to us while the peer already connects. Nobody passes by accident: a gate that fails leaves the door shut, and says so.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from omni_graph.errors import LinkError
from omni_graph.frames import Address
from omni_graph.links.handshake import require_name
from omni_graph.links.keys import Curve
from omni_graph.links.profile import open_socket
from omni_graph.links.wake import Waker

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
VERSION = b"1.0"
KEY_BYTES = 32
MOST_WAITING = 256  # who comes then takes the place of who waited longest
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Caller:
    """One handshake that waits for our answer."""

    route: bytes
    request: bytes
    host: str
    public_key: str
    until: float


class Gate:
    """Answers every CURVE handshake of ``context``. ``failed`` is called, in the gate's thread, if it ends by an error."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        curve: Curve,
        clock: Callable[[], float],
        failed: Callable[[], None],
    ) -> None:
        """zmq.ZMQError when the context has a gate already."""
        self._patience_s = curve.patience_s
        self._clock = clock
        self._failed = failed
        self._names: dict[str, str] = {}
        for address in curve.introduced:
            self._learn(address)
        self._waiting: deque[_Caller] = deque()
        self._closing = False
        self._failure: Exception | None = None
        self._waker = Waker()
        self._socket = open_socket(context, zmq.ROUTER, {zmq.LINGER: 0})
        try:
            self._socket.bind(ZAP_ENDPOINT)
        except zmq.ZMQError:
            self._socket.close(0)
            self._waker.close()
            raise
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._waker.fd, zmq.POLLIN)
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()

    def admit(self, address: Address) -> None:
        """Who holds this address's key may connect, as this name and no other: from now on, and if it waits already."""
        self._learn(address)
        self._waker.wake()

    def _learn(self, address: Address) -> None:
        if address.public_key:
            require_name(address.name)
            self._names[address.public_key] = address.name

    def require_alive(self) -> None:
        """LinkError once the thread has ended by an error: nobody new can come in any more."""
        if self._failure is not None:
            raise LinkError(f"the gate of encrypted links failed: {self._failure}") from self._failure

    def close(self) -> None:
        """End the thread. The sockets it guards must be closed by then."""
        self._closing = True
        self._waker.wake()
        self._thread.join()
        self._waker.close()

    # ---- all below runs in the gate's thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception as error:
            _log.critical("the gate of encrypted links failed", exc_info=True)
            self._shut()
            self._failure = error
            self._failed()
        else:
            self._shut()

    def _shut(self) -> None:
        """From now on libzmq finds no handler and refuses; those who wait are refused by its own timer."""
        self._socket.unbind(ZAP_ENDPOINT)
        self._socket.close(0)

    def _turn(self) -> None:
        ready = {source for source, _ in self._poller.poll(self._wait_ms())}
        if self._waker.fd in ready:
            self._waker.clear()
        if self._socket in ready:
            self._waiting.append(self._caller(self._socket.recv_multipart()))
        now = self._clock()
        self._waiting = deque(caller for caller in self._waiting if not self._decide(caller, now))
        if len(self._waiting) > MOST_WAITING:
            self._refuse(self._waiting.popleft())

    def _wait_ms(self) -> int | None:
        """Until the patience with whoever came first ends; None: nobody waits."""
        if not self._waiting:
            return None
        return max(0, math.ceil((self._waiting[0].until - self._clock()) * 1000))

    def _caller(self, request: list[bytes]) -> _Caller:
        if len(request) != 9 or request[2] != VERSION or request[7] != b"CURVE" or len(request[8]) != KEY_BYTES:
            raise LinkError(f"a ZAP request of {len(request)} parts that is not CURVE of version {VERSION.decode()}")
        route, _, _, number, _, host, _, _, key = request
        until = self._clock() + self._patience_s
        return _Caller(route, number, host.decode(errors="replace"), z85.encode(key).decode(), until)

    def _decide(self, caller: _Caller, now: float) -> bool:
        """Answer who is known, or has waited long enough; False: it waits on."""
        name = self._names.get(caller.public_key)
        if name is not None:
            self._answer(caller, b"200", name.encode())
        elif now >= caller.until:
            self._refuse(caller)
        else:
            return False
        return True

    def _refuse(self, caller: _Caller) -> None:
        _log.warning("refused a caller from %s: nobody introduced its key %s", caller.host, caller.public_key)
        self._answer(caller, b"400", b"")

    def _answer(self, caller: _Caller, status: bytes, user: bytes) -> None:
        """Nothing happens when the caller has left meanwhile."""
        self._socket.send_multipart([caller.route, b"", VERSION, caller.request, status, b"", user, b""])
