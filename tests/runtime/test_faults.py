"""A replica that dies, hangs or cannot start: its requests fail with a code, the others go on, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

import omni_graph as og
from omni_graph.runtime.replica import Change, State
from omni_graph.spec import DeploySpec
from tests.runtime.graphs import HERE, beside, chain, eventually, held, launch, words


def test_an_answer_survives_the_death_of_a_replica() -> None:
    """Killed in the middle, with no other replica: it comes back, and the client sees a pause."""
    with launch(chain(), "processes") as app:
        handle = app.open(outputs=["out"])
        for word in ("one ", "two "):
            handle.write("text", packet(word))
            event = handle.next(timeout=20)
            assert event is not None and event.packet.text == word.upper()
        os.kill(app.status()["stages"]["a"]["replicas"][0]["pid"], signal.SIGKILL)
        handle.write("text", packet("three"))
        handle.end("text")
        assert [event.packet.text for event in handle] == ["THREE"]
        handle.timings()
        assert handle.retries == 1
        assert app.status()["stages"]["a"]["replicas"][0]["id"] == "a/0.1"
        for _ in range(20):
            assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"


def test_a_death_fails_its_requests_alone_when_nothing_is_retried() -> None:
    with launch(chain(), "processes", stages={"a": {"replicas": 2}}, retries=0) as app:
        on_first = app.open(outputs=["half"])
        on_second = app.open(outputs=["half"])
        pids = []
        for handle in (on_first, on_second):
            handle.write("text", packet("pid?"))
            answer = handle.next(timeout=20)
            assert answer is not None
            pids.append(int(answer.packet.text))
        assert pids[0] != pids[1]
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(og.RequestError) as error:
            on_first.next(timeout=20)
        assert error.value.code in ("replica_died", "link_lost") and error.value.stage == "a" and error.value.retryable
        on_second.write("text", packet("still here"))
        on_second.end("text")
        assert [event.packet.text for event in on_second] == ["STILL HERE"]
        eventually(lambda: app.status()["stages"]["a"]["replicas"][0]["restarts"] == 1 or _restarted(app, 1))


def _restarted(app: og.App, index: int) -> bool:
    return bool(app.status()["stages"]["a"]["replicas"][index]["restarts"] == 1)


def test_a_poison_request_is_found_and_its_company_completes() -> None:
    with launch(chain(), "processes") as app:
        company = [app.open(outputs=["out"]) for _ in range(4)]
        for handle in company:
            handle.write("text", packet("before "))
            assert handle.next(timeout=20) is not None
        with pytest.raises(og.RequestError) as error:
            app.run({"text": words("die")}, outputs=["out"], deadline_s=60)
        assert error.value.code == "poison" and error.value.stage == "a" and not error.value.retryable
        for handle in company:
            handle.write("text", packet("after"))
            handle.end("text")
            assert [event.packet.text for event in handle] == ["AFTER"]


def test_a_stage_that_keeps_dying_is_given_up_for_a_while_and_the_others_go_on() -> None:
    with launch(beside(), "processes", retries=0) as app:
        for _ in range(4):
            with pytest.raises(og.RequestError):
                app.run({"text": words("die")}, outputs=["left"], deadline_s=60)
        eventually(lambda: app.status()["stages"]["a"]["state"] == "unhealthy")
        with pytest.raises(og.RequestError, match="unavailable: a: no live replica"):
            app.run({"text": words("x")}, outputs=["left"])
        assert app.run({"text": words("x")}, outputs=["right"])["right"].text == "X"


def test_a_frozen_process_is_found_and_its_request_goes_on_elsewhere() -> None:
    with launch(chain(), "processes", stages={"a": {"replicas": 2}}) as app:
        handle = app.open(outputs=["out"])
        handle.write("text", packet("first"))
        assert handle.next(timeout=20) is not None
        frozen = next(r for r in app.status()["stages"]["a"]["replicas"] if r["requests"] == 1)
        os.kill(frozen["pid"], signal.SIGSTOP)
        handle.write("text", packet("x"))
        handle.end("text")
        assert [event.packet.text for event in handle] == ["X"]


@pytest.mark.parametrize("launcher", ["threads", "processes"])
def test_a_step_that_hangs_is_found_and_its_request_fails(launcher: str) -> None:
    with launch(chain(), launcher, stages={"a": {"replicas": 2, "max_step_s": 0.5}}, retries=0) as app:
        with pytest.raises(og.RequestError, match=r"max_step_s is 0\.5") as error:
            app.run({"text": words("hang")}, outputs=["out"])
        assert (error.value.code, error.value.stage) == ("stuck", "a")
        assert app.run({"text": words("x")}, outputs=["out"])["out"].text == "X"
        eventually(lambda: {r["state"] for r in app.status()["stages"]["a"]["replicas"]} == {"ready"})


@pytest.mark.parametrize("launcher", ["threads", "processes"])
def test_a_node_that_cannot_start_says_why_and_leaves_nothing(launcher: str) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(og.LaunchError, match=r"a/0\.0 could not start: RuntimeError: told not to start") as error:
        launch(chain(fail_to_start=True), launcher)
    assert "last log lines" in str(error.value)
    eventually(lambda: not _workers(before))


def test_a_replica_of_which_nobody_can_be_told_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Without its reader it could neither be ended nor started again."""

    def hear(change: Change) -> None:
        if change.state is State.READY:
            raise OverflowError("too much to hear")

    with pytest.raises(og.LaunchError, match=r"could not start: the process ended by itself: killed by SIGKILL"):
        og.launch(chain(), DeploySpec(), "processes", on_change=hear)
    assert "OverflowError: too much to hear" in caplog.text


def test_closing_ends_requests_processes_and_files() -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    app = launch(chain(), "processes")
    folder = Path(app._deployment.run_folder)
    assert (folder / "logs" / "a-0.0.log").exists() and folder.stat().st_mode & 0o777 == 0o700
    handle = app.open(outputs=["out"])
    app.close()
    app.close()
    with pytest.raises(og.RequestError, match="the deployment was closed"):
        handle.next(timeout=20)
    with pytest.raises(og.RequestError, match="closed"):
        app.run({"text": words("x")}, outputs=["out"])
    assert not folder.exists()
    eventually(lambda: not _workers(before))


def test_workers_end_when_their_parent_is_killed() -> None:
    """Nobody is left to remove its files then; they are in a folder of this test."""
    script = (
        "import sys, omni_graph as og\n"
        f"sys.path.insert(0, {str(HERE.parent.parent)!r})\n"
        "from tests.runtime.graphs import chain, launch\n"
        "if __name__ == '__main__':\n"
        "    app = launch(chain(), 'processes')\n"
        "    print(*[r['pid'] for s in app.status()['stages'].values() for r in s['replicas']], flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with tempfile.TemporaryDirectory(prefix="og-") as folder:  # short: sockets lie in it
        parent = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"TMPDIR": folder},
        )
        with parent:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            assert len(pids) == 2
            parent.kill()
        eventually(lambda: not any(_alive(pid) for pid in pids))


def test_a_script_without_a_main_guard_may_launch_processes(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE.parent.parent)!r})\n"
        "from tests.runtime.graphs import chain, launch, words\n"
        "with launch(chain(), 'processes') as app:\n"
        "    print(app.run({'text': words('hi')}, outputs=['out'])['out'].text)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "HI\n"), ran.stderr


def test_a_poison_packet_does_not_disturb_requests_elsewhere() -> None:
    with launch(chain(), "threads") as app:
        for _ in range(3):
            with pytest.raises(og.RequestError, match="boom was said"):
                app.run({"text": words("x", "boom")}, outputs=["out"])
        assert app.run({"text": words("y")}, outputs=["out"])["out"].text == "Y"
        eventually(lambda: held(app) == 0)


def packet(text: str) -> object:
    return words(text)[0]


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _workers(before: set[int]) -> list[psutil.Process]:
    """Replica processes that were not there before; the fork server and its tracker stay for the next launch."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            line = " ".join(child.cmdline())
            if child.pid not in before and "resource_tracker" not in line and child.parent() != psutil.Process():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
