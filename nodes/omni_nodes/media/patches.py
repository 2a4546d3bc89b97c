"""Pictures and frame pairs to the flattened patches of Qwen's vision encoders, bit-equal to transformers' processors.

Images follow Qwen2VLImageProcessorPil (Pillow bicubic), video Qwen2VLVideoProcessor (torch bicubic with antialiasing on
uint8): the two resizers differ, so each medium keeps its own. The grid is known without touching a pixel. torch is
imported where a frame is resized, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_nodes.media.limits import MediaError

Pixels = NDArray[np.float32]
Grid = tuple[int, int, int]

MAX_ASPECT_RATIO = 200
VIDEO_TOTAL_TOKENS = 128_000  # qwen-omni-utils: a whole video may use 0.9 of this, beyond it every frame gets less


@dataclass(frozen=True, slots=True)
class PatchSettings:
    """How a picture becomes patches. ``min_pixels`` and ``max_pixels`` bound the resized picture (or one frame).

    A token is ``merge_size`` x ``merge_size`` patches of ``patch_size`` pixels. ``mean`` and ``std`` are CLIP's, in 0..1.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    min_pixels: int = 4 * 28 * 28
    max_pixels: int = 16384 * 28 * 28

    @property
    def factor(self) -> int:
        """Pixels of a token's side; both sides of a resized picture are multiples of it."""
        return self.patch_size * self.merge_size

    @property
    def columns(self) -> int:
        """Values of one flattened patch: 3 * temporal * patch * patch."""
        return 3 * self.temporal_patch_size * self.patch_size**2


IMAGE_PATCHES = PatchSettings()
VIDEO_PATCHES = PatchSettings(min_pixels=128 * 28 * 28, max_pixels=768 * 28 * 28)


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int, name: str = "picture"
) -> tuple[int, int]:
    """(height, width) of the resized picture: multiples of ``factor``, area within bounds, aspect nearly kept.

    Source: transformers' qwen2_vl ``smart_resize``. Raises MediaError past an aspect ratio of 200.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise MediaError(
            name, f"is {width} x {height} pixels; an aspect ratio of at most {MAX_ASPECT_RATIO} is allowed"
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns


def grid_of(height: int, width: int, settings: PatchSettings, name: str = "picture") -> Grid:
    """(1, h, w) in patches of a picture, or of one frame pair, of this size."""
    rows, columns = _target(height, width, settings, name)
    return 1, rows // settings.patch_size, columns // settings.patch_size


def image_patches(
    image: Image.Image, settings: PatchSettings = IMAGE_PATCHES, name: str = "image"
) -> tuple[Pixels, Grid]:
    """All patches (h * w, columns) float32 of an RGB image, and its grid (1, h, w)."""
    grid = grid_of(image.height, image.width, settings, name)
    return np.concatenate(list(image_patch_bands(image, settings, name))), grid


def image_patch_bands(
    image: Image.Image, settings: PatchSettings = IMAGE_PATCHES, name: str = "image"
) -> Iterator[Pixels]:
    """The rows of ``image_patches``, one band of tokens (``merge_size`` rows of patches) at a time, in order."""
    rows, columns = _target(image.height, image.width, settings, name)
    pixels = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC))
    table = _normalized_bytes(settings)
    for top in range(0, rows, settings.factor):
        band = table[pixels[top : top + settings.factor], np.arange(3)]
        yield _flatten(np.broadcast_to(band, (settings.temporal_patch_size, *band.shape)), settings)


def frame_pair_patches(
    frames: NDArray[np.uint8], settings: PatchSettings = VIDEO_PATCHES, name: str = "video"
) -> tuple[Pixels, Grid]:
    """The patches (h * w, columns) float32 of ``temporal_patch_size`` frames, uint8 (2, height, width, 3) RGB.

    A single frame stands for both. Frame pairs are independent: pair by pair equals the whole clip.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise MediaError(name, f"has frames {frames.dtype} {frames.shape}; uint8 (2, height, width, 3) is allowed")
    rows, columns = _target(frames.shape[1], frames.shape[2], settings, name)
    resized = _resize(frames, rows, columns).astype(np.float32)
    mean, std = _constants(settings)
    normalized = (resized - mean * np.float32(255)) / (std * np.float32(255))
    missing = settings.temporal_patch_size - len(normalized)
    pair = np.concatenate([normalized, *[normalized[-1:]] * missing]) if missing else normalized
    return _flatten(pair, settings), (1, rows // settings.patch_size, columns // settings.patch_size)


def video_budget(frames: int, settings: PatchSettings = VIDEO_PATCHES) -> PatchSettings:
    """The settings for a clip of that many frames: past 300 of them each gets an even share of the whole budget.

    max(min(max_pixels, 0.9 * 128k tokens / frames * temporal), 1.05 * min_pixels), as qwen-omni-utils and transformers'
    ``cap_pixels_per_frame`` have it.
    """
    total = int(VIDEO_TOTAL_TOKENS * settings.factor**2 * 0.9)
    share = total * settings.temporal_patch_size // max(frames, 1)
    return replace(settings, max_pixels=max(min(settings.max_pixels, share), int(settings.min_pixels * 1.05)))


def _target(height: int, width: int, settings: PatchSettings, name: str) -> tuple[int, int]:
    return smart_resize(height, width, settings.factor, settings.min_pixels, settings.max_pixels, name)


def _normalized_bytes(settings: PatchSettings) -> Pixels:
    """(256, 3): every byte rescaled to 0..1 in float64, then normalised in float32, as transformers rounds it."""
    scaled = (np.arange(256).astype(np.float64) * (1 / 255)).astype(np.float32)
    mean, std = _constants(settings)
    return (scaled[:, None] - mean) / std


def _constants(settings: PatchSettings) -> tuple[Pixels, Pixels]:
    return np.array(settings.mean, np.float32), np.array(settings.std, np.float32)


def _flatten(frames: Pixels, settings: PatchSettings) -> Pixels:
    """(temporal, rows, columns, 3) -> (patches, channel * temporal * patch * patch), patches in token order."""
    temporal, rows, columns, _ = frames.shape
    patch, merge = settings.patch_size, settings.merge_size
    blocks = frames.reshape(temporal, rows // patch // merge, merge, patch, columns // patch // merge, merge, patch, 3)
    return blocks.transpose(1, 4, 2, 5, 7, 0, 3, 6).reshape(-1, settings.columns)


def _resize(frames: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """torch's bicubic interpolation with antialiasing, on bytes: what torchvision's resize runs on a CPU."""
    import torch

    if frames.shape[1:3] == (rows, columns):
        return frames
    planes = torch.from_numpy(np.array(frames.transpose(0, 3, 1, 2), order="C"))
    resized = torch.nn.functional.interpolate(planes, (rows, columns), mode="bicubic", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()
