"""The bench checkpoint: Qwen2.5-Omni-3B's proportions, ids that lie apart as published, and answers that do not end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from omni_nodes.qwen2_5_omni import bench_config
from omni_nodes.qwen2_5_omni.quiet import no_token_id_warning
from omni_nodes.qwen2_5_omni.tiny import build_bench
from omni_nodes.qwen2_5_omni.tiny_config import published_config
from omni_nodes.qwen2_5_omni.tiny_tokenizer import build_tokenizer
from tests.nodes.qwen2_5_omni.reference import Reference

# parameters next to those of the Thinker's layers, as published for the 3B
PUBLISHED = {"audio": 638 / 2775, "vision": 669 / 2775, "talker": 358 / 2775, "dit": 334 / 2775, "bigvgan": 115 / 2775}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(bench_config.VOCABULARY, bench_config.corpus())


@pytest.fixture(scope="module")
def config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return published_config(tokenizer, "bench")


def millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_every_stage_keeps_its_share_of_the_published_model(config: dict[str, Any]) -> None:
    with no_token_id_warning(), torch.device("meta"):
        model = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig(**config))
    thinker = millions(model.thinker.model.language_model.layers)
    stages = {
        "audio": model.thinker.model.audio_tower,
        "vision": model.thinker.model.visual,
        "talker": model.talker.model.layers,
        "dit": model.token2wav.code2wav_dit_model,
        "bigvgan": model.token2wav.code2wav_bigvgan_model,
    }
    assert 150 <= thinker <= 300
    for name, module in stages.items():
        assert millions(module) / thinker == pytest.approx(PUBLISHED[name], rel=0.25), name
    assert millions(model.thinker.lm_head) < 0.15 * thinker


def test_ids_lie_apart_as_published(config: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [bench_config.TTS_TEXT_PAD, bench_config.TTS_TEXT_START, bench_config.TTS_TEXT_END]
    texts += bench_config.SPEAKER_BOS.values()
    assert len(tokenizer) <= min(texts) and max(texts) < bench_config.EMBEDDINGS
    talker, dit = config["talker_config"], config["token2wav_config"]["dit_config"]
    for name in ("pad", "start", "end", "mask"):
        assert dit["num_embeds"] + 1 <= talker[f"tts_codec_{name}_token_id"] < talker["vocab_size"]


def test_its_vocabulary_has_a_text_for_every_id(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == bench_config.VOCABULARY + 14
    assert all(len(tokenizer(word)["input_ids"]) == 1 for word in ("user", "assistant"))
    words = " ".join(bench_config.corpus()[:100])
    assert tokenizer.decode(tokenizer(words)["input_ids"]) == words


@pytest.mark.slow
def test_it_answers_for_as_long_as_it_may_and_says_different_things(tmp_path: Path) -> None:
    build_bench(tmp_path / "bench")
    reference = Reference(tmp_path / "bench")
    answer = reference.run([{"role": "user", "content": "hello"}], max_tokens=60, talker_max_tokens=100)
    assert (len(answer.token_ids), len(answer.codes)) == (60, 100)
    assert min(len(set(answer.token_ids)), len(set(answer.codes))) > 20
    assert answer.waveform is not None
    assert 0.05 < abs(answer.waveform).max() < 0.99
