"""What decoding accepts and refuses; every file is made here."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from stages.data.images import decode_image, encode_png, read_header, turned
from stages.errors import BadData


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and whose pixels are missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunks + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def refused(data: bytes, reader=decode_image, **options) -> str:
    with pytest.raises(BadData) as caught:
        reader(data, where="a.jpg", **options)
    line = str(caught.value)
    assert line.startswith("a.jpg: ") and "\n" not in line
    return line


def test_png_comes_back(photo):
    np.testing.assert_array_equal(decode_image(encode_png(photo), where="a"), photo)
    header = read_header(encode_png(photo), where="a")
    assert (header.height, header.width, header.orientation, header.mode, header.notes) == (30, 40, 1, "RGB", ())


def test_what_is_no_image_is_named():
    assert "not an image (0 bytes)" in refused(b"")
    assert "web page" in refused(b"\n<!DOCTYPE html><html></html>")
    assert "not an image (5 bytes)" in refused(b"hello", read_header)
    assert "not an image" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


def test_truncated_files_are_refused_though_their_header_reads(photo):
    for kind in ("JPEG", "PNG"):
        data = encoded(Image.fromarray(photo), kind)
        half = data[: len(data) // 2]
        assert read_header(half, where="a").width == 40
        assert "broken image" in refused(half)


def test_bombs_are_refused_from_the_header_without_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reader in (read_header, decode_image):
            line = refused(png_that_claims(20_000, 10_000), reader)
            assert "10000x20000" in line and "--max-pixels" in line
        assert read_header(png_that_claims(20_000, 10_000), where="a", max_pixels=10**9).width == 20_000
    assert Image.MAX_IMAGE_PIXELS is not None
    assert "30x40" in refused(encode_png(np.zeros((30, 40, 3), np.uint8)), max_pixels=1199)


def test_an_image_of_one_row_is_read():
    assert decode_image(encode_png(np.zeros((1, 4000, 3), np.uint8)), where="a").shape == (1, 4000, 3)


def test_animations_are_refused():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert "several frames" in refused(data, read_header)
    assert decode_image(encoded(frames[0], "GIF"), where="a").shape == (20, 20, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_modes_become_rgb(mode, photo):
    picture = Image.fromarray(photo).convert(mode)
    data = encoded(picture, "TIFF" if mode == "CMYK" else "PNG")
    decoded = decode_image(data, where="a")
    assert decoded.dtype == np.uint8 and decoded.shape == (30, 40, 3)
    np.testing.assert_array_equal(decoded, np.asarray(picture.convert("RGB")))
    assert bool(read_header(data, where="a").notes) == (mode not in ("RGB", "L"))


def test_palette_transparency_neither_warns_nor_changes(photo):
    picture = Image.fromarray(photo).convert("P")
    data = encoded(picture, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(data, where="a"), np.asarray(picture.convert("RGB")))
    assert read_header(data, where="a").notes == ("have transparency, which is dropped",)


def test_sixteen_bit_grey_is_scaled_not_saturated():
    values = np.array([[0, 257, 32511, 65535, 300]], dtype=np.uint16)
    data = encoded(Image.fromarray(values))
    assert decode_image(data, where="a")[0, :, 0].tolist() == [0, 1, 127, 255, 1]
    assert read_header(data, where="a").notes == ("have 16 bits, scaled to 8",)


def test_float_pixels_are_refused():
    assert "32 bits" in refused(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_told_and_applied_only_on_request(kind, orientation, photo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(photo), kind, exif=exif, **options)
    header = read_header(data, where="a")
    assert (header.height, header.width, header.orientation) == (30, 40, orientation)
    np.testing.assert_array_equal(decode_image(data, where="a"), photo)
    seen = decode_image(data, where="a", apply_exif=True)
    np.testing.assert_array_equal(seen, turned(photo, orientation))
    assert seen.shape[:2] == ((40, 30) if orientation >= 5 else (30, 40))


def test_orientation_six_turns_clockwise():
    np.testing.assert_array_equal(turned(np.array([[1, 2], [3, 4]]), 6), [[3, 1], [4, 2]])
    np.testing.assert_array_equal(turned(np.array([[1, 2], [3, 4]]), 8), [[2, 4], [1, 3]])
