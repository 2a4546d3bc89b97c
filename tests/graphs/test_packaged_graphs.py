"""The graphs in the package are sound, and cost what their asked outputs need."""

from __future__ import annotations

import pytest

from omni_graph.load import load_graph, packaged_graphs
from omni_graph.plan import Plan, make_plan

UNDERSTANDING = ("frontend", "audio_encoder", "vision_encoder", "interleaver", "thinker")
SPEAKING = ("talker", "codec_dit", "bigvgan")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(load_graph("qwen2_5_omni", parameters={"checkpoint": "somewhere"}))


@pytest.mark.parametrize("name", packaged_graphs())
def test_every_packaged_graph_is_called_like_its_file_and_gives_no_note(name: str) -> None:
    graph = load_graph(name)
    assert graph.name == name
    assert make_plan(graph).notes == ()


def test_the_stages_and_what_text_alone_needs(plan: Plan) -> None:
    assert tuple(plan.stages) == UNDERSTANDING + SPEAKING
    assert plan.needed(["text"]) == UNDERSTANDING
    assert plan.needed(["speech"]) == UNDERSTANDING + SPEAKING
    assert {name: plan.edges[number].name for name, number in plan.outputs.items()} == {
        "text": "thinker.text -> gateway.text",
        "speech": "bigvgan.audio -> gateway.speech",
    }


def test_the_checkpoint_reaches_every_stage(plan: Plan) -> None:
    assert {stage.config["checkpoint"] for stage in plan.stages.values()} == {"somewhere"}


def test_the_pairs_that_can_wedge_are_known(plan: Plan) -> None:
    assert [(join.fork, join.join, len(join.arms)) for join in plan.joins] == [
        ("gateway", "frontend", 3),
        ("frontend", "interleaver", 3),
        ("thinker", "talker", 2),
        ("thinker", "gateway", 2),
    ]
