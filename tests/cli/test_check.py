"""``check`` says what was planned, or everything that is wrong, in words and in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.command import command
from tests.core.toy_graphs import SPEECH, write

DEPLOY = "api_version: omni_graph/v1\ndeploy: toy\nmax_requests: 32\nstages: {speak: {with: echo}}\n"


def test_a_sound_graph(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = command(capsys, "check", str(write(tmp_path, SPEECH)), "--deploy", str(write(tmp_path, DEPLOY, "d.yaml")))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "speech: ok; 2 stages, 4 edges; launcher threads, 32 requests at once\n\n"
        "stage    uses                        replicas x streams\n"
        "  echo   tests.core.toy_nodes:Echo   1 x 16\n"
        "  speak  tests.core.toy_nodes:Speak  with echo\n\n"
        "edge                             type        window  packet  at most\n"
        "  gateway.question -> echo.text  TextDelta   64      64 KiB  128 MiB\n"
        "  echo.said -> speak.text        TextDelta   64      64 KiB  128 MiB\n"
        "  echo.said -> gateway.text      TextDelta   64      64 KiB  128 MiB\n"
        "  speak.audio -> gateway.speech  AudioChunk  8       1 MiB   256 MiB\n\n"
        "memory                  at most\n"
        "  edges                 640 MiB\n"
        "  taken ahead by nodes  0 B\n"
        "  buffered for clients  290 MiB\n"
        "  packets in flight     930 MiB of memory_limit 16 GiB\n"
        "  kept for a replay     2.1 GiB\n"
        "  total                 3 GiB\n\n"
        "fork => join       arms that must be fed on demand, each by itself\n"
        "  echo => gateway  echo.said -> gateway.text, speak.audio -> gateway.speech\n\n"
        "note: stage echo serves 1 x 16 = 16 requests at once, under max_requests 32\n"
        "note: stage speak serves 1 x 16 = 16 requests at once, under max_requests 32\n"
    )


def test_a_sound_graph_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ran = command(capsys, "check", str(write(tmp_path, SPEECH)), "--set", "rate=8000", "--format", "json")
    record = json.loads(ran.out)
    assert (ran.code, ran.err, record["ok"]) == (0, "", True)
    assert record["stages"]["speak"]["config"] == {"rate": 8000}
    assert sum(edge["bytes"] for edge in record["edges"]) + record["memory"]["gateway"] == record["memory"]["in_flight"]
    assert record["outputs"] == {"text": "TextDelta", "speech": "AudioChunk"}


def test_the_faults_of_both_files_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    graph = write(tmp_path, SPEECH.replace("echo.said}", "ecko.said}"))
    deploy = write(tmp_path, DEPLOY + "queue: many\n", "d.yaml")
    ran = command(capsys, "check", str(graph), "--deploy", str(deploy))
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.count("error[") == 2
    assert f"{graph}:13:20: error[OG006]: nodes.speak.inputs.text: " in ran.err
    assert f"{deploy}:5:8: error[OG004]: queue: should be a valid integer, got 'many' (str)" in ran.err


def test_faults_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    graph = write(tmp_path, SPEECH.replace("echo.said}", "ecko.said}"))
    ran = command(capsys, "check", str(graph), "--format", "json")
    assert (ran.code, ran.err) == (3, "")
    (fault,) = json.loads(ran.out)["faults"]
    assert fault == {
        "code": "OG006",
        "path": "nodes.speak.inputs.text",
        "message": "`ecko.said`: the graph has no node `ecko` (did you mean `echo`?)",
        "file": str(graph),
        "line": 13,
        "column": 20,
    }


def test_the_environment_is_read_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_TEST_RATE", "8000")
    graph = write(
        tmp_path, SPEECH.replace("${rate}", "${env:OMNI_TEST_RATE}").replace("parameters:\n  rate: 24000\n", "")
    )
    ran = command(capsys, "check", str(graph), "--format", "json")
    assert json.loads(ran.out)["stages"]["speak"]["config"] == {"rate": 8000}


@pytest.mark.parametrize(
    "arguments", [[], ["check"], ["check", "g", "--format", "xml"], ["chek"], ["check", "g", "--st"]]
)
def test_usage_errors_are_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    ran = command(capsys, *arguments)
    assert ran.code == 2
    assert "Usage: omni-graph" in ran.out + ran.err


def test_a_graph_that_is_not_there_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    ran = command(capsys, "check", "no_such_graph")
    assert (ran.code, ran.out) == (3, "")
    assert (
        ran.err
        == "error[OG001]: there is no file and no graph called `no_such_graph` (known: `qwen2_5_omni`, `words`)\n"
    )
