"""Documents that run: the fenced blocks of a Markdown file, and a folder in which they are carried out in order.

Never skips: a block of a language that is run here is run. What is only shown (`text`, `sh`, `mermaid`) other tests look at.

- ```python title="shout.py"  (or yaml): the file is written;
- ```python: is executed; all of a document share one namespace;
- ```pycon: a doctest in the same namespace, with ELLIPSIS;
- ```console: `$ command` and what it prints: stdout where it succeeds, stderr where it fails; `...` is any text;
  `$ omni-graph up ... &` goes on until the document ends, and the URL that the document shows stands for its real one.
"""

from __future__ import annotations

import doctest
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from omni_graph.cli.main import main
from tests.cli.background import Background

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
RUN = ("python", "pycon", "console", "yaml")
SHOWN = ("text", "sh", "mermaid")
URL = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``line`` is that of its fence."""

    language: str
    title: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str


def blocks_of(path: Path) -> list[Block]:
    """All fenced blocks of a Markdown file, in order."""
    text = path.read_text()
    found = [
        Block(match[1], match[2] or "", match[3], text.count("\n", 0, match.start()) + 1)
        for match in FENCE.finditer(text)
    ]
    assert 2 * len(found) == len(re.findall(r"^```", text, re.MULTILINE)), f"{path}: a fence without a language"
    unknown = [block for block in found if block.language not in (*RUN, *SHOWN)]
    assert not unknown, f"{path}:{unknown[0].line}: blocks are {RUN} or {SHOWN}, not {unknown[0].language}"
    return found


def carry_out(path: Path, folder: Path) -> int:
    """Run every block of ``path`` in ``folder``; how many were run. AssertionError with the line of the first that fails."""
    blocks = [block for block in blocks_of(path) if block.language in RUN]
    with chdir(folder), _importable(folder), ExitStack() as held:
        document = _Document(path, folder, held)
        for block in blocks:
            document.run(block)
    return len(blocks)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The document's files can be imported meanwhile, and leave no module behind."""
    before = set(sys.modules)
    with patch.object(sys, "path", [str(folder), *sys.path]):
        try:
            yield
        finally:
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                    del sys.modules[name]


class _Document:
    def __init__(self, path: Path, folder: Path, held: ExitStack) -> None:
        self._path = path
        self._folder = folder
        self._held = held
        self._urls: dict[str, str] = {}
        self._names: dict[str, object] = {"__name__": "document"}

    def run(self, block: Block) -> None:
        if block.title:
            file = self._folder / block.title
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)
        elif block.language == "console":
            for command, expected in _commands(block.text):
                if command.endswith("&"):
                    self._hold(command.removesuffix("&"), expected.strip(), block)
                else:
                    self._check(URL.sub(lambda shown: self._urls[shown[0]], command), expected, block)
        elif block.language == "pycon":
            self._doctest(block)
        else:
            assert block.language == "python", f"{self._path}:{block.line}: YAML is a file: give it a title"
            exec(compile(block.text, f"{self._path}:{block.line}", "exec"), self._names)

    def _check(self, command: str, expected: str, block: Block) -> None:
        ran = run_command(command)
        place = f"{self._path}:{block.line}: $ {command}\nexit code {ran.code}\n{ran.out}{ran.err}"
        printed = ran.out if ran.code == 0 else ran.err
        assert (ran.code != 0) == bool(re.search(r"error\[|^omni-graph: |^Error: ", expected, re.MULTILINE)), place
        assert not expected or matches(printed, expected), f"{place}\n-- the document has --\n{expected}"

    def _hold(self, command: str, shown: str, block: Block) -> None:
        """A deployment that is held until the document ends; by then it was stopped, and has left nothing."""
        assert URL.fullmatch(shown), f"{self._path}:{block.line}: what runs in the background prints its URL"
        up = self._held.enter_context(Background(self._folder, *shlex.split(command)[1:]))
        assert up.process.stdout is not None
        url = up.process.stdout.readline().decode().strip()
        assert URL.fullmatch(url), f"{self._path}:{block.line}: $ {command}\n{url}\n{up.err}"
        self._urls[shown] = url
        self._held.callback(_stop, up)

    def _doctest(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.text, self._names, "document", str(self._path), block.line)
        test.globs = self._names
        report = StringIO()
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=report.write, clear_globs=False)
        assert not report.getvalue(), f"{self._path}:{block.line}:\n{report.getvalue()}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """(command, what it prints); a command may go on after a backslash."""
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def matches(printed: str, expected: str) -> bool:
    """Equal but for spaces at the ends of lines, where ``...`` is any text; alone on a line: any lines, also none."""
    ours, wanted = (re.sub(r"[ \t]+$", "", text.strip(), flags=re.MULTILINE) for text in (printed, expected))
    pattern = re.sub(r"^\\.\\.\\.\\\n", r"(?:.*\\n)??", re.escape(wanted), flags=re.MULTILINE)
    return re.fullmatch(pattern.replace(r"\.\.\.", ".*?"), ours, re.DOTALL) is not None


def run_command(command: str) -> Ran:
    """``omni-graph`` in this process; ``python``, and whatever starts a Ray, in one of its own."""
    words = shlex.split(command)
    if words[0] == "omni-graph" and "ray" not in words:
        return _omni_graph(words)
    programs = {"omni-graph": ("-m", "omni_graph.cli.main"), "python": ()}
    assert words[0] in programs, f"{command}: documents use omni-graph and python"
    done = subprocess.run(
        [sys.executable, *programs[words[0]], *words[1:]], capture_output=True, text=True, timeout=120
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def _stop(up: Background) -> None:
    up.signal(signal.SIGTERM)
    assert up.end() == 0, up.err
    up.leaves_nothing()


def _omni_graph(words: list[str]) -> Ran:
    out, err = StringIO(), StringIO()
    code = 0
    with patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0
    return Ran(code, out.getvalue(), err.getvalue())
