"""``nodes`` lists what packages offer and shows any node class, without building one."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from omni_graph import catalog
from omni_graph.catalog import GROUP
from tests.cli.command import command

OFFERED = {"toy.echo": "Echo", "toy.speak": "Speak", "other.speak": "Speak"}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints(EntryPoint(name, f"tests.core.toy_nodes:{cls}", GROUP) for name, cls in OFFERED.items())
    monkeypatch.setattr(catalog, "entry_points", lambda group: points.select(group=group))


def test_the_list(capsys: pytest.CaptureFixture[str], offered: None) -> None:
    ran = command(capsys, "nodes")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("other.speak  (tests.core.toy_nodes:Speak)\n    text: TextDelta -> audio: AudioChunk\n")
    assert ran.out.endswith(
        "toy.echo  (tests.core.toy_nodes:Echo)\n    text: TextDelta -> said: TextDelta\n    Says again what it reads.\n"
        "toy.speak  (tests.core.toy_nodes:Speak)\n    text: TextDelta -> audio: AudioChunk\n    Text to sound.\n"
    )


def test_one_node(capsys: pytest.CaptureFixture[str], offered: None) -> None:
    ran = command(capsys, "nodes", "toy.speak")
    assert ran.out == (
        "tests.core.toy_nodes:Speak\nText to sound.\n\n"
        "inputs\n  text: omni_graph.payload.TextDelta\n\n"
        "outputs\n  audio: omni_graph.payload.AudioChunk\n\n"
        "config\n"
        "  rate: int (required)\n"
        "  voice: str = 'low'\n"
        "  mode: Literal['fast', 'exact'] = 'fast'\n"
        "  steps: Sequence[int] = (1,)\n"
        "  price: Decimal | None = None\n"
        "  device: given by the framework, from the deploy file\n"
        "  kv_bytes: given by the framework, from the deploy file\n\n"
        "params of a request\n  pitch: float = 1.0\n"
    )


def test_a_node_is_found_by_its_short_name_its_class_or_its_path(
    capsys: pytest.CaptureFixture[str], offered: None
) -> None:
    whole = command(capsys, "nodes", "toy.echo").out
    for name in ("echo", "Echo", "tests.core.toy_nodes:Echo"):
        assert command(capsys, "nodes", name).out == whole
    assert (
        "audio: omni_graph.payload.AudioChunk (optional)" in command(capsys, "nodes", "tests.core.toy_nodes:Listen").out
    )


def test_a_name_that_is_not_there_or_not_clear(capsys: pytest.CaptureFixture[str], offered: None) -> None:
    ran = command(capsys, "nodes", "toy.ecko")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no node `toy.ecko` (did you mean `toy.echo`?)" in ran.err
    assert "`speak` may be any of other.speak, toy.speak" in command(capsys, "nodes", "speak").err


def test_a_node_that_cannot_be_imported_hides_no_other(
    capsys: pytest.CaptureFixture[str], offered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = EntryPoints(
        [EntryPoint("a", "no_such_module:X", GROUP), EntryPoint("b", "tests.core.toy_nodes:Echo", GROUP)]
    )
    monkeypatch.setattr(catalog, "entry_points", lambda group: points)
    ran = command(capsys, "nodes")
    assert ran.code == 3
    assert ran.out.startswith("b  (tests.core.toy_nodes:Echo)")
    assert "there is no module `no_such_module` on the path" in ran.err


def test_every_node_that_this_distribution_offers_has_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    ran = command(capsys, "nodes")
    assert (ran.code, ran.err) == (0, "")
    assert "qwen2_5_omni.thinker  (omni_nodes.qwen2_5_omni.thinker:Thinker)" in ran.out
