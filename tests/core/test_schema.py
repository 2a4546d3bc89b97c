"""The JSON Schema accepts what the loader accepts and refuses what it refuses: an editor and ``check`` agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from omni_graph.catalog import node_card
from omni_graph.reader import read_yaml
from omni_graph.schema import deploy_schema, graph_schema
from tests.core.toy_graphs import SPEECH, TOYS


@pytest.fixture(scope="module")
def graph_validator() -> Draft202012Validator:
    schema = graph_schema([node_card(f"{TOYS}:{name}", Path()) for name in ("Speak", "Anything", "Echo")])
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(json.loads(json.dumps(schema)))


@pytest.fixture(scope="module")
def deploy_validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(deploy_schema())
    return Draft202012Validator(deploy_schema())


def data(text: str) -> Any:
    return read_yaml(text, "test").data


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ('"${rate}"', "24000"),
        ("{text: question}", "{text: {from: question, window: 4, optional: false}}"),
        ("question: TextDelta", "question: {type: TextDelta, optional: true}"),
        ("toy_nodes:Echo", "toy_nodes:NotInTheCatalog"),
        ('toy_nodes:Echo"', 'toy_nodes:Anything", config: {a: 1}'),
        ('{rate: "${rate}"}', "{rate: 1, mode: exact, steps: [1, 2]}"),
    ],
)
def test_graphs_that_are_right(graph_validator: Draft202012Validator, old: str, new: str) -> None:
    assert list(graph_validator.iter_errors(data(SPEECH.replace(old, new)))) == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("graph: speech", "graph: 3", ["graph"]),
        ("graph: speech", "garph: speech", []),
        ("  echo: {", "  9echo: {", ["nodes"]),
        ("{text: question}", "{text: {form: question}}", ["nodes", "echo", "inputs", "text"]),
        ("{text: question}", "{text: {from: question, window: 0}}", ["nodes", "echo", "inputs", "text"]),
        ('{rate: "${rate}"}', "{rate: fast}", ["nodes", "speak", "config", "rate"]),
        ('{rate: "${rate}"}', "{rate: 1, mode: slow}", ["nodes", "speak", "config", "mode"]),
        ('{rate: "${rate}"}', "{rate: 1, rat: 1}", ["nodes", "speak", "config"]),
        ('{rate: "${rate}"}', "{rate: 1, device: cpu}", ["nodes", "speak", "config"]),
        ('{rate: "${rate}"}', "{voice: low}", ["nodes", "speak", "config"]),
        ('    config: {rate: "${rate}"}\n', "", ["nodes", "speak"]),
        ('toy_nodes:Echo"', 'toy_nodes:Echo", config: {a: 1}', ["nodes", "echo", "config"]),
    ],
)
def test_graphs_that_are_wrong(graph_validator: Draft202012Validator, old: str, new: str, where: list[str]) -> None:
    assert old in SPEECH
    errors = list(graph_validator.iter_errors(data(SPEECH.replace(old, new))))
    assert where in [list(error.absolute_path) for error in errors]


def test_deployments(deploy_validator: Draft202012Validator) -> None:
    head = "api_version: omni_graph/v1\n"
    right = ["memory_limit: 16GiB", "memory_limit: 4096", "stages: {a: {with: b}, b: {kv_bytes: 1.5GiB, gpu: 0.5}}"]
    wrong = ["memory_limit: 16 gigs", "launcher: slurm", "stages: {a: {wiht: b}}", "limits: {image: 1}", "queue: -1"]
    assert [line for line in right if not deploy_validator.is_valid(data(head + line))] == []
    assert [line for line in wrong if deploy_validator.is_valid(data(head + line))] == []
