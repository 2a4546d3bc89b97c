"""The parity suite of the model, unchanged, over Ray actors on one node: as a user's first ``--launcher ray``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import launch
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.test_parity import CASES, check
from tests.ray.test_parity import folder as folder  # fixtures
from tests.ray.test_parity import oracle as oracle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def app(local_ray: None, folder: Path) -> Iterator[App]:
    with launch(folder, launcher="ray") as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_an_answer_over_actors_is_transformers_answer(name: str, app: App, oracle: Reference) -> None:
    check(app, oracle, CASES[name])
