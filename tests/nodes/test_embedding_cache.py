"""The encoders' cache: what it gives is what the encoder gives, it never outgrows its bound, and it forgets the oldest."""

from __future__ import annotations

import gc
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_graph.errors import NodeError
from omni_graph.payload import Array
from omni_nodes.embedding_cache import ENTRY_BYTES, EmbeddingCache, content_key

WIDTH = 32


def encoder(calls: list[list[int]]):
    """``n`` to n % 5 rows that name it, out of one buffer for the whole call, as a model's batch is."""

    def encode(inputs: list[int]) -> list[Array]:
        calls.append(inputs)
        batch = np.concatenate([np.full((n % 5, WIDTH), n, np.float32) for n in inputs])
        ends = np.cumsum([n % 5 for n in inputs])
        return [Array.of(rows) for rows in np.split(batch, ends[:-1])]

    return encode


def keyed(numbers: list[int]) -> list[tuple[bytes, int]]:
    return [(content_key(str(n), []), n) for n in numbers]


class Model:
    """The same cache, as a list of what must be in it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.kept = limit, OrderedDict[int, int]()
        self.hits = self.misses = self.evicted = 0

    def use(self, numbers: list[int]) -> list[int]:
        missing = [n for n in dict.fromkeys(numbers) if n not in self.kept]
        for n in dict.fromkeys(numbers):
            if n in self.kept:
                self.kept.move_to_end(n)
        for n in missing:
            size = n % 5 * WIDTH * 4 + ENTRY_BYTES
            if size > self.limit:
                continue
            while sum(self.kept.values()) + size > self.limit:
                self.kept.popitem(last=False)
                self.evicted += 1
            self.kept[n] = size
        self.hits += len(numbers) - len(missing)
        self.misses += len(missing)
        return missing


@given(st.integers(1, 6 * ENTRY_BYTES), st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=20))
def test_it_encodes_what_it_does_not_keep_once_and_keeps_the_latest_within_its_bound(limit, batches):
    cache, model, calls = EmbeddingCache(limit), Model(limit), []
    for batch in batches:
        calls.clear()
        missing = model.use(batch)
        assert cache.encode(keyed(batch), encoder(calls)) == encoder([])(batch)
        assert calls == ([missing] if missing else [])
        assert cache.counters() == {
            "cache_hits": model.hits,
            "cache_misses": model.misses,
            "cache_evicted": model.evicted,
            "cache_bytes": sum(model.kept.values()),
        }
        assert len(cache) == len(model.kept)
        assert cache.counters()["cache_bytes"] <= limit


def test_a_hit_is_the_very_rows_and_nobody_can_write_to_them():
    cache, calls = EmbeddingCache(1 << 20), []
    (first,) = cache.encode(keyed([3]), encoder(calls))
    (again,) = cache.encode(keyed([3]), encoder(calls))
    assert again is first and calls == [[3]]
    with pytest.raises(ValueError, match="read-only"):
        again.values[0] = 1


def test_no_bytes_are_no_cache():
    cache, calls = EmbeddingCache(0), []
    for _ in range(2):
        cache.encode(keyed([3, 3]), encoder(calls))
    assert calls == [[3, 3], [3, 3]]
    assert set(cache.counters().values()) == {0}
    with pytest.raises(NodeError, match="cache_bytes is -1"):
        EmbeddingCache(-1)


def test_an_encoder_that_fails_leaves_the_cache_as_it_was():
    cache, calls = EmbeddingCache(1 << 20), []
    kept = cache.encode(keyed([3]), encoder(calls))
    before = cache.counters()

    def failing(inputs: list[int]) -> list[Array]:
        raise ValueError(inputs)

    with pytest.raises(ValueError, match="4"):
        cache.encode(keyed([3, 4]), failing)
    assert cache.counters() == before
    assert cache.encode(keyed([3]), encoder(calls)) == kept


@pytest.mark.parametrize("rows", [0, 1, 40])
def test_the_bound_is_of_memory_and_not_of_rows_alone(rows):
    """Small entries cost more than their rows, and rows that are a piece of a batch must not keep the batch."""
    cache = EmbeddingCache(400 * (ENTRY_BYTES + rows * WIDTH * 4))
    values = np.zeros((max(1, 50 * rows), WIDTH), np.float32)
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(2000):
            batch = values.copy()
            cache.encode(keyed([n]), lambda _, batch=batch: [Array.of(batch[:rows])])
        del batch
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(cache) == 400
    assert held <= cache.counters()["cache_bytes"]


@given(st.lists(st.integers(0, 30), max_size=4), st.sampled_from(["float32", "int64"]))
def test_a_key_is_of_the_bytes_and_the_label_and_not_of_the_cuts(cuts, dtype):
    values = np.arange(30 * 4, dtype=dtype).reshape(30, 4)
    pieces = [Array.of(piece) for piece in np.split(values, sorted(cuts))]
    key = content_key("a", [Array.of(values)])
    assert content_key("a", pieces) == key and len(key) == 16
    other = values.copy()
    other[17, 2] += 1
    assert content_key("a", [Array.of(other)]) != key
    assert content_key("b", pieces) != key
