"""The flags of ``run`` -> one request: inputs, outputs, parameters, and the folder that paths are relative to.

Everything is checked that can be checked before a stage is started.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import typer

from omni_graph.cli.live_flags import live_files, live_part
from omni_graph.cli.playing import Played
from omni_graph.errors import Code, OmniGraphError, RequestError
from omni_graph.node import params_class
from omni_graph.payload import Conversation
from omni_graph.plan import Plan
from omni_graph.runtime.inputs import check_outputs, check_params, read_inputs

T = TypeVar("T")


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
    outputs: str | None = None
    params: Sequence[str] = ()
    greedy: bool = False
    max_tokens: int | None = None
    seed: int | None = None
    session: str | None = None
    live_audio: str | None = None
    live_video: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Ready for App.start; its files were there when it was made. ``live``: those to be played while it runs."""

    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    params: Mapping[str, Mapping[str, Any]]
    seed: int | None
    folder: Path
    session: str | None = None
    live: tuple[Played, ...] = ()


def make_request(flags: Flags, plan: Plan) -> Request:
    """Raises typer.BadParameter for flags that do not fit the graph, RequestError for inputs that it would refuse."""
    outputs = _usage("--outputs", check_outputs, plan, None if flags.outputs is None else flags.outputs.split(","))
    params = _params(flags, plan)
    _usage("--param", check_params, plan, params)
    live = live_files(flags, plan)
    inputs, folder = _inputs(flags, plan)
    read_inputs(plan, inputs, outputs, folder, [one.name for one in live])
    return Request(inputs, outputs, params, flags.seed, folder, flags.session, live)


def _usage(option: str, check: Callable[..., T], *arguments: Any) -> T:
    """What ``check`` refuses is a wrong ``option``."""
    try:
        return check(*arguments)
    except RequestError as error:
        raise typer.BadParameter(error.message, param_hint=f"'{option}'") from None


def _inputs(flags: Flags, plan: Plan) -> tuple[dict[str, Any], Path]:
    """The inputs by name, and the folder that their paths are relative to."""
    inputs: dict[str, Any] = dict(_named(flags.inputs, "--input", "NAME=VALUE"))
    unknown = [name for name in inputs if name not in plan.inputs]
    if unknown:
        known = ", ".join(plan.inputs) or "none"
        raise typer.BadParameter(f"no input {unknown[0]!r}; the graph's inputs: {known}", param_hint="'--input'")
    name = next((name for name, one in plan.inputs.items() if one.type is Conversation), None)
    live = flags.live_audio or flags.live_video
    if _speaks(flags) and name in inputs:
        raise typer.BadParameter(f"{name} is given already by the flags that say something", param_hint="'--input'")
    if not _speaks(flags) and (not live or name is None or name in inputs):
        _explain_missing(inputs, plan, name)
        return inputs, Path()
    if name is None:
        raise typer.BadParameter(
            f"the graph {plan.graph} takes no conversation; its inputs: {', '.join(plan.inputs)}; use --input NAME=VALUE"
        )
    inputs[name], folder = _conversation(flags)
    return inputs, folder


def _explain_missing(inputs: Mapping[str, Any], plan: Plan, conversation: str | None) -> None:
    if conversation is not None and conversation not in inputs and not plan.inputs[conversation].optional:
        message = "the conversation is empty; say something with --text, --image, --audio, --video or --messages"
        raise RequestError("", Code.INVALID_INPUT, message)


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
    parts += live_part(flags, messages)
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
    except (ValueError, RecursionError) as error:
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
            if "temperature" in {one.name for one in fields(params_class(stage.node_class))}:
                params.setdefault(name, {})["temperature"] = 0.0
    if flags.max_tokens is not None:
        params.setdefault("thinker", {})["max_tokens"] = flags.max_tokens
    for key, text in _named(flags.params, "--param", "NODE.KEY=VALUE"):
        node, dot, name = key.partition(".")
        if not dot or not name:
            raise typer.BadParameter(f"{key}={text!r} must be NODE.KEY=VALUE", param_hint="'--param'")
        params.setdefault(node, {})[name] = _value(text)
    return params


def _named(pairs: Sequence[str], option: str, form: str) -> list[tuple[str, str]]:
    split = [pair.partition("=") for pair in pairs]
    wrong = [pair for pair, parts in zip(pairs, split, strict=True) if not parts[1] or not parts[0]]
    if wrong:
        raise typer.BadParameter(f"{wrong[0]!r} must be {form}", param_hint=f"'{option}'")
    return [(name, value) for name, _, value in split]


def _value(text: str) -> Any:
    """A number, true, false or a list as JSON writes it; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
