"""What a request held goes when it is over, at once: nothing waits for Python to search for cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from omni_graph.payload import TextDelta
from tests.runtime.graphs import chain, eventually, launch


@pytest.fixture
def no_search() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_search")
def test_a_request_that_is_over_is_held_by_nobody() -> None:
    with launch(chain(), "threads") as app:
        handle = app.open(outputs=["out"])
        handle.write("text", TextDelta("one"))
        assert handle.next(timeout=20) is not None
        gateway = app._deployment.gateway
        assert gateway is not None
        request = handle.request
        inside = gateway.call(lambda core, now: weakref.ref(core._requests[request]))
        handle.end("text")
        assert handle.next(timeout=20) is None and handle.timings(20)
        outside = weakref.ref(handle)
        del handle
        eventually(lambda: inside() is None and outside() is None)
