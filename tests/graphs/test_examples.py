"""The examples load, keep every rule, run, and give what their pages say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import omni_graph as og
from omni_graph.payload import Array, AudioChunk
from omni_graph.plan import make_plan
from omni_graph.resolve import node_class
from omni_graph.testing import check_node, check_stream, run_node

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").rglob("*.yaml"))
LOUDNESS = ROOT / "examples" / "loudness"
WORDS = ROOT / "examples" / "words" / "words.yaml"
Loudness = node_class("./loudness.py:Loudness", LOUDNESS)


def sound(*levels: float, size: int = 4_000, seed: int = 0) -> list[AudioChunk]:
    """Noise at 24 kHz, ``size`` samples at each RMS level, in chunks of uneven length."""
    random = np.random.default_rng(seed)
    samples = np.concatenate([level * random.standard_normal(size) for level in levels]).astype(np.float32)
    cuts = np.sort(random.integers(0, len(samples), 7))
    return [AudioChunk(Array.of(piece), 24_000, (("n", 1),)) for piece in np.split(samples, cuts)]


def levelled(chunks: list[AudioChunk], **config: float) -> AudioChunk:
    """What Loudness makes of ``chunks``."""
    return AudioChunk.merge(run_node(Loudness(**config), {"r": {"speech": chunks}})["r"]["audio"])


def rms_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.square(samples, dtype=np.float64).mean()))


def test_loudness_keeps_the_rules_of_a_node() -> None:
    check_node(Loudness, [{"speech": sound(0.02)}, {"speech": []}, {"speech": sound(0.3, 0.001, seed=1)}])


def test_loudness_of_a_stream_is_that_of_the_whole_to_the_bit() -> None:
    check_stream(Loudness, sound(0.01, 0.3, 0.0, 0.05))


@pytest.mark.parametrize("level", [0.02, 0.1, 0.2])
def test_loudness_comes_near_its_target(level: float) -> None:
    out = levelled(sound(level, size=240_000), target_db=-20.0)
    assert rms_db(out.samples.values[-24_000:]) == pytest.approx(-20.0, abs=0.6)


def test_loudness_leaves_what_is_at_its_target_and_what_it_cannot_raise() -> None:
    right = sound(0.1, size=48_000)
    assert levelled(right).samples.values == pytest.approx(AudioChunk.merge(right).samples.values, rel=0.02)
    assert not levelled(sound(0.0)).samples.values.any()
    assert levelled(sound(3.0)).samples.values.max() == 1.0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_keeps_every_rule_and_gives_no_note(path: Path) -> None:
    assert make_plan(og.load_graph(path)).notes == ()


def test_words_come_out_loud_and_quiet_in_turn() -> None:
    text = "Row, row your boat "
    graph = og.load_graph(WORDS, parameters={"seconds": 0.0})
    with og.launch(graph) as app:
        assert app.run({"text": text})["text"].text == "ROW, row, ROW row YOUR your BOAT boat "
    with og.launch(og.load_graph("words")) as app:
        assert app.run({"text": text})["text"].text == "ROW, row, ROW row YOUR your BOAT boat "


@pytest.fixture(scope="module")
def speech(tiny_folder: Path) -> AudioChunk:
    """What the packaged graph says, without the example's node."""
    return spoken("qwen2_5_omni", tiny_folder)["speech"]


def spoken(graph: str | Path, folder: Path) -> og.Result:
    """A short reply of the tiny checkpoint, the same each time."""
    params = {"thinker": {"max_tokens": 8}, "talker": {"max_tokens": 60, "temperature": 0.0}}
    conversation = [{"role": "user", "content": "Say something."}]
    with og.launch(og.load_graph(graph, parameters={"checkpoint": str(folder)})) as app:
        return app.run({"conversation": conversation}, params=params, seed=0)


def same(ours: AudioChunk, expected: AudioChunk) -> bool:
    """Equal but for the rounding that another batch brings."""
    return bool(np.allclose(ours.samples.values, expected.samples.values, atol=1e-4)) and ours.usage == expected.usage


def test_loudness_behind_the_vocoder_by_yaml_alone(tiny_folder: Path, speech: AudioChunk) -> None:
    result = spoken(LOUDNESS / "qwen2_5_omni_loud.yaml", tiny_folder)
    assert set(result) == {"text", "speech"} and len(speech.samples) > 20_000
    assert not same(result["speech"], speech)
    assert same(result["speech"], levelled([speech]))


def test_loudness_as_a_second_reader_changes_nothing_for_the_first(tiny_folder: Path, speech: AudioChunk) -> None:
    result = spoken(LOUDNESS / "qwen2_5_omni_both.yaml", tiny_folder)
    assert same(result["speech"], speech)
    assert result["loud"] == levelled([result["speech"]])


@pytest.mark.parametrize("name", ["loud", "both"])
def test_the_loudness_graphs_are_the_packaged_one_and_one_node(name: str) -> None:
    ours = og.load_graph(LOUDNESS / f"qwen2_5_omni_{name}.yaml").spec
    plain = og.load_graph("qwen2_5_omni").spec
    assert {key: node for key, node in ours.nodes.items() if key != "loudness"} == plain.nodes
    assert (ours.inputs, ours.parameters) == (plain.inputs, plain.parameters)
