"""A caller's messages -> Conversation packets: media are read here, so that a path means nothing beyond the Gateway.

Knows no model: what a part means is for the stage that reads it. Everything that can be judged without decoding is judged
at once; files are then read one piece at a time, as the graph takes them, and never whole.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_graph.errors import RequestError
from omni_graph.inline_media import bad_input, check_limit, openai_part
from omni_graph.payload import DEFAULT_MAX_PACKET_BYTES, Conversation
from omni_graph.spec import Limits

PIECE = DEFAULT_MAX_PACKET_BYTES - 4096
MEDIA = ("image", "audio", "video")
LIVE = "live"
LIVE_MEDIA = ("audio", "video")
MAX_MESSAGES_BYTES = DEFAULT_MAX_PACKET_BYTES - 4096

Medium = Path | bytes | Any


@dataclass(frozen=True, slots=True)
class ConversationPackets:
    """Iterates the packets of a conversation, any number of times; each time its files are read anew, piece by piece.

    Iterating raises RequestError(invalid_input) for a file that cannot be read any more, or has shrunk.
    """

    messages: str
    media: tuple[File | bytes, ...]

    def __iter__(self) -> Iterator[Conversation]:
        yield Conversation(messages=self.messages)
        for index, medium in enumerate(self.media):
            pieces = _bytes_pieces(medium) if isinstance(medium, bytes) else medium.pieces()
            for piece, last in pieces:
                yield Conversation(media=index, data=piece, last=last)


@dataclass(frozen=True, slots=True)
class File:
    """A regular file that could be opened when it was looked at, with its size then, in bytes."""

    path: Path
    size: int

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """Its bytes, cut; True with the last."""
        left = self.size
        try:
            with self.path.open("rb") as file:
                while left:
                    piece = file.read(min(PIECE, left))
                    if not piece:
                        raise bad_input(str(self.path), f"became shorter than its {self.size} bytes while it was read")
                    left -= len(piece)
                    yield piece, not left
        except OSError as error:
            raise _unreadable(self.path, error) from None


def conversation_packets(
    messages: Sequence[Mapping[str, Any]], folder: Path | None = None, limits: Limits | None = None
) -> ConversationPackets:
    """The packets of ``messages`` (OpenAI-style, interfaces.md); relative paths are relative to ``folder``.

    A part's medium is a path, bytes, or an array with ``.shape`` and ``.dtype`` (float32 sound with ``sample_rate``, uint8
    pictures, uint8 (T, H, W, 3) video with ``fps``); or an OpenAI part ``image_url``, ``input_audio``, ``video_url`` with
    the bytes inside. The medium ``"live"`` of an audio or video part is no file (``"./live"`` is one): it says where sound
    and pictures that are written live belong. Raises RequestError(invalid_input) with the place, e.g.
    ``messages[0].content[2]``, for messages that are none, for a file that is not there, and past ``limits`` (messages,
    parts, images, bytes of a medium).
    """
    if isinstance(messages, str | bytes | Mapping) or not all(isinstance(one, Mapping) for one in messages):
        raise bad_input("conversation", "must be a list of messages {'role', 'content'}")
    reader = _Reader(folder or Path(), limits or Limits())
    plain = [reader.message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    reader.check(plain)
    return ConversationPackets(_text_of(plain), tuple(reader.media))


class _Reader:
    """Takes the media out of messages; ``media`` are numbered in their order."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.media: list[File | bytes] = []
        self._folder = folder
        self._limits = limits
        self._parts = 0
        self._images = 0
        self._live = False

    def message(self, message: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The message with its media numbered."""
        content = message.get("content")
        if not isinstance(content, list | tuple):
            return dict(message)
        self._parts += len(content)
        return {**message, "content": [self._part(part, f"{place}.content[{i}]") for i, part in enumerate(content)]}

    def check(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """What holds for all messages together."""
        seen = {"messages": len(messages), "parts": self._parts, "images": self._images}
        for name, count in seen.items():
            allowed = getattr(self._limits, name)
            if count > allowed:
                raise bad_input("conversation", f"{count} {name}; at most {allowed} are allowed (limits.{name})")
        says_something = any(_says_something(message.get("content")) for message in messages)
        if not (self.media or self._live or says_something):
            raise bad_input("conversation", "is empty; at least one message with text or a medium is needed")

    def _part(self, part: Any, place: str) -> Any:
        if not isinstance(part, Mapping):
            return part
        kind = part.get("type")
        medium: Medium
        if kind in ("image_url", "input_audio", "video_url"):
            kind, medium, extra = openai_part(part, place, self._limits)
        elif kind in LIVE_MEDIA and isinstance(part.get(kind), str) and part[kind] == LIVE:
            self._live = True
            return {"type": kind, "format": LIVE, "name": place, **_extra(part, str(kind), place)}
        elif kind in MEDIA:
            medium, extra = _own_part(part, str(kind), place)
        else:
            return dict(part)
        described = _describe(medium, place)
        self._images += kind == "image"
        self.media.append(self._take(medium, kind, described["name"]))
        return {"type": kind, "media": len(self.media) - 1, **described, **extra}

    def _take(self, medium: Medium, kind: str, name: str) -> File | bytes:
        if isinstance(medium, str | Path):
            file = _regular_file(self._folder / medium)
            _check_bytes(file.size, kind, name, self._limits)
            return file
        size = medium.nbytes if hasattr(medium, "nbytes") else len(medium)
        if not (hasattr(medium, "shape") and hasattr(medium, "dtype")):
            _check_bytes(size, kind, name, self._limits)
            return bytes(medium)
        import numpy as np

        check_limit(size, kind, name, self._limits)
        return np.ascontiguousarray(medium).tobytes()


def _own_part(part: Mapping[str, Any], kind: str, place: str) -> tuple[Medium, dict[str, Any]]:
    if kind not in part:
        raise bad_input(place, f"a part of type {kind!r} needs the field {kind!r}: a path, bytes or an array")
    return part[kind], _extra(part, kind, place)


def _extra(part: Mapping[str, Any], kind: str, place: str) -> dict[str, Any]:
    """The part's other fields."""
    extra = {key: value for key, value in part.items() if key not in ("type", kind)}
    if kind == "video" and "audio" in extra and not isinstance(extra["audio"], bool):
        raise bad_input(place, "'audio' of a video part says whether its own sound is used: true or false")
    return extra


def _describe(medium: Medium, place: str) -> dict[str, Any]:
    if isinstance(medium, str | Path):
        return {"format": "file", "name": str(medium)}
    if isinstance(medium, bytes | bytearray | memoryview):
        return {"format": "file", "name": place}
    dtype, shape = getattr(medium, "dtype", None), getattr(medium, "shape", None)
    if shape is not None and str(dtype).rpartition(".")[2] in ("float32", "uint8"):
        return {"format": str(dtype).rpartition(".")[2], "shape": list(shape), "name": place}
    raise bad_input(
        place, f"a medium is a path, bytes, or a float32 or uint8 array; got {type(medium).__name__} {dtype or ''}"
    )


def _regular_file(path: Path) -> File:
    """Raises RequestError for anything that is not a file with an end: no device, no pipe."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise bad_input(str(path), f"is {what}; a file is needed")
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return File(path, found.st_size)


def _check_bytes(size: int, kind: str, name: str, limits: Limits) -> None:
    if not size:
        raise bad_input(name, "is empty (0 bytes)")
    check_limit(size, kind, name, limits)


def _bytes_pieces(data: bytes) -> Iterator[tuple[bytes, bool]]:
    for start in range(0, max(len(data), 1), PIECE):
        yield data[start : start + PIECE], start + PIECE >= len(data)


def _says_something(content: Any) -> bool:
    if isinstance(content, list):
        return any(not isinstance(part, dict) or part.get("text") != "" for part in content)
    return bool(content != "")


def _text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    try:
        text = json.dumps(messages, ensure_ascii=False)
        size = len(text.encode())
    except UnicodeEncodeError:
        raise bad_input("conversation", "has text that is not Unicode (bytes that are not UTF-8)") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise bad_input("conversation", f"is not JSON but for its media: {error}") from None
    if size > MAX_MESSAGES_BYTES:
        raise bad_input("conversation", f"{size} bytes of text; at most {MAX_MESSAGES_BYTES} are allowed")
    return text


def _unreadable(path: Path, error: OSError | ValueError) -> RequestError:
    return bad_input(str(path), f"cannot be read: {getattr(error, 'strerror', None) or error}")
