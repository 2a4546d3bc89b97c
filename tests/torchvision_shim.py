"""Makes torchvision's pure-Python transforms importable beside a CPU-only torch, for parity with transformers.

PyPI has only the CUDA build of torchvision, whose compiled operators cannot load here. Its import fails because they
are not registered; declaring their schemas (never calling them) is all that the transforms need. The wheel lies apart
from the environment, in ``<sys.prefix>/reference``, so that the product is tested without torchvision:
``pip install --no-deps --target <sys.prefix>/reference torchvision==0.28.0``.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

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
_declared: list[torch.library.Library] = []  # a Library undeclares its operators when it is collected


def install() -> bool:
    """Make ``import torchvision`` work; False when none is installed. Call it before importing transformers."""
    if "torchvision" in sys.modules:
        return True
    reference = str(Path(sys.prefix) / "reference")
    if reference not in sys.path:
        sys.path.append(reference)
    if importlib.util.find_spec("torchvision") is None:
        return False
    if not _loads_by_itself():
        _declare()
    import torchvision  # noqa: F401  here, so that a wheel that does not fit fails at its cause

    return True


def _loads_by_itself() -> bool:
    """A torchvision that matches torch (a CPU or CUDA pair) registers its own operators and needs no help."""
    return "+cpu" not in torch.__version__


def _declare() -> None:
    if _declared:
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
