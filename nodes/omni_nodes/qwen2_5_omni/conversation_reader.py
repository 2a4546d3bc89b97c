"""Conversation packets -> a ParsedConversation: the messages, each media part with its bytes. Nothing is decoded here."""

from __future__ import annotations

from omni_graph.payload import Conversation
from omni_nodes.qwen2_5_omni.conversation import (
    ConversationLimits,
    MediaPart,
    Message,
    ParsedConversation,
    parse_messages,
)
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput


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
