"""Our errors as JSON, and back to the same class on the other side of a control connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omni_graph.errors import Code, OmniGraphError, Overloaded, RequestError, request_error


def error_to_json(error: OmniGraphError) -> dict[str, Any]:
    """What a client needs to raise it again."""
    if not isinstance(error, RequestError):
        return {"message": str(error)}
    told: dict[str, Any] = {"request": error.request, "code": str(error.code), "stage": error.stage}
    told |= {"message": "\n".join(filter(None, (error.message, error.detail))), "retryable": error.retryable}
    if isinstance(error, Overloaded):
        told["retry_after_s"] = error.retry_after_s
    return told


def error_from_json(told: Mapping[str, Any]) -> OmniGraphError:
    """The error that the other side had; a RequestError where it has a code."""
    message = str(told.get("message", "no reason was given"))
    if told.get("code") not in list(Code):
        return OmniGraphError(message)
    request, stage = str(told.get("request", "")), str(told.get("stage", ""))
    if told["code"] == Code.OVERLOADED:
        return Overloaded(request, message, stage=stage, retry_after_s=int(told.get("retry_after_s", 1)))
    return request_error(request, Code(told["code"]), message, stage)
