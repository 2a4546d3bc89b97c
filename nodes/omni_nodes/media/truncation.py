"""Is the file whole? Formats that state their own length are held to it, from their structure, before any decoder runs.

Decoders conceal a missing end: they return a shorter answer. This module reads sizes only and allocates nothing.
A format without a stated length (MP3 without an Xing header, ADTS) may be cut anywhere and is whole all the same.
"""

from __future__ import annotations

from collections.abc import Callable

from omni_nodes.media.limits import MediaError

_UNKNOWN_RIFF_SIZE = 0x7FFF_0000  # streaming writers put a size near 2 or 4 GiB, or 0, where they cannot know it
_ID3V1_BYTES = 128  # some MP3 encoders count in a tag at the end, which may have been removed since


def check_whole(data: bytes, name: str) -> None:
    """Raise MediaError when ``data`` ends before the end that it states."""
    for is_format, stated_size in _FORMATS:
        if is_format(data):
            size = stated_size(data)
            if size > len(data):
                raise MediaError(name, f"is truncated: it has {len(data)} bytes and states at least {size}")
            return


def _riff_size(data: bytes) -> int:
    """WAV and AVI: the RIFF chunk. Some writers count its 8-byte header in, so those 8 are not insisted on."""
    size = int.from_bytes(data[4:8], "little")
    return size if size < _UNKNOWN_RIFF_SIZE else 0


def _iso_size(data: bytes) -> int:
    """MP4, MOV, M4A (ISO/IEC 14496-12, 4.2): the end of the first top-level box that does not fit; the boxes chain.

    A file without its ``moov`` index, which most writers put last, states one more box than it has.
    """
    position, kinds = 0, set()
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        kinds.add(data[position + 4 : position + 8])
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size == 0:  # to the end of the file
            return len(data)
        position += max(size, 8)
    complete = b"moov" in kinds and position >= len(data)
    return position if complete else max(position, len(data)) + 8


def _ogg_size(data: bytes) -> int:
    """Ogg (RFC 3533): the end of the last page."""
    page = data.rfind(b"OggS")
    segments = data[page + 27 : page + 27 + data[page + 26]] if page + 27 <= len(data) else b""
    if page + 27 > len(data) or len(segments) < data[page + 26]:
        return len(data) + 1
    return page + 27 + len(segments) + sum(segments)


def _matroska_size(data: bytes) -> int:
    """Matroska, WebM (RFC 8794): the end of the Segment, which follows the EBML header; 0 where it is not stated."""
    header_size, position = _ebml_size(data, 4)
    position += header_size
    if data[position : position + 4] != b"\x18\x53\x80\x67":
        return len(data) + 1 if position >= len(data) else 0
    size, start = _ebml_size(data, position + 4)
    return start + size if size >= 0 else 0


def _ebml_size(data: bytes, position: int) -> tuple[int, int]:
    """The variable-length size at ``position`` (-1: unknown), and where the element's content starts."""
    first = data[position] if position < len(data) else 0x80
    length = 9 - first.bit_length()
    if length > 8:
        return -1, position + 1
    value = int.from_bytes(data[position : position + length], "big") & ((1 << 7 * length) - 1)
    return (-1 if value == (1 << 7 * length) - 1 else value), position + length


def _mp3_size(data: bytes) -> int:
    """MP3: the byte count of an Xing/Info header, which stands in the first frame after an ID3v2 tag; 0 without one."""
    start = 0
    if data[:3] == b"ID3":
        start = 10 + sum((data[6 + i] & 0x7F) << 7 * (3 - i) for i in range(4)) if len(data) > 10 else len(data) + 1
    if start > len(data):
        return start
    frame = data[start : start + 256]
    tag = max(frame.find(b"Xing"), frame.find(b"Info"))
    flags = frame[tag + 7] if 0 <= tag < len(frame) - 16 else 0
    if not flags & 2:
        return 0
    count = tag + 8 + (4 if flags & 1 else 0)
    return start + int.from_bytes(frame[count : count + 4], "big") - _ID3V1_BYTES


def _is_mp3(data: bytes) -> bool:
    return data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2)


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], int]], ...] = (
    (lambda data: data[:4] == b"RIFF", _riff_size),
    (lambda data: data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), _iso_size),
    (lambda data: data[:4] == b"OggS", _ogg_size),
    (lambda data: data[:4] == b"\x1a\x45\xdf\xa3", _matroska_size),
    (_is_mp3, _mp3_size),
)
