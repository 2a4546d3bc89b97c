"""Parts of a model compiled by ``torch.compile``, where a stage is told to: fewer and larger kernels for each small layer.

For GPUs, where launching kernels takes most of a step's time. Results are those of the plain modules but for the last
bits. It needs what torch's compiler needs (on a CPU a C++ compiler), and a shape that first comes takes up to minutes.
Linear layers stay plain then: the compiler knows nothing of packed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

F = TypeVar("F", bound=Callable[..., object])


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile each layer in place, for any number of rows. All have one code, so it is compiled once and not once a layer;
    what a layer calls that is ``not_compiled`` stands between its parts."""
    for layer in layers:
        layer.compile(dynamic=True)


def compile_function(function: F) -> F:
    """``function`` compiled for every shape that it is called with: there must be few."""
    compiled: F = torch.compile(function)  # type: ignore[assignment]
    return compiled


def not_compiled(function: F) -> F:
    """``function`` as it is, also where compiled code calls it."""
    plain: F = torch.compiler.disable(function)  # type: ignore[assignment]
    return plain
