"""What a step frees stays with the process, so that the next step does not pay the kernel for its pages again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from omni_nodes.allocator import keep_freed_memory

FREED = """
import sys
import psutil, torch
from omni_nodes.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def resident():
    return psutil.Process().memory_info().rss >> 20
before = resident()
tensors = [torch.ones(4 << 20) for _ in range(8)]
assert resident() - before > 120
del tensors
print(resident() - before)
"""


def mib_kept_of_128(mode: str) -> int:
    """MiB that a process still holds of 8 tensors of 16 MiB that it has freed."""
    done = subprocess.run([sys.executable, "-c", FREED, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_freed_tensors_are_kept_for_the_next_step() -> None:
    assert mib_kept_of_128("keep") > 100
    assert mib_kept_of_128("default") < 30
