"""Text in pieces: they concatenate to what transformers decodes, never split a character, and end before a stop string."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from omni_nodes.qwen2_5_omni.detokenizer import Detokenizer, Vocabulary
from omni_nodes.qwen2_5_omni.reply import Reply, StopRule
from omni_nodes.qwen2_5_omni.settings import CheckpointError
from omni_nodes.qwen2_5_omni.tiny_tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
TOKENIZER.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("naïve …", special=False)])
VOCABULARY = Vocabulary(TOKENIZER.backend_tokenizer)
UNKNOWN = 400
IDS = st.lists(st.one_of(st.integers(0, len(TOKENIZER) + 3), st.just(UNKNOWN)), max_size=30)


def decoded(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def pieces(ids: list[int], stop: tuple[str, ...] = ()) -> list[str]:
    detokenizer = Detokenizer(VOCABULARY, stop)
    return [*(detokenizer.push(id) for id in ids), detokenizer.finish()]


@given(IDS)
def test_pieces_of_any_ids_concatenate_to_what_transformers_decodes(ids: list[int]) -> None:
    """Special, unknown and added ids included, and bytes that are no UTF-8."""
    assert "".join(pieces(ids)) == decoded(ids)


@given(st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20))
def test_no_piece_splits_a_character(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    parts = pieces(ids)
    assert "".join(parts) == decoded(ids) == text
    assert ("�" in "".join(parts)) == ("�" in text)


def test_a_character_of_four_bytes_comes_with_its_last_token() -> None:
    ids = TOKENIZER("🦊", add_special_tokens=False)["input_ids"]
    assert pieces(ids) == ["", "", "", "🦊", ""]
    assert pieces(ids[:3]) == ["", "", "", "�"]


@given(st.text("abé", max_size=20), st.lists(st.text("abé", min_size=1, max_size=4), min_size=1, max_size=3))
def test_text_ends_before_the_first_stop_string_however_it_is_split(text: str, stop: list[str]) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    detokenizer = Detokenizer(VOCABULARY, tuple(stop))
    said = ""
    for id in ids:
        if detokenizer.stopped:
            break
        said += detokenizer.push(id)
    said += detokenizer.finish()
    seen = next((n for n in range(len(text) + 1) if any(s in text[:n] for s in stop)), None)
    if seen is None:
        assert (said, detokenizer.stopped) == (text, False)
    else:
        assert said == text[: min(text[:seen].find(s) for s in stop if s in text[:seen])]
        assert detokenizer.stopped


def test_text_that_may_become_a_stop_string_waits() -> None:
    ids = TOKENIZER("ab#x", add_special_tokens=False)["input_ids"]
    assert [TOKENIZER.decode([id]) for id in ids] == ["a", "b", "#", "x"]
    assert pieces(ids, ("b##",)) == ["a", "", "", "b#x", ""]
    assert pieces(ids[:3], ("b##",)) == ["a", "", "", "b#"]


@given(IDS, st.integers(1, 30), st.sets(st.integers(0, 333), max_size=40))
def test_deltas_carry_every_id_once_and_the_counts_once(ids: list[int], max_tokens: int, ends: set[int]) -> None:
    reply = Reply(Detokenizer(VOCABULARY), StopRule(frozenset(ends), max_tokens))
    used = min([n for n, id in enumerate(ids, 1) if id in ends] + [max_tokens])
    if used > len(ids):
        return
    deltas = [reply.add(id, Counter(text=7, image=2)) for id in ids[:used]]
    sent = [delta for delta in deltas if delta is not None]
    assert [id for delta in sent for id in delta.token_ids] == ids[:used]
    assert "".join(delta.text for delta in sent) == decoded(ids[:used])
    assert [delta.finish_reason for delta in sent] == [""] * (len(sent) - 1) + [reply.finish_reason]
    assert reply.finish_reason == ("stop" if ids[used - 1] in ends else "length")
    assert sent[-1].usage == (
        ("prompt.text", 7),
        ("prompt.audio", 0),
        ("prompt.image", 2),
        ("prompt.video", 0),
        ("completion.text", used),
    )
    assert not any(delta.usage for delta in sent[:-1])


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        Vocabulary.open(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    assert Vocabulary.open(tmp_path).bytes_of(TOKENIZER("é", add_special_tokens=False)["input_ids"][0]) == b"\xc3"
    file = tmp_path / "tokenizer.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "decoder": {"type": "Fuse"}}))
    with pytest.raises(CheckpointError, match="its decoder is 'Fuse'"):
        Vocabulary.open(tmp_path)
