"""Nodes that tell where they live."""

from __future__ import annotations

import json
import os
import threading

from omni_graph import In, Inbox, Out, Outbox
from omni_graph.payload import TextDelta


class Where:
    """Answers every packet with its process: environment, folder, and the Ray node it is on."""

    text = In(TextDelta)
    out = Out(TextDelta)

    def open(self, request: str, params: object) -> None:
        pass

    def close(self, request: str) -> None:
        pass

    def step(self, inbox: Inbox, outbox: Outbox) -> bool:
        did = False
        for request in inbox.ready(self.text):
            if outbox.room(self.out, request) > 0:
                inbox.take(self.text, request)
                outbox.send(self.out, request, TextDelta(json.dumps(_here())))
                did = True
        for request in inbox.drained(self.text):
            outbox.end(request)
        return did


def _here() -> dict[str, object]:
    import ray

    keys = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MINE", "RAY_AUTH_MODE")
    return {
        "pid": os.getpid(),
        "nice": os.getpriority(os.PRIO_PROCESS, threading.get_native_id()),
        "env": {key: os.environ.get(key) for key in keys},
        "file": __file__,
        "node": ray.get_runtime_context().get_node_id(),
    }
