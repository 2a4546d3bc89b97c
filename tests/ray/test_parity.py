"""The parity suite of the model, unchanged, over Ray actors with the stages pinned to two nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from omni_graph.plan import make_plan
from omni_graph.runtime.app import App
from omni_graph.runtime.deployment import Deployment
from omni_graph.runtime.ray_launcher import RayLauncher
from omni_graph.spec import DeploySpec
from omni_nodes.qwen2_5_omni.tiny import build_tiny
from tests.nodes.qwen2_5_omni.apps import omni_graph_of
from tests.nodes.qwen2_5_omni.reference import Reference
from tests.nodes.qwen2_5_omni.test_parity import CASES, check
from tests.ray.test_cluster import cluster as cluster  # a fixture

pytestmark = pytest.mark.slow
SPEECH = ("talker", "codec_dit", "bigvgan")
STAGES = ("frontend", "audio_encoder", "vision_encoder", "interleaver", "thinker", *SPEECH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny") / "default"
    build_tiny(made)
    return made


@pytest.fixture(scope="module")
def oracle(folder: Path) -> Reference:
    return Reference(folder)


@pytest.fixture(scope="module")
def pinned(cluster: Cluster, folder: Path) -> Iterator[App]:
    """The Thinker's side on one node, the Talker's on the other, over encrypted tcp."""
    stages = {name: {"labels": {"pool": "speech" if name in SPEECH else "text"}} for name in STAGES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        plan = make_plan(omni_graph_of(folder), DeploySpec.model_validate({"stages": stages}))
        with App(plan, Deployment(plan, RayLauncher(cluster.address, ipc=False))) as app:
            yield app


@pytest.mark.parametrize("name", CASES)
def test_an_answer_over_two_nodes_is_transformers_answer(name: str, pinned: App, oracle: Reference) -> None:
    check(pinned, oracle, CASES[name])
