"""Pictures that come with their times, sampled by the clock into frame pairs, as ``video.py`` samples a file.

Sample k is the first frame at k / 2 s or later: a slow video's frame may serve several samples. What needs the whole clip
is left out: a clip of less than 2 s keeps its 2 samples a second.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from omni_nodes.media.limits import MediaError, MediaLimits
from omni_nodes.media.video import CLOCK_TOLERANCE, SAMPLES_A_SECOND, FramePair

Picture = NDArray[np.uint8]


class LiveFrames:
    """Frames in, pairs uint8 (2, height, width, 3) out. ``name`` is what errors call it.

    Raises MediaError for what cannot be used, at the frame that shows it.
    """

    def __init__(self, name: str, limits: MediaLimits) -> None:
        self._name = name
        self._limits = limits
        self._shape: tuple[int, ...] = ()
        self._time = 0.0
        self._count = 0
        self._samples: deque[tuple[Picture, int]] = deque()
        self._ended = False

    @property
    def busy(self) -> bool:
        """A pair can be taken."""
        return sum(count for _, count in self._samples) >= (1 if self._ended else 2)

    @property
    def finished(self) -> bool:
        """The last pair was taken."""
        return self._ended and not self._samples

    def push(self, pixels: NDArray[np.generic], time: float) -> None:
        """A frame uint8 (height, width, 3) RGB, shown ``time`` seconds from the start."""
        self._check_picture(pixels)
        if not math.isfinite(time) or time < self._time:
            raise MediaError(
                self._name, f"has a frame at {time:g} s after one at {self._time:g} s; times must not go back"
            )
        self._limits.check_seconds(time, self._name, "video")
        self._time = time
        total = int((time + CLOCK_TOLERANCE) * SAMPLES_A_SECOND) + 1
        if total > self._limits.video_frames:
            allowed = self._limits.video_frames
            raise MediaError(self._name, f"has more than {allowed} frames at 2 a second; at most {allowed} are allowed")
        if total > self._count:
            self._samples.append((pixels.astype(np.uint8, copy=False), total - self._count))
            self._count = total

    def _check_picture(self, pixels: NDArray[np.generic]) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            seen = f"{pixels.dtype} {pixels.shape}"
            raise MediaError(self._name, f"has a frame {seen}; uint8 (height, width, 3) is allowed")
        if not self._shape:
            self._limits.check_picture(pixels.shape[1], pixels.shape[0], self._name)
            self._shape = pixels.shape
        if pixels.shape != self._shape:
            (height, width), (rows, columns) = self._shape[:2], pixels.shape[:2]
            raise MediaError(
                self._name, f"changes its picture size from {width} x {height} to {columns} x {rows}; one is allowed"
            )

    def end(self) -> None:
        """No more will come; an odd last sample is its own partner."""
        self._ended = True

    def pair(self) -> FramePair:
        """The next two samples; there must be ``busy``."""
        first = self._next()
        return np.stack([first, self._next() if self._samples else first])

    def _next(self) -> Picture:
        pixels, count = self._samples.popleft()
        if count > 1:
            self._samples.appendleft((pixels, count - 1))
        return pixels
