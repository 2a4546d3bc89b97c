"""The conformance kit lets sound nodes pass, and catches every planted-broken one by the rule that it breaks."""

from __future__ import annotations

import pytest

from omni_graph.testing import RULES, RuleBroken, check_node
from tests.core.broken_nodes import BROKEN, Row, Sound, row

INPUTS: list[dict[str, list[Row]]] = [
    {"rows": [row(n) for n in range(12)]},
    {"rows": []},
    {"rows": [row(5, 6), row(), row(7), row(8), row(9)]},
]


def test_a_sound_node_passes() -> None:
    check_node(Sound, INPUTS, seeds=range(20))


@pytest.mark.parametrize("node", BROKEN, ids=lambda node: node.__name__)
def test_a_broken_node_is_caught_by_its_rule(node: type) -> None:
    with pytest.raises(RuleBroken) as caught:
        check_node(node, INPUTS, seeds=range(20))
    assert caught.value.rule == node.rule, caught.value  # type: ignore[attr-defined]
    assert node.__name__ in str(caught.value)


def test_every_rule_has_a_node_that_breaks_it() -> None:
    assert {node.rule for node in BROKEN} == set(RULES)
