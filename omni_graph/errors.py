"""The error families, by whose fault it is: the user's file, a peer or our caller, stage code, one request.

Every message has the place, what was seen and what is allowed. Request codes are an enum; nothing ever matches on text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Why a request did not complete. Stable: clients and the wire use these words."""

    INVALID_INPUT = "invalid_input"
    NODE_FAILED = "node_failed"
    NUMERIC = "numeric"
    LINK_LOST = "link_lost"
    REPLICA_DIED = "replica_died"
    STUCK = "stuck"
    DRAINED = "drained"
    WEDGED = "wedged"
    POISON = "poison"
    PROTOCOL = "protocol"
    DIVERGED = "diverged"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CLOSED = "closed"


# what another replica may mend
REPLAYED = frozenset({Code.LINK_LOST, Code.REPLICA_DIED, Code.STUCK, Code.DRAINED})
RETRYABLE = REPLAYED | {Code.UNAVAILABLE, Code.OVERLOADED, Code.CLOSED}


class OmniGraphError(Exception):
    """Everything this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a graph or deploy file, at a place a person can go to (line and column from 1, 0 unknown)."""

    code: str
    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    width: int = 1
    source: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: " if self.file else ""
        place = f"{self.path}: " if self.path else ""
        head = f"{where}error[{self.code}]: {place}{self.message}"
        if not self.source:
            return head
        margin = f"{self.line:>5} | "
        return f"{head}\n{margin}{self.source}\n{' ' * 5} | {' ' * (self.column - 1)}{'^' * max(1, self.width)}"


class GraphError(OmniGraphError):
    """The user's graph or deploy file is wrong. Carries every fault found, not only the first."""

    def __init__(self, faults: tuple[Fault, ...] | list[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class FlowControlError(OmniGraphError):
    """A peer, or our own caller, broke the protocol: data past its limit, an end after an end, a frame out of order."""


class LinkError(OmniGraphError):
    """Bytes from a peer that are not a legal message. The message names the peer; its link is ended."""


class NodeError(OmniGraphError):
    """Stage code did something wrong."""


class FatalNodeError(NodeError):
    """Stage code cannot go on (device lost, memory corrupt): the replica ends."""


class LaunchError(OmniGraphError):
    """A deployment could not be started. The message names the replica and shows its last log lines."""


class ScaleError(OmniGraphError):
    """A running deployment cannot be changed as asked. The message names the stage, and how it is now."""


class RequestError(OmniGraphError):
    """One request did not complete. Nodes raise it to fail exactly that request; callers receive it.

    ``message`` is one line; what follows it in the text given (a node's traceback) is ``detail``.
    """

    def __init__(self, request: str, code: Code | str, message: str, *, stage: str = "", retryable: bool | None = None):
        self.request = request
        self.code = Code(code)
        self.message, _, self.detail = message.partition("\n")
        self.stage = stage
        self.retryable = self.code in RETRYABLE if retryable is None else retryable
        super().__init__(request, self.code, message)

    def __str__(self) -> str:
        return f"{self.code}: {self.stage + ': ' if self.stage else ''}{self.message}"


class Overloaded(RequestError):
    """No room to admit the request now. ``stage`` is the fullest; try again after ``retry_after_s`` seconds."""

    def __init__(self, request: str, message: str, *, stage: str = "", retry_after_s: int = 1):
        super().__init__(request, Code.OVERLOADED, message, stage=stage)
        self.retry_after_s = retry_after_s


class Cancelled(RequestError):
    """The caller cancelled the request."""


class DeadlineExceeded(RequestError):
    """The request's wall time ran out."""


def request_error(request: str, code: Code, message: str, stage: str = "") -> RequestError:
    """The exception class that belongs to ``code``."""
    if code is Code.OVERLOADED:
        return Overloaded(request, message, stage=stage)
    kinds: dict[Code, type[RequestError]] = {
        Code.CANCELLED: Cancelled,
        Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    }
    return kinds.get(code, RequestError)(request, code, message, stage=stage)
