"""Requests whose sound and pictures are written live, cut as a test wants it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from omni_graph.conversation import conversation_packets
from omni_graph.payload import Array, AudioChunk, VideoFrame
from omni_graph.runtime.app import App, Handle, Result
from tests.nodes.qwen2_5_omni.apps import Messages

LIVE_AUDIO = {"type": "audio", "audio": "live"}
LIVE_VIDEO = {"type": "video", "video": "live"}


def chunks(samples: np.ndarray, sizes: Iterable[int], rate: int = 16_000) -> list[AudioChunk]:
    """``samples`` in chunks of these sizes, over and over."""
    found, start = list[AudioChunk](), 0
    for size in itertools.cycle(sizes):
        if start >= len(samples):
            return found
        found.append(AudioChunk(Array.of(samples[start : start + size]), rate))
        start += size
    raise AssertionError("no sizes")


def shown(clip: np.ndarray, fps: float) -> list[VideoFrame]:
    """A clip uint8 (T, H, W, 3) as frames with their times."""
    return [VideoFrame(Array.of(frame), number / fps) for number, frame in enumerate(clip)]


def in_step(sound: Sequence[AudioChunk], pictures: Sequence[VideoFrame]) -> Iterator[tuple[str, Any]]:
    """Both inputs by the clock, as somebody writes them who records both."""
    time, left = 0.0, list(pictures)
    for chunk in sound:
        time += len(chunk.samples) / chunk.sample_rate
        while left and left[0].time < time:
            yield "video", left.pop(0)
        yield "audio", chunk
    for frame in left:
        yield "video", frame


def begin(app: App, messages: Messages, params: Mapping[str, Any], seed: int = 3, **options: Any) -> Handle:
    """A live request whose conversation has been written."""
    handle = app.open(params=params, seed=seed, **options)
    for packet in conversation_packets(messages):
        handle.write("conversation", packet)
    handle.end("conversation")
    return handle


def say(
    app: App,
    messages: Messages,
    sound: Sequence[AudioChunk] = (),
    pictures: Sequence[VideoFrame] = (),
    *,
    params: Mapping[str, Any],
    seed: int = 3,
) -> Result:
    """A live request, from its conversation to the end of its answer."""
    handle = begin(app, messages, params, seed)
    for name, packet in in_step(sound, pictures):
        handle.write(name, packet)
    return finish(app, handle)


def finish(app: App, handle: Handle) -> Result:
    """End what is live, and read the answer."""
    handle.end("audio")
    handle.end("video")
    return app.collect(handle)
