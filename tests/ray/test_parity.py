"""The parity suite of the model, unchanged, over Ray actors with the stages pinned to two nodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from omni_graph.runtime.app import App
from tests.nodes.qwen2_5_omni.apps import omni_graph_of
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
    test_another_shape_answers_as_transformers_does,
    test_one_code_is_480_samples,
    test_replies_that_stop_by_themselves,
    test_the_usage_counts_what_went_in_and_out,
)
from tests.ray.test_cluster import cluster as cluster  # a fixture
from tests.ray.test_cluster import on

pytestmark = pytest.mark.slow
SPEECH = ("talker", "codec_dit", "bigvgan")
STAGES = ("frontend", "audio_encoder", "vision_encoder", "interleaver", "thinker", *SPEECH)
POOLS = {name: {"labels": {"pool": "speech" if name in SPEECH else "text"}} for name in STAGES}


@pytest.fixture(scope="module")
def launched(cluster: Cluster) -> Callable[[Path], App]:
    """The Thinker's side on one node, the Talker's on the other, over encrypted tcp."""
    return lambda folder: on(cluster, omni_graph_of(folder), ipc=False, stages=POOLS)
