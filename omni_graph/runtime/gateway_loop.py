"""The Gateway's thread: one blocking loop around a GatewayCore, like a worker's. Callers' commands come in from any thread.

Every event of a request goes to its mailbox; nothing here waits for a caller.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from omni_graph.errors import Code, RequestError
from omni_graph.frames import Address, LinkLost, Links, Side
from omni_graph.gateway import GatewayCore
from omni_graph.gateway_request import Ended, Event, Released, Submission
from omni_graph.runtime.sending import send_all

log = logging.getLogger("omni_graph.gateway")
R = TypeVar("R")
IDLE_POLL_S = 5.0
Listener = Callable[[Event], None]


class GatewayLoop:
    """Runs ``core`` over ``links`` until closed. ``on_lost(replica, reason)``: a control link has broken; must not block."""

    def __init__(
        self, core: GatewayCore, links: Links, on_lost: Callable[[str, str], None] = lambda name, reason: None
    ) -> None:
        self._core = core
        self._links = links
        self._commands: deque[Callable[[float], object]] = deque()
        self._listeners: dict[str, Listener] = {}
        self._on_lost = on_lost
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    # ---- from any thread

    def post(self, command: Callable[[GatewayCore, float], object]) -> None:
        """Run ``command(core, now)`` in the Gateway's thread, soon."""
        self._commands.append(lambda now: command(self._core, now))
        self._links.wake()

    def call(self, command: Callable[[GatewayCore, float], R]) -> R:
        """Run ``command(core, now)`` in the Gateway's thread and return its result, or raise what it raised.

        RuntimeError in that thread itself, which pulls the sources of inputs: it would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "the source of an input may not ask its deployment; it is pulled in the Gateway's thread"
            )
        future: Future[R] = Future()

        def run(now: float) -> None:
            try:
                future.set_result(command(self._core, now))
            except Exception as error:
                future.set_exception(error)

        self._commands.append(run)
        self._links.wake()
        while True:
            alive = self._thread.is_alive()
            try:
                return future.result(timeout=1.0 if alive else 0.0)
            except TimeoutError:
                if not alive:
                    raise RequestError("", Code.CLOSED, "the deployment is closed") from None

    def submit(self, submission: Submission, listener: Listener) -> None:
        """Admit a request; its events go to ``listener``, which must not block. Raises what admission raises."""

        def run(core: GatewayCore, now: float) -> None:
            self._listeners[submission.request] = listener
            try:
                core.submit(submission, now)
            except RequestError:
                del self._listeners[submission.request]
                raise

        self.call(run)

    def replica_up(self, host: str, address: Address, revision: int, slots: int) -> None:
        """A replica serves from now on, so many requests at once."""

        def run(core: GatewayCore, now: float) -> None:
            self._links.introduce(address)
            core.replica_up(host, address, now, revision, slots)

        self.call(run)

    def replica_down(self, name: str, code: Code, message: str) -> None:
        """A replica is gone."""
        self.post(lambda core, now: core.replica_down(name, code, message, now))

    def close(self, grace_s: float) -> None:
        """End every request with code ``closed``, say goodbye on every link, and stop the thread."""
        if self._thread.is_alive():
            self.post(lambda core, now: core.cancel_all(now))
            self.post(lambda core, now: setattr(self, "_closing", True))
            self._thread.join(grace_s)

    # ---- the loop

    def _run(self) -> None:
        try:
            while not (self._closing and not self._commands):
                self._turn()
        except Exception:
            log.critical("the Gateway failed", exc_info=True)
            self._fail_everybody()
            raise
        finally:
            self._links.close(drain_s=0.5)
            self._run_commands(time.monotonic())

    def _turn(self) -> None:
        tick = self._core.next_tick(time.monotonic())
        timeout = 0.0 if self._commands else IDLE_POLL_S if tick is None else min(tick, IDLE_POLL_S)
        received = self._links.poll(timeout)
        now = time.monotonic()
        received.sort(key=lambda one: one[0].side is not Side.CONTROL)  # a death is told as one, not as a lost link
        for link, frames in received:
            for frame in frames:
                if isinstance(frame, LinkLost):
                    self._core.lost(link, frame.reason, now)
                    if link.side is Side.CONTROL and not frame.announced:
                        self._on_lost(link.peer, frame.reason)
                else:
                    self._core.receive(link, frame, now)
                for old in self._core.old_links():
                    self._links.drop(old)
        self._run_commands(now)
        self._core.tick(now)
        self._send()
        self._tell_listeners()

    def _run_commands(self, now: float) -> None:
        while self._commands:
            self._commands.popleft()(now)

    def _tell_listeners(self) -> None:
        for request, event in self._core.events():
            listener = self._listeners.get(request)
            if isinstance(event, Released):
                self._listeners.pop(request, None)
            if listener is not None:
                listener(event)

    def _send(self) -> None:
        for link, reason in self._core.broken_links():
            log.error("%s broke the protocol: %s", link.peer, reason)
            self._links.drop(link)
        send_all(
            self._links,
            self._core.outgoing,
            lambda frame, reason: self._core.unsendable(frame, reason, time.monotonic()),
        )

    def _fail_everybody(self) -> None:
        for request, listener in self._listeners.items():
            listener(Ended(RequestError(request, Code.CLOSED, "the Gateway failed; see the log"), 0.0))
            listener(Released({}))
