"""A node that sends on what it takes, and never returns from the step in which it takes ``hang``, but for a replay."""

from __future__ import annotations

import threading
from pathlib import Path

from omni_graph import In, Inbox, Out, Outbox
from omni_graph.payload import TextDelta


class Echo:
    """``once``: a file; whoever takes ``hang`` while it is there takes it away and hangs."""

    text = In(TextDelta)
    out = Out(TextDelta)

    def __init__(self, once: str) -> None:
        self._once = Path(once)

    def open(self, request: str, params: object) -> None:
        pass

    def close(self, request: str) -> None:
        pass

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        did = False
        for request in inbox.ready(self.text):
            if outbox.room(self.out, request) > 0:
                packet = inbox.take(self.text, request)
                if packet.text == "hang" and self._once.exists():
                    self._once.unlink()
                    threading.Event().wait()
                outbox.send(self.out, request, packet)
                did = True
        for request in inbox.drained(self.text):
            outbox.end(request)
        return did
