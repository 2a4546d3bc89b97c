"""Gumbel noise without a random generator: a hash of (seed, node, position, token id).

So a draw depends on its own logits alone: not on the batch, the device or what was drawn before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def noise_key(seed: int, node: str, position: int) -> int:
    """What tells one draw from every other one: a splitmix64 hash, 0 to 2**64 - 1."""
    state = 0
    for part in (seed, _tag(node), position):
        state = _finalise_int(((state ^ part) + _GOLDEN) & _MASK)
    return state


def gumbel(ids: torch.Tensor, keys: Sequence[int]) -> torch.Tensor:
    """Standard Gumbel noise (n, m) float64 for token ids (n, m) int64, one key a row: -log(-log u).

    ``u`` comes from the top 53 bits of output ``id`` of the splitmix64 generator (Steele, Lea, Flood 2014, OOPSLA) whose
    state is the key; integers only, so equal on every device.
    """
    states = torch.tensor([_signed((key + _GOLDEN) & _MASK) for key in keys], device=ids.device)
    bits = _finalise(ids * _signed(_GOLDEN) + states[:, None])
    uniform = (_shift(bits, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))


@lru_cache(maxsize=16)
def _tag(node: str) -> int:
    return int.from_bytes(hashlib.blake2b(node.encode(), digest_size=8).digest(), "little")


def _finalise_int(value: int) -> int:
    value = (value ^ value >> 30) * _FIRST & _MASK
    value = (value ^ value >> 27) * _SECOND & _MASK
    return value ^ value >> 31


def _finalise(values: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser on int64 bit patterns; multiplication wraps."""
    values = (values ^ _shift(values, 30)) * _signed(_FIRST)
    values = (values ^ _shift(values, 27)) * _signed(_SECOND)
    return values ^ _shift(values, 31)


def _shift(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift; torch's own is arithmetic on int64."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
