"""How a command is stopped: Ctrl-C and SIGTERM once, in order; and a reader of our output that has gone away.

A signal raises KeyboardInterrupt in the main thread; those that follow are ignored while everything is taken down.
"""

from __future__ import annotations

import atexit
import io
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130
PATIENCE_S = 20.0
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stoppable() -> Iterator[None]:
    """In the main thread. A SIGHUP that is ignored (``nohup``) stays so.

    After ``PATIENCE_S``, which is more than the end of a deployment takes, a signal counts again: Python drops what is
    raised inside a destructor.
    """
    last = -math.inf
    mine = [one for one in STOPS if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]

    def stop(number: int, frame: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > PATIENCE_S:
            last = now
            raise KeyboardInterrupt

    before = {one: signal.signal(one, stop) for one in mine}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def abandon(*streams: Any) -> None:
    """Nobody reads these any more, or nobody can wait until they do: what is still in their buffers goes nowhere.

    Without this the interpreter writes it out at exit, which complains of a closed pipe or blocks on a full one.
    """
    for stream in streams:
        try:
            number = stream.fileno()
        except (io.UnsupportedOperation, AttributeError, ValueError):
            continue
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def leave_with_threads_since(before: Collection[threading.Thread], code: int) -> None:
    """Where a stage's thread is still at work (it loads weights, or hangs), the process will end under it, with ``code``.

    Python's own way out takes libraries down while such a thread is inside of them, which may abort the process. pyzmq's
    own thread is ended by it in order.
    """
    since = set(threading.enumerate()) - set(before)
    if any(thread.is_alive() and not type(thread).__module__.startswith("zmq.") for thread in since):
        atexit.register(_leave, code)


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(code)


def abandon_output() -> None:
    """Both standard streams."""
    abandon(sys.stdout, sys.stderr)
