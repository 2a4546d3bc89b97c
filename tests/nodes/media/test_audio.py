"""Sound reaches the model as the file has it, in bounded slices, or a sentence says why not."""

from __future__ import annotations

import gc
import io
import sys

import numpy as np
import pytest
import soundfile
import soxr

from omni_nodes.media.audio import AudioDecoder
from omni_nodes.media.limits import MediaError, MediaLimits
from tests.nodes.media.files import Clip


def wav(samples: np.ndarray, rate: int, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype=subtype, format=kind)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, shape).astype(np.float32)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_wav_at_the_models_rate_is_exact(subtype: str) -> None:
    data = wav(noise(20_000), 16_000, subtype)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert np.array_equal(AudioDecoder(data, "a.wav").read(), expected)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_flac_is_exact(subtype: str) -> None:
    data = wav(noise(50_000), 16_000, subtype, "FLAC")
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert np.array_equal(AudioDecoder(data, "a.flac").read(), expected)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 192_000])
def test_channels_are_averaged_and_the_stream_equals_one_shot_resampling(rate: int, channels: int) -> None:
    samples = noise(2 * rate + 123, channels)
    expected = soxr.resample(samples.mean(axis=1), rate, 16_000, quality="HQ")
    decoded = AudioDecoder(wav(samples, rate, "FLOAT"), "a.wav").read()
    assert abs(len(decoded) - len(expected)) <= 1
    length = min(len(decoded), len(expected))
    assert np.abs(decoded[:length] - expected[:length]).max() < 1e-5


@pytest.mark.parametrize(
    "clip",
    [
        Clip(video="", audio="aac"),
        Clip("mp3", video="", audio="libmp3lame"),
        Clip("ogg", video="", audio="libopus", rate=48_000),
        Clip("adts", video="", audio="aac"),
        Clip("matroska", audio="aac"),
        Clip("webm", video="libvpx", audio="libopus", rate=48_000),
        Clip(audio="aac", interleaved=False),
        Clip("avi", audio="libmp3lame"),
    ],
)
def test_compressed_sound_and_sound_tracks(clip: Clip) -> None:
    sound = AudioDecoder(clip.encode(), "clip", medium="video").read()
    assert len(sound) / 16_000 == pytest.approx(clip.seconds, abs=0.1)
    spectrum = np.abs(np.fft.rfft(sound[8_000:24_000]))
    assert spectrum.argmax() == 440
    assert np.abs(sound[8_000:24_000]).max() == pytest.approx(0.3, abs=0.02)


def test_slices_are_bounded_and_time_is_counted() -> None:
    decoder = AudioDecoder(wav(noise(441_000), 44_100), "long.wav")
    seen = []
    for piece in decoder:
        seen.append(len(piece))
        assert len(piece) <= 16_000
        assert decoder.seconds <= sum(seen) / 16_000 + 1.1
    assert decoder.seconds == 10
    assert sum(seen) == 160_000


def test_a_sound_track_that_starts_late_starts_with_silence() -> None:
    data = Clip("matroska", audio="pcm_s16le", audio_delay=0.5).encode()
    sound = AudioDecoder(data, "clip.mkv").read()
    assert np.abs(sound[: 8_000 - 100]).max() < 1e-4
    assert np.abs(sound[8_000:9_000]).max() > 0.25
    assert len(sound) / 16_000 == pytest.approx(3.5, abs=0.01)


def test_a_decoder_that_is_dropped_lets_go_of_its_bytes() -> None:
    """A cancelled request's media must not wait for the garbage collector."""
    data = bytes(64_000)
    gc.disable()
    try:
        before = sys.getrefcount(data)
        decoder = AudioDecoder.from_array(np.frombuffer(data, np.float32), 8_000)
        next(decoder)
        del decoder
        assert sys.getrefcount(data) == before
    finally:
        gc.enable()


def test_a_raw_array_is_a_clip() -> None:
    samples = noise(44_100, 2)
    expected = AudioDecoder(wav(samples, 44_100, "FLOAT"), "a.wav").read()
    assert np.array_equal(AudioDecoder.from_array(samples, 44_100).read(), expected)
    mono = noise(1_000)
    assert np.array_equal(AudioDecoder.from_array(mono, 16_000).read(), mono)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(9, np.int16), 16_000, "int16"),
        (np.zeros((3, 3, 3), np.float32), 16_000, "float32"),
        (np.zeros(9, np.float32), 4_000, "4000 Hz; 8000 to 192000 Hz"),
        (np.zeros((9, 9), np.float32), 16_000, "9 channels; 1 to 8"),
        (np.zeros(16_000 * 4_000, np.float32), 16_000, "at most 3600 s"),
        (np.zeros(0, np.float32), 16_000, "has no sound"),
        (np.array([0, np.nan], np.float32), 16_000, "not a finite number"),
    ],
)
def test_a_wrong_array_is_named(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        AudioDecoder.from_array(samples, rate).read()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"just text, no sound", "is not a media file that can be read.*allowed: MP4"),
        (bytes(5_000), "is not a media file that can be read"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n", "is not a media file"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "is not a media file"),
        (Clip().encode(), "has no audio track"),
        (wav(noise(9), 7_000), "7000 Hz; 8000 to 192000 Hz are allowed"),
        (wav(noise(9), 200_000), "200000 Hz"),
        (wav(noise(9, 9), 16_000), "9 channels; 1 to 8 are allowed"),
        (wav(np.array([np.inf]), 16_000, "FLOAT"), "not a finite number"),
        (Clip("matroska", video="", audio="ac3", rate=48_000).encode(), "codec ac3; allowed: aac"),
    ],
)
def test_what_cannot_be_heard_is_named(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        AudioDecoder(data, "input").read()
    assert str(caught.value).startswith("input: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["wav", "flac", "m4a", "mkv", "ogg", "mp3", "adts"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_truncated_sound_is_an_error_and_not_a_shorter_answer(kind: str, part: float) -> None:
    data = {
        "wav": lambda: wav(noise(40_000), 16_000),
        "flac": lambda: wav(noise(40_000), 16_000, kind="FLAC"),
        "m4a": lambda: Clip(video="", audio="aac", options=(("movflags", "faststart"),)).encode(),
        "mkv": lambda: Clip("matroska", video="", audio="aac").encode(),
        "ogg": lambda: Clip("ogg", video="", audio="libopus", rate=48_000).encode(),
        "mp3": lambda: Clip("mp3", video="", audio="libmp3lame").encode(),
        "adts": lambda: Clip("adts", video="", audio="aac").encode(),
    }[kind]()
    with pytest.raises(MediaError, match=r"truncated|damaged"):
        AudioDecoder(data[: int(len(data) * part)], "cut").read()


def test_damage_inside_a_lossless_file_is_an_error() -> None:
    data = bytearray(wav(noise(80_000), 16_000, kind="FLAC"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(MediaError, match="damaged"):
        AudioDecoder(bytes(data), "a.flac").read()


def test_a_header_that_claims_hours_costs_nothing() -> None:
    """A RIFF size of 4 GiB is what streaming writers put; the decoder allocates what is there."""
    data = bytearray(wav(noise(16_000), 16_000))
    data[4:8] = data[40:44] = (0xFFFF_FFFF).to_bytes(4, "little")
    assert len(AudioDecoder(bytes(data), "live.wav").read()) == 16_000


def test_seconds_are_counted_while_decoding_whatever_the_header_says() -> None:
    data = Clip("adts", video="", audio="aac", seconds=4).encode()  # a format without a length
    limits = MediaLimits(audio_seconds=3.2)
    with pytest.raises(MediaError, match=r"lasts more than 3\.2 s"):
        AudioDecoder(data, "a.aac", limits).read()
    forged = bytearray(wav(noise(64_000), 16_000, kind="FLAC"))
    forged[21] &= 0xF0
    forged[22:26] = bytes(4)  # STREAMINFO: no total stated
    with pytest.raises(MediaError, match=r"lasts more than 3\.2 s"):
        AudioDecoder(bytes(forged), "a.flac", limits).read()


def test_bytes_are_limited_by_what_the_file_was_given_as() -> None:
    data = Clip(audio="aac").encode()
    limits = MediaLimits(audio_bytes=len(data) - 1)
    with pytest.raises(MediaError, match=f"has {len(data)} bytes; at most {len(data) - 1} are allowed for audio"):
        AudioDecoder(data, "clip.mp4", limits)
    assert len(AudioDecoder(data, "clip.mp4", limits, medium="video").read())


def test_reading_past_another_track_is_cut_into_slices() -> None:
    """All of a file's pictures may stand before its sound: no single slice may read through them all."""
    clip = Clip("matroska", audio="pcm_s16le", seconds=60, fps=20, width=16, height=16, interleaved=False)
    pieces = [len(piece) for piece in AudioDecoder(clip.encode(), "clip.mkv")]
    assert pieces[:4] == [0, 0, 0, 0]  # 1200 pictures, 256 packets a slice
    assert sum(pieces) == 960_000


def test_an_absurd_delay_is_refused_before_its_silence_is_made() -> None:
    data = Clip("matroska", audio="pcm_s16le", audio_delay=4_000).encode()
    with pytest.raises(MediaError, match="at most 3600 s"):
        AudioDecoder(data, "clip.mkv")
