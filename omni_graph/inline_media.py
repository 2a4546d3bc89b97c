"""The media inside a message: OpenAI's parts with their bytes in base64, and the limit that any medium's bytes obey."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from omni_graph.errors import Code, RequestError
from omni_graph.spec import Limits


def openai_part(part: Mapping[str, Any], place: str, limits: Limits) -> tuple[str, bytes, dict[str, Any]]:
    """(kind, bytes, other fields) of a part ``image_url``, ``input_audio`` or ``video_url``. Raises RequestError."""
    name = str(part["type"])
    kind, inner = name.removesuffix("_url").removeprefix("input_"), part.get(name)
    if name == "input_audio":
        data = inner.get("data") if isinstance(inner, Mapping) else None
        if not isinstance(data, str):
            raise bad_input(place, "input_audio needs {'data': base64, 'format': ...}")
        return kind, _base64(data, kind, place, limits), {}
    url = inner.get("url") if isinstance(inner, Mapping) else inner
    if not isinstance(url, str) or not url.startswith("data:"):
        raise bad_input(place, f"{name} must hold a data: URL; other URLs are not fetched")
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise bad_input(place, f"{name}: a data: URL must be base64")
    return kind, _base64(data, kind, place, limits), {}


def _base64(data: str, kind: str, place: str, limits: Limits) -> bytes:
    check_limit(len(data) // 4 * 3 - 2, kind, place, limits)  # what it decodes to, at the least
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_input(place, f"not base64: {error}") from None


def check_limit(size: int, kind: str, name: str, limits: Limits) -> None:
    """Raises RequestError for a medium of more than ``limits`` allow its kind."""
    allowed = getattr(limits, f"{kind}_bytes")
    if size > allowed:
        raise bad_input(name, f"has {size} bytes; at most {allowed} are allowed for {kind} (limits.{kind}_bytes)")


def bad_input(place: str, message: str) -> RequestError:
    """An invalid input at ``place``."""
    return RequestError("", Code.INVALID_INPUT, f"{place}: {message}")
