"""The wheel as a user gets it: installed beside nothing but the base dependencies, and used from another folder.

The environment is clean: no torch, no transformers, not this checkout. Third-party packages are links to those that run
the tests, so that nothing is downloaded; what the wheel does not ask for is not there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Installed:
    """A wheel, and the folder of commands of the environment it was installed into."""

    wheel: Path
    commands: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build, make a clean environment, install."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    for found in base_distributions():
        link_files(found, packages)
    pip = ("-m", "pip", "--python", str(folder / "env" / "bin" / "python"), "install")
    run(sys.executable, *pip, "--quiet", "--no-deps", "--no-index", str(wheel), cwd=folder)
    return Installed(wheel, folder / "env" / "bin")


def base_distributions() -> Iterator[Distribution]:
    """What the wheel asks for without an extra, and what that asks for."""
    todo, seen = ["omni-graph"], set[str]()
    while todo:
        name = todo.pop()
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            key = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if key in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            seen.add(key)
            todo.append(requirement.name)
            yield distribution(requirement.name)


def link_files(found: Distribution, packages: Path) -> None:
    """The top-level files and folders of an installed distribution, as links in ``packages``."""
    tops = {Path(str(file)).parts[0] for file in found.files or () if not str(file).startswith("..")}
    for top in tops - {"__pycache__"}:
        if not (packages / top).exists():
            (packages / top).symlink_to(Path(str(found.locate_file(top))))


def attempt(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment that knows nothing of ours."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def run(*words: str, cwd: Path) -> str:
    """stdout of a command that must succeed."""
    done = attempt(*words, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_wheel_holds_the_packages_the_graphs_and_nothing_else(installed: Installed) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    graphs = {Path(name).name for name in names if name.startswith("omni_graph/_graphs/")}
    assert graphs == {path.name for path in (ROOT / "graphs").iterdir()}
    assert {"omni_graph/py.typed", "omni_nodes/py.typed"} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"omni_graph", "omni_nodes"}
    assert all(name.endswith((".py", ".typed", ".yaml")) or ".dist-info/" in name for name in names)


def test_the_environment_has_no_torch_and_no_checkout(installed: Installed, tmp_path: Path) -> None:
    modules = "('torch', 'transformers', 'av', 'tests')"
    code = (
        f"import importlib.util as u, omni_graph; print([m for m in {modules} if u.find_spec(m)], omni_graph.__file__)"
    )
    out = run(str(installed.commands / "python"), "-c", code, cwd=tmp_path)
    assert out.startswith("[] ") and str(installed.commands.parent) in out


def test_every_packaged_graph_is_checked_by_its_name_without_torch(installed: Installed, tmp_path: Path) -> None:
    command = str(installed.commands / "omni-graph")
    for path in (ROOT / "graphs").iterdir():
        assert run(command, "check", path.stem, cwd=tmp_path).startswith(f"{path.stem}: ok; ")


@pytest.mark.parametrize("launcher", ["threads", "processes"])
def test_a_packaged_graph_runs_by_its_name(installed: Installed, tmp_path: Path, launcher: str) -> None:
    words = ("run", "words", "--launcher", launcher, "--input", "text=row your boat ")
    assert run(str(installed.commands / "omni-graph"), *words, cwd=tmp_path) == "ROW row YOUR your BOAT boat \n"


def test_a_model_without_its_extra_names_what_is_missing(installed: Installed, tmp_path: Path) -> None:
    words = ("run", "qwen2_5_omni", "--launcher", "processes", "--text", "Hello")
    done = attempt(str(installed.commands / "omni-graph"), *words, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^omni-graph: \w+/0.0 could not start: .*No module named '\w+'", done.stderr, re.MULTILINE)


def test_what_was_installed_is_typed(installed: Installed, tmp_path: Path) -> None:
    """A user's own code is checked against the wheel's types."""
    (tmp_path / "mine.py").write_text("import omni_graph as og\nreveal_type(og.load_graph('words'))\n")
    words = ("-m", "mypy", "--python-executable", str(installed.commands / "python"), "--follow-imports=silent")
    out = run(sys.executable, *words, "mine.py", cwd=tmp_path)
    assert 'Revealed type is "omni_graph.graph.Graph"' in out
