"""No byte from outside may become code: nothing in the package imports or calls a deserialiser that runs what it reads."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import pytest

from omni_graph.errors import LinkError
from omni_graph.links.codec import Codec
from omni_graph.payload import TextDelta

ROOT = Path(__file__).parents[2]
FOLDERS = ("omni_graph", "nodes", "benchmarks", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "jsonpickle", "joblib"}
CALLS = {"recv_pyobj", "send_pyobj", "recv_serialized", "send_serialized"}


def unsafe(source: str) -> list[str]:
    """Every place in ``source`` that could run what it reads."""
    tree = ast.parse(source)
    return [f"line {node.lineno}: {why}" for node in ast.walk(tree) if (why := _fault(node))]  # type: ignore[attr-defined]


def _fault(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        return next((f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES), "")
    if isinstance(node, ast.ImportFrom):
        return f"from {node.module}" if (node.module or "").split(".")[0] in MODULES else ""
    if isinstance(node, ast.Attribute) and node.attr in CALLS:
        return node.attr
    return _call_fault(node) if isinstance(node, ast.Call) else ""


def _call_fault(node: ast.Call) -> str:
    name = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in ("__import__", "importlib.import_module", "import_module") and node.args:
        named = ast.unparse(node.args[0]).strip("'\"").split(".")[0]
        return f"{name}({named})" if named in MODULES else ""
    if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
        return name
    if name == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    return "allow_pickle" if keywords.get("allow_pickle", "False") != "False" else ""


def test_the_package_has_no_unsafe_deserialiser() -> None:
    found = {str(path.relative_to(ROOT)): faults for path in SOURCES if (faults := unsafe(path.read_text()))}
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(FOLDERS)
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import torch, cloudpickle.abc",
        "from dill import loads",
        "from marshal import loads as quick",
        "def f():\n    import shelve",
        "socket.recv_pyobj()",
        "receive = socket.recv_pyobj",
        "importlib.import_module('pickle')",
        "__import__('jsonpickle')",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_gate_finds(source: str) -> None:
    """The gate itself: what it would not find, nobody would."""
    assert unsafe(source)


def test_the_gate_passes_safe_code() -> None:
    assert not unsafe("torch.load(path, weights_only=True)\nnp.load(path)\nyaml.safe_load(text)\nimport json")


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was run",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_a_bad_message(protocol: int) -> None:
    """As header or as part, at every protocol: refused and not run. (test_attack sends them over a socket.)"""
    bomb = pickle.dumps(Bomb(), protocol)
    codec = Codec({0: TextDelta})
    for message in ([bomb], [bomb, bomb], [b"\x91\x94\x00\x01\xa0\xa1a", bomb]):
        with pytest.raises(LinkError):
            codec.decode(message)
