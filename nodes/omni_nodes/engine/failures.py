"""One request's failure must not cost the others their part of a slice: it is kept, and raised when they had it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from omni_graph.errors import RequestError


class Failures:
    """Failed requests, oldest first. ``close`` frees a request's state at once, so that it takes no further part."""

    def __init__(self, close: Callable[[str], None]) -> None:
        self._close = close
        self._errors: deque[RequestError] = deque()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A RequestError raised inside is kept, and its request closed; anything else passes."""
        try:
            yield
        except RequestError as error:
            self._close(error.request)
            self._errors.append(error)

    def forget(self, request: str) -> None:
        """The request is over: raised now, its error would be taken for the fault of those of the slice."""
        self._errors = deque(error for error in self._errors if error.request != request)

    def raise_next(self) -> None:
        """Raise the oldest kept error, if any; the framework closes its request and then steps the node again."""
        if self._errors:
            raise self._errors.popleft()
