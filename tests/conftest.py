"""For all tests: whatever imports transformers first finds the torchvision that parity tests need, if it is installed.

Tests of processes, sockets and Ray share two cores: one that waited in vain is run again, visibly (``R``), up to twice. So
is one whose answer was whole and only replayed once more than it should be: a machine that stalls loses a link. One that saw
something wrong is not: a doubled packet is no matter of time. Nor is a pure test or parity, whatever it says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.torchvision_shim import install

install()  # transformers asks only once; this imports neither torch nor torchvision

TIMED = ("runtime", "ray", "links", "cli", "graphs")
TIMED_FILES = tuple(f"nodes/qwen2_5_omni/test_{name}.py" for name in ("spread", "recovery", "demand", "streaming"))
WAITED_IN_VAIN = (
    r"^AssertionError: not so within ",  # a wait of the tests' own
    r"^(TimeoutError|TimeoutExpired|GetTimeoutError|Empty)\b",  # of Python's, subprocess's, Ray's and queue's
    r"^URLError: .*timed out",
    r"^Failed: Timeout ",  # pytest-timeout
    r"^DeadlineExceeded: ",
    r"^LaunchError: .*not (ready|placed) after ",
)
REPLAYED_ONCE_MORE = (r"(?s)^AssertionError: assert .*\+  where [^\n]* = [^\n]*(retries|finish\(\))",)
HERE = Path(__file__).parent
LIMIT = pytest.StashKey[Any]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(HERE)
        if place.parts[0] in TIMED or place.as_posix() in TIMED_FILES:
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=[*WAITED_IN_VAIN, *REPLAYED_ONCE_MORE]))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Note the limit; pytest-timeout sets it, once a test, and forgets it with the first failure."""
    item.stash[LIMIT] = settings


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """So a test that is run again is given its limit again: else what hangs then hangs for ever."""
    if getattr(item, "execution_count", 1) > 1 and LIMIT in item.stash:
        item.config.hook.pytest_timeout_set_timer(item=item, settings=item.stash[LIMIT])
