"""For all tests: whatever imports transformers first finds the torchvision that parity tests need, if it is installed.

Tests of processes, sockets and Ray share two cores: one that fails is run again, visibly (``R``),
up to twice. Pure tests and parity never are: what they find is not a matter of time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torchvision_shim import install

install()  # transformers asks only once; this imports neither torch nor torchvision

TIMED = ("runtime", "ray", "links", "cli", "graphs")
TIMED_FILES = ("test_spread.py", "test_recovery.py", "test_demand.py", "test_streaming.py")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(HERE)
        if place.parts[0] in TIMED or place.name in TIMED_FILES:
            item.add_marker(pytest.mark.flaky(reruns=2))
