"""Which images decoding accepts and rejects; all files are created here."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from stages.data.images import apply_orientation, check_image, decode_image, encode_png, read_header
from stages.errors import BadData


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def encode_png_header(width: int, height: int) -> bytes:
    """Encode a PNG whose header claims a size and whose pixels are missing."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunks + struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


def get_error(data: bytes, reader=decode_image, **options) -> str:
    with pytest.raises(BadData) as error:
        reader(data, where="a.jpg", **options)
    line = str(error.value)
    assert line.startswith("a.jpg: ") and "\n" not in line
    return line


def test_png_round_trip(photo):
    np.testing.assert_array_equal(decode_image(encode_png(photo), where="a"), photo)
    header = read_header(encode_png(photo), where="a")
    assert (header.height, header.width, header.orientation, header.mode, header.notes) == (30, 40, 1, "RGB", ())


def test_other_data_are_rejected_with_a_description():
    assert "not an image (0 bytes)" in get_error(b"")
    assert "web page" in get_error(b"\n<!DOCTYPE html><html></html>")
    assert "not an image (5 bytes)" in get_error(b"hello", read_header)
    assert "not an image" in get_error(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


def test_truncated_files_are_rejected_when_decoded(photo):
    for file_format in ("JPEG", "PNG"):
        data = encode(Image.fromarray(photo), file_format)
        half = data[: len(data) // 2]
        assert read_header(half, where="a").width == 40
        assert "the image is damaged" in get_error(half)


def test_decompression_bombs_are_rejected_by_their_header_without_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reader in (read_header, decode_image):
            line = get_error(encode_png_header(20_001, 10_000), reader)
            assert "10000x20001" in line and "--max-pixels" in line
        assert read_header(encode_png_header(20_001, 10_000), where="a", max_pixels=10**9).width == 20_001
    assert Image.MAX_IMAGE_PIXELS is not None
    assert "30x40" in get_error(encode_png(np.zeros((30, 40, 3), np.uint8)), max_pixels=1199)


def test_an_image_of_one_row_is_read():
    assert decode_image(encode_png(np.zeros((1, 4000, 3), np.uint8)), where="a").shape == (1, 4000, 3)


def test_animations_are_rejected():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for file_format in ("GIF", "WEBP", "TIFF", "PNG"):
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
        assert "several frames" in get_error(data, read_header)
    assert decode_image(encode(frames[0], "GIF"), where="a").shape == (20, 20, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_modes_are_converted_to_rgb(mode, photo):
    image = Image.fromarray(photo).convert(mode)
    data = encode(image, "TIFF" if mode == "CMYK" else "PNG")
    decoded = decode_image(data, where="a")
    assert decoded.dtype == np.uint8 and decoded.shape == (30, 40, 3)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))
    assert bool(read_header(data, where="a").notes) == (mode not in ("RGB", "L"))


def test_palette_transparency_is_dropped_without_warning(photo):
    image = Image.fromarray(photo).convert("P")
    data = encode(image, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decode_image(data, where="a"), np.asarray(image.convert("RGB")))
    assert read_header(data, where="a").notes == ("have transparency, which is dropped",)


def test_sixteen_bit_grey_is_scaled_and_not_saturated():
    values = np.array([[0, 257, 32511, 65535, 300]], dtype=np.uint16)
    data = encode(Image.fromarray(values))
    assert decode_image(data, where="a")[0, :, 0].tolist() == [0, 1, 127, 255, 1]
    assert read_header(data, where="a").notes == ("have 16 bits per pixel and are scaled to 8",)


def test_float_pixels_are_rejected():
    assert "32 bits" in get_error(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_reported_and_applied_only_on_request(file_format, orientation, photo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(Image.fromarray(photo), file_format, exif=exif, **options)
    header = read_header(data, where="a")
    assert (header.height, header.width, header.orientation) == (30, 40, orientation)
    np.testing.assert_array_equal(decode_image(data, where="a"), photo)
    upright = decode_image(data, where="a", apply_exif=True)
    np.testing.assert_array_equal(upright, apply_orientation(photo, orientation))
    assert upright.shape[:2] == ((40, 30) if orientation >= 5 else (30, 40))


def test_orientation_six_rotates_clockwise():
    np.testing.assert_array_equal(apply_orientation(np.array([[1, 2], [3, 4]]), 6), [[3, 1], [4, 2]])
    np.testing.assert_array_equal(apply_orientation(np.array([[1, 2], [3, 4]]), 8), [[2, 4], [1, 3]])


def compare_check(data: bytes) -> str:
    """Check that `check_image` and `decode_image` agree about a file; return the reason of a rejection."""
    outcomes = []
    for reader in (check_image, decode_image):
        try:
            reader(data, where="a.jpg")
            outcomes.append("")
        except BadData as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}],
                         ids=["baseline", "progressive", "4:4:4", "restart markers"])
def test_damaged_jpegs_are_found_at_an_eighth_of_their_size(options):
    random = np.random.default_rng(3)
    smooth = np.asarray(Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((160, 120)))
    data = encode(Image.fromarray(smooth), "JPEG", quality=92, **options)
    assert compare_check(data) == ""
    for length in range(2, len(data), 37):
        assert compare_check(data[:length]), "a truncated file is rejected"
    reasons = set()
    for position in range(2, len(data), 11):
        end = position + int(random.integers(1, 60))
        reasons.add(compare_check(data[:position] + bytes(end - position) + data[end:]))
        reasons.add(compare_check(data[:position] + b"\xff\xd9" + data[position:]))
        reasons.add(compare_check(data[:position] + data[end:]))
    assert len(reasons) > 2


@pytest.mark.parametrize(("mode", "file_format"), [
    ("1", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("CMYK", "TIFF"), ("F", "TIFF"),
    ("I", "TIFF"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("P", "GIF")])
def test_check_accepts_what_is_decoded(mode, file_format):
    image = Image.new(mode, (21, 13))
    assert bool(compare_check(encode(image, file_format))) == (mode in ("F", "I"))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_check_returns_the_header_of_the_whole_image(file_format, orientation, photo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(photo), file_format, exif=exif)
    header = check_image(data, where="a")
    assert header == read_header(data, where="a")
    assert (header.height, header.width, header.orientation) == (30, 40, orientation)
