"""The apps of the fault matrix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.fault_matrix import Deployments


@pytest.fixture(scope="module")
def deployments() -> Iterator[Deployments]:
    made = Deployments()
    yield made
    made.close()
