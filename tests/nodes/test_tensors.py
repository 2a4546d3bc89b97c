"""Rows cut into packets: each its own numbers, and none where one of them is not finite."""

from __future__ import annotations

import math

import pytest
import torch

from omni_nodes.tensors import finite_pieces, from_tensor

SPANS = (range(0, 3), range(3, 3), range(3, 4), range(4, 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_piece_with_a_number_that_is_not_finite_is_none(bad: float, dtype: torch.dtype) -> None:
    for row in range(7):
        for column in range(33):
            rows = torch.full((7, 33), -torch.finfo(dtype).max, dtype=dtype)
            rows[row, column] = bad
            wanted = [None if row in span else from_tensor(rows[span.start : span.stop]) for span in SPANS]
            assert finite_pieces(rows, [len(span) for span in SPANS]) == wanted


def test_the_largest_numbers_are_finite() -> None:
    (piece,) = finite_pieces(torch.full((2, 3), torch.finfo(torch.float32).max), [2])
    assert piece is not None and piece.shape == (2, 3)
