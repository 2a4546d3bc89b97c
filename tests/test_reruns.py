"""Which failures are run again: waits in vain of tests of processes, sockets and Ray; never what saw something wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]

SUITE = """
import queue
import subprocess
import threading

import pytest

from omni_graph.errors import Code, LaunchError, request_error
from tests.runtime.graphs import eventually


def failed(*arguments):
    raise arguments[0](*arguments[1:])


def ended(code):
    raise request_error("r", code, "told")


def wait_in_vain_and_then_say_why():
    try:
        eventually(lambda: False, within_s=0.0)
    finally:
        assert False, "exit code None; it said nothing"


class Client:
    def retries(self):
        return 2


def replayed_once_more():
    client = Client()
    assert client.retries() == 1


def doubled():
    packets = [1, 1]
    assert packets == [1]


CASES = {
    "replay": replayed_once_more,
    "WRONG packets": doubled,
    "wait": lambda: eventually(lambda: False, within_s=0.0),
    "wait, told": wait_in_vain_and_then_say_why,
    "event": lambda: failed(TimeoutError, "r: nothing for 20 s"),
    "process": lambda: failed(subprocess.TimeoutExpired, "sleep", 60),
    "line": lambda: queue.Queue().get(timeout=0.0),
    "start": lambda: failed(LaunchError, "not ready after 60 s: a/0"),
    "place": lambda: failed(LaunchError, "a/0.0 could not start: not placed after 60 s: CPU"),
    "deadline": lambda: ended(Code.DEADLINE_EXCEEDED),
    "WRONG answer": lambda: failed(AssertionError, "a packet came twice\\nassert [1, 1] == [1]"),
    "WRONG words": lambda: failed(AssertionError, "it said: TimeoutError: not so within 20.0 s"),
    "WRONG end": lambda: ended(Code.LINK_LOST),
    "WRONG start": lambda: failed(LaunchError, "a/0.0 could not start: FileNotFoundError: weights"),
    "WRONG silence": lambda: pytest.fail("DID NOT RAISE <class 'Cancelled'>"),
    "WRONG bug": lambda: failed(ValueError, "Timeout "),
}


def note(name):
    with open("ran", "a") as file:
        print(name, file=file)


@pytest.mark.parametrize("name", CASES)
def test_fails(name):
    note(name)
    CASES[name]()


@pytest.mark.timeout(0.2)
def test_hangs():
    note("hang")
    threading.Event().wait(60)


def test_passes():
    note("PASSES")
"""
IN_VAIN = """
def test_waits_in_vain():
    with open("ran", "a") as file:
        print(__file__, file=file)
    raise TimeoutError("nothing for 20 s")
"""


def runs(folder: Path, suites: dict[str, str]) -> Counter[str]:
    """How often each test of these files was run, under the conftest of this folder; by the name that it notes."""
    shutil.copy(Path(__file__).parent / "conftest.py", folder)
    for name, text in suites.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\ntimeout = 60\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--import-mode=importlib", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    return Counter((folder / "ran").read_text().splitlines())


def test_a_wait_in_vain_is_run_again_and_what_is_wrong_is_not(tmp_path: Path) -> None:
    """Also the limit of a test holds again: one that hangs each time comes to its end."""
    ran = runs(tmp_path, {"runtime/test_it.py": SUITE})
    assert len(ran) == 18
    once = {name for name in ran if name.startswith(("WRONG", "PASSES"))}
    assert ran == {name: 1 if name in once else 3 for name in ran}, ran
    assert len(once) == 8


def test_pure_tests_and_parity_are_never_run_again(tmp_path: Path) -> None:
    model = "nodes/qwen2_5_omni"
    again = [f"{model}/test_recovery.py", "ray/test_app.py"]
    never = ["core/test_recovery.py", f"{model}/test_parity.py", "nodes/engine/test_streaming.py", "test_reruns.py"]
    ran = runs(tmp_path, dict.fromkeys(again + never, IN_VAIN))
    assert ran == {str(tmp_path / name): 3 for name in again} | {str(tmp_path / name): 1 for name in never}
