"""The sides of a model bench: the floor reaches its first sound or says where it stopped, a dead peer is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.floor_side import serve
from benchmarks.model_app import Ask, check
from benchmarks.peer import Peer
from omni_nodes.qwen2_5_omni.tiny import build_tiny


def echo(word: str) -> object:
    return {"echo": lambda times: word * times, "fail": lambda: 1 / 0}


def test_a_peer_answers_by_name_and_a_dead_one_is_named() -> None:
    with Peer("tests.benchmarks.test_sides:echo", {"MINE": "yes"}, word="ab") as peer:
        assert peer("echo", times=2) == "abab"
        with pytest.raises(RuntimeError, match=r"has died: tests.benchmarks.test_sides:echo"):
            peer("fail")


def test_the_floor_runs_the_nodes_in_sequence_to_their_first_sound(tmp_path: Path) -> None:
    build_tiny(tmp_path / "tiny")
    first_audio = serve(str(tmp_path / "tiny"))["first_audio"]
    for prompt in ("text 20", "audio 1"):
        assert first_audio(prompt=prompt, tokens=24, codes=24) > 0
    with pytest.raises(RuntimeError, match=r"talker came to rest with 0 packets of 'codes'; the floor needs 24"):
        first_audio(prompt="text 20", tokens=1, codes=24)  # speech of no code: a reply of one token


@pytest.mark.parametrize(("tokens", "sound_s"), [(39, 1.0), (40, 0.98)])
def test_an_answer_shorter_than_asked_is_no_figure(tokens: int, sound_s: float) -> None:
    check(Ask("text 20", 40, 50), 40, 1.0)
    with pytest.raises(RuntimeError, match=r"was answered with"):
        check(Ask("text 20", 40, 50), tokens, sound_s)
