"""A whole conversation -> what the frontend sends: three arms, each made on demand and independent of the others.

Preparation goes in slices: a second of sound, some packets of a video's index, one picture measured. What it decides
depends on the conversation alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from omni_nodes.media.limits import MediaLimits
from omni_nodes.media.mel import MaximumPolicy
from omni_nodes.media.patches import video_budget
from omni_nodes.payloads import LayoutSegment, Patches
from omni_nodes.qwen2_5_omni.arms import AnyArm, Arm, Chain
from omni_nodes.qwen2_5_omni.checkpoint import Checkpoint
from omni_nodes.qwen2_5_omni.conversation import ParsedConversation
from omni_nodes.qwen2_5_omni.intake import (
    MediaIntake,
    Medium,
    PictureSource,
    Slices,
    blocks_of,
    mel_chunks,
    patch_settings,
)
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import LiveSpan, lay_out, lay_out_around
from omni_nodes.qwen2_5_omni.live import LiveInput, LiveSettings
from omni_nodes.qwen2_5_omni.prompt import PromptWriter


@dataclass(frozen=True, slots=True)
class Prepared:
    """The arms ``layout``, ``audio`` and ``vision``; and ``live``, which fills them, where there is live input."""

    arms: dict[str, AnyArm]
    live: LiveInput | None = None


class Preparer:
    """Prepares conversations for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, limits: MediaLimits, live_policy: MaximumPolicy = "running") -> None:
        self._settings = checkpoint.settings
        self._merge_size = checkpoint.settings.vision.spatial_merge_size
        self._context = checkpoint.settings.thinker.context_length
        self._writer = PromptWriter(checkpoint.folder, checkpoint.chat_template, self._context)
        self._intake = MediaIntake(checkpoint, limits)
        self._live = LiveSettings(
            checkpoint.settings.tokens,
            self._merge_size,
            checkpoint.mel.mel_bins,
            live_policy,
            video_budget(limits.video_frames, patch_settings(checkpoint.videos)),
            limits,
        )

    def prepare(self, conversation: ParsedConversation, audio_in_video: bool) -> Slices[Prepared]:
        """The arms, after as many slices as the media need.

        ``audio_in_video``: hear the videos that do not say themselves. Raises InvalidInput or MediaError on the way.
        """
        runs = self._writer.runs(conversation.messages)
        examined = self._examined(conversation, audio_in_video)
        del conversation  # so that a sound's bytes are free once it is decoded
        media = yield from examined
        spans = [medium.span for medium in media]
        segments = lay_out(runs, spans, self._settings.tokens, self._merge_size)
        self._check_context(segments)
        arms: dict[str, AnyArm] = {"layout": Arm.of(segments), "audio": _audio(media), "vision": _vision(media)}
        return Prepared(arms)

    def prepare_live(self, conversation: ParsedConversation, audio_in_video: bool, span: LiveSpan) -> Slices[Prepared]:
        """The same for a conversation with a live part, whose input is ``span``: each arm waits for it at its place."""
        runs = self._writer.runs(conversation.messages)
        number = conversation.before_live
        examined = self._examined(conversation, audio_in_video, number)
        del conversation
        media = yield from examined
        first, second = media[:number], media[number:]
        spans = [*(medium.span for medium in first), span, *(medium.span for medium in second)]
        layout = lay_out_around(runs, spans, self._settings.tokens, self._merge_size)
        tokens = self._check_context((*layout.before, *layout.after))
        live = LiveInput(span, layout.place, self._context - tokens, self._live)
        arms: dict[str, AnyArm] = {
            "layout": Chain(Arm.of(layout.before), live.layout, Arm.of(layout.after)),
            "audio": Chain(_audio(first), live.audio, _audio(second, number + 1)),
            "vision": Chain(_vision(first), live.vision, _vision(second)),
        }
        return Prepared(arms, live)

    def _examined(
        self, conversation: ParsedConversation, audio_in_video: bool, live: int | None = None
    ) -> Slices[list[Medium]]:
        """The media, whose numbers leave out ``live``."""
        waiting = deque(conversation.media)
        del conversation
        media: list[Medium] = []
        while waiting:
            part, data = waiting.popleft()
            heard = audio_in_video if part.sound is None else part.sound
            number = len(media) + (live is not None and len(media) >= live)
            examined = self._intake.examine(part, data, number, heard=heard)
            del data
            media.append((yield from examined))
        return media

    def _check_context(self, segments: Iterable[LayoutSegment]) -> int:
        """Their tokens. Raises InvalidInput where the context has no room for them."""
        tokens = sum(len(segment.token_ids) for segment in segments)
        if tokens > self._context:
            raise InvalidInput(f"a prompt of {tokens} tokens, media included; the model's context is {self._context}")
        return tokens


def _audio(media: Iterable[Medium], first: int = 0) -> Arm[Any]:
    """The sounds of media numbered from ``first``."""
    sounds = [(span, medium.sound) for span, medium in enumerate(media, first) if medium.sound is not None]
    return Arm(mel_chunks(sounds), sum(blocks_of(sound) for _, sound in sounds))


def _vision(media: Iterable[Medium]) -> Arm[Any]:
    sources = deque(medium.pictures for medium in media if medium.pictures is not None)
    return Arm(_pictures(sources), sum(medium.picture_packets for medium in media))


def _pictures(sources: deque[PictureSource]) -> Iterator[Patches | None]:
    """All pictures in order; a medium's bytes are let go when its last packet is out."""
    while sources:
        yield from sources.popleft()()
