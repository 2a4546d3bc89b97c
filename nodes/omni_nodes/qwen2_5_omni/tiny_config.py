"""What the files of a tiny checkpoint say: config.json as published, at tiny sizes, and the processors' values.

Ids keep the published layout: text ids of speech lie above the tokenizer's, codec specials above the DiT's embeddings.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerFast

from omni_nodes.qwen2_5_omni import bench_config

# Text ids above the tokenizer's, and codec ids above the DiT's: as published, 151859.. and 8292..
TTS_TEXT_PAD, TTS_TEXT_START, TTS_TEXT_END = 400, 401, 402
SPEAKER_BOS = {"Chelsie": 405, "Ethan": 408}
NUM_EMBEDS = 99  # the DiT has one row more: ids 0..99
CODEC_PAD, CODEC_START, CODEC_END, CODEC_MASK = 108, 109, 110, 112

IMAGE_MEAN = [0.48145466, 0.4578275, 0.40821073]
IMAGE_STD = [0.26862954, 0.26130258, 0.27577711]
MEL = {
    "chunk_length": 300,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 4800000,
    "nb_max_frames": 30000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}
PATCHES = {
    "image_mean": IMAGE_MEAN,
    "image_std": IMAGE_STD,
    "merge_size": 2,
    "patch_size": 14,
    "temporal_patch_size": 2,
}
_ODD: dict[str, Any] = {
    "thinker_config": {
        "audio_config": {"d_model": 48, "encoder_attention_heads": 3, "encoder_layers": 3, "output_dim": 80},
        "vision_config": {
            "depth": 4,
            "num_heads": 3,
            "hidden_size": 48,
            "out_hidden_size": 80,
            "fullatt_block_indexes": [0, 2],
            "window_size": 84,
        },
        "text_config": {
            "hidden_size": 80,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "num_key_value_heads": 1,
        },
    },
    "talker_config": {
        "embedding_size": 80,
        "hidden_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
    },
    "token2wav_config": {
        "dit_config": {
            "hidden_size": 48,
            "num_attention_heads": 3,
            "num_hidden_layers": 5,
            "block_size": 12,
            "look_ahead_layers": [0, 3],
            "look_backward_layers": [1, 4],
            "enc_emb_dim": 24,
        },
    },
}


_SHAPES: dict[str, dict[str, Any]] = {"odd": _ODD, "bench": bench_config.BENCH}


def published_config(tokenizer: PreTrainedTokenizerFast, shape: str) -> dict[str, Any]:
    """config.json with the hub's keys (rope_scaling, rope_theta, torch_dtype) and this tokenizer's ids."""
    config = _default_config(tokenizer)
    _override(config, _SHAPES.get(shape, {}))
    return config


def speaker_bos(shape: str) -> dict[str, int]:
    """{voice: the text id that its speech begins with}."""
    return bench_config.SPEAKER_BOS if shape == "bench" else SPEAKER_BOS


def _default_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    def id_of(token: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(token))

    rope = {
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
        "max_position_embeddings": 32768,
        "torch_dtype": "float32",
    }
    media = {
        "audio_token_index": id_of("<|AUDIO|>"),
        "image_token_index": id_of("<|IMAGE|>"),
        "video_token_index": id_of("<|VIDEO|>"),
        "audio_start_token_id": id_of("<|audio_bos|>"),
        "audio_end_token_id": id_of("<|audio_eos|>"),
        "vision_start_token_id": id_of("<|vision_bos|>"),
        "vision_end_token_id": id_of("<|vision_eos|>"),
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
    }
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": True,
        "torch_dtype": "float32",
        "thinker_config": {
            **media,
            "bos_token_id": id_of("<|im_start|>"),
            "eos_token_id": id_of("<|im_end|>"),
            "pad_token_id": id_of("<|endoftext|>"),
            "user_token_id": tokenizer("user")["input_ids"][0],
            "model_type": "qwen2_5_omni_thinker",
            "audio_config": _audio_config(),
            "vision_config": _vision_config(),
            "text_config": {
                **rope,
                "model_type": "qwen2_5_omni_text",
                "vocab_size": 512,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "tie_word_embeddings": False,
            },
        },
        "talker_config": {**media, **rope, **_talker_config()},
        "token2wav_config": _token2wav_config(),
    }


def _audio_config() -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_omni_audio_encoder",
        "num_mel_bins": 128,
        "d_model": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "n_window": 100,
        "max_source_positions": 1500,
        "output_dim": 64,
    }


def _vision_config() -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_omni_vision_encoder",
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_heads": 4,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1],
    }


def _talker_config() -> dict[str, Any]:
    """Heads times head_dim is not the hidden size, as published."""
    return {
        "model_type": "qwen2_5_omni_talker",
        "vocab_size": 128,
        "tts_text_pad_token_id": TTS_TEXT_PAD,
        "tts_text_start_token_id": TTS_TEXT_START,
        "tts_text_end_token_id": TTS_TEXT_END,
        "tts_codec_pad_token_id": CODEC_PAD,
        "tts_codec_start_token_id": CODEC_START,
        "tts_codec_end_token_id": CODEC_END,
        "tts_codec_mask_token_id": CODEC_MASK,
        "embedding_size": 64,
        "hidden_size": 56,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "spatial_merge_size": 2,
    }


def _token2wav_config() -> dict[str, Any]:
    return {
        "model_type": "qwen2_5_omni_token2wav",
        "dit_config": {
            "model_type": "qwen2_5_omni_dit",
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "head_dim": 16,
            "ff_mult": 2,
            "emb_dim": 32,
            "block_size": 24,
            "look_ahead_layers": [1],
            "look_backward_layers": [0, 2],
            "repeats": 2,
            "num_embeds": NUM_EMBEDS,
            "mel_dim": 80,
            "enc_emb_dim": 192,
            "enc_dim": 16,
            "enc_channels": [16, 16, 16, 16, 48],
            "enc_kernel_sizes": [5, 3, 3, 3, 1],
            "enc_dilations": [1, 2, 3, 4, 1],
            "enc_attention_channels": 8,
            "enc_res2net_scale": 2,
            "enc_se_channels": 8,
        },
        "bigvgan_config": {"model_type": "qwen2_5_omni_bigvgan", "mel_dim": 80, "upsample_initial_channel": 128},
    }


def _override(config: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            _override(config[key], value)
        else:
            config[key] = value
