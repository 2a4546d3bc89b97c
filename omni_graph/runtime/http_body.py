"""What an HTTP client sends behind its head, by length or in chunks, as a stream of lines.

Bounded: a line and a chunk's head have a longest length, and an end that comes too early is an error, never an end.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

from omni_graph.errors import OmniGraphError

MAX_CHUNK_HEAD = 256


class BodyError(OmniGraphError):
    """A body that is none, or that broke off."""


class Body(io.RawIOBase):
    """Reads a body from ``source``, which gives bytes as they come. Raises BodyError for headers that tell no length."""

    def __init__(self, source: io.BufferedReader, headers: Mapping[str, str]) -> None:
        self._source = source
        length, coding = headers.get("Content-Length"), headers.get("Transfer-Encoding", "").lower()
        self._chunked = coding == "chunked"
        if self._chunked == (length is not None) or (length is not None and not length.isdecimal()):
            raise BodyError("a body needs a Content-Length, or Transfer-Encoding: chunked")
        self._left = 0 if length is None else int(length)
        self._ended = not self._chunked

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        """io.RawIOBase: some bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._left and not self._ended:
            self._next_chunk()
        if not self._left:
            return 0
        data = self._source.read1(min(len(view), self._left))
        if not data:
            raise BodyError("the client has gone")
        view[: len(data)] = data
        self._left -= len(data)
        if not self._left and self._chunked:
            self._line()
        return len(data)

    def _next_chunk(self) -> None:
        size = self._line().partition(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            raise BodyError(f"not the size of a chunk: {size[:20]!r}") from None
        if self._left < 0:
            raise BodyError(f"not the size of a chunk: {size[:20]!r}")
        if not self._left:
            self._ended = True
            while self._line().strip():  # trailers, which say nothing to us
                pass

    def _line(self) -> bytes:
        line = self._source.readline(MAX_CHUNK_HEAD)
        if not line.endswith(b"\n"):
            raise BodyError("the client has gone, or its chunk has no end")
        return line


def read_line(body: io.BufferedIOBase, most: int) -> bytes | None:
    """The next line of at most ``most`` bytes, without its end; None after the last. Raises BodyError for a longer one."""
    line = body.readline(most + 1)
    if len(line) > most:
        raise BodyError(f"a line of more than {most} bytes")
    return line.rstrip(b"\r\n") if line else None
