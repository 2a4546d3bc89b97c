"""The flags of ``run`` -> one request: inputs, parameters, and the folder that paths are relative to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from omni_graph.errors import OmniGraphError
from omni_graph.node import params_class
from omni_graph.payload import Conversation
from omni_graph.plan import Plan


@dataclass(frozen=True, slots=True)
class Flags:
    """What the user typed about the request."""

    text: str | None = None
    images: Sequence[str] = ()
    audios: Sequence[str] = ()
    videos: Sequence[str] = ()
    audio_in_video: bool = False
    system: str | None = None
    messages: Path | None = None
    inputs: Sequence[str] = ()
    params: Sequence[str] = ()
    greedy: bool = False
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Ready for App.start."""

    inputs: Mapping[str, Any]
    params: Mapping[str, Mapping[str, Any]]
    folder: Path


def make_request(flags: Flags, plan: Plan) -> Request:
    """Raises typer.BadParameter for flags that do not fit each other or the graph."""
    inputs: dict[str, Any] = dict(_named(flags.inputs, "--input", "NAME=VALUE"))
    folder = Path()
    if _speaks(flags):
        name = next((name for name, one in plan.inputs.items() if one.type is Conversation), None)
        if name is None:
            raise typer.BadParameter(
                f"the graph {plan.graph} takes no conversation; its inputs: {', '.join(plan.inputs)}; use --input NAME=VALUE"
            )
        inputs[name], folder = _conversation(flags)
    return Request(inputs, _params(flags, plan), folder)


def _speaks(flags: Flags) -> bool:
    given = (flags.text, flags.images, flags.audios, flags.videos, flags.system, flags.messages)
    return any(one is not None and one != () and one != [] for one in given)


def _conversation(flags: Flags) -> tuple[list[dict[str, Any]], Path]:
    messages: list[dict[str, Any]] = []
    folder = Path()
    if flags.messages is not None:
        messages, folder = _messages_file(flags.messages), flags.messages.parent
    if flags.system is not None:
        messages.insert(0, {"role": "system", "content": flags.system})
    parts: list[dict[str, Any]] = []
    for kind, paths in (("image", flags.images), ("audio", flags.audios), ("video", flags.videos)):
        parts += [{"type": kind, kind: str(Path(path).absolute()) if flags.messages else path} for path in paths]
    if flags.text is not None:
        parts.append({"type": "text", "text": flags.text})
    if parts:
        messages.append({"role": "user", "content": parts})
    if flags.audio_in_video:
        _use_sound(messages)
    return messages, folder


def _messages_file(path: Path) -> list[dict[str, Any]]:
    try:
        messages = json.loads(path.read_text())
    except OSError as error:
        raise OmniGraphError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise OmniGraphError(f"{path}: not JSON: {error}") from None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise OmniGraphError(f"{path}: must hold a list of messages {{'role', 'content'}}")
    return messages


def _use_sound(messages: list[dict[str, Any]]) -> None:
    """The sound of every video is part of the prompt."""
    for message in messages:
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            if isinstance(part, dict) and part.get("type") in ("video", "video_url"):
                part["audio"] = True


def _params(flags: Flags, plan: Plan) -> dict[str, dict[str, Any]]:
    params: dict[str, dict[str, Any]] = {}
    if flags.greedy:
        for name, stage in plan.stages.items():
            if "temperature" in params_class(stage.node_class).__dataclass_fields__:
                params.setdefault(name, {})["temperature"] = 0.0
    if flags.max_tokens is not None:
        params.setdefault("thinker", {})["max_tokens"] = flags.max_tokens
    for key, text in _named(flags.params, "--param", "NODE.KEY=VALUE"):
        node, dot, name = key.partition(".")
        if not dot or not name:
            raise typer.BadParameter(f"--param {key}={text}: must be NODE.KEY=VALUE")
        params.setdefault(node, {})[name] = _value(text)
    return params


def _named(pairs: Sequence[str], option: str, form: str) -> list[tuple[str, str]]:
    split = [pair.partition("=") for pair in pairs]
    wrong = [pair for pair, parts in zip(pairs, split, strict=True) if not parts[1] or not parts[0]]
    if wrong:
        raise typer.BadParameter(f"{option} {wrong[0]}: must be {form}")
    return [(name, value) for name, _, value in split]


def _value(text: str) -> Any:
    """A number, true, false or a list as JSON writes it; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
