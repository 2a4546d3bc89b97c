"""What one Links object has moved so far: a frozen snapshot, for metrics and tests. Nothing acts on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Totals since the start.

    A message is one unit of the transport and carries several frames. ``dropped``: frames that had no link to go to, or
    that arrived on a link already over. ``bad_messages``: messages refused by the codec or the Hello. ``refused_callers``:
    connections to us that ended before anything was heard: no ZMTP, no or a wrong CURVE, a key that nobody introduced.
    """

    messages_sent: int = 0
    messages_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped: int = 0
    bad_messages: int = 0
    refused_callers: int = 0


class Tally:
    """The running counts behind ``LinkCounters``; one thread adds, anyone may take a snapshot."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, amount: int = 1) -> None:
        """Add to the counter ``name``, a field of LinkCounters."""
        self._counts[name] = self._counts.get(name, 0) + amount

    def snapshot(self) -> LinkCounters:
        """The counts now."""
        return LinkCounters(**self._counts)
