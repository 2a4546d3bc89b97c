"""Every code is explained, and every code is used by a rule: nothing in the table is dead."""

from __future__ import annotations

from pathlib import Path

import pytest

import omni_graph
from omni_graph.codes import FaultCode
from omni_graph.deploy_rules import DEPLOY_RULES
from omni_graph.explain import EXPLANATIONS, explanation
from omni_graph.rules import GRAPH_RULES


@pytest.mark.parametrize("code", FaultCode)
def test_every_code_says_what_it_means_and_how_to_mend_it(code: FaultCode) -> None:
    text = explanation(code)
    assert text.startswith(f"{code}: {EXPLANATIONS[code].title}\n\n")
    assert "\n\nTo mend it: " in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_codes_are_stable_and_unlike() -> None:
    assert [str(code) for code in FaultCode] == [f"OG{number:03}" for number in range(1, 23)]
    assert FaultCode.UNKNOWN_PORT == "OG007"


def test_every_code_is_raised_somewhere() -> None:
    folder = Path(omni_graph.__file__).parent
    text = "".join(path.read_text() for path in folder.glob("*.py") if path.name not in {"codes.py", "explain.py"})
    assert [code for code in FaultCode if f"FaultCode.{code.name}" not in text] == []


def test_every_rule_names_its_code_first() -> None:
    named = [(rule.__doc__ or "")[:5] for rule in (*GRAPH_RULES, *DEPLOY_RULES)]
    assert len(set(named)) == len(named)
    assert set(named) <= set(FaultCode)
