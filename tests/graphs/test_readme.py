"""What the documents say is so: every block that can be run is run, and what is only shown is compared with its source."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from omni_graph.cli.main import COMMANDS
from omni_graph.spec import DeploySpec, GraphSpec, InputSpec, Limits, NodeSpec, StageSpec, Wire
from tests.graphs.documents import blocks_of, carry_out, matches, run_command

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "write-a-node.md"
REFERENCE = ROOT / "docs" / "graph-files.md"
LIVE = ROOT / "docs" / "live-input.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").glob("*.md")])
MAKEFILE = (ROOT / "Makefile").read_text()
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)[^)]*\)")
CODE = re.compile(r"`([^`]+)`")


def sh_lines(path: Path) -> list[str]:
    """Lines of the blocks that people type and no test runs: make, git, pip."""
    return [
        line.partition("#")[0].strip()
        for block in blocks_of(path)
        if block.language == "sh"
        for line in block.text.splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a", "b", False),
        ("b and a", "a", False),
        ("took 5 s", "took ... s", True),
        ("took 5 m", "took ... s", False),
        ("a", "...\na", True),
        ("x\ny\na", "...\na", True),
        ("xa", "...\na", False),
        ("a\nqb", "a\n...\nb", False),
    ],
)
def test_what_a_document_shows_is_compared(printed: str, expected: str, same: bool) -> None:
    assert matches(printed, expected) is same


def test_every_block_of_the_guide_runs(tmp_path: Path) -> None:
    assert carry_out(GUIDE, tmp_path) > 15


def test_every_block_of_the_reference_runs(tmp_path: Path) -> None:
    assert carry_out(REFERENCE, tmp_path) >= 4


def test_every_block_of_live_input_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert carry_out(LIVE, tmp_path) == 1


def test_every_block_of_the_readme_runs(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tiny`` is in a cache of ours, the real checkpoint is a tiny one too, and no other deployment is seen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "Qwen2.5-Omni-3B").symlink_to(tiny_folder)
    for folder in ("examples", "deploy"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    assert carry_out(README, tmp_path) >= 5


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_links_to_files_that_are_there(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_what_people_type_is_there(path: Path) -> None:
    """Make targets, extras, files and commands that a document names exist."""
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for line in sh_lines(path):
        word, *rest = line.split()
        assert word in (
            "make",
            "git",
            "cd",
            "pip",
            ".venv/bin/pip",
            "python3",
            "source",
            "pytest",
            ".venv/bin/pytest",
        ), line
        assert word != "make" or set(rest) <= targets, line
        assert set(re.findall(r"\[([a-z,]+)\]", line)) <= {*extras, "models,dev"}, line
    named = set(re.findall(r"omni-graph ([a-z]+)", "\n".join(CODE.findall(path.read_text()))))
    assert named <= set(COMMANDS), named - set(COMMANDS)


def test_the_readme_shows_the_graph_as_it_is_drawn() -> None:
    (picture,) = (block.text for block in blocks_of(README) if block.language == "mermaid")
    assert matches(run_command("omni-graph draw qwen2_5_omni").out, picture)


def test_the_demo_that_the_readme_shows_is_that_of_the_makefile() -> None:
    """The command above the output is the recipe of ``make demo``."""
    shown = next(block.text for block in blocks_of(README) if block.text.startswith("$ make demo"))
    recipe = re.search(r"^demo:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe is not None
    commands = recipe[1].replace("\\\n", " ").replace("$(BIN)/", ".venv/bin/").strip().split("\n")
    for command in commands:
        assert " ".join(command.split()) in " ".join(shown.replace("\\\n", " ").split())


TABLES: dict[str, type[BaseModel]] = {
    "The graph file": GraphSpec,
    "A node": NodeSpec,
    "A wire": Wire,
    "A graph input": InputSpec,
    "The deploy file": DeploySpec,
    "A stage": StageSpec,
    "Limits": Limits,
}


@pytest.mark.parametrize("heading", TABLES)
def test_the_reference_lists_every_key_and_default(heading: str) -> None:
    section = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section[1].splitlines() if "|" in line]
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows[2:]}
    assert listed == keys_of(TABLES[heading])


def keys_of(cls: type[BaseModel]) -> dict[str, str]:
    """Key -> default as the reference writes it: `required`, a dash where nothing is set."""
    return {
        str(field.validation_alias or name): "required" if field.is_required() else written(field.default)
        for name, field in cls.model_fields.items()
    }


def written(value: object) -> str:
    if value is None or value == {} or isinstance(value, BaseModel):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"{value >> 30}GiB" if value >= 1 << 30 else f"{value >> 20}MiB"
    return f"{value:g}" if isinstance(value, float) else str(value)
