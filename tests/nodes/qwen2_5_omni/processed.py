"""The reference's inputs for messages as a caller writes them: both sides see the same samples, pixels and frames."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from omni_nodes.media.audio import AudioDecoder
from omni_nodes.media.video import FrameReader, probe_video


def decoded(part: Mapping[str, Any]) -> Any:
    """The part's samples, picture or frames, as the processor is handed them: decoded by our own decoders."""
    medium = part[part["type"]]
    if part["type"] == "audio":
        return AudioDecoder(medium, "a").read() if isinstance(medium, bytes) else medium
    if part["type"] == "image":
        return Image.open(io.BytesIO(medium)) if isinstance(medium, bytes) else Image.fromarray(medium)
    if isinstance(medium, bytes):
        return np.concatenate(list(FrameReader(medium, "v", probe_video(medium, "v"))))
    return medium


def processed(reference: Any, messages: Sequence[Mapping[str, Any]], *, heard: bool = False, fps: float = 2.0) -> Any:
    """What the processor makes of the messages; ``heard``: each video with its sound track."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    media = {kind: [decoded(part) for part in parts if part["type"] == kind] for kind in ("audio", "image", "video")}
    if heard:
        tracks = [AudioDecoder(part["video"], "v", medium="video").read() for part in parts if part["type"] == "video"]
        media["audio"] = tracks
    named = [{**message, "content": _named(message["content"])} for message in messages]
    return reference.inputs(named, media["audio"], media["image"], media["video"], audio_in_video=heard, fps=fps)


def _named(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else {"type": part["type"], part["type"]: "x"} for part in content]
