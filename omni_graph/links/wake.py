"""A file descriptor that any thread can make readable: how ``wake`` ends a poll that waits on sockets."""

from __future__ import annotations

import os
import threading


class Waker:
    """An eventfd. ``wake`` may be called by any thread and after ``close``; the rest belongs to the polling thread."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.RLock()  # a signal's handler may wake while the thread that it interrupts closes
        self._closed = False

    def wake(self) -> None:
        """Make ``fd`` readable. The lock keeps it from writing into a descriptor that was closed and used anew."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget the wakes so far; call when ``fd`` is readable."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Free the descriptor."""
        with self._lock:
            self._closed = True
            os.close(self.fd)
