"""Join: two streams of text become one. A plain Node: two inputs fit no ready-made shape.

Invariant: what comes out depends on what came in, never on which side came first.
"""

from __future__ import annotations

from omni_graph.node import In, Inbox, NoParams, Out, Outbox
from omni_graph.payload import TextDelta


class Join:
    """One packet of ``left``, one of ``right``, and so on; when a side has ended, the rest of the other."""

    left = In(TextDelta)
    right = In(TextDelta)
    out = Out(TextDelta)

    def __init__(self) -> None:
        self._turn: dict[str, In[TextDelta]] = {}

    def open(self, request: str, params: NoParams) -> None:
        self._turn[request] = self.left

    def close(self, request: str) -> None:
        self._turn.pop(request, None)

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        for request in self._turn:
            while outbox.room(self.out, request) > 0 and self._move(request, inbox, outbox):
                pass
            if all(request in inbox.drained(port) for port in (self.left, self.right)):
                outbox.end(request)
        return False

    def _move(self, request: str, inbox: Inbox, outbox: Outbox) -> bool:
        """One packet of the side whose turn it is; False while it is still to come."""
        port = self._turn[request]
        other = self.right if port is self.left else self.left
        if request in inbox.drained(port):
            port, other = other, port
        if request not in inbox.ready(port):
            return False
        outbox.send(self.out, request, inbox.take(port, request))
        self._turn[request] = other
        return True
