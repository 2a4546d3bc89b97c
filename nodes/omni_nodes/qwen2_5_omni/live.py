"""Live input of one request: chunks of sound and frames in; mel blocks, patches and the layout's pieces out.

Each output is a queue of its own. Work goes in slices: a second of sound, or one frame pair. What comes out depends on what
was written alone, not on how it was cut or when it came.
"""

from __future__ import annotations

from dataclasses import dataclass

from omni_graph.payload import Array, AudioChunk, VideoFrame
from omni_nodes.media.limits import MediaLimits
from omni_nodes.media.live_sound import LiveSound
from omni_nodes.media.live_video import LiveFrames
from omni_nodes.media.mel import MaximumPolicy
from omni_nodes.media.patches import PatchSettings, frame_pair_patches
from omni_nodes.payloads import LayoutSegment, MelChunk, Patches
from omni_nodes.qwen2_5_omni.arms import Queue
from omni_nodes.qwen2_5_omni.conversation import LivePart
from omni_nodes.qwen2_5_omni.intake import patch_packets
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import LiveSpan, audio_tokens
from omni_nodes.qwen2_5_omni.live_pieces import LivePieces
from omni_nodes.qwen2_5_omni.pieces import Place
from omni_nodes.qwen2_5_omni.settings import MediaTokens

SOUND, PICTURES = "live audio", "live video"


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What a checkpoint and the limits say of live input. ``pictures``: the budget of every frame, whatever will come."""

    tokens: MediaTokens
    merge_size: int
    bins: int
    policy: MaximumPolicy
    pictures: PatchSettings
    limits: MediaLimits


class LiveInput:
    """The input of a live span at ``place``. ``context``: the tokens that the prompt around it leaves. What it neither
    ``hears`` nor ``sees`` is refused.

    Raises InvalidInput or MediaError at the packet that cannot be used.
    """

    def __init__(self, span: LiveSpan, place: Place, context: int, settings: LiveSettings) -> None:
        self.hears, self.sees = span.heard or span.kind == "audio", span.kind == "video"
        self._number = place.number
        self._context = context
        self._settings = settings
        self._pieces = LivePieces(span, place, settings.tokens, settings.merge_size)
        self._sound = LiveSound(SOUND, settings.limits, settings.policy, settings.bins)
        self._frames = LiveFrames(PICTURES, settings.limits)
        self.layout: Queue[LayoutSegment] = Queue()
        self.audio: Queue[MelChunk] = Queue(ended=not self.hears)
        self.vision: Queue[Patches] = Queue(ended=not self.sees)

    @property
    def wants_sound(self) -> bool:
        """All sound that came has been worked up and sent."""
        return not self._sound.busy and not self.audio.packets

    @property
    def wants_pictures(self) -> bool:
        """All frames that came have been worked up and sent."""
        return not self._frames.busy and not self.vision.packets

    @property
    def busy(self) -> bool:
        """There is work for ``advance``."""
        return self._sound_due or self._pictures_due

    @property
    def _sound_due(self) -> bool:
        return self.hears and self._sound.busy

    @property
    def _pictures_due(self) -> bool:
        """A pair of frames, or their end, is to be worked up."""
        return self.sees and (self._frames.busy or (self._frames.finished and not self.vision.ended))

    def push(self, packet: AudioChunk | VideoFrame) -> None:
        """What the user wrote next."""
        if isinstance(packet, AudioChunk):
            if not self.hears:
                raise InvalidInput(
                    f'{SOUND} came for a live video without sound; its part may say {{"audio": true}}, or leave it out'
                )
            self._sound.push(packet.samples.values, packet.sample_rate)
        else:
            if not self.sees:
                raise InvalidInput(
                    f'{PICTURES} came without a place; the last user turn needs a part {{"type": "video", "video": "live"}}'
                )
            self._frames.push(packet.pixels.values, packet.time)

    def end_sound(self) -> None:
        """No more sound comes. Idempotent."""
        self._sound.end()

    def end_pictures(self) -> None:
        """No more frames come. Idempotent."""
        self._frames.end()

    def advance(self) -> None:
        """One slice of work."""
        if self._sound_due:
            self._advance_sound()
        elif self._pictures_due:
            self._advance_pictures()
        self.layout.ended = self._pieces.ended

    def _advance_sound(self) -> None:
        for features in self._sound.advance():
            self.audio.put([MelChunk(Array.of(features), self._number)])
            self._laid_out(self._pieces.add_sound(audio_tokens(features.shape[1])))
        if self._sound.finished:
            self.audio.ended = True
            self._laid_out(self._pieces.end_sound())

    def _advance_pictures(self) -> None:
        if self._frames.busy:
            pixels, grid = frame_pair_patches(self._frames.pair(), self._settings.pictures, PICTURES)
            self.vision.put(list(patch_packets([pixels], grid, self._number, self._settings.pictures)))
            self._laid_out(self._pieces.add_pictures(grid))
        if self._frames.finished:
            self.vision.ended = True
            self._laid_out(self._pieces.end_pictures())

    def _laid_out(self, segments: list[LayoutSegment]) -> None:
        if self._pieces.count > self._context:
            raise InvalidInput(
                f"the live input has {self._pieces.count} tokens; the prompt around it leaves {self._context} in the context"
            )
        self.layout.put(segments)


def live_span(
    part: LivePart | None, sound: bool | None, pictures: bool | None, heard: bool | None = None
) -> LiveSpan | None:
    """What the live input is, as soon as nothing that may come could change it; None until then.

    ``part``: its place, if the messages have one. ``sound``, ``pictures``: whether any came; None: not yet. Without a part,
    sound goes first; where neither came it is a LiveSpan of no kind. ``heard``: for a video part that does not say; None:
    where there is any sound.
    """
    if part is None:
        if sound is None or (not sound and pictures is None):
            return None
        return LiveSpan("audio" if sound else "video" if pictures else "")
    if part.kind == "audio":
        return LiveSpan("audio")
    known = [wish for wish in (part.sound, heard, sound) if wish is not None]
    return LiveSpan("video", known[0]) if known else None
