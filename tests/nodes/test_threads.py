"""A small step has one thread, a wide one all; afterwards all is as before, also when a step has failed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from omni_nodes.threads import WIDE, threads_for


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (WIDE - 1, 1), (WIDE, 2), (1000, 2)])
def test_threads_go_with_the_rows(rows: int, threads: int) -> None:
    with threads_for(rows):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 2


def test_a_step_that_fails_leaves_the_threads_as_they_were() -> None:
    with pytest.raises(ValueError, match="told to fail"), threads_for(1):
        raise ValueError("told to fail")
    assert torch.get_num_threads() == 2


def test_who_has_one_has_one() -> None:
    torch.set_num_threads(1)
    with threads_for(WIDE):
        assert torch.get_num_threads() == 1
