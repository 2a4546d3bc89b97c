"""Which KV blocks each request holds. Integers only; never touches a tensor.

Invariant: every block is free or held by exactly one request.
"""

from __future__ import annotations


def blocks_for(rows: int, block_size: int) -> int:
    """Blocks that ``rows`` rows fill, the last one perhaps in part."""
    return -(-rows // block_size)


class BlockPool:
    """A bounded pool of equal blocks. The scheduler decides who may have one; asking past it is an error of ours."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self._free = list(range(blocks - 1, -1, -1))
        self._tables: dict[str, list[int]] = {}

    @property
    def free(self) -> int:
        """Blocks nobody holds."""
        return len(self._free)

    def table(self, request: str) -> tuple[int, ...]:
        """The blocks of ``request``, in the order of its rows."""
        return tuple(self._tables.get(request, ()))

    def extend(self, request: str, rows: int) -> bool:
        """Make room for ``rows`` rows in all; True when the table grew."""
        table = self._tables.setdefault(request, [])
        missing = blocks_for(rows, self.block_size) - len(table)
        assert missing <= len(self._free), f"{request} was granted {missing} blocks, {len(self._free)} are free"
        table.extend(self._free.pop() for _ in range(missing))
        return missing > 0

    def release(self, request: str) -> None:
        """Give back every block of ``request``; nothing where it holds none."""
        self._free.extend(reversed(self._tables.pop(request, [])))
