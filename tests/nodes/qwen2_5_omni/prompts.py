"""Prompts for the Thinker's and the Talker's tests: the reference's inputs, cut into the segments an interleaver would send.

Media rows and positions come from transformers' own towers and get_rope_index, so these tests stand without our encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image

from omni_graph.frames import Data, End, Start
from omni_graph.payload import Array, TextDelta
from omni_graph.testing import run_node
from omni_graph.testing.run import NodeRun
from omni_nodes.payloads import PromptSegment
from omni_nodes.tensors import from_tensor
from tests.nodes.qwen2_5_omni.reference import Reference

QUESTION = "describe the audio and the video, please"
TOKENS = 12


def text_inputs(reference: Reference, text: str) -> dict[str, torch.Tensor]:
    """What the processor makes of a text."""
    return reference.inputs([{"role": "user", "content": [{"type": "text", "text": text}]}])


def media_inputs(reference: Reference) -> dict[str, Any]:
    """A prompt with text, 2.5 s of sound and a picture."""
    rng = np.random.default_rng(0)
    audio = _sound(rng, 2.5)
    picture = Image.fromarray(rng.integers(0, 255, (56, 84, 3), dtype=np.uint8))
    parts = [{"type": "text", "text": "describe"}, {"type": "audio", "audio": "x"}, {"type": "image", "image": "x"}]
    return reference.inputs([{"role": "user", "content": parts}], [audio], [picture])


def video_inputs(reference: Reference) -> dict[str, Any]:
    """A prompt with 3 s of video and its sound: their rows alternate, their positions are joint."""
    rng = np.random.default_rng(1)
    parts = [
        {"type": "text", "text": "watch"},
        {"type": "video", "video": "x"},
        {"type": "text", "text": "what is said?"},
    ]
    frames, messages = rng.integers(0, 255, (6, 56, 84, 3), dtype=np.uint8), [{"role": "user", "content": parts}]
    size = {"shortest_edge": 28 * 28, "longest_edge": 56 * 84}
    return reference.inputs(messages, [_sound(rng, 3.0)], videos=[frames], audio_in_video=True, video_size=size)


def turn_inputs(reference: Reference) -> dict[str, Any]:
    """The second turn of a conversation, with sound in both."""
    rng = np.random.default_rng(2)
    sound = {"type": "audio", "audio": "x"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "You are brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, sound]},
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
        {"role": "user", "content": [sound, {"type": "text", "text": "and now?"}]},
    ]
    return reference.inputs(messages, [_sound(rng, 1.0), _sound(rng, 0.7)])


def _sound(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A tone with a little noise, float32 at 16 kHz."""
    count = int(16_000 * seconds)
    return (0.3 * np.sin(np.arange(count) / 20) + 0.01 * rng.standard_normal(count)).astype(np.float32)


def segments(reference: Reference, inputs: Mapping[str, Any], most: int = 1000) -> list[PromptSegment]:
    """``inputs`` as prompt segments of at most ``most`` rows, each of one modality."""
    thinker = reference.model.thinker
    ids: torch.Tensor = inputs["input_ids"][0]
    config = thinker.config
    kinds = {config.audio_token_id: "audio", config.image_token_id: "image", config.video_token_id: "video"}
    rows = _media_rows(thinker, inputs)
    mel = inputs.get("feature_attention_mask")
    positions, _ = thinker.get_rope_index(
        inputs["input_ids"],
        inputs.get("image_grid_thw"),
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        inputs.get("use_audio_in_video", False),
        None if mel is None else mel.sum(-1),
        inputs.get("video_second_per_grid"),
    )
    modalities = [kinds.get(int(id), "text") for id in ids]
    found: list[PromptSegment] = []
    start = 0
    for modality, group in groupby(modalities):
        left = len(list(group))
        while left:
            end = start + min(left, most)
            embeddings = Array.empty(0, 0)
            if modality != "text":
                embeddings = from_tensor(rows[modality][: end - start])
                rows[modality] = rows[modality][end - start :]
            found.append(
                PromptSegment(
                    from_tensor(ids[start:end]),
                    from_tensor(positions[:, 0, start:end].long()),
                    modality,
                    "user",
                    embeddings,
                    int(positions[:, 0, :end].max()) + 1,
                    end == len(ids),
                )
            )
            left -= end - start
            start = end
    return found


def _media_rows(thinker: Any, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    rows: dict[str, torch.Tensor] = {}
    if "input_features" in inputs:
        mask = inputs["feature_attention_mask"]
        features = inputs["input_features"].permute(0, 2, 1)[mask.bool()].permute(1, 0)
        rows["audio"] = thinker.model.audio_tower(features, feature_lens=mask.sum(-1)).last_hidden_state
    for modality, pixels, grid in (
        ("image", "pixel_values", "image_grid_thw"),
        ("video", "pixel_values_videos", "video_grid_thw"),
    ):
        if pixels in inputs:
            rows[modality] = thinker.model.visual(inputs[pixels], grid_thw=inputs[grid]).pooler_output
    return rows


def talker_inputs(thinker: Any, prompt: Sequence[PromptSegment], max_tokens: int) -> dict[str, list[Any]]:
    """What a Thinker node sends to the Talker for ``prompt``, greedy."""
    sent = run_node(thinker, {"r": {"prompt": prompt}}, {"r": {"max_tokens": max_tokens}})["r"]
    return {"prompt": sent["states"], "thought": sent["thought"]}


def generate(thinker: Any, prompt: Sequence[PromptSegment], **params: Any) -> TextDelta:
    """The whole reply to one prompt."""
    params = {"max_tokens": TOKENS, **params}
    seed = params.pop("seed", 0)
    sent = run_node(thinker, {"r": {"prompt": prompt}}, {"r": params}, seed=seed)["r"]
    return TextDelta.merge(sent["text"])


def close(packets: Sequence[Any], others: Sequence[Any]) -> bool:
    """Packets equal, but for the last bits of their floats: those depend on the batch around a request."""
    return len(packets) == len(others) and all(map(_close, packets, others))


def _close(packet: Any, other: Any) -> bool:
    for field in fields(packet):
        mine, their = getattr(packet, field.name), getattr(other, field.name)
        if not isinstance(mine, Array) or mine.dtype != "float32":
            if mine != their:
                return False
        elif mine.shape != their.shape or not np.allclose(mine.values, their.values, atol=1e-5):
            return False
    return True


class ChoiceRun(NodeRun):
    """A run that notes what each stream carries: {port: [("data", choices) or ("end", choices)]}, choices as tuples."""

    def __init__(self, node: Any) -> None:
        super().__init__(node)
        self.carried: dict[str, list[tuple[str, list[tuple[int, ...]]]]] = {}

    def _on_frame(self, link: Any, frame: Any) -> None:
        if isinstance(frame, Data | End):
            choices = [choice.values for choice in frame.choices]
            carried = self.carried.setdefault(self._edges[frame.edge].writer_port, [])
            carried.append((type(frame).__name__.lower(), choices))
        super()._on_frame(link, frame)


class UnaskedRun(NodeRun):
    """A run whose reader has not granted anything yet."""

    def _on_frame(self, link: Any, frame: Any) -> None:
        if not isinstance(frame, Start):
            super()._on_frame(link, frame)

    def sent(self, request: str, port: str) -> int:
        """Packets that the node's writer could send it."""
        number = next(n for n, edge in self._edges.items() if edge.reader == "node" and edge.reader_port == port)
        return self._senders[request, number].sent
