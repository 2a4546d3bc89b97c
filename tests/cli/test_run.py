"""What ``run`` writes, where, and how it ends: by itself, by a failure, by a signal, by a reader that has gone."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.background import Background
from tests.cli.command import Ran, command

TALK = str(Path(__file__).parent / "talk.yaml")
ENDLESS = "talk.words=1000000000"
GO = ("--input", "text=go")
PAUSED = "paused: waiting for the reader\n"
STAGE_KEYS = "computing_s stalled_s queued_s waiting_s transit_s first_output_s packets bytes"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; nothing may be left in the folder for temporary files."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(tmp.iterdir()) == []


def talk(capsys: pytest.CaptureFixture[str], *arguments: str) -> Ran:
    return command(capsys, "run", TALK, *GO, *arguments)


def params(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in ("--param", f"talk.{name}={value}")]


# ---- by itself


def test_text_is_data_and_everything_else_is_talk(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    ran = talk(capsys)
    assert (ran.code, ran.out) == (0, "0000 0001 0002\n")
    assert "talk/0: ready" in ran.err and "1 stages ready in" in ran.err
    assert "first text" in ran.err and "first audio" in ran.err and "total" in ran.err
    assert ran.err.endswith(" wrote speech.wav (0.30 s at 8000 Hz)\n")
    samples, rate = soundfile.read("speech.wav")
    assert rate == 8000
    np.testing.assert_allclose(samples, np.full(2400, 0.25), atol=1e-4)


def test_json_is_one_object_with_the_promised_keys(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    ran = talk(capsys, "--json", "--seed", "7", "--speech", "a.wav")
    result = json.loads(ran.out)
    assert ran.code == 0 and ran.out.count("\n") == 1
    assert set(result) == {
        "text", "token_ids", "speech", "timing", "usage", "finish_reason", "retries", "trace_id", "seed"
    }  # fmt: skip
    assert (result["text"], result["token_ids"]) == ("0000 0001 0002", [0, 1, 2])
    assert result["speech"] == {"path": "a.wav", "sample_rate": 8000, "samples": 2400}
    assert (result["finish_reason"], result["retries"], result["seed"]) == ("stop", 0, 7)
    assert result["usage"] == {
        "prompt_tokens": {"text": 0, "audio": 0, "image": 0, "video": 0},
        "completion_tokens": {"text": 3, "audio": 0},
    }
    timing = result["timing"]
    assert set(timing) == {"first_text_s", "first_audio_s", "total_s", "stages"}
    assert {name: set(stage) for name, stage in timing["stages"].items()} == {"talk": set(STAGE_KEYS.split())}
    assert 0 < timing["first_text_s"] <= timing["first_audio_s"] <= timing["total_s"]
    assert timing["stages"]["talk"]["packets"] == 6


def test_an_output_that_is_not_asked_for_is_null_and_no_file(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    text = json.loads(talk(capsys, "--json", "--outputs", "text").out)
    assert (text["text"], text["speech"]) == ("0000 0001 0002", None)
    assert list(here.iterdir()) == []
    sound = json.loads(talk(capsys, "--json", "--outputs", "speech").out)
    assert (sound["text"], sound["token_ids"], sound["speech"]["samples"]) == (None, [], 2400)


def test_silence_is_a_valid_empty_wav(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert talk(capsys, *params(words=0)).code == 0
    assert soundfile.info("speech.wav").frames == 0


def test_greedy_reaches_every_stage_that_samples(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    talk(capsys, "--greedy")
    assert not soundfile.read("speech.wav")[0].any()


# ---- by a failure


def test_a_failure_midway_is_one_line_and_keeps_what_was_made(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    ran = talk(capsys, *params(fail_at=2))
    assert ran.code == 1
    assert ran.out.strip() in ("", "0000", "0000 0001")
    assert ran.err.splitlines()[-1] == "omni-graph: node_failed: talk: told to fail"
    assert not Path("speech.wav").exists() or soundfile.info("speech.wav").frames <= 1600


def test_a_refused_request_leaves_no_file_and_touches_none(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    ran = talk(capsys, *params(fail_at=0), "--trace", "t.jsonl")
    assert ran.code == 1 and list(here.iterdir()) == []
    Path("speech.wav").write_text("mine")
    talk(capsys, *params(fail_at=0))
    assert Path("speech.wav").read_text() == "mine"


def test_a_stage_that_cannot_start_is_said_without_noise(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    ran = talk(capsys, "--set", f"loading={here}/no/such/folder", "--launcher", "threads")
    assert ran.code == 1
    assert "omni-graph: talk/0.0 could not start: FileNotFoundError" in ran.err
    assert "\nlast log lines of talk/0.0:\n" in ran.err and "Traceback" in ran.err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--outputs", "text,spech"], "no output 'spech'; the graph's outputs: text, speech"),
        (["--outputs", ""], "no output ''; the graph's outputs: text, speech"),
        (["--param", "tlk.words=1"], "parameters for 'tlk': stages are talk"),
        (["--param", "talk.word=1"], "unknown parameter 'word'; allowed: fail_at, letters"),
        (["--param", "talk.words=many"], "parameter 'words' is 'many'; allowed: int"),
        (["--param", "words=1"], "must be NODE.KEY=VALUE"),
        (["--param", "talk.words"], "'talk.words' must be NODE.KEY=VALUE"),
        (["--max-tokens", "5"], "parameters for 'thinker': stages are talk"),
        (["--max-tokens", "0"], "greater than or equal to 1"),
        (["--input", "txt=go"], "no input 'txt'; the graph's inputs: text"),
        (["--input", "text"], "'text' must be NAME=VALUE"),
        (["--text", "hello"], "the graph talk takes no conversation; its inputs: text"),
        (["--launcher", "kubernetes"], "'kubernetes' is not one of"),
        (["--log-level", "loud"], "'loud' is not one of"),
        (["--seed", "-1"], "greater than or equal to 0"),
        (["--seed", "99999999999999999999"], "less than or equal to 9223372036854775807"),
    ],
)
def test_usage_errors_are_2_and_start_nothing(
    capsys: pytest.CaptureFixture[str], here: Path, arguments: list[str], message: str
) -> None:
    ran = talk(capsys, *arguments)
    assert (ran.code, ran.out) == (2, "")
    (line,) = [line for line in ran.err.splitlines() if line.startswith("Error: ")]
    assert message in line
    assert "ready" not in ran.err and list(here.iterdir()) == []


@pytest.mark.parametrize("option", ["--speech", "--trace"])
def test_where_nothing_can_be_written_nothing_is_started(
    capsys: pytest.CaptureFixture[str], here: Path, option: str
) -> None:
    for path, why in (("no/file", "there is no folder no"), (".", "it is a folder")):
        ran = talk(capsys, option, path)
        assert (ran.code, ran.out, ran.err) == (1, "", f"omni-graph: {path}: cannot be written: {why}\n")


def test_a_wrong_graph_is_3(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    ran = command(capsys, "run", "no_such_graph", "--input", "text=go")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("error[OG001]: ")


# ---- by a signal


@pytest.mark.parametrize(
    ("launcher", "number"),
    [("threads", signal.SIGINT), ("processes", signal.SIGINT), ("processes", signal.SIGTERM)],
)
def test_a_signal_leaves_a_valid_wav_and_nothing_else(tmp_path: Path, launcher: str, number: signal.Signals) -> None:
    speech = tmp_path / "speech.wav"
    with Background(tmp_path, "run", TALK, *GO, "--launcher", launcher, "--param", ENDLESS) as run:
        assert len(run.read(5000)) == 5000  # it is under way, and will soon wait for us
        run.until(lambda: speech.exists() and speech.stat().st_size > 44)
        run.signal(number)
        assert run.end() == 130
        samples, rate = soundfile.read(speech)
        assert rate == 8000 and len(samples) > 0 and len(samples) % 800 == 0
        assert run.err.splitlines()[-1].startswith("interrupted; wrote speech.wav (")
        assert "Traceback" not in run.err
        run.leaves_nothing()


@pytest.mark.parametrize("launcher", ["threads", "processes"])
def test_a_signal_while_stages_load_ends_it_too(tmp_path: Path, launcher: str) -> None:
    marker = tmp_path / "loading"
    with Background(tmp_path, "run", TALK, *GO, "--launcher", launcher, "--set", f"loading={marker}") as run:
        run.until(marker.exists)
        run.signal(signal.SIGINT)
        run.signal(signal.SIGINT)  # an impatient one: the first is at work
        assert run.end() == 130
        assert run.err == ""
        run.leaves_nothing()
    assert not (tmp_path / "speech.wav").exists()


# ---- by its reader


def test_a_reader_that_goes_away_ends_it_without_a_word(tmp_path: Path) -> None:
    with Background(tmp_path, "run", TALK, *GO, "--param", ENDLESS) as run:
        assert len(run.read(100)) == 100
        run.stop_reading()
        assert run.end() == 1
        assert run.err.splitlines()[1:] == [run.err.splitlines()[1]]  # ready, and how long it took; nothing after
        run.leaves_nothing()


def test_a_slow_reader_is_waited_for_and_told_so(tmp_path: Path) -> None:
    words, letters = 300, 20_000  # more than the pipe and the output's buffer hold
    with Background(
        tmp_path, "run", TALK, *GO, "--outputs", "text", *params(words=words, letters=letters)
    ) as run:  # fmt: skip
        run.until(lambda: PAUSED in run.err)
        assert len(run.read(-1)) == words * (letters + 1)
        assert run.end() == 0
        assert run.err.count(PAUSED) == 1


def test_a_reader_that_never_reads_cannot_hold_up_a_signal(tmp_path: Path) -> None:
    with Background(tmp_path, "run", TALK, *GO, "--param", ENDLESS, *params(letters=20_000)) as run:
        run.until(lambda: PAUSED in run.err)
        run.signal(signal.SIGTERM)
        assert run.process.wait(60) == 130
        run.leaves_nothing()
    assert soundfile.info(tmp_path / "speech.wav").frames > 0


# ---- a model


def test_a_model_under_way_is_stopped_too_and_adds_no_words_of_its_own(tmp_path: Path, tiny: Path) -> None:
    speech = tmp_path / "speech.wav"
    endless = ("--max-tokens", "1000", "--param", "talker.max_tokens=4000")
    with Background(tmp_path, "run", "qwen2_5_omni", "--set", f"checkpoint={tiny}", "--text", "hi", *endless) as run:
        run.until(lambda: speech.exists() and speech.stat().st_size > 44)
        run.signal(signal.SIGINT)
        assert run.end() == 130
        *progress, last = run.err.splitlines()
        assert last.startswith("interrupted; wrote speech.wav (")
        assert all(line.endswith("ready") or "stages ready in" in line or not line for line in progress)
        assert soundfile.info(speech).frames > 0
        run.leaves_nothing()
