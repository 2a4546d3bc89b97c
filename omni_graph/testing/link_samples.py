"""The frames that ``check_link`` sends: every kind, with every field away from its default, and arrays of every shape."""

from __future__ import annotations

import numpy as np

from omni_graph.errors import Code
from omni_graph.frames import (
    Address,
    Choice,
    Close,
    Closed,
    Credit,
    Data,
    EdgeCounts,
    EdgeEnds,
    End,
    Frame,
    Goaway,
    Leaving,
    Open,
    Ping,
    Pong,
    Report,
    RequestState,
    Reset,
    Start,
    Stop,
)
from omni_graph.payload import DTYPES, Array, AudioChunk, TextDelta

_BIG = 1 << 62


def _bits(dtype: str) -> Array:
    """Every bit pattern of a byte, as elements of ``dtype``; of a bool, both values."""
    carrier, itemsize = DTYPES[dtype]
    raw = np.arange(2 if dtype == "bool" else 256, dtype=np.uint8)
    return Array.of(np.resize(raw, 256 * itemsize).view(carrier), dtype)


ARRAYS: tuple[Array, ...] = (
    *(_bits(dtype) for dtype in DTYPES),
    Array.empty(0),
    Array.empty(0, 80),
    Array.empty(3, 0, 5, dtype="bfloat16"),
    Array(np.broadcast_to(np.float32(2.5), ()), "float32"),
    Array.of(np.array([[np.nan, np.inf], [-np.inf, -0.0]], np.float32)),
    Array.of(np.arange(2**8, dtype=np.int16).reshape((2,) * 8)),
    Array.of(np.arange(1 << 18, dtype=np.float32)),
    Array.of(np.arange(1 << 19, dtype=np.uint16), "bfloat16"),
)

_WRITER = Address("thinker/0.2", "tcp://127.0.0.1:7000", "public key of the writer")
_READER = Address("talker/1.0", "ipc:///run/talker")
_CHOICES = (Choice("thinker", 0, (151_644,)), Choice("talker", _BIG, (1, -2, _BIG)), Choice("thinker", 1, ()))

EDGE_FRAMES: tuple[Frame, ...] = (
    Start("request", 3, 0),
    Data("request", 3, 0, 0, 12.5, _CHOICES, TextDelta("héllo 世界 \x00", (1, -1, _BIG), "stop", (("tokens", 3),))),
    Data("request", 3, 1, 1, 0.0, (), AudioChunk(Array.of([0.5, -0.5], "float32"), 24_000, (("samples", 2),))),
    Data("request", 3, 2, 2, 0.0, (), TextDelta("x" * 40_000, tuple(range(1000)))),
    Data("request", 3, 3, _BIG, 0.0, _CHOICES, None),
    End("request", 3, 0, _BIG, _CHOICES),
    Stop("request", 3, 3),
    Ping(1.25),
    Goaway(Leaving.DRAINING),
    Credit("request", 3, 0, 7, _BIG),
)
CONTROL_FRAMES: tuple[Frame, ...] = (
    Open(
        "request", 3, (EdgeEnds(0, _WRITER, _READER), EdgeEnds(3, _READER, _WRITER)), '{"thinker": {"top_p": 0.8}}',
        -_BIG, 0.25, 59.5, "00-trace-01", tuple(Choice("thinker", i, (i, -i)) for i in range(5000)), ((0, 0), (3, _BIG)),
    ),
    Open("with a long prompt", 1, (), "p" * 100_000, 7, 0.0, 1.0),
    Close("request", 3),
    Reset("request", 3, Code.LINK_LOST, "talker", "a reason\nof two lines", "vocoder/0.1"),
    Ping(0.5),
)  # fmt: skip
REPORT_FRAMES: tuple[Frame, ...] = (
    Report("request", 3, Code.NODE_FAILED, "talker", "traceback " * 500, "peer"),
    Closed("request", 3, '{"talker": 0.25}'),
    Pong(0.5, (RequestState("a", 1, True, (EdgeCounts(0, 5, -1, 4, _BIG),)), RequestState("é", 2, False, ()))),
    Pong(0.75, tuple(RequestState(f"request-{i}", 1, False, (EdgeCounts(1, i, i, i, i),)) for i in range(1000))),
)
