"""Whatever bytes a user sends, the answer is a medium or a MediaError: no decoder's exception, and no crash."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from omni_nodes.media.audio import AudioDecoder
from omni_nodes.media.image import decode_image
from omni_nodes.media.limits import MediaError
from omni_nodes.media.truncation import check_whole
from omni_nodes.media.video import FrameReader, probe_video
from tests.nodes.media.files import Clip

CLIPS = {
    "mp4": Clip(audio="aac", seconds=0.6),
    "fragments": Clip(audio="aac", seconds=0.6, options=(("movflags", "frag_keyframe+empty_moov"),)),
    "h264": Clip(video="libx264", seconds=0.6, b_frames=2),
    "mkv": Clip("matroska", audio="aac", seconds=0.6),
    "webm": Clip("webm", video="libvpx", audio="libopus", rate=48_000, seconds=0.6),
    "avi": Clip("avi", audio="libmp3lame", seconds=0.6),
    "ogg": Clip("ogg", video="", audio="libopus", rate=48_000, seconds=0.6),
    "mp3": Clip("mp3", video="", audio="libmp3lame", seconds=0.6),
    "aac": Clip("adts", video="", audio="aac", seconds=0.6),
}


@cache
def file_of(kind: str) -> bytes:
    if kind in CLIPS:
        return CLIPS[kind].encode()
    buffer = io.BytesIO()
    if kind in ("WAV", "FLAC"):
        soundfile.write(buffer, np.linspace(-0.5, 0.5, 9_000), 16_000, format=kind)
    else:
        Image.linear_gradient("L").convert("RGB").resize((40, 30)).save(buffer, kind)
    return buffer.getvalue()


def use_sound(data: bytes) -> None:
    AudioDecoder(data, "input").read()


def use_video(data: bytes) -> None:
    list(FrameReader(data, "input", probe_video(data, "input")))


def use_image(data: bytes) -> None:
    decode_image(data, "input")


@pytest.mark.parametrize(
    ("kind", "use"),
    [(kind, use_sound) for kind in ("WAV", "FLAC", "mp4", "fragments", "mkv", "webm", "avi", "ogg", "mp3", "aac")]
    + [(kind, use_video) for kind in ("mp4", "fragments", "h264", "mkv", "webm", "avi")]
    + [(kind, use_image) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP")],
)
@settings(max_examples=25, deadline=None)
@given(
    places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
    in_header=st.booleans(),
    cut=st.floats(0, 1),
)
def test_damage_is_decoded_or_named(
    kind: str, use: Callable[[bytes], None], places: list[tuple[float, int]], in_header: bool, cut: float
) -> None:
    data = bytearray(file_of(kind))
    span = min(len(data), 600) if in_header else len(data)
    for place, value in places:
        data[int(place * span)] = value
    kept = bytes(data if in_header else data[: int(cut * len(data))])
    try:
        use(kept)
    except MediaError as error:
        assert str(error).startswith("input: ")
        assert "0x" not in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize("kind", [*CLIPS, "WAV"])
def test_a_whole_file_is_whole(kind: str) -> None:
    check_whole(file_of(kind), kind)


@pytest.mark.parametrize("kind", ["mp4", "fragments", "h264", "mkv", "webm", "avi", "ogg", "mp3", "WAV"])
def test_formats_that_state_their_length_are_held_to_it_at_every_cut(kind: str) -> None:
    data = file_of(kind)
    first, last = (512, len(data) - 128) if kind == "mp3" else (64, len(data))
    for end in range(first, last, 97):
        with pytest.raises(MediaError, match=r"is truncated"):
            check_whole(data[:end], kind)


@given(
    st.sampled_from([b"RIFF", b"\0\0\0\x18ftyp", b"OggS", b"\x1a\x45\xdf\xa3", b"ID3", b"\xff\xfb", b""]),
    st.binary(max_size=200),
)
def test_the_structure_check_survives_any_bytes(magic: bytes, rest: bytes) -> None:
    try:
        check_whole(magic + rest, "input")
    except MediaError as error:
        assert "is truncated" in str(error)
