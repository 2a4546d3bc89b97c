"""The parity suite of the model, unchanged, over Ray actors on one node: as a user's first ``--launcher ray``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import launch
from tests.nodes.qwen2_5_omni.conftest import (  # noqa: F401
    built,
    odd_folder,
    odd_reference,
    reference,
    stopping_folder,
    stopping_reference,
    tiny_folder,
)
from tests.nodes.qwen2_5_omni.test_parity import (  # noqa: F401
    exact,
    other,
    speechless_folder,
    stopping,
    test_a_short_speech_does_not_cut_the_text,
    test_an_answer_is_transformers_answer,
    test_an_answer_of_no_code_is_complete_and_silent,
    test_an_answer_of_one_token_has_empty_speech,
    test_every_shape_and_seed_answers_as_transformers_does,
    test_one_code_is_480_samples,
    test_replies_that_stop_by_themselves,
    test_the_usage_counts_what_went_in_and_out,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launched(local_ray: None) -> Callable[[Path], App]:
    """Each stage is an actor of its own."""
    return partial(launch, launcher="ray")
