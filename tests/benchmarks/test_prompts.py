"""The benches' questions: as long as they say, and no two alike, or one would be answered from what another left."""

from __future__ import annotations

from benchmarks.closed_loop import ANSWER_TOKENS, PROMPT_TOKENS, text_asks
from benchmarks.prompts import messages
from omni_nodes.qwen2_5_omni.tiny_tokenizer import build_tokenizer


def text_of(name: str) -> str:
    return str(messages(name)[0]["content"][0]["text"])


def test_a_text_has_as_many_tokens_as_its_name_says() -> None:
    tokenizer = build_tokenizer()
    for tokens in PROMPT_TOKENS:
        assert len(tokenizer(text_of(f"text {tokens} 3"))["input_ids"]) == tokens


def test_the_requests_of_a_closed_loop_are_drawn_the_same_each_time_and_differ() -> None:
    asks = text_asks(128)
    assert asks == text_asks(128)
    assert asks[:32] == text_asks(32)
    assert len({text_of(one.prompt) for one in asks}) == 128
    lengths = [one.tokens for one in asks]
    assert ANSWER_TOKENS[0] <= min(lengths) < 30 and 145 < max(lengths) <= ANSWER_TOKENS[1]
    assert {int(one.prompt.split()[1]) for one in asks} == set(PROMPT_TOKENS)
