"""How many threads a step computes with: one where it is small, whatever the stage has where it is wide.

Threads of processes that share cores wait without spinning, and are woken for every layer: for the few rows of a decode step
that costs more than a second core gives (docs/performance.md), while a prompt of hundreds of rows takes half the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

WIDE = 64  # rows


@contextmanager
def threads_for(rows: int) -> Iterator[None]:
    """For a computation of so many rows, in this thread."""
    most = torch.get_num_threads()
    if most == 1 or rows >= WIDE:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(most)
