"""A deployment held by ``up``, as the other commands and the user's other terminals meet it; nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from omni_graph.cli.places import Place, find, state_folder
from omni_graph.errors import OmniGraphError
from tests.cli.background import Background
from tests.cli.command import Ran, command
from tests.runtime.graphs import eventually

TALK = str(Path(__file__).parent / "talk.yaml")
GO = ("--input", "text=go")


class Held:
    """``omni-graph up`` in a process of its own, ready; and the commands that go to it from this one."""

    def __init__(self, background: Background, capsys: pytest.CaptureFixture[str]) -> None:
        self.background = background
        self._capsys = capsys
        assert background.process.stdout is not None
        self.url = background.process.stdout.readline().decode().strip()
        (self.file,) = background.tmp.glob("omni-graph-*/control.json")

    def command(self, *arguments: str) -> Ran:
        return command(self._capsys, *arguments, "--url", self.url)

    def status(self) -> dict:
        return json.loads(self.command("status", "--json").out)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "omni-graph"


@pytest.fixture
def held(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    state: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Held]:
    monkeypatch.chdir(tmp_path)
    with Background(tmp_path, "up", TALK, "--launcher", getattr(request, "param", "threads")) as background:
        yield Held(background, capsys)


@pytest.mark.parametrize("held", ["processes"], indirect=True)
def test_from_up_to_down(held: Held, state: Path) -> None:
    """One deployment through its life: asked, scaled, run, drained, read, and stopped with nothing left."""
    assert held.url.startswith("http://127.0.0.1:")
    assert (stat.S_IMODE(held.file.stat().st_mode), stat.S_IMODE(held.file.parent.stat().st_mode)) == (0o600, 0o700)
    (listed,) = state.iterdir()
    assert listed.read_text() == held.file.read_text() and stat.S_IMODE(listed.stat().st_mode) == 0o600
    said = json.loads(listed.read_text())
    assert (said["url"], said["pid"]) == (held.url, held.background.process.pid)

    found = held.status()
    (replica,) = found["stages"]["talk"]["replicas"]
    assert (replica["id"], replica["state"]) == ("talk/0.0", "ready") and replica["pid"] != said["pid"]

    ran = held.command("run", *GO)
    assert (ran.code, ran.out) == (0, "0000 0001 0002\n") and ran.err.endswith("wrote speech.wav (0.30 s at 8000 Hz)\n")
    assert soundfile.read("speech.wav")[0].shape == (2400,)

    ran = held.command("scale", "talk=2")
    assert ran.code == 0 and "talk/1.0" in ran.out and "talk on processes: 0 running" in ran.out
    ran = held.command("drain", "talk/0", "--json")
    assert [one["id"] for one in json.loads(ran.out)["stages"]["talk"]["replicas"]] == ["talk/1.0"]
    ran = held.command("replace", "talk", "--set", "loading=", "--json")
    assert [(one["id"], one["revision"]) for one in json.loads(ran.out)["stages"]["talk"]["replicas"]] == [
        ("talk/2.0", 1)
    ]
    ran = held.command("logs", "talk")
    assert ran.code == 0 and ": opened" not in ran.out and "talk/2.0" in ran.out and "loaded in" in ran.out

    held.background.signal(signal.SIGTERM)
    assert held.background.end() == 0
    held.background.leaves_nothing()
    assert list(state.iterdir()) == []
    ran = held.command("status")
    assert ran.code == 1 and "no deployment of yours is held at" in ran.err and "running: none" in ran.err


def test_stopping_lets_what_runs_finish(held: Held, tmp_path: Path) -> None:
    words = ("--param", "talk.words=300", "--param", "talk.letters=60000")
    with Background(tmp_path, "run", "--url", held.url, *GO, *words, "--outputs", "text") as running:
        assert running.read(1) == b"0"
        held.background.signal(signal.SIGTERM)
        eventually(lambda: "stopping: what runs has 30 s" in held.background.err)
        assert running.read(300 * 60_001) == b"".join(f"{i:060000d} ".encode() for i in range(300))[1:-1] + b"\n"
        assert running.end() == 0
    assert held.background.end() == 0
    held.background.leaves_nothing()


def test_a_second_signal_does_not_wait(held: Held, tmp_path: Path) -> None:
    endless = ("--param", "talk.words=1000000000")
    with Background(tmp_path, "run", "--url", held.url, *GO, *endless, "--outputs", "text") as running:
        assert running.read(1) == b"0"
        held.background.signal(signal.SIGINT)
        eventually(lambda: "stopping: what runs has 30 s" in held.background.err)
        ran = held.command("run", *GO)
        assert ran.code == 1 and "closed: the deployment is being shut down" in ran.err
        assert held.status()["requests"]["running"] == 1
        held.background.signal(signal.SIGINT)
        assert held.background.end() == 130
        running.stop_reading()
    held.background.leaves_nothing()


def test_ctrl_c_of_run_cancels_there(held: Held, tmp_path: Path) -> None:
    endless = ("--param", "talk.words=1000000000")
    with Background(tmp_path, "run", "--url", held.url, *GO, *endless) as running:
        assert running.read(1) == b"0"
        running.signal(signal.SIGINT)
        assert running.end() == 130 and "interrupted; wrote speech.wav" in running.err
    eventually(lambda: held.status()["requests"]["cancelled"] == 1)


def test_run_there_answers_like_run_here(held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*GO, "--json", "--seed", "3", "--param", "talk.words=5")
    there = json.loads(held.command("run", *flags, "--session", "mine", "--trace", "there.jsonl").out)
    here = json.loads(command(capsys, "run", TALK, *flags).out)
    for answer in (there, here):
        assert answer.pop("trace_id") and answer.pop("timing")["stages"].keys() == {"talk"}
    assert there == here
    assert command(capsys, "trace", "there.jsonl").code == 0
    logged = held.command("logs").out
    assert "talk/0.0 talk loaded in" in logged and ": opened" in logged and ": opened" not in held.background.err


def test_failures_there_are_told_here(held: Held, tmp_path: Path) -> None:
    ran = held.command("run", *GO, "--param", "talk.fail_at=1")
    assert ran.code == 1 and "node_failed: talk: told to fail" in ran.err
    for flags, message in (
        (("--param", "talk.none=1"), "none"),
        (("--deploy", "x.yaml"), "runs already"),
        (("--set", "loading=x"), "runs already"),
    ):
        ran = held.command("run", *GO, *flags)
        assert ran.code == 2 and message in ran.err
    assert held.command("run", TALK, *GO, "--outputs", "text").out == "0000 0001 0002\n"
    ran = held.command("run", "words", *GO)
    assert ran.code == 1 and "serves another graph than words: talk" in ran.err
    for words, message in (
        (("scale", "tak=2"), "no stage 'tak'"),
        (("drain", "talk/7"), "no replica 7"),
        (("replace", "talk", "--set", "louding=x"), "talk.config.louding: is no key of its config"),
        (("replace", "talk", "--set", "loading=4"), "talk.config.loading: takes str, got 4"),
    ):
        ran = held.command(*words)
        assert ran.code == 1 and message in ran.err
    for words in (
        ("scale", "talk"),
        ("scale", "talk=x"),
        ("drain", "talk/x"),
        ("drain", "/1"),
        ("replace", "talk", "--set", "x"),
        ("replace", "talk", "--set", "loading=.nan"),
    ):
        assert held.command(*words).code == 2
    assert held.command("status", "--token", "wrong").code == 1


def test_the_only_deployment_needs_no_url(held: Held, capsys: pytest.CaptureFixture[str]) -> None:
    assert "talk/0.0" in command(capsys, "status").out


def test_without_a_graph_and_without_a_url_there_is_nothing_to_run(capsys: pytest.CaptureFixture[str]) -> None:
    ran = command(capsys, "run", *GO)
    assert ran.code == 2 and "name a graph, or a running deployment with --url" in ran.err


@pytest.mark.parametrize(
    "url",
    ["http://192.0.2.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://127.0.0.1:x", "http://a@b:1/c", ""],
)
def test_a_token_goes_to_no_other_machine(url: str, tmp_path: Path) -> None:
    with pytest.raises(OmniGraphError, match=r"a control URL is http://127\.0\.0\.1:PORT"):
        find(url, "token", tmp_path)


def test_files_that_others_could_have_written_are_not_believed(tmp_path: Path) -> None:
    state = state_folder({"XDG_STATE_HOME": str(tmp_path)})
    state.mkdir(mode=0o700)
    graph = {"graph": "g", "outputs": {"out": "a.out"}, "nodes": {"a": {"uses": "evil:Node"}}}
    place = {"url": "http://127.0.0.1:9", "token": "t", "pid": os.getpid(), "graph": graph, "folder": "/", "deploy": {}}
    file = state / "9.json"
    file.write_text(json.dumps(place))
    assert find("127.0.0.1:9", None, state).place == Place.model_validate_json(file.read_text())
    state.chmod(0o777)
    with pytest.raises(OmniGraphError, match="no deployment of yours"):
        find("127.0.0.1:9", None, state)
    state.chmod(0o700)
    file.write_text(json.dumps(place | {"pid": 2**22 + 1}))
    with pytest.raises(OmniGraphError, match="which deployment"):
        find(None, None, state)
