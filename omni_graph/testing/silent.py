"""An Observer that keeps nothing."""

from __future__ import annotations

from collections.abc import Iterable


class SilentObserver:
    """For runs whose timings nobody reads."""

    def opened(self, request: str, node: str, age_s: float) -> None:
        pass

    def computed(self, node: str, requests: Iterable[str], seconds: float) -> None:
        pass

    def became(self, request: str, node: str, activity: str) -> None:
        pass

    def received(self, request: str, node: str, sent_at: float | None) -> None:
        pass

    def sent(self, request: str, node: str, edge: int, size: int) -> None:
        pass

    def ended(self, request: str, node: str) -> None:
        pass

    def closed(self, request: str) -> str:
        return "{}"
