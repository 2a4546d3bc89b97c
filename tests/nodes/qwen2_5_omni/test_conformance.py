"""The stages around the language models are held to every rule of a node, as users' own nodes are.

Thinker and Talker, which choose, are held to them beside their own tests. Whatever shares a call, floats agree to 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omni_graph.conversation import conversation_packets
from omni_graph.payload import Array, payload_fields
from omni_graph.testing import check_node
from omni_nodes.payloads import Codes, Embeddings, Mel, MelChunk, Patches
from omni_nodes.qwen2_5_omni.audio_encoder import AudioEncoder
from omni_nodes.qwen2_5_omni.bigvgan import BigVGAN
from omni_nodes.qwen2_5_omni.checkpoint import open_checkpoint
from omni_nodes.qwen2_5_omni.codec_dit import CodecDiT
from omni_nodes.qwen2_5_omni.frontend import Frontend
from omni_nodes.qwen2_5_omni.interleaver import Interleaver
from omni_nodes.qwen2_5_omni.layout import AudioSpan, ImageSpan, Run, Span, lay_out
from omni_nodes.qwen2_5_omni.vision_encoder import VisionEncoder
from tests.nodes.qwen2_5_omni.conversations import audio, image, pixels, sound, user, video

SEEDS = range(3)
PATCH_WIDTH = 1176  # 3 channels x 2 frames x 14 x 14 pixels


def close(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """As many packets, equal in everything but floats, which agree to 1e-5."""
    if [type(packet) for packet in ours] != [type(packet) for packet in theirs]:
        return False
    return all(
        _field_close(getattr(one, name), getattr(other, name))
        for one, other in zip(ours, theirs, strict=True)
        for name, _ in payload_fields(type(one))
    )


def _field_close(one: Any, other: Any) -> bool:
    if not isinstance(one, Array):
        return bool(one == other)
    return one.shape == other.shape and one.dtype == other.dtype and np.allclose(one.values, other.values, atol=1e-5)


def noise(*shape: int) -> np.ndarray:
    """Normal float32 of this shape, the same each time."""
    return np.random.default_rng(shape).standard_normal(shape, "float32")


def test_the_frontend(tiny_folder: Path) -> None:
    conversations = [
        [user("hear and see", audio(sound(2.3)), image(pixels(56, 84)), image(pixels(28, 28)))],
        [user("only text")],
        [user(video(pixels(4, 28, 56)), "then", audio(sound(0.2)))],
    ]
    inputs = [{"conversation": list(conversation_packets(one))} for one in conversations]
    node = Frontend(str(tiny_folder))
    check_node(lambda: node, inputs, seeds=SEEDS)


def test_the_audio_encoder(tiny_folder: Path) -> None:
    """Also a tail that is too short for a token, and a request without sound."""
    clips = [[200, 200, 57], [200, 2], []]
    inputs = [{"features": [MelChunk(Array.of(noise(128, frames)), 0) for frames in clip]} for clip in clips]
    node = AudioEncoder(str(tiny_folder), max_batch=2, device="cpu")
    check_node(lambda: node, inputs, seeds=SEEDS, equal=close)


def pieces(height: int, width: int, span: int, *sizes: int) -> list[Patches]:
    """A picture of ``height`` x ``width`` patches in pieces of ``sizes`` rows."""
    rows = noise(height * width, PATCH_WIDTH)
    cuts = list(pairwise(np.cumsum((0, *sizes)).tolist()))
    assert cuts[-1][1] == len(rows)
    grid = (1, height, width)
    return [Patches(Array.of(rows[start:end]), grid, span, end == len(rows)) for start, end in cuts]


def test_the_vision_encoder(tiny_folder: Path) -> None:
    """Pictures whole and in pieces, and a request without one."""
    pictures = [[*pieces(4, 6, 0, 24), *pieces(4, 4, 1, 10, 6)], [*pieces(2, 2, 0, 4), *pieces(4, 6, 0, 7, 8, 9)], []]
    node = VisionEncoder(str(tiny_folder), max_batch=2, device="cpu")
    check_node(lambda: node, [{"patches": one} for one in pictures], seeds=SEEDS, equal=close)


def prompt(folder: Path, spans: list[Span], rows_each: int) -> dict[str, list[Any]]:
    """The layout of a prompt with these media, and their rows in packets of ``rows_each``."""
    tokens = open_checkpoint(str(folder)).settings.tokens
    placeholders = [tokens.audio if isinstance(span, AudioSpan) else tokens.image for span in spans]
    ids = [id_ for placeholder in placeholders for id_ in (tokens.vision_start, placeholder, tokens.vision_end)]
    layout = list(lay_out([Run("user", (1, 2, *ids)), Run("assistant", (8, 9))], spans, tokens, 2))
    inputs: dict[str, list[Any]] = {"layout": layout}
    for port, kind in (("audio", "audio"), ("vision", "image")):
        rows = noise(sum(len(segment.token_ids) for segment in layout if segment.kind == kind), 64)
        inputs[port] = [Embeddings(Array.of(rows[i : i + rows_each])) for i in range(0, len(rows), rows_each)]
    return inputs


def test_the_interleaver(tiny_folder: Path) -> None:
    spans: list[Span] = [AudioSpan(30), ImageSpan((1, 4, 6)), AudioSpan(7), ImageSpan((1, 2, 8))]
    inputs = [prompt(tiny_folder, spans, 4), prompt(tiny_folder, [], 1), prompt(tiny_folder, spans[1:], 20)]
    node = Interleaver(str(tiny_folder))
    check_node(lambda: node, inputs, seeds=SEEDS)


def codes(count: int, each: int) -> list[Codes]:
    """``count`` codec ids in packets of ``each``."""
    ids = np.random.default_rng(count).integers(0, 99, (count, 1))
    return [Codes(Array.of(ids[i : i + each]), "Chelsie") for i in range(0, count, each)]


@pytest.mark.parametrize("context", ["exact", "low_latency"])
def test_the_codec_dit(tiny_folder: Path, context: str) -> None:
    """Windows of several requests share an evaluation."""
    inputs: list[dict[str, list[Codes]]] = [{"codes": codes(27, 5)}, {"codes": codes(4, 1)}, {"codes": []}]
    node = CodecDiT(str(tiny_folder), context, max_blocks=2, device="cpu")
    check_node(lambda: node, inputs, seeds=range(2), equal=close)
    assert not node.held()


def mel(*sizes: int, lookahead: int = 0) -> list[Mel]:
    """Packets of these many frames; the first with frames of what follows it."""
    frames = noise(sum(sizes), 80) - 3
    cuts = list(pairwise(np.cumsum((0, *sizes)).tolist()))
    aheads = [frames[end : end + lookahead] if start == 0 else frames[:0] for start, end in cuts]
    return [Mel(Array.of(frames[s:e]), Array.of(a), (e - s) // 2) for (s, e), a in zip(cuts, aheads, strict=True)]


def test_the_vocoder(tiny_folder: Path) -> None:
    """Also a replay in which it skips the sound that the client has."""
    inputs: list[dict[str, list[Mel]]] = [{"mel": mel(16, 8, lookahead=8)}, {"mel": mel(4)}, {"mel": []}]
    node = BigVGAN(str(tiny_folder), max_frames=40, device="cpu")
    check_node(lambda: node, inputs, seeds=range(2), equal=close)
    assert not node.held()
