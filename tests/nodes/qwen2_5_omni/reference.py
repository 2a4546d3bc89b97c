"""The oracle of the parity tests: transformers' whole Qwen2.5-Omni, greedy, with its 5.23 bugs mended from outside.

The mends (models say which) are applied to one loaded model only, and only for the version they were written for. What
transformers cannot do at all, the tests must not ask of it: a Thinker reply of exactly one token, and a Talker that ends
with its first code, both crash upstream; there ours gives speech of 0 samples.
"""

from __future__ import annotations

import contextlib
import importlib.util
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import Qwen2_5OmniForConditionalGeneration, Qwen2_5OmniProcessor, Qwen2VLImageProcessorPil

MENDED = "5.23."
SAMPLE_RATE = 24000

Inputs = Mapping[str, Any]  # what the processor returns, and what the model takes


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """``token_ids`` of the reply, with the end token; ``codes`` without it; ``waveform`` float32 (480 * codes,)."""

    token_ids: tuple[int, ...]
    codes: tuple[int, ...] = ()
    waveform: np.ndarray | None = None


class Reference:
    """One checkpoint in transformers. A test that goes through the processor is skipped where torchvision is missing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = Qwen2_5OmniForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval().requires_grad_(False)
        if transformers.__version__.startswith(MENDED):
            mend_talker_inputs(self.model.talker)
        suppress_codes_without_embedding(self.model)
        self._processor: Qwen2_5OmniProcessor | None = None

    @property
    def processor(self) -> Qwen2_5OmniProcessor:
        if importlib.util.find_spec("torchvision") is None:
            pytest.skip(
                "transformers' processor needs torchvision; see tests/torchvision_shim.py for how to install it"
            )
        if self._processor is None:
            self._processor = Qwen2_5OmniProcessor.from_pretrained(self.folder)
            # Pillow's resize is the reference; with torchvision installed the processor would take the other one
            self._processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(self.folder)
        return self._processor

    @property
    def talker_eos(self) -> list[int]:
        """The checkpoint's; generate() has the published ids hard-coded in its signature."""
        talker = self.model.talker
        return [talker.codec_pad_token, talker.codec_eos_token]

    def inputs(
        self,
        messages: Sequence[Mapping[str, Any]] | str,
        audio: Sequence[np.ndarray] = (),
        images: Sequence[Any] = (),
        videos: Sequence[np.ndarray] = (),
        *,
        audio_in_video: bool = False,
        fps: float = 2.0,
        video_size: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """What the processor makes of a conversation, or of text that went through the template already.

        ``audio`` (n,) float32 at 16 kHz; ``images`` PIL images; ``videos`` uint8 (T, H, W, 3) or (T, 3, H, W), sampled at
        ``fps``. With ``audio_in_video`` the k-th audio is the sound of the k-th video. ``video_size`` are the limits of a
        frame in pixels, ``{"shortest_edge", "longest_edge"}``.
        """
        text = messages if isinstance(messages, str) else self.prompt(messages)
        videos_kwargs: dict[str, Any] = {"fps": fps, "cap_pixels_per_frame": False}
        if video_size:
            videos_kwargs["size"] = dict(video_size)
        media: dict[str, Any] = {"audio": list(audio), "images": list(images), "videos": list(videos)}
        media = {name: items for name, items in media.items() if items}
        if audio_in_video:
            media |= {"load_audio_from_video": True, "audio_from_video_indices": list(range(len(videos)))}
        made = dict(self.processor(text=text, return_tensors="pt", videos_kwargs=videos_kwargs, **media))
        if audio_in_video:
            made["use_audio_in_video"] = True
        return made

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The template's text, up to where the assistant speaks."""
        return str(self.processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))

    def run(
        self,
        messages: Sequence[Mapping[str, Any]] | str,
        audio: Sequence[np.ndarray] = (),
        images: Sequence[Any] = (),
        videos: Sequence[np.ndarray] = (),
        *,
        audio_in_video: bool = False,
        fps: float = 2.0,
        video_size: Mapping[str, int] | None = None,
        **choices: Any,
    ) -> Answer:
        """``inputs`` and then ``generate``, whose keywords ``choices`` are."""
        made = self.inputs(
            messages, audio, images, videos, audio_in_video=audio_in_video, fps=fps, video_size=video_size
        )
        return self.generate(made, **choices)

    def generate(
        self,
        inputs: Inputs,
        *,
        max_tokens: int = 16,
        talker_max_tokens: int = 48,
        voice: str = "Chelsie",
        seed: int = 0,
        speech: bool = True,
    ) -> Answer:
        """Greedy tokens, greedy codes (vendor's repetition penalty of 1.05), and the waveform with the noise of ``seed``.

        Raises whatever transformers does, so too for a reply of one token and for speech of no code.
        """
        given = {**inputs, "thinker_max_new_tokens": max_tokens, "thinker_do_sample": False}
        prompt = int(given["input_ids"].shape[1])
        if not speech:
            sequences = self.model.generate(**given, generation_mode="text")
            return Answer(tuple(sequences[0, prompt:].tolist()))
        given |= {
            "talker_max_new_tokens": talker_max_tokens,
            "talker_do_sample": False,
            "talker_eos_token_id": self.talker_eos,
        }
        with self._spy(seed) as codes:
            sequences, waveform = self.model.generate(**given, speaker=voice)
        return Answer(tuple(sequences[0, prompt:].tolist()), tuple(codes), waveform.numpy())

    @contextlib.contextmanager
    def _spy(self, seed: int) -> Iterator[list[int]]:
        """Collects the codes that token2wav is given, and seeds its noise right before it draws."""
        token2wav, codes = self.model.token2wav, list[int]()
        original = token2wav.forward

        def forward(code: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            codes.extend(code[0].tolist())
            torch.manual_seed(seed)
            return original(code, *args, **kwargs)

        token2wav.forward = forward
        try:
            with torch.random.fork_rng(devices=[]):
                yield codes
        finally:
            del token2wav.forward


def mend_talker_inputs(talker: Any) -> None:
    """Two bugs of 5.23, both in what generate() hands to the Talker.

    generate() turns an all-ones attention mask into None, and the Talker adds the codec bos and pad embeddings and TMRoPE
    positions only where it has a mask: so a prompt without padding runs without them, unlike in training. And pixel
    values, which generate() forwards to the Talker, are refused as unused arguments.
    """
    prepare = talker.prepare_inputs_for_generation

    def prepare_inputs_for_generation(
        self: Any,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,  # generate() looks for this name in the signature
        pixel_values: Any = None,
        pixel_values_videos: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        made: dict[str, Any] = prepare(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        given = made["input_ids"] if made.get("inputs_embeds") is None else made["inputs_embeds"]
        if made.get("attention_mask") is None:
            cache = made.get("past_key_values")
            length = given.shape[1] + (0 if cache is None else cache.get_seq_length())
            made["attention_mask"] = torch.ones(given.shape[0], length, dtype=torch.long)
        if made.get("inputs_embeds") is not None:
            made["inputs_embeds"] = made["inputs_embeds"].clone()  # the Talker adds to it in place
        return made

    talker.prepare_inputs_for_generation = types.MethodType(prepare_inputs_for_generation, talker)


def suppress_codes_without_embedding(model: Any) -> None:
    """Let the Talker never choose an id that the DiT has no embedding for, ends excepted.

    transformers suppresses the start mark alone and raises IndexError in the DiT for the others. Ours suppresses them, a
    documented deviation; with this, both choose from the same codes.
    """
    talker = model.talker
    original = talker.generate
    embedded = model.token2wav.code2wav_dit_model.text_embed.codec_embed.num_embeddings
    ends = {talker.codec_pad_token, talker.codec_eos_token}
    without = [code for code in range(embedded, talker.config.vocab_size) if code not in ends]

    def generate(*args: Any, suppress_tokens: Sequence[int], **kwargs: Any) -> Any:
        return original(*args, suppress_tokens=sorted({*suppress_tokens, *without}), **kwargs)

    talker.generate = generate
