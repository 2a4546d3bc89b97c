"""The prompts of the benches, by name, so that two processes can make the same one. A function of the name alone.

``text 60``: a text of that many tokens, digits, each a token of its own in every byte-level vocabulary. ``audio 2``: seconds
of sound and a question; ``image``, ``video``: a picture, a clip, and a question.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

QUESTION = "what is this?"
AUDIO_RATE = 16_000


def messages(name: str) -> list[dict[str, Any]]:
    """The conversation called ``name``, e.g. ``text 60 7`` (7: which of them)."""
    kind, *numbers = name.split()
    makers: dict[str, Callable[..., list[dict[str, Any]]]] = {
        "text": _text,
        "audio": _audio,
        "image": _image,
        "video": _video,
    }
    return [{"role": "user", "content": makers[kind](*(int(one) for one in numbers))}]


def _text(tokens: int, which: int = 0) -> list[dict[str, Any]]:
    digits = random.Random(f"{tokens} {which}").choices("0123456789", k=tokens)
    return [{"type": "text", "text": "".join(digits)}]


def _audio(seconds: int) -> list[dict[str, Any]]:
    return [{"type": "audio", "audio": tone(seconds), "sample_rate": AUDIO_RATE}, {"type": "text", "text": QUESTION}]


def _image() -> list[dict[str, Any]]:
    return [{"type": "image", "image": _pixels(336, 448)}, {"type": "text", "text": QUESTION}]


def _video() -> list[dict[str, Any]]:
    return [{"type": "video", "video": _pixels(8, 224, 308), "fps": 2.0}, {"type": "text", "text": QUESTION}]


def tone(seconds: float) -> np.ndarray:
    """A rising tone with a little noise, float32 (n,)."""
    t = np.arange(int(AUDIO_RATE * seconds)) / AUDIO_RATE
    noise = np.random.default_rng(0).standard_normal(len(t))
    return (0.3 * np.sin(2 * np.pi * (200 + 80 * t) * t) + 0.01 * noise).astype(np.float32)


def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
