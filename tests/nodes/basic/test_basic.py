"""The small nodes keep every rule of the Node protocol, and do what their pages say."""

from __future__ import annotations

import pytest

from omni_graph.errors import NodeError
from omni_graph.payload import TextDelta
from omni_graph.testing import check_node, check_stream, run_node
from omni_nodes.basic.join import Join
from omni_nodes.basic.passthrough import Passthrough
from omni_nodes.basic.split import Split
from omni_nodes.basic.work import TRANSFORMS, Work

TEXT = "  The quick  brown fox\njumps over the lazy dog. "


def deltas(text: str) -> list[TextDelta]:
    return [TextDelta(letter, (index,)) for index, letter in enumerate(text)]


def words(*texts: str) -> list[TextDelta]:
    return [TextDelta(text) for text in texts]


@pytest.mark.parametrize("node", [Passthrough, Work, Split])
def test_one_to_one_nodes_keep_the_rules(node: type) -> None:
    inputs = [{"text": deltas("one two")}, {"text": []}, {"text": words("a b", " ", "c  d ")}]
    check_node(node, inputs, seeds=range(10))


def test_join_keeps_the_rules() -> None:
    inputs = [
        {"left": words("a", "b", "c"), "right": words("1")},
        {"left": [], "right": words("1", "2")},
        {"left": words("x"), "right": words("y", "z")},
    ]
    check_node(Join, inputs, seeds=range(10))


def test_split_finds_the_same_words_wherever_the_text_is_cut() -> None:
    check_stream(Split, deltas(TEXT), merge_output=tuple)
    out = run_node(Split(), {"r": {"text": words(TEXT)}})["r"]["words"]
    assert [one.text for one in out] == [
        "  The ",
        "quick  ",
        "brown ",
        "fox\n",
        "jumps ",
        "over ",
        "the ",
        "lazy ",
        "dog. ",
    ]


def test_split_keeps_a_text_of_spaces_only() -> None:
    assert run_node(Split(), {"r": {"text": words(" ", "\n")}})["r"]["words"] == words(" \n")


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_work_changes_the_text_and_nothing_else(transform: str) -> None:
    (out,) = run_node(Work(transform), {"r": {"text": [TextDelta("Ab c", (7,), "stop", (("n", 1),))]}})["r"]["out"]
    assert out == TextDelta(TRANSFORMS[transform]("Ab c"), (7,), "stop", (("n", 1),))


@pytest.mark.parametrize("config", [{"transform": "uper"}, {"seconds": -1.0}, {"batch": 0}])
def test_work_refuses_a_config_that_means_nothing(config: dict) -> None:
    with pytest.raises(NodeError, match="allowed"):
        Work(**config)


def test_join_takes_turns_and_then_the_rest() -> None:
    out = run_node(Join(), {"r": {"left": words("a", "b", "c"), "right": words("1")}})["r"]["out"]
    assert [one.text for one in out] == ["a", "1", "b", "c"]
