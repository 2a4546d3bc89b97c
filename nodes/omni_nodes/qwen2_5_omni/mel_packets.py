"""One window's mel cut into packets. Importing this imports no numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from omni_graph.payload import Array
from omni_nodes.payloads import Mel

if TYPE_CHECKING:
    import numpy as np

PACKET_FRAMES = 144


def packets(mel: np.ndarray, final: int, repeats: int, lookahead: bool) -> Iterator[Mel]:
    """The packets of one window: its ``final`` first rows of ``mel`` (frames, bins), at most PACKET_FRAMES in each.

    With ``lookahead`` the first packet carries the rows after it, as many again, as context.
    """
    size = PACKET_FRAMES - PACKET_FRAMES % repeats
    for start in range(0, final, size):
        end = min(start + size, final)
        ahead = mel[end : end + size] if lookahead and start == 0 else mel[:0]
        yield Mel(Array.of(mel[start:end]), Array.of(ahead), (end - start) // repeats)
