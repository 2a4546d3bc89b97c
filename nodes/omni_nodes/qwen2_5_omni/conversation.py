"""Conversation packets -> a ParsedConversation: the messages as typed values, each media part with its bytes.

Everything here came from outside: each field is checked before it is used, and an error names its place, such as
``messages[1].content[0].fps``. Nothing is decoded here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from omni_graph.payload import Conversation
from omni_nodes.media.limits import MediaLimits
from omni_nodes.qwen2_5_omni.json_fields import Fields, InvalidInput

ROLES = ("system", "user", "assistant")
KINDS = ("audio", "image", "video")


@dataclass(frozen=True, slots=True)
class ConversationLimits:
    """How long a conversation may be: messages, parts of all messages together, and its media, raw arrays included."""

    messages: int = 128
    parts: int = 64
    media: MediaLimits = field(default_factory=MediaLimits)

    @classmethod
    def of(cls, table: Mapping[str, float]) -> ConversationLimits:
        """From the deploy file's ``limits``; what the table lacks keeps its default."""
        own = {name: int(table[name]) for name in ("messages", "parts") if name in table}
        return cls(**own, media=MediaLimits.of(table))

    def bytes_of(self, kind: str) -> int:
        """The most bytes of one medium."""
        return {"audio": self.media.audio_bytes, "image": self.media.image_bytes, "video": self.media.video_bytes}[kind]


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


@dataclass(frozen=True, slots=True)
class MediaPart:
    """A medium as the messages describe it. ``index`` numbers the media of the conversation; ``format`` is ``file``, or
    ``float32`` / ``uint8`` for a raw array of ``shape``; ``sound`` is what the part says of its sound track, if it does.
    """

    kind: str
    index: int
    name: str
    format: str
    shape: tuple[int, ...] = ()
    sample_rate: int = 0
    fps: float = 0.0
    sound: bool | None = None


Part = TextPart | MediaPart


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str | tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class ParsedConversation:
    """The messages; and for their media parts, in order, the part and its bytes (a file, or a little-endian array)."""

    messages: tuple[Message, ...]
    media: tuple[tuple[MediaPart, bytes], ...]


class ConversationReader:
    """Collects the packets of one conversation, refusing them as soon as a limit is passed."""

    def __init__(self, limits: ConversationLimits) -> None:
        self._limits = limits
        self._messages: tuple[Message, ...] | None = None
        self._parts: list[MediaPart] = []
        self._done: list[bytes] = []
        self._open: list[bytes] = []

    def push(self, packet: Conversation) -> None:
        """Take the next packet. Raises InvalidInput."""
        if packet.media < 0:
            self._take_messages(packet.messages)
        else:
            self._take_bytes(packet)

    def finish(self) -> ParsedConversation:
        """The whole conversation. Raises InvalidInput where something is missing."""
        if self._messages is None:
            raise InvalidInput("the conversation is empty: at least one message is needed")
        if len(self._done) < len(self._parts):
            part = self._parts[len(self._done)]
            raise InvalidInput(f"{part.kind} {part.name}: its bytes ended early")
        return ParsedConversation(self._messages, tuple(zip(self._parts, self._done, strict=True)))

    def _take_messages(self, text: str) -> None:
        if self._messages is not None:
            raise InvalidInput("the conversation's messages came twice")
        self._messages = parse_messages(text, self._limits)
        for message in self._messages:
            if not isinstance(message.content, str):
                self._parts.extend(part for part in message.content if isinstance(part, MediaPart))

    def _take_bytes(self, packet: Conversation) -> None:
        expected = len(self._done)
        if packet.media != expected or expected >= len(self._parts):
            due = f"medium {expected} is next" if expected < len(self._parts) else "none is missing"
            raise InvalidInput(f"bytes of medium {packet.media} came; the messages name {len(self._parts)}, {due}")
        part = self._parts[expected]
        self._open.append(packet.data)
        limit = self._limits.bytes_of(part.kind)
        if sum(map(len, self._open)) > limit:
            raise InvalidInput(f"{part.kind} {part.name}: more than {limit} bytes, which is the limit")
        if packet.last:
            self._done.append(b"".join(self._open))
            self._open = []


def parse_messages(text: str, limits: ConversationLimits) -> tuple[Message, ...]:
    """The messages of a JSON list. Raises InvalidInput with the place of the first thing wrong."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("messages: not a JSON list") from None
    if not isinstance(value, list) or not value:
        raise InvalidInput("messages: a list of at least one message is needed")
    if len(value) > limits.messages:
        raise InvalidInput(f"messages: {len(value)} of them, at most {limits.messages} are allowed")
    messages = tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))
    parts = [part for message in messages if not isinstance(message.content, str) for part in message.content]
    if len(parts) > limits.parts:
        raise InvalidInput(f"messages: {len(parts)} content parts, at most {limits.parts} are allowed")
    media = [part for part in parts if isinstance(part, MediaPart)]
    images = sum(part.kind == "image" for part in media)
    if images > limits.media.images:
        raise InvalidInput(f"messages: {images} images, at most {limits.media.images} are allowed")
    seen = [part.index for part in media]
    if seen != list(range(len(seen))):
        raise InvalidInput(f"messages: media are numbered {seen}; they must count 0, 1, ... in their order")
    return messages


def _message(value: object, place: str) -> Message:
    fields = Fields.of(value, place, ("role", "content"))
    role = fields.one_of("role", ROLES)
    content = fields.get("content")
    if isinstance(content, str):
        return Message(role, fields.text("content"))
    if not isinstance(content, list) or not content:
        raise InvalidInput(f"{place}.content: text, or a list of at least one part, is needed")
    return Message(role, tuple(_part(item, f"{place}.content[{index}]") for index, item in enumerate(content)))


def _part(value: object, place: str) -> Part:
    fields = Fields.of(value, place)
    kind = fields.one_of("type", ("text", *KINDS))
    return _PARTS[kind](fields)


def _text(fields: Fields) -> Part:
    fields.only("type", "text")
    return TextPart(fields.text("text"))


def _audio(fields: Fields) -> Part:
    fields.only("type", "media", "format", "name", "shape", "sample_rate")
    layout = fields.one_of("format", ("file", "float32"))
    if layout == "file":
        return MediaPart("audio", *fields.medium(), layout)
    return MediaPart("audio", *fields.medium(), layout, fields.shape(1, 2), fields.count("sample_rate"))


def _image(fields: Fields) -> Part:
    fields.only("type", "media", "format", "name", "shape")
    layout = fields.one_of("format", ("file", "uint8"))
    shape = () if layout == "file" else fields.shape(3)
    return MediaPart("image", *fields.medium(), layout, shape)


def _video(fields: Fields) -> Part:
    fields.only("type", "media", "format", "name", "shape", "fps", "audio")
    layout = fields.one_of("format", ("file", "uint8"))
    sound = fields.flag("audio")
    if layout == "file":
        return MediaPart("video", *fields.medium(), layout, sound=sound)
    return MediaPart("video", *fields.medium(), layout, fields.shape(4), fps=fields.rate("fps"), sound=sound)


_PARTS: dict[str, Callable[[Fields], Part]] = {"text": _text, "audio": _audio, "image": _image, "video": _video}
