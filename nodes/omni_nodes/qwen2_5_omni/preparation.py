"""A whole conversation -> what the frontend sends: three arms, each made on demand and independent of the others.

Preparation goes in slices: a second of sound, some packets of a video's index, one picture measured. What it decides
depends on the conversation alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from omni_nodes.media.limits import MediaLimits
from omni_nodes.payloads import Patches
from omni_nodes.qwen2_5_omni.checkpoint import Checkpoint
from omni_nodes.qwen2_5_omni.conversation import ParsedConversation
from omni_nodes.qwen2_5_omni.intake import MediaIntake, Medium, PictureSource, Slices, blocks_of, mel_chunks
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import lay_out
from omni_nodes.qwen2_5_omni.prompt import PromptWriter

T = TypeVar("T")


@dataclass(slots=True)
class Arm(Generic[T]):
    """The packets of one output. ``left`` says how many are still to come, without making one."""

    packets: Iterator[T | None]
    left: int

    def advance(self) -> T | None:
        """The next packet, or None after a slice of work that completed none."""
        packet = next(self.packets)
        if packet is not None:
            self.left -= 1
        return packet


class Preparer:
    """Prepares conversations for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, limits: MediaLimits) -> None:
        self._settings = checkpoint.settings
        self._context = checkpoint.settings.thinker.context_length
        self._writer = PromptWriter(checkpoint.folder, checkpoint.chat_template, self._context)
        self._intake = MediaIntake(checkpoint, limits)

    def prepare(self, conversation: ParsedConversation, audio_in_video: bool) -> Slices[dict[str, Arm[Any]]]:
        """The arms ``layout``, ``audio`` and ``vision``, after as many slices as the media need.

        ``audio_in_video``: hear the videos that do not say themselves. Raises InvalidInput or MediaError on the way.
        """
        runs = self._writer.runs(conversation.messages)
        waiting = deque(conversation.media)
        del conversation  # so that a sound's bytes are free once it is decoded
        media: list[Medium] = []
        while waiting:
            part, data = waiting.popleft()
            heard = audio_in_video if part.sound is None else part.sound
            examined = self._intake.examine(part, data, len(media), heard=heard)
            del data
            media.append((yield from examined))
        merge_size = self._settings.vision.spatial_merge_size
        segments = lay_out(runs, [medium.span for medium in media], self._settings.tokens, merge_size)
        tokens = sum(len(segment.token_ids) for segment in segments)
        if tokens > self._context:
            raise InvalidInput(f"a prompt of {tokens} tokens, media included; the model's context is {self._context}")
        return {"layout": Arm(iter(segments), len(segments)), "audio": _audio(media), "vision": _vision(media)}


def _audio(media: Iterable[Medium]) -> Arm[Any]:
    sounds = [(span, medium.sound) for span, medium in enumerate(media) if medium.sound is not None]
    return Arm(mel_chunks(sounds), sum(blocks_of(sound) for _, sound in sounds))


def _vision(media: Iterable[Medium]) -> Arm[Any]:
    sources = deque(medium.pictures for medium in media if medium.pictures is not None)
    return Arm(_pictures(sources), sum(medium.picture_packets for medium in media))


def _pictures(sources: deque[PictureSource]) -> Iterator[Patches | None]:
    """All pictures in order; a medium's bytes are let go when its last packet is out."""
    while sources:
        yield from sources.popleft()()
