"""Messages -> prompt text by the checkpoint's chat template -> token ids in runs of one role. Media stay placeholders.

Nothing is inserted beyond what the template writes. The template runs sandboxed, in the environment that transformers
gives it (``utils/chat_template_utils.py``), and the ids are those of transformers' tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from omni_nodes.qwen2_5_omni.conversation import ROLES, Message, TextPart
from omni_nodes.qwen2_5_omni.json_fields import InvalidInput
from omni_nodes.qwen2_5_omni.layout import Run
from omni_nodes.qwen2_5_omni.settings import CheckpointError, Section

BYTES_PER_TOKEN = 8
_TURN = "<|im_start|>"
_ROLE = re.compile(re.escape(_TURN) + r"([^\n]*)")


class PromptWriter:
    """The chat template and the tokenizer of one checkpoint. ``context_length`` in tokens bounds the text."""

    def __init__(
        self,
        folder: Path,
        chat_template: str,
        context_length: int,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._template = _environment(now).from_string(chat_template)
        self._special = _special_tokens(folder)
        self._tokenizer = _tokenizer(folder)
        self._turn_id = self._tokenizer.token_to_id(_TURN)
        self._context_length = context_length

    def text(self, messages: Sequence[Message]) -> str:
        """The prompt's text, ending where the reply begins. Raises InvalidInput with the template's own complaint."""
        values = [_template_value(message) for message in messages]
        try:
            return self._template.render(
                messages=values, tools=None, documents=None, add_generation_prompt=True, **self._special
            )
        except TemplateError as error:
            raise InvalidInput(f"the checkpoint's chat template refuses the messages: {error}") from None

    def runs(self, messages: Sequence[Message]) -> tuple[Run, ...]:
        """The prompt's ids, a run for each turn. Raises InvalidInput where the text alone outgrows the context."""
        text = self.text(messages)
        size, most = len(text.encode()), self._context_length * BYTES_PER_TOKEN
        if size > most:
            raise InvalidInput(f"{size} bytes of text; the model's context allows {most}")
        ids = self._tokenizer.encode(text).ids
        if len(ids) > self._context_length:
            raise InvalidInput(f"{len(ids)} tokens of text; the model's context is {self._context_length}")
        return tuple(self._turns(text, ids))

    def _turns(self, text: str, ids: Sequence[int]) -> Iterator[Run]:
        """Cut the ids before every turn marker; the role is what the text says after it, ``user`` where it says another."""
        starts = [place for place, token in enumerate(ids) if token == self._turn_id]
        names = [name.strip() for name in _ROLE.findall(text)]
        if starts[:1] != [0]:
            starts, names = [0, *starts], ["", *names]
        for start, end, name in zip(starts, [*starts[1:], len(ids)], names, strict=True):
            if end > start:
                yield Run(name if name in ROLES else "user", tuple(ids[start:end]))


def _template_value(message: Message) -> dict[str, Any]:
    """The message as transformers shows it to a template; templates ask for a medium by ``type`` or by key."""
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": part.kind, part.kind: part.name}
        for part in message.content
    ]
    return {"role": message.role, "content": parts}


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    return environment


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(f"{file}: no tokenizer can be read from it: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(folder: Path) -> Mapping[str, str]:
    """The named special tokens that a template may write: bos_token, eos_token, ..."""
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    config = Section.read(file).values
    extra = config.get("extra_special_tokens")
    named = {**config, **extra} if isinstance(extra, dict) else config
    tokens = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: token for name, token in tokens.items() if name.endswith("_token") and isinstance(token, str)}
