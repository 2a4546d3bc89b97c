"""How an error that ends a replica is told: one line for people, and for the log what a programmer needs."""

from __future__ import annotations

import traceback

from omni_graph.errors import OmniGraphError
from omni_graph.resolve import missing_extra


def one_line(error: BaseException) -> str:
    """The error's type and message; our own errors say all by themselves, a missing library says what to install."""
    if isinstance(error, OmniGraphError):
        return str(error)
    line = "".join(traceback.format_exception_only(error)).strip()
    hint = missing_extra(error)
    return f"{line}: {hint}" if hint else line


def for_log(error: BaseException) -> str:
    """The traceback, except where one line says it all."""
    if isinstance(error, OmniGraphError) or missing_extra(error):
        return one_line(error)
    return "".join(traceback.format_exception(error))
