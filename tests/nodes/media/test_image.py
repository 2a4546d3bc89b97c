"""A user's picture is either decoded as they see it or refused with a reason."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from omni_nodes.media.image import decode_image, image_of
from omni_nodes.media.limits import MediaError, MediaLimits


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 31, height: int = 17) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows * 7, columns * 5, rows + columns], -1).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    """A PNG that states a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    image = gradient().quantize(64).convert("RGB") if kind == "GIF" else gradient()
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encoded(image, kind, **options), "picture")
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), np.asarray(image))


def test_jpeg_is_close() -> None:
    decoded = decode_image(encoded(gradient(), "JPEG", quality=95, subsampling=0), "photo.jpg")
    assert np.abs(np.asarray(decoded).astype(int) - np.asarray(gradient())).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = gradient()
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(decode_image(encoded(stored, exif=exif), "p")), np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_lies_on_white(mode: str) -> None:
    layer = Image.new("RGBA", (4, 2), (200, 200, 200, 0))
    layer.putpixel((1, 1), (10, 10, 10, 255))
    if mode == "P":
        data = encoded(layer.convert("P"), transparency=layer.convert("P").getpixel((0, 0)))
    elif mode == "PA":
        data = encoded(layer, "WEBP", lossless=True)
    else:
        data = encoded(layer.convert(mode))
    pixels = np.asarray(decode_image(data, "logo"))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert max(pixels[1, 1]) < 64


def test_half_transparent_red_is_pink() -> None:
    decoded = decode_image(encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 128))), "p")
    assert decoded.getpixel((0, 0)) == (255, 127, 127)


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    grey = np.array([[0, 0x1234, 0xFFFF]], np.uint16)
    assert np.asarray(decode_image(encoded(Image.fromarray(grey)), "x-ray"))[0, :, 0].tolist() == [0, 0x12, 0xFF]


def test_an_animation_gives_its_first_picture() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, "a.gif").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (8193, 1, "8193 x 1 pixels; a side of at most 8192"),
        (8000, 8000, "64000000 pixels; at most 16800000"),
        (20_000, 20_000, "far more pixels"),
        (2_000_000_000, 2_000_000_000, "far more pixels"),
    ],
)
def test_a_bomb_is_refused_by_its_header_without_memory(width: int, height: int, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(MediaError, match=message) as caught:
        decode_image(png_header(width, height), "bomb.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(caught.value).startswith("bomb.png: ")
    assert peak < 4 << 20


def test_limits_are_inclusive_and_settable() -> None:
    data = encoded(gradient(40, 20))
    assert decode_image(data, "p", MediaLimits(image_pixels=800, image_side=40)).size == (40, 20)
    for limits in (MediaLimits(image_pixels=799), MediaLimits(image_side=39)):
        with pytest.raises(MediaError):
            decode_image(data, "p", limits)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_an_error(kind: str, part: float) -> None:
    data = encoded(gradient(200, 100), kind)
    with pytest.raises(MediaError, match=r"damaged or truncated|is not a picture"):
        decode_image(data[: int(len(data) * part)], "p")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "is empty"), (b"hello, world" * 9, "allowed: PNG, JPEG"), (b"\x89PNG\r\n\x1a\n", "p: is not a picture")],
)
def test_what_is_no_picture_is_named(data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        decode_image(data, "p")


def test_other_formats_that_pillow_knows_are_not_tried() -> None:
    with pytest.raises(MediaError, match="is not a picture that can be read"):
        decode_image(encoded(gradient(), "TIFF"), "scan.tiff")


def test_a_raw_array_is_an_image() -> None:
    pixels = np.asarray(gradient())
    assert np.array_equal(np.asarray(image_of(pixels, "array")), pixels)
    for wrong in (pixels.astype(np.float32), pixels[..., :1], pixels[0]):
        with pytest.raises(MediaError, match="uint8"):
            image_of(wrong, "array")
