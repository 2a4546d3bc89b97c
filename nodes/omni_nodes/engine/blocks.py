"""Which KV blocks each request holds, and which full ones can be found again. Integers and digests; never a tensor.

Invariants: a block is blank, idle (nobody holds it, its key still finds it, until it is reused) or held, by one request or
by several. Only a full block, which is never written again, has a key or a second holder.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


def blocks_for(rows: int, block_size: int) -> int:
    """Blocks that ``rows`` rows fill, the last one perhaps in part."""
    return -(-rows // block_size)


class BlockPool:
    """A bounded pool of equal blocks. The scheduler decides who may have one; asking past it is an error of ours."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.evicted = 0  # idle blocks that were reused for something else
        self._blank = list(range(blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently held first
        self._holders: list[list[str]] = [[] for _ in range(blocks)]
        self._tables: dict[str, list[int]] = {}
        self._own: Counter[str] = Counter()
        self._found: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}

    @property
    def free(self) -> int:
        """Blocks nobody holds: blank or idle."""
        return len(self._blank) + len(self._idle)

    def table(self, request: str) -> tuple[int, ...]:
        """The blocks of ``request``, in the order of its rows."""
        return tuple(self._tables.get(request, ()))

    def held(self, request: str) -> int:
        """How many blocks ``request`` holds."""
        return len(self._tables.get(request, ()))

    def own(self, request: str) -> int:
        """How many blocks ``request`` holds alone: what its end gives back."""
        return self._own[request]

    def holders(self, block: int) -> tuple[str, ...]:
        """The requests that hold ``block``."""
        return tuple(self._holders[block])

    def match(self, keys: Iterable[bytes]) -> tuple[int, ...]:
        """The blocks of ``keys``, as far as they are all there."""
        found: list[int] = []
        for key in keys:
            block = self._found.get(key)
            if block is None:
                break
            found.append(block)
        return tuple(found)

    def extend(self, request: str, rows: int) -> bool:
        """Make room for ``rows`` rows in all; True when the table grew."""
        table = self._tables.setdefault(request, [])
        missing = blocks_for(rows, self.block_size) - len(table)
        assert missing <= self.free, f"{request} was granted {missing} blocks, {self.free} are free"
        for _ in range(missing):
            block = self._take()
            self._holders[block].append(request)
            table.append(block)
        self._own[request] += missing
        return missing > 0

    def adopt(self, request: str, first: int, blocks: Sequence[int]) -> None:
        """Let ``request`` hold ``blocks``, which ``match`` found, from index ``first`` of its table on; a block there that
        it had filled in part is given back."""
        table = self._tables.setdefault(request, [])
        assert first <= len(table) <= first + 1, f"{request} holds {len(table)} blocks and adopts from {first} on"
        for block in blocks:
            self._hold(request, block)
        for block in table[first:]:
            self._let_go(request, block)
        table[first:] = blocks

    def seal(self, request: str, index: int, key: bytes) -> None:
        """Block ``index`` of ``request`` is full, and found by ``key`` from now on. The first of two equal ones is kept."""
        if key not in self._found:
            block = self._tables[request][index]
            self._found[key] = block
            self._keys[block] = key

    def release(self, request: str) -> None:
        """Give back every block of ``request``; nothing where it holds none. Its last is the first to be reused."""
        for block in reversed(self._tables.pop(request, [])):
            self._let_go(request, block)
        del self._own[request]

    def _take(self) -> int:
        if self._blank:
            return self._blank.pop()
        block, _ = self._idle.popitem(last=False)
        del self._found[self._keys.pop(block)]
        self.evicted += 1
        return block

    def _hold(self, request: str, block: int) -> None:
        holders = self._holders[block]
        if not holders:
            del self._idle[block]
            self._own[request] += 1
        elif len(holders) == 1:
            self._own[holders[0]] -= 1
        holders.append(request)

    def _let_go(self, request: str, block: int) -> None:
        holders = self._holders[block]
        holders.remove(request)
        if len(holders) == 1:
            self._own[holders[0]] += 1
        elif not holders:
            self._own[request] -= 1
            if block in self._keys:
                self._idle[block] = None
            else:
                self._blank.append(block)
