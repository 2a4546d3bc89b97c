"""Names in graph files become classes: always the same class for the same name, and a reason where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from omni_graph.payload import TextDelta
from omni_graph.resolve import node_class, payload_class
from tests.core import toy_nodes
from tests.core.toy_graphs import faults_of, nodes_only, plan_of, write

OWN = """\
from dataclasses import dataclass
from omni_graph.node import In, Out

@dataclass(frozen=True)
class Tick:
    count: int

class Count:
    tick = In(Tick)
    said = Out(Tick)
    def open(self, request, params): ...
    def step(self, inbox, outbox): return False
    def close(self, request): ...
"""


def test_a_module_s_class_is_that_class() -> None:
    assert node_class("tests.core.toy_nodes:Echo", Path()) is toy_nodes.Echo
    assert payload_class("TextDelta", Path()) is payload_class("omni_graph.payload:TextDelta", Path()) is TextDelta


def test_a_file_is_loaded_once_however_it_is_named(tmp_path: Path) -> None:
    write(tmp_path, OWN, "own.py")
    (tmp_path / "sub").mkdir()
    first = node_class("./own.py:Count", tmp_path)
    assert node_class("../own.py:Count", tmp_path / "sub") is first
    assert node_class(f"{tmp_path}/own.py:Count", Path()) is first
    assert payload_class("./own.py:Tick", tmp_path) is first.tick.type


def test_files_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, OWN, "own.py")
    assert node_class("./own.py:Count", tmp_path / "a") is not node_class("./own.py:Count", tmp_path / "b")


def test_a_graph_with_a_node_of_its_own_plans_alike_in_another_process(tmp_path: Path) -> None:
    write(tmp_path, OWN, "own.py")
    text = nodes_only('echo: {uses: "./own.py:Count", inputs: {tick: question}}', inputs='{question: "./own.py:Tick"}')
    plan = plan_of(tmp_path, text)
    code = (
        "import sys; from omni_graph.load import load_graph; from omni_graph.plan import make_plan\n"
        "print(make_plan(load_graph(sys.argv[1])).wiring)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "graph.yaml")], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == plan.wiring


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("import torch_of_nobody", "failed at own.py:1: ModuleNotFoundError: No module named 'torch_of_nobody'"),
        ("\nraise ValueError('no luck')", "failed at own.py:2: ValueError: no luck"),
        ("class Count(: ...", "failed: SyntaxError"),
        ("import sys\nsys.exit(3)", "failed at own.py:2: SystemExit: 3"),
        ("from omni_graph.node import In\nclass Count:\n    text = In(int)", "NodeError: int is not a payload"),
    ],
)
def test_a_file_that_fails_says_why_and_is_tried_again(tmp_path: Path, content: str, says: str) -> None:
    write(tmp_path, content, "own.py")
    (fault,) = faults_of(node_class, "./own.py:Count", tmp_path)
    assert says in fault.message
    write(tmp_path, OWN + "# mended\n", "own.py")
    assert node_class("./own.py:Count", tmp_path).__name__ == "Count"


def test_a_missing_package_of_an_extra_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    write(tmp_path, "import torch", "own.py")
    (fault,) = faults_of(node_class, "./own.py:Count", tmp_path)
    assert fault.message == "importing `./own.py` needs torch: pip install 'omni-graph[models]'"


def test_a_payload_whose_fields_cannot_travel(tmp_path: Path) -> None:
    write(tmp_path, OWN.replace("count: int", "count: object"), "own.py")
    (fault,) = faults_of(payload_class, "./own.py:Tick", tmp_path)
    assert fault.code == "OG010"
