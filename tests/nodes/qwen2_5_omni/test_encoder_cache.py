"""A medium that comes again, in the whole graph: it is not encoded again, and the answer stays transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import frames, launch, picture, tone
from tests.nodes.qwen2_5_omni.conversations import audio, image, user, video
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.test_parity import check
from tests.runtime.graphs import eventually

ENCODERS = ("audio_encoder", "vision_encoder")
LOOK = user(image(picture(70, 90)), audio(tone(4.6)), video(frames(4, 56, 84)), "what is this?")
SAID = {"role": "assistant", "content": [{"type": "text", "text": "a picture"}]}
TURNS = ([LOOK], [LOOK, SAID, user("and", image(picture(113, 84, 1)), "this?")])


def counted(app: App) -> dict[str, tuple[int, int]]:
    """(hits, misses) of each encoder."""
    stages = app.status()["stages"]
    counters = {name: stages[name]["replicas"][0]["counters"] for name in ENCODERS}
    return {name: (c[f"{name}.cache_hits"], c[f"{name}.cache_misses"]) for name, c in counters.items()}


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        # 3 blocks of sound; a picture and 2 frame pairs, then another picture
        ((), {"audio_encoder": (0, 3), "vision_encoder": (0, 3)}, {"audio_encoder": (3, 3), "vision_encoder": (3, 4)}),
        (tuple(f"nodes.{name}.config.cache_bytes=0" for name in ENCODERS), *[dict.fromkeys(ENCODERS, (0, 0))] * 2),
    ],
    ids=["with a cache", "without"],
)
def test_a_second_turn_encodes_what_is_new(
    settings: tuple[str, ...],
    first: dict[str, tuple[int, int]],
    second: dict[str, tuple[int, int]],
    tiny_folder: Path,
    reference: Reference,
) -> None:
    with launch(tiny_folder, settings=settings) as app:
        for turn, wanted in zip(TURNS, (first, second), strict=True):
            check(app, reference, turn)
            eventually(lambda wanted=wanted: counted(app) == wanted)
