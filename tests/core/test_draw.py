"""Drawings have every node, every edge with its type, and ids that no name can spoil."""

from __future__ import annotations

from pathlib import Path

from omni_graph.draw import dot, mermaid
from tests.core.toy_graphs import SPEECH, nodes_only, plan_of


def test_mermaid(tmp_path: Path) -> None:
    assert mermaid(plan_of(tmp_path, SPEECH)) == (
        "flowchart LR\n"
        '  i0(["question"])\n'
        '  n0["echo<br/>Echo"]\n'
        '  n1["speak<br/>Speak"]\n'
        '  o0(["text"])\n'
        '  o1(["speech"])\n'
        '  i0 -- "text: TextDelta" --> n0\n'
        '  n0 -- "said → text: TextDelta" --> n1\n'
        '  n0 -- "said: TextDelta" --> o0\n'
        '  n1 -- "audio: AudioChunk" --> o1\n'
    )


def test_dot(tmp_path: Path) -> None:
    assert dot(plan_of(tmp_path, SPEECH)) == (
        'digraph "speech" {\n'
        "  rankdir=LR;\n"
        "  node [shape=box];\n"
        '  i0 [label="question", shape=ellipse];\n'
        '  n0 [label="echo\\nEcho"];\n'
        '  n1 [label="speak\\nSpeak"];\n'
        '  o0 [label="text", shape=ellipse];\n'
        '  o1 [label="speech", shape=ellipse];\n'
        '  i0 -> n0 [label="text: TextDelta"];\n'
        '  n0 -> n1 [label="said → text: TextDelta"];\n'
        '  n0 -> o0 [label="said: TextDelta"];\n'
        '  n1 -> o1 [label="audio: AudioChunk"];\n'
        "}\n"
    )


def test_words_of_the_languages_are_fine_as_names(tmp_path: Path) -> None:
    text = nodes_only('end: {uses: "@Echo", inputs: {text: subgraph}}', "{node: end.said}", "{subgraph: TextDelta}")
    assert 'n0["end<br/>Echo"]' in mermaid(plan_of(tmp_path, text))
    assert 'i0 [label="subgraph", shape=ellipse];' in dot(plan_of(tmp_path, text))
