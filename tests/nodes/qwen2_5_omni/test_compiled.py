"""The compiled parts on a CPU: the tests that a GPU runs (tests/gpu/test_compiled.py)."""

from __future__ import annotations

import shutil

import pytest

from tests.gpu.test_compiled import (  # noqa: F401
    nothing_compiled,
    test_a_compiled_dit_is_transformers,
    test_a_compiled_talker_says_transformers_codes,
)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module")
def device() -> str:
    return "cpu"
