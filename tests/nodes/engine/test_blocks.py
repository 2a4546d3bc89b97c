"""The block pool as a state machine: no block is lost or owned twice, and a key finds what it was given for, or nothing."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from omni_nodes.engine.blocks import BlockPool

SIZE = 4
REQUESTS = st.sampled_from("abcd")


class Pool(RuleBasedStateMachine):
    """Beside the pool: what each block holds, and the blocks of each request as they should be. The key of a block is the
    path to it from the beginning of the prompt, in a world of three blocks: b"x", b"xy", ..."""

    @initialize(blocks=st.integers(2, 12))
    def new(self, blocks: int) -> None:
        self.pool = BlockPool(blocks, SIZE)
        self.content: dict[int, bytes] = {}
        self.paths: dict[str, list[bytes]] = {}

    def room(self) -> bool:
        return self.pool.free > 0

    @precondition(room)
    @rule(request=REQUESTS, block=st.sampled_from([b"x", b"y", b"z"]), sealed=st.booleans())
    def fill(self, request: str, block: bytes, sealed: bool) -> None:
        """A request computes one more block; without its key it is its last, like one filled in part."""
        path = self.paths.setdefault(request, [])
        if path and not path[-1]:
            return
        key = (path[-1] if path else b"") + block
        assert self.pool.extend(request, SIZE * (len(path) + 1))
        self.content[self.pool.table(request)[-1]] = key
        if sealed:
            self.pool.seal(request, len(path), key)
        path.append(key if sealed else b"")

    @rule(request=REQUESTS, blocks=st.lists(st.sampled_from([b"x", b"y", b"z"]), min_size=1, max_size=4))
    def adopt(self, request: str, blocks: list[bytes]) -> None:
        """As many of the next blocks as are found, in place of one without a key."""
        path = [key for key in self.paths.get(request, []) if key]
        keys = [(path[-1] if path else b"") + b"".join(blocks[: n + 1]) for n in range(len(blocks))]
        hits = self.pool.match(keys)
        assert [self.content[block] for block in hits] == keys[: len(hits)]
        if hits:
            self.pool.adopt(request, len(path), hits)
            self.paths[request] = [*path, *keys[: len(hits)]]

    @rule(request=REQUESTS)
    def release(self, request: str) -> None:
        self.pool.release(request)
        self.pool.release(request)
        self.paths.pop(request, None)

    @invariant()
    def every_block_has_its_place(self) -> None:
        held: dict[int, list[str]] = {}
        for request, path in self.paths.items():
            table = self.pool.table(request)
            assert len(table) == len(path) == self.pool.held(request)
            assert all(self.content[block] == key for block, key in zip(table, path) if key)
            for block in table:
                held.setdefault(block, []).append(request)
        assert self.pool.free == self.pool.blocks - len(held)
        assert all(sorted(self.pool.holders(block)) == sorted(held.get(block, [])) for block in range(self.pool.blocks))
        for request in self.paths:
            assert self.pool.own(request) == sum(names == [request] for names in held.values())
        shared = [block for block, names in held.items() if len(names) > 1]
        assert all(self.pool.match([self.content[block]]) == (block,) for block in shared)


Pool.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPool = Pool.TestCase


def test_what_nobody_needed_for_longest_goes_first_and_the_end_of_a_prompt_before_its_beginning() -> None:
    pool = BlockPool(4, SIZE)
    for request, keys in (("old", [b"o1", b"o2"]), ("new", [b"n1", b"n2"])):
        pool.extend(request, 2 * SIZE)
        for index, key in enumerate(keys):
            pool.seal(request, index, key)
    pool.release("old")
    pool.release("new")
    pool.extend("other", 3 * SIZE)
    assert [len(pool.match([key])) for key in (b"o1", b"o2", b"n1", b"n2")] == [0, 0, 1, 0]
    assert pool.evicted == 3


def test_blank_blocks_are_used_before_cached_ones() -> None:
    pool = BlockPool(3, SIZE)
    pool.extend("a", SIZE)
    pool.seal("a", 0, b"k")
    pool.release("a")
    pool.extend("b", 2 * SIZE)
    assert (len(pool.match([b"k"])), pool.evicted) == (1, 0)
