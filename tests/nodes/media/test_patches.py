"""Patches must be transformers' own, to the bit: the vision encoder was trained on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from omni_nodes.media.limits import MediaError
from omni_nodes.media.patches import (
    IMAGE_PATCHES,
    VIDEO_PATCHES,
    frame_pair_patches,
    grid_of,
    image_patch_bands,
    image_patches,
    smart_resize,
    video_budget,
)
from tests.torchvision_shim import install

SIZES = [(56, 56), (28, 28), (1, 1), (3, 200), (640, 480), (641, 479), (97, 333), (13, 2600)]


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bounds", [(3136, 12_845_056), (128 * 784, 768 * 784), (3136, 3136 * 4)])
def test_image_patches_equal_the_processors(size: tuple[int, int], bounds: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    image = Image.fromarray(random_pixels(size[1], size[0], 3))
    patches = replace(IMAGE_PATCHES, min_pixels=bounds[0], max_pixels=bounds[1])
    processor = Qwen2VLImageProcessorPil(min_pixels=bounds[0], max_pixels=bounds[1])
    reference = processor(images=[image], return_tensors="np")
    pixels, grid = image_patches(image, patches)
    assert grid == tuple(reference["image_grid_thw"][0])
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, reference["pixel_values"])
    assert grid == grid_of(size[1], size[0], patches)


def test_a_picture_comes_in_bands_of_one_row_of_tokens() -> None:
    image = Image.fromarray(random_pixels(300, 400, 3))
    bands = list(image_patch_bands(image))
    pixels, (_, rows, columns) = image_patches(image)
    assert [band.shape for band in bands] == [(2 * columns, 1176)] * (rows // 2)
    assert np.array_equal(np.concatenate(bands), pixels)


@pytest.fixture(scope="module")
def video_processor() -> object:
    if not install():
        pytest.skip("torchvision is not installed in <sys.prefix>/reference")
    from transformers import Qwen2VLVideoProcessor

    return Qwen2VLVideoProcessor(patch_size=14, merge_size=2, temporal_patch_size=2)


@pytest.mark.parametrize(
    "shape", [(4, 246, 322), (6, 56, 84), (5, 333, 97), (2, 720, 1280), (2, 392, 392), (1, 40, 60)]
)
def test_frame_pairs_equal_the_processors_clip(video_processor: object, shape: tuple[int, int, int]) -> None:
    import torch

    frames = random_pixels(*shape, 3)
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    reference = video_processor(  # type: ignore[operator]
        videos=[clip], return_tensors="np", do_sample_frames=False, cap_pixels_per_frame=False
    )
    pairs = [frame_pair_patches(frames[start : start + 2], VIDEO_PATCHES) for start in range(0, len(frames), 2)]
    assert (len(pairs), *pairs[0][1][1:]) == tuple(reference["video_grid_thw"][0])
    assert np.array_equal(np.concatenate([pixels for pixels, _ in pairs]), reference["pixel_values_videos"])
    assert all(grid == grid_of(*shape[1:], VIDEO_PATCHES) for _, grid in pairs)


@pytest.mark.parametrize("frames", [2, 300, 302, 400, 768])
def test_the_budget_of_a_long_video_is_the_processors(video_processor: object, frames: int) -> None:
    from transformers.image_utils import SizeDict
    from transformers.models.qwen2_vl import video_processing_qwen2_vl

    seen: list[tuple[int, int]] = []

    def record(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        seen.append((min_pixels, max_pixels))
        return 28, 28

    import torch

    size = SizeDict(shortest_edge=VIDEO_PATCHES.min_pixels, longest_edge=VIDEO_PATCHES.max_pixels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video_processing_qwen2_vl, "smart_resize", record)
        clip = torch.zeros((1, frames, 3, 28, 28), dtype=torch.uint8)
        video_processor.resize(clip, size, 3, 28, 2, True)  # type: ignore[attr-defined]
    budget = video_budget(frames)
    assert seen == [(budget.min_pixels, budget.max_pixels)]
    assert (budget.max_pixels < VIDEO_PATCHES.max_pixels) == (frames > 300)


def test_read_only_frames_are_taken_and_left_as_they_are() -> None:
    frames = random_pixels(2, 60, 80, 3)
    frames.flags.writeable = False
    before = frames.copy()
    frame_pair_patches(frames)
    assert np.array_equal(frames, before)


def test_an_extreme_aspect_ratio_is_refused_by_name() -> None:
    with pytest.raises(MediaError, match=r"strip\.png: is 2010 x 10 pixels; an aspect ratio of at most 200 is allowed"):
        grid_of(10, 2010, IMAGE_PATCHES, "strip.png")
    assert smart_resize(10, 2000, 28, 3136, 12_845_056)[0] == 28


def test_frames_of_another_type_are_refused() -> None:
    with pytest.raises(MediaError, match="float32"):
        frame_pair_patches(np.zeros((2, 28, 28, 3), np.float32))  # type: ignore[arg-type]
