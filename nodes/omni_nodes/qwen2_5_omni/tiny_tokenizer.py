"""The tokenizer and chat template of the random checkpoints: byte-level BPE with Qwen2.5-Omni's own special tokens.

Every byte is a token, so every text round-trips; ``user`` and ``assistant`` are single tokens, as in the published
vocabulary. The template has the published one's structure: a medium becomes its three marker tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BASE_VOCABULARY = 320

# in the order of the published ids 151643..151656
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
)

# the attributes by which transformers' processor finds them
NAMED_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' or 'audio' in part or 'audio_url' in part -%}
{{ '<|audio_bos|><|AUDIO|><|audio_eos|>' }}
{%- elif part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
{{ '<|vision_bos|><|IMAGE|><|vision_eos|>' }}
{%- elif part['type'] == 'video' or 'video' in part -%}
{{ '<|vision_bos|><|VIDEO|><|vision_eos|>' }}
{%- elif 'text' in part -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""

_CORPUS = (
    "system",
    "user",
    "assistant",
    "You are a helpful assistant.",
    "the quick brown fox jumps over the lazy dog",
    "hello world",
    "describe the audio and the video",
)


def build_tokenizer(vocabulary: int = BASE_VOCABULARY, more_words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """``vocabulary`` text ids, trained on a few English words and on ``more_words``; the special tokens' ids follow."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((*_CORPUS * 50, *more_words), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=NAMED_TOKENS,
        padding_side="left",
        model_max_length=32768,
    )
