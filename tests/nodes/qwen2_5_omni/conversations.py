"""Messages for tests as a caller writes them, and random media for their parts. Nothing is read from disk."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from tests.nodes.media.files import Clip

RNG = np.random.default_rng(0)
VIDEO = Clip(seconds=5.0, fps=8, audio="aac").encode()
BLOCKWISE = Clip(seconds=6.0, fps=8, audio="aac", interleaved=False).encode()
SILENT = Clip(seconds=3.0, fps=8).encode()


def sound(seconds: float) -> np.ndarray:
    return (0.2 * RNG.standard_normal(int(16000 * seconds))).astype(np.float32)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, (*shape, 3), dtype=np.uint8)


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def user(*parts: Mapping[str, Any] | str) -> dict[str, Any]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else dict(part) for part in parts]
    return {"role": "user", "content": content}


def audio(medium: np.ndarray | bytes) -> dict[str, Any]:
    return {"type": "audio", "audio": medium, **({} if isinstance(medium, bytes) else {"sample_rate": 16000})}


def image(medium: np.ndarray | bytes) -> dict[str, Any]:
    return {"type": "image", "image": medium}


def video(medium: np.ndarray | bytes, fps: float = 2.0, **options: Any) -> dict[str, Any]:
    return {"type": "video", "video": medium, **({} if isinstance(medium, bytes) else {"fps": fps}), **options}
