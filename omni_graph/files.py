"""File descriptors: whether this process may open some more. Without, it gets no connection and starts no process."""

from __future__ import annotations

import os


def require_files(count: int) -> None:
    """OSError, with the errno of the limit that was met (EMFILE, ENFILE), when fewer than ``count`` can be opened now."""
    opened: list[int] = []
    try:
        opened.extend(os.eventfd(0) for _ in range(count))
    finally:
        for number in opened:
            os.close(number)
