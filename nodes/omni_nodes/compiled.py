"""Parts of a model compiled by ``torch.compile``, where a stage is told to: fewer and larger kernels for each small layer.

For GPUs, where launching kernels takes most of a step's time. Results are those of the plain modules but for the last
bits. It needs what torch's compiler needs (on a CPU a C++ compiler). A kind of shape that first comes is compiled, for up
to minutes, so a stage runs one step of each before it serves (``warm_up``). The linear layers in what is compiled stay
plain: the compiler knows nothing of packed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

from omni_graph.errors import NodeError

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

# what stands for many rows or blocks in a warm-up: a size that is also that of another axis would be compiled as equal to it
MANY = (11, 13)


def compile_layers(layers: nn.ModuleList) -> None:
    """Compile each layer in place, for any number of rows. All have one code, so it is compiled once and not once a layer;
    what a layer calls that is ``not_compiled`` stands between its parts."""
    for layer in layers:
        layer.compile(dynamic=True)


def compile_function(function: F) -> F:
    """``function`` compiled for tensors of any size: once for each kind of arguments, such as a mask or none."""
    compiled: F = torch.compile(function, dynamic=True)  # type: ignore[assignment]
    return compiled


def not_compiled(function: F) -> F:
    """``function`` as it is, also where compiled code calls it."""
    plain: F = torch.compiler.disable(function)  # type: ignore[assignment]
    return plain


def warm_up(step: Callable[[T], object], kinds: Iterable[T]) -> None:
    """Run ``step`` for each of ``kinds``, so that what they need is compiled now and not in a step that somebody waits for.

    Raises NodeError where that cannot be compiled here.
    """
    try:
        for kind in kinds:
            step(kind)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = " ".join(str(error).split())[:300]
        raise NodeError(f"compile is true, and torch.compile failed: {reason}; compile: false needs none") from error
