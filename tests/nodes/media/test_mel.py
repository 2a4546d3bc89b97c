"""Features that differ from the extractor's, or change with how sound arrives, change what the model hears."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from omni_nodes.media.mel import LogMel, MelStream, log_mel

EXTRACTOR = WhisperFeatureExtractor(feature_size=128, n_fft=400, hop_length=160, chunk_length=300)


def noise(length: int, seed: int = 0) -> np.ndarray:
    """Noise that gets louder, so that the maximum is at the end."""
    samples = np.random.default_rng(seed).standard_normal(length)
    return (samples * np.linspace(0.001, 0.5, length)).astype(np.float32)


@pytest.mark.parametrize("length", [1, 100, 159, 160, 161, 200, 201, 400, 16000, 31999, 32000, 32001, 54321, 320_000])
def test_a_whole_clip_has_the_extractors_features_to_the_bit(length: int) -> None:
    samples = noise(length)
    reference = EXTRACTOR(samples, sampling_rate=16000, return_tensors="np", return_attention_mask=True)
    frames = int(reference["attention_mask"].sum())
    assert np.array_equal(log_mel(samples), reference["input_features"][0][:, :frames])
    assert frames == -(-length // 160)


def test_the_maximum_counts_frames_that_only_hear_the_clips_end() -> None:
    samples = np.zeros(32000, np.float32)
    samples[-1] = 1.0  # loudest in frame 200, which is after the last valid one and in a block of its own
    reference = EXTRACTOR(samples, sampling_rate=16000, return_tensors="np")["input_features"][0][:, :200]
    assert np.array_equal(log_mel(samples), reference)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=6))
def test_features_do_not_depend_on_how_the_samples_arrive(cuts: list[int]) -> None:
    samples = noise(sum(cuts))
    for policy in ("global", "running"):
        stream, whole = MelStream(policy), MelStream(policy)
        for piece in np.split(samples, np.cumsum(cuts)[:-1]):
            stream.push(piece)
        whole.push(samples)
        stream.finish()
        whole.finish()
        pieces, expected = list(stream.drain()), list(whole.drain())
        assert [piece.shape for piece in pieces] == [block.shape for block in expected]
        assert all(np.array_equal(piece, block) for piece, block in zip(pieces, expected, strict=True))


def test_running_features_come_before_the_clip_ends_and_global_ones_after() -> None:
    live, offline = MelStream("running"), MelStream("global")
    for stream in (live, offline):
        stream.push(noise(100_000))
    assert live.take().shape == (128, 200)
    assert offline.take() is None
    offline.finish()
    assert offline.take().shape == (128, 200)


def test_running_is_global_when_the_loudest_comes_first() -> None:
    samples = noise(100_000)[::-1].copy()
    stream = MelStream("running")
    stream.push(samples)
    stream.finish()
    assert np.array_equal(np.concatenate(list(stream.drain()), axis=1), log_mel(samples))


def test_no_sample_is_no_frame() -> None:
    assert log_mel(np.zeros(0, np.float32)).shape == (128, 0)
    assert LogMel().finish() == []


def test_a_clip_longer_than_the_extractors_300_seconds_is_not_cut() -> None:
    samples = np.tile(noise(16000), 301)
    features = log_mel(samples)
    assert features.shape == (128, 30_100)
    assert np.array_equal(features[:, 100:200], features[:, 30_000 - 200 : 30_000 - 100])
