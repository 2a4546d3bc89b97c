"""What a bench checkpoint's config.json says: Qwen2.5-Omni-3B scaled down until two cores can run it, in its proportions.

Next to a Thinker of 158 M parameters in its layers (2,775 M as published) stand a Talker of 21 M, a codec DiT of 19 M, a
BigVGAN of 7 M and two encoders of 30 M each. Heads have the published width; codec ids are the published ones.
"""

from __future__ import annotations

import random
import string
from typing import Any

VOCABULARY = 16384  # of the tokenizer, without the special tokens
EMBEDDINGS = 16896  # rows of the Thinker's table
TTS_TEXT_PAD, TTS_TEXT_START, TTS_TEXT_END = 16859, 16860, 16861
SPEAKER_BOS = {"Chelsie": 16872, "Ethan": 16869}
CORPUS_WORDS = 60_000

BENCH: dict[str, Any] = {
    "thinker_config": {
        "audio_config": {
            "d_model": 512,
            "encoder_layers": 9,
            "encoder_attention_heads": 8,
            "encoder_ffn_dim": 2048,
            "output_dim": 1024,
        },
        "vision_config": {
            "depth": 8,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_heads": 8,
            "out_hidden_size": 1024,
            "fullatt_block_indexes": [3, 7],
        },
        "text_config": {
            "vocab_size": EMBEDDINGS,
            "hidden_size": 1024,
            "intermediate_size": 2816,
            "num_hidden_layers": 14,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
        },
    },
    "talker_config": {
        "vocab_size": 8448,
        "tts_text_pad_token_id": TTS_TEXT_PAD,
        "tts_text_start_token_id": TTS_TEXT_START,
        "tts_text_end_token_id": TTS_TEXT_END,
        "tts_codec_pad_token_id": 8292,
        "tts_codec_start_token_id": 8293,
        "tts_codec_end_token_id": 8294,
        "tts_codec_mask_token_id": 8296,
        "embedding_size": 1024,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 9,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    },
    "token2wav_config": {
        "dit_config": {
            "hidden_size": 384,
            "num_hidden_layers": 9,
            "num_attention_heads": 6,
            "head_dim": 64,
            "ff_mult": 2,
            "emb_dim": 256,
            "look_ahead_layers": [4],
            "look_backward_layers": [0, 8],
            "num_embeds": 8193,
            "enc_dim": 64,
            "enc_channels": [96, 96, 96, 96, 288],
            "enc_attention_channels": 32,
            "enc_res2net_scale": 4,
            "enc_se_channels": 32,
        },
        "bigvgan_config": {"upsample_initial_channel": 384},
    },
}


def corpus() -> tuple[str, ...]:
    """Made-up words, always the same, from which a tokenizer of VOCABULARY ids can be trained."""
    letters = random.Random(0)
    return tuple("".join(letters.choices(string.ascii_lowercase, k=letters.randint(2, 7))) for _ in range(CORPUS_WORDS))
