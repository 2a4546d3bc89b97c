"""A conversation's messages as typed values, parsed from JSON.

Everything here came from outside: each field is checked before it is used, and an error names its place, such as
``messages[1].content[0].fps``. Nothing is decoded here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True, slots=True)
class LivePart:
    """The place of what is written live: ``audio``, or ``video`` with its sound (None: where there is any)."""

    kind: str
    name: str
    sound: bool | None = None


Part = TextPart | MediaPart | LivePart


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str | tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its content, a plain text as one part."""
        return (TextPart(self.content),) if isinstance(self.content, str) else self.content


@dataclass(frozen=True, slots=True)
class ParsedConversation:
    """The messages; and for their media parts, in order, the part and its bytes (a file, or a little-endian array)."""

    messages: tuple[Message, ...]
    media: tuple[tuple[MediaPart, bytes], ...]

    @property
    def live(self) -> LivePart | None:
        """The part that says where live input belongs."""
        parts = (part for message in self.messages for part in message.parts)
        return next((part for part in parts if isinstance(part, LivePart)), None)

    @property
    def before_live(self) -> int:
        """How many media come before the live part."""
        kinds = [type(part) for message in self.messages for part in message.parts if not isinstance(part, TextPart)]
        return kinds.index(LivePart)

    def with_live(self, kind: str) -> ParsedConversation:
        """The same with a live part at the end of the last user turn. Raises InvalidInput where there is none."""
        last = _last_user(self.messages)
        if last < 0:
            raise InvalidInput(f"live {kind} came, and the conversation has no user turn that it could belong to")
        message = self.messages[last]
        spoken = replace(message, content=(*message.parts, LivePart(kind, f"live {kind}")))
        return replace(self, messages=(*self.messages[:last], spoken, *self.messages[last + 1 :]))


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
    _check_live(messages)
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


def _check_live(messages: tuple[Message, ...]) -> None:
    live = [(index, part) for index, one in enumerate(messages) for part in one.parts if isinstance(part, LivePart)]
    if len(live) > 1:
        raise InvalidInput(f"messages: {len(live)} live parts, at most 1 is allowed; live video takes live sound along")
    if live and live[0][0] != _last_user(messages):
        raise InvalidInput(f"{live[0][1].name}: a live part belongs into the last user turn")


def _last_user(messages: tuple[Message, ...]) -> int:
    """The index of the last user turn; -1 where there is none."""
    return max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)


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
    layout = fields.one_of("format", ("file", "float32", "live"))
    if layout == "live":
        fields.only("type", "format", "name")
        return LivePart("audio", fields.name())
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
    layout = fields.one_of("format", ("file", "uint8", "live"))
    sound = fields.flag("audio")
    if layout == "live":
        fields.only("type", "format", "name", "audio")
        return LivePart("video", fields.name(), sound)
    if layout == "file":
        return MediaPart("video", *fields.medium(), layout, sound=sound)
    return MediaPart("video", *fields.medium(), layout, fields.shape(4), fps=fields.rate("fps"), sound=sound)


_PARTS: dict[str, Callable[[Fields], Part]] = {"text": _text, "audio": _audio, "image": _image, "video": _video}
