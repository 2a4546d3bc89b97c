"""A caller's messages -> Conversation packets: media are read here, so that a path means nothing beyond the Gateway.

Knows no model: what a part means is for the stage that reads it. Files are read one piece at a time.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_graph.errors import Code, RequestError
from omni_graph.payload import DEFAULT_MAX_PACKET_BYTES, Conversation

PIECE = DEFAULT_MAX_PACKET_BYTES - 4096
MEDIA = ("image", "audio", "video")
MAX_MESSAGES_BYTES = DEFAULT_MAX_PACKET_BYTES - 4096

Medium = Path | bytes | Any


def conversation_packets(messages: Sequence[Mapping[str, Any]], folder: Path | None = None) -> list[Conversation]:
    """The packets of ``messages`` (OpenAI-style, interfaces.md); relative paths are relative to ``folder``.

    A part's medium is a path, bytes, or an array with ``.shape`` and ``.dtype`` (float32 sound with ``sample_rate``, uint8
    pictures, uint8 (T, H, W, 3) video with ``fps``); or an OpenAI part ``image_url``, ``input_audio``, ``video_url`` with
    the bytes inside. Raises RequestError(invalid_input) with the place, e.g. ``messages[0].content[2]``.
    """
    return list(_packets(messages, folder or Path()))


def _packets(messages: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Conversation]:
    if isinstance(messages, str | bytes | Mapping) or not all(isinstance(one, Mapping) for one in messages):
        raise _bad("conversation", "must be a list of messages {'role', 'content'}")
    media: list[Medium] = []
    plain = [_message(message, f"messages[{i}]", media) for i, message in enumerate(messages)]
    text = json.dumps(plain, ensure_ascii=False)
    if len(text.encode()) > MAX_MESSAGES_BYTES:
        raise _bad("conversation", f"{len(text.encode())} bytes of text; allowed: {MAX_MESSAGES_BYTES}")
    yield Conversation(messages=text)
    for index, medium in enumerate(media):
        yield from _pieces(index, medium, folder)


def _message(message: Mapping[str, Any], place: str, media: list[Medium]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return dict(message)
    parts = [_part(part, f"{place}.content[{i}]", media) for i, part in enumerate(content)]
    return {**message, "content": parts}


def _part(part: Any, place: str, media: list[Medium]) -> Any:
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    if kind in ("image_url", "input_audio", "video_url"):
        kind, medium, extra = _openai_part(part, place)
    elif kind in MEDIA:
        if kind not in part:
            raise _bad(place, f"a part of type {kind!r} needs the field {kind!r}: a path, bytes or an array")
        medium = part[kind]
        extra = {key: value for key, value in part.items() if key not in ("type", kind)}
        if kind == "video" and "audio" in extra and not isinstance(extra["audio"], bool):
            raise _bad(place, "'audio' of a video part says whether its own sound is used: true or false")
    else:
        return dict(part)
    media.append(medium)
    return {"type": kind, "media": len(media) - 1, **_describe(medium, place), **extra}


def _openai_part(part: Mapping[str, Any], place: str) -> tuple[str, bytes, dict[str, Any]]:
    kind = str(part["type"])
    inner = part.get(kind)
    if kind == "input_audio":
        data = inner.get("data") if isinstance(inner, Mapping) else None
        if not isinstance(data, str):
            raise _bad(place, "input_audio needs {'data': base64, 'format': ...}")
        return "audio", _base64(data, place), {}
    url = inner.get("url") if isinstance(inner, Mapping) else inner
    if not isinstance(url, str) or not url.startswith("data:"):
        raise _bad(place, f"{kind} must hold a data: URL; other URLs are not fetched")
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise _bad(place, f"{kind}: a data: URL must be base64")
    return kind.removesuffix("_url"), _base64(data, place), {}


def _base64(data: str, place: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad(place, f"not base64: {error}") from None


def _describe(medium: Medium, place: str) -> dict[str, Any]:
    if isinstance(medium, str | Path):
        return {"format": "file", "name": str(medium)}
    if isinstance(medium, bytes | bytearray | memoryview):
        return {"format": "file", "name": place}
    dtype, shape = getattr(medium, "dtype", None), getattr(medium, "shape", None)
    if shape is not None and str(dtype).rpartition(".")[2] in ("float32", "uint8"):
        return {"format": str(dtype).rpartition(".")[2], "shape": list(shape), "name": place}
    raise _bad(place, f"a medium is a path, bytes, or a float32 or uint8 array; got {type(medium).__name__} {dtype or ''}")


def _pieces(index: int, medium: Medium, folder: Path) -> Iterator[Conversation]:
    if isinstance(medium, str | Path):
        yield from _file_pieces(index, folder / medium)
        return
    if not isinstance(medium, bytes | bytearray | memoryview):
        import numpy as np

        medium = np.ascontiguousarray(medium).tobytes()
    data = bytes(medium)
    for start in range(0, max(len(data), 1), PIECE):
        yield Conversation(media=index, data=data[start : start + PIECE], last=start + PIECE >= len(data))


def _file_pieces(index: int, path: Path) -> Iterator[Conversation]:
    if path.is_dir():
        raise _bad(str(path), "is a folder; a file is needed")
    try:
        with path.open("rb") as file:
            piece = file.read(PIECE)
            while True:
                following = file.read(PIECE)
                yield Conversation(media=index, data=piece, last=not following)
                if not following:
                    return
                piece = following
    except OSError as error:
        raise _bad(str(path), f"cannot be read: {error.strerror or error}") from None


def _bad(place: str, message: str) -> RequestError:
    return RequestError("", Code.INVALID_INPUT, f"{place}: {message}")
