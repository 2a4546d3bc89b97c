"""``schema`` prints the schemas that editors read, built-in nodes included."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from omni_graph.load import packaged_graphs
from omni_graph.reader import read_yaml
from tests.cli.command import command


def test_the_packaged_graphs_follow_the_graph_schema(capsys: pytest.CaptureFixture[str]) -> None:
    ran = command(capsys, "schema")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == command(capsys, "schema", "--graph").out
    validator = Draft202012Validator(json.loads(ran.out))
    graphs = {name: read_yaml(path.read_text(), str(path)).data for name, path in packaged_graphs().items()}
    assert [name for name, data in graphs.items() if list(validator.iter_errors(data))] == []
    wrong = graphs["qwen2_5_omni"]
    wrong["nodes"]["thinker"]["config"]["max_bacth"] = 4
    assert [list(error.absolute_path) for error in validator.iter_errors(wrong)] == [["nodes", "thinker", "config"]]


def test_the_deploy_schema(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(command(capsys, "schema", "--deploy").out)
    assert {"launcher", "max_requests", "memory_limit", "stages", "limits"} <= set(schema["properties"])
    assert "with" in schema["$defs"]["StageSpec"]["properties"]
