"""Linear layers with their weights packed once, in the order oneDNN's matrix multiplication reads them, on a CPU.

A plain call hands the weight to the BLAS as it lies, or reorders it each time; packed, a step of few rows reads the weight
once and a wide one takes half the time. Unmodified transformers modules are packed in place: the layers are swapped, the
original weights dropped. Elsewhere (a GPU, a torch without these operators) the layers stay as they are.
"""

from __future__ import annotations

import logging
from functools import cache
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

ROWS = 16  # what oneDNN lays the weight out for; this layout is the fastest, or within 3% of it, at 1 to 300 rows
NO_FUSION = ("none", [], "")  # the operator's attr, scalars and algorithm: nothing follows the multiplication
GELU_TANH = ("gelu", [], "tanh")

M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """``nn.Linear`` on (..., in_features), for inference. It has no ``weight``: what wants that fails at once."""

    def __init__(self, linear: nn.Linear, fusion: tuple[str, list[float], str] = NO_FUSION) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach().clone()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._fusion = fusion

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, *self._fusion)
        return result

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def pack_linears(module: M) -> M:
    """``module`` with its linear layers packed. Changes it in place and returns it; a module that is itself a linear layer
    is returned packed, with its own interface. A weight tied to another module's, as an embedding's, stays there too.

    What is left of the module is copied, so that nothing refers to the files' memory maps, whose pages would stay
    beside the packed weights.
    """
    if type(module) is nn.Linear:
        return PackedLinear(module) if _packable(module.weight) else module  # type: ignore[return-value]
    layers = [(name, child) for name, child in module.named_modules() if type(child) is nn.Linear]
    for name, child in layers:
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, pack_linears(child))
    if layers and not any(type(child) is nn.Linear for child in module.modules()):
        own_parameters(module)
    return module


def own_parameters(module: nn.Module) -> None:
    """Copy them out of their files' memory maps: a file may be written anew, or cut short, while they are in use."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


def fuse_gelu(layers: nn.ModuleList) -> None:
    """Pack each linear layer that a GELU (approximate="tanh") follows together with it: on a CPU that GELU by itself takes
    three quarters of the time of the layer before it."""
    for index, (linear, gelu) in enumerate(pairwise(list(layers))):
        tanh = isinstance(gelu, nn.GELU) and gelu.approximate == "tanh"
        if tanh and type(linear) is nn.Linear and _packable(linear.weight):
            layers[index], layers[index + 1] = PackedLinear(linear, GELU_TANH), nn.Identity()


def _packable(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in _packed_dtypes()


@cache
def _packed_dtypes() -> frozenset[torch.dtype]:
    """What this torch can pack; asked once."""
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in operators):
        logging.getLogger(__name__).warning("this torch has no packed oneDNN linear layers: the CPU will be slower")
        return frozenset()
    supported = {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        supported.add(torch.bfloat16)
    return frozenset(supported)
