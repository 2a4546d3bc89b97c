"""Makes what `make demo` shows the model: a picture, a sound, and a video with sound of its own. Needs no download.

usage: python make_media.py FOLDER
"""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

RATE = 16_000
FPS = 10
SECONDS = 4

MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": "picture.png"},
            {"type": "audio", "audio": "question.wav"},
            {"type": "video", "video": "clip.mp4", "audio": True},
            {"type": "text", "text": "What do you see and hear?"},
        ],
    }
]


def picture(height: int, width: int, phase: float = 0.0) -> np.ndarray:
    """Coloured waves, uint8 (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width] / 40.0
    waves = [np.sin(x + phase), np.cos(y - phase), np.sin(x + y + 2 * phase)]
    return np.uint8(127 + 120 * np.stack(waves, axis=-1))


def sound(seconds: float, base: float) -> np.ndarray:
    """A rising tone, float32 (n,)."""
    t = np.arange(int(seconds * RATE)) / RATE
    return np.float32(0.3 * np.sin(2 * np.pi * (base + 60 * t) * t))


def write_video(path: Path) -> None:
    """An MP4 of moving waves and a tone."""
    with av.open(str(path), "w") as file:
        video = file.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = file.add_stream("aac", rate=RATE, layout="mono")
        for index in range(SECONDS * FPS):
            frame = av.VideoFrame.from_ndarray(picture(240, 320, index / FPS), format="rgb24")
            file.mux(video.encode(frame))
        samples = sound(SECONDS, 220.0)
        for start in range(0, len(samples), 1024):
            piece = np.ascontiguousarray(samples[None, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            file.mux(audio.encode(frame))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))


def main(folder: Path) -> None:
    """Write the media and the messages that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(210, 350)).save(folder / "picture.png")
    soundfile.write(folder / "question.wav", sound(3.3, 330.0), RATE)
    write_video(folder / "clip.mp4")
    (folder / "messages.json").write_text(json.dumps(MESSAGES, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
