"""Array <-> torch, by reference on the host. The only bridge; ``omni_graph`` itself knows no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from omni_graph.payload import Array


class _Writable:
    """Shows numpy a read-only buffer as writable, keeping its owner alive; torch has no read-only tensor."""

    def __init__(self, owner: np.ndarray) -> None:
        self.owner = owner
        interface = dict(owner.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def to_tensor(array: Array, device: torch.device | str = "cpu") -> torch.Tensor:
    """The Array as a tensor on ``device``. On the CPU it shares the packet's memory: never write to it."""
    tensor = torch.from_numpy(np.asarray(_Writable(array.values)))
    if array.dtype == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    return tensor.to(device)


def from_tensor(tensor: torch.Tensor) -> Array:
    """The tensor's memory where it is contiguous on the CPU, else a copy. Do not write to it afterwards."""
    host = tensor.detach().to("cpu").contiguous()
    if host.dtype is torch.bfloat16:
        return Array.of(host.view(torch.uint16).numpy(), "bfloat16")
    return Array.of(host.numpy())


def finite_pieces(rows: torch.Tensor, counts: Sequence[int]) -> list[Array | None]:
    """``rows`` (n, H) on any device, cut into Arrays of ``counts`` rows; None for one with a number that is not finite."""
    finite = rows.abs().amax(1).isfinite().cpu().split(list(counts))  # a twentieth of the time of rows.isfinite()
    pieces = rows.cpu().split(list(counts))
    return [from_tensor(piece) if good.all() else None for piece, good in zip(pieces, finite, strict=True)]
