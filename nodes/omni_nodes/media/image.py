"""One picture to an upright RGB image: the header is judged before a pixel is decoded, transparency lies on white.

EXIF orientation is applied. Animations give their first picture. Pillow's global settings are left alone.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from omni_nodes.media.limits import MediaError, MediaLimits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def decode_image(data: bytes, name: str, limits: MediaLimits | None = None) -> Image.Image:
    """The picture in mode RGB. Raises MediaError: empty, not a picture, too large by its header, damaged or cut."""
    limits = limits or MediaLimits()
    if not data:
        raise MediaError(name, "is empty (0 bytes)")
    image = _open(data, name, limits)
    limits.check_picture(image.width, image.height, name)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        return _rgb(image)
    except Exception as error:  # whatever a decoder raises on bytes that a user sent, the bytes are at fault
        raise MediaError(name, f"is damaged or truncated: this {image.format or 'picture'} does not decode") from error


def image_of(pixels: NDArray[np.generic], name: str, limits: MediaLimits | None = None) -> Image.Image:
    """The same for a raw uint8 array (height, width, 3), RGB."""
    limits = limits or MediaLimits()
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise MediaError(name, f"is an array {pixels.dtype} {pixels.shape}; uint8 (height, width, 3) is allowed")
    limits.check_picture(pixels.shape[1], pixels.shape[0], name)
    return Image.fromarray(pixels, "RGB")


def _open(data: bytes, name: str, limits: MediaLimits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(name, f"has far more pixels than the {limits.image_pixels} that are allowed") from error
    except Exception as error:  # as above: a header that a user sent
        raise MediaError(name, f"is not a picture that can be read; allowed: {', '.join(FORMATS)}") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Mode RGB; 16-bit grey keeps its upper 8 bits; transparency is shown on white, as the model's vendor does."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGB", image.size, (255, 255, 255))
    paper.paste(layer, mask=layer.getchannel("A"))
    return paper
