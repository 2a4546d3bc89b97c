"""Keys of blocks: the same exactly where everything up to the end of the block is the same, however it was cut."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from omni_nodes.engine.prefix import ROW_BYTES, BlockKeys, media_identity, state_identity, text_identity

SIZE = 4


def positions(count: int, first: int = 0) -> np.ndarray:
    return np.tile(np.arange(first, first + count), (3, 1))


def keys_of(*identities: bytes) -> list[bytes]:
    keys = BlockKeys(SIZE)
    for identity in identities:
        keys.add(identity, len(identity) // ROW_BYTES or 1)
    return keys.keys


TOKENS = st.lists(st.integers(0, 2), max_size=14)


@given(TOKENS, TOKENS)
def test_prompts_share_keys_as_far_as_their_blocks_are_equal(one: list[int], other: list[int]) -> None:
    mine, theirs = (keys_of(text_identity(np.array(ids, np.int64), positions(len(ids)))) for ids in (one, other))
    assert (len(mine), len(theirs)) == (len(one) // SIZE, len(other) // SIZE)
    for n, (left, right) in enumerate(zip(mine, theirs), 1):
        assert (left == right) == (one[: n * SIZE] == other[: n * SIZE])


@given(TOKENS, st.integers(1, 5))
def test_keys_do_not_depend_on_how_rows_came(ids: list[int], most: int) -> None:
    whole = text_identity(np.array(ids, np.int64), positions(len(ids)))
    step = most * ROW_BYTES
    assert keys_of(*(whole[start : start + step] for start in range(0, len(whole), step))) == keys_of(whole)


def test_rows_without_identity_end_the_keys() -> None:
    text = text_identity(np.arange(SIZE), positions(SIZE))
    assert len(keys_of(text, b"", text, text)) == 1
    assert media_identity("image", b"", positions(SIZE)) == b""


def test_what_is_not_the_same_has_another_identity() -> None:
    """Text against media, one modality against another, content, index, position, and a state by its last bit."""
    states = np.ones((SIZE, 8), np.float32)
    almost = states.copy()
    almost[-1, -1] = np.nextafter(np.float32(1), np.float32(2))
    places = positions(SIZE)
    found = [
        text_identity(np.arange(SIZE), places),
        text_identity(np.arange(SIZE), places + 1),
        text_identity(np.arange(SIZE) + 1, places),
        media_identity("image", b"k", places),
        media_identity("video", b"k", places),
        media_identity("image", b"l", places),
        state_identity(states, places),
        state_identity(almost, places),
        state_identity(states, places + 1),
    ]
    assert len(set(found)) == len(found)
    assert {len(one) for one in found} == {SIZE * ROW_BYTES}
    media = media_identity("image", b"k", np.zeros((3, 2), np.int64))
    assert media[:ROW_BYTES] != media[ROW_BYTES:]
    assert state_identity(states[:, ::2], places) == state_identity(states[:, ::2].copy(), places)


def test_positions_may_be_fractions() -> None:
    """Also those that differ by less than one, and a whole number is the same in either form."""
    whole, later = positions(SIZE), positions(SIZE) + 0.04
    found = [text_identity(np.arange(SIZE), one) for one in (whole, later.astype(np.float32), later)]
    assert len(set(found)) == 3
    assert text_identity(np.arange(SIZE), whole.astype(np.float32)) == found[0]
