"""Which mel frames each call of the codec DiT computes, which it only looks at, and the codec ids it still needs.

Pure: the windows are a function of the mode, the call's index and the final number of codes; never of time, load or the
order in which codes arrive. Every frame is computed by exactly one window, and windows start on attention blocks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from omni_graph.errors import NodeError

EXACT = "exact"
CHUNK_BLOCKS = (1, 2, 3, 6)


@dataclass(frozen=True, slots=True)
class Context:
    """Attention blocks that a window sees before and after the ones it computes."""

    back: int
    ahead: int


CONTEXTS = {"balanced": Context(back=4, ahead=4), "low_latency": Context(back=2, ahead=1)}
MODES = (EXACT, *CONTEXTS)


@dataclass(frozen=True, slots=True)
class Window:
    """One call, in mel frames of the request: it reads [lo, hi) and its result is [start, end)."""

    index: int
    lo: int
    start: int
    end: int
    hi: int


def chunk_blocks(index: int) -> int:
    """Blocks that call ``index`` computes: 1, 2, 3, then 6 each; small first for the sake of the first audio."""
    return CHUNK_BLOCKS[min(index, len(CHUNK_BLOCKS) - 1)]


def first_block(index: int) -> int:
    """The block at which call ``index`` starts: 0, 1, 3, 6, 12, 18 ..."""
    return sum(CHUNK_BLOCKS[:index]) + CHUNK_BLOCKS[-1] * max(0, index - len(CHUNK_BLOCKS))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The windows of one checkpoint and mode.

    ``exact`` is one window over everything, when the codes have ended. ``balanced`` and ``low_latency`` call as soon as
    a chunk's codes and its look-ahead are there, or with what there is when the codes have ended.
    """

    mode: str
    block_frames: int = 24
    repeats: int = 2

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise NodeError(f"codec_context is {self.mode!r}; allowed: {', '.join(MODES)}")
        if self.block_frames % self.repeats:
            raise NodeError(
                f"a DiT block of {self.block_frames} mel frames is not a whole number of codes of {self.repeats} frames"
            )

    def next_window(self, index: int, codes: int, ended: bool) -> Window | None:
        """Call ``index`` if ``codes`` codes are enough for it; None when it must wait or, ``ended``, does not exist."""
        frames = codes * self.repeats
        if self.mode == EXACT:
            return Window(0, 0, 0, frames, frames) if ended and frames and index == 0 else None
        context = CONTEXTS[self.mode]
        first = first_block(index)
        end = first + chunk_blocks(index)
        start, hi = first * self.block_frames, (end + context.ahead) * self.block_frames
        if start >= frames or (frames < hi and not ended):
            return None
        lo = max(0, first - context.back) * self.block_frames
        return Window(index, lo, start, min(end * self.block_frames, frames), min(hi, frames))

    def blocks(self, window: Window) -> int:
        """Attention blocks that a window's computation covers, its context included."""
        return -(-(window.hi - window.lo) // self.block_frames)

    def codes_wanted(self, index: int) -> int:
        """Codes with which call ``index`` need not wait for the end; unlimited for ``exact``."""
        if self.mode == EXACT:
            return sys.maxsize
        blocks = first_block(index) + chunk_blocks(index) + CONTEXTS[self.mode].ahead
        return blocks * self.block_frames // self.repeats


class CodecTape:
    """A request's codec ids by absolute index; ids that no window can want again are forgotten."""

    def __init__(self) -> None:
        self._first = 0
        self._ids: list[int] = []

    def __len__(self) -> int:
        """Ids received, the forgotten ones included."""
        return self._first + len(self._ids)

    @property
    def kept(self) -> int:
        """Ids held in memory."""
        return len(self._ids)

    def append(self, ids: list[int]) -> None:
        self._ids += ids

    def window(self, lo: int, hi: int) -> list[int]:
        """Ids [lo, hi); those below ``lo`` are forgotten."""
        del self._ids[: lo - self._first]
        self._first = lo
        return self._ids[: hi - lo]
