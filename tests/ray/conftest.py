"""One local Ray for the tests of a module: launches share it, as they do in any process."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.runtime.graphs import eventually


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Held open, so that each launch need not start its own; afterwards nothing of it is left."""
    from omni_graph.runtime.ray_cluster import RayCluster

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    at_sigterm = signal.getsignal(signal.SIGTERM)
    cluster = RayCluster(None)
    assert signal.getsignal(signal.SIGTERM) is at_sigterm, "a SIGTERM is still the program's own affair"
    yield
    cluster.close()
    eventually(lambda: not {child.pid for child in psutil.Process().children(recursive=True)} - before)
