"""``--live-audio`` and ``--live-video``: the files that are played, the inputs, and the part that says where they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from omni_graph.cli.playing import Played
from omni_graph.cli.recordings import check_recording
from omni_graph.conversation import LIVE, LIVE_MEDIA
from omni_graph.payload import AudioChunk, VideoFrame
from omni_graph.plan import Plan

if TYPE_CHECKING:
    from omni_graph.cli.request import Flags


def live_files(flags: Flags, plan: Plan) -> tuple[Played, ...]:
    """What is played. Raises typer.BadParameter for flags that do not fit, OmniGraphError for a file that cannot be read."""
    if flags.live_audio and flags.live_video and flags.audio_in_video:
        message = "the sound is that of --live-video already, with --audio-in-video; leave out one of them"
        raise typer.BadParameter(message, param_hint="'--live-audio'")
    found: list[Played] = []
    if flags.live_video:
        found.append(_played("--live-video", flags.live_video, VideoFrame, plan))
    sound = flags.live_video if flags.live_video and flags.audio_in_video else flags.live_audio
    if sound:
        found.append(_played("--live-audio", sound, AudioChunk, plan))
    return tuple(found)


def _played(option: str, path: str, kind: type, plan: Plan) -> Played:
    name = next((name for name, one in plan.inputs.items() if one.type is kind), None)
    if name is None:
        inputs = ", ".join(plan.inputs) or "none"
        message = f"the graph {plan.graph} has no input of type {kind.__name__}; its inputs: {inputs}"
        raise typer.BadParameter(message, param_hint=f"'{option}'")
    check_recording(Path(path), "audio" if kind is AudioChunk else "video")
    return Played(name, kind, Path(path))


def live_part(flags: Flags, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The last part of the user's message where something is played, unless the messages have a place for it."""
    if not (flags.live_audio or flags.live_video) or any(map(_has_place, messages)):
        return []
    if flags.live_video:
        heard = bool(flags.live_audio) or flags.audio_in_video
        return [{"type": "video", "video": LIVE, "audio": heard}]
    return [{"type": "audio", "audio": LIVE}]


def _has_place(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return any(isinstance(part, dict) and part.get(kind) == LIVE for part in parts for kind in LIVE_MEDIA)
