"""How a command is stopped: Ctrl-C and SIGTERM once, in order; and a reader of our output that has gone away.

The first signal raises KeyboardInterrupt in the main thread; later ones are ignored while everything is taken down.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stoppable() -> Iterator[None]:
    """In the main thread. A SIGHUP that is ignored (``nohup``) stays so."""
    mine = [one for one in STOPS if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN]

    def stop(number: int, frame: Any) -> None:
        for one in mine:
            signal.signal(one, signal.SIG_IGN)
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

    Python's own way out takes libraries down while such a thread is inside of them, which may abort the process.
    """
    if any(thread.is_alive() for thread in set(threading.enumerate()) - set(before)):
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
