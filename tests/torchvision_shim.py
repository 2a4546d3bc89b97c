"""Makes torchvision's pure-Python transforms importable beside a CPU-only torch, for parity with transformers.

PyPI has only the CUDA build of torchvision, whose compiled operators cannot load here. Its import fails because they
are not registered; declaring their schemas (never calling them) is all that the transforms need. The wheel lies apart
from the environment, in ``<sys.prefix>/reference``, so that the product is tested without torchvision:
``pip install --no-deps --target <sys.prefix>/reference torchvision==0.28.0``.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_ROI = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_GRADIENT = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SHAPE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, "
    "bool use_mask"
)
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, Tensor rois, {_GRADIENT}, {_SHAPE}, int sampling_ratio, bool aligned) -> Tensor",
    f"roi_pool({_ROI}) -> (Tensor, Tensor)",
    f"_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, {_GRADIENT}, {_SHAPE}) -> Tensor",
    f"ps_roi_align({_ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward(Tensor grad, Tensor rois, Tensor channel_mapping, {_GRADIENT}, int sampling_ratio, "
    f"{_SHAPE}) -> Tensor",
    f"ps_roi_pool({_ROI}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward(Tensor grad, Tensor rois, Tensor channel_mapping, {_GRADIENT}, {_SHAPE}) -> Tensor",
    f"deform_conv2d({_DEFORM}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


class _Reference(importlib.metadata.DistributionFinder):
    """Finds torchvision in its folder, in this process alone: ``sys.path`` stays as it is, for processes started from here
    inherit it. Declares the operators just before torchvision's module that expects them is imported."""

    def __init__(self, folder: Path) -> None:
        self._path = [str(folder)]
        self._library: object = None  # a torch Library undeclares its operators when it is collected

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision._meta_registrations" and self._library is None:
            self._library = _declare()
        return PathFinder.find_spec(fullname, self._path) if fullname == "torchvision" else None

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        if context is None or context.name not in (None, "torchvision"):
            return ()
        inside = importlib.metadata.DistributionFinder.Context(name=context.name, path=self._path)
        return importlib.metadata.MetadataPathFinder.find_distributions(inside)


def install() -> bool:
    """Make ``import torchvision`` work from here on; False when none is installed. Imports nothing itself.

    Call it before transformers is imported, which asks only once whether there is a torchvision.
    """
    if any(isinstance(finder, _Reference) for finder in sys.meta_path):
        return True
    folder = Path(sys.prefix) / "reference"
    if not (folder / "torchvision").is_dir():
        return False
    sys.meta_path.insert(0, _Reference(folder))
    return True


def _declare() -> object:
    """The declarations, where torch is a CPU build; a torch and torchvision that match bring their own operators."""
    import torch

    if "+cpu" not in torch.__version__:
        return "not needed"
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library
