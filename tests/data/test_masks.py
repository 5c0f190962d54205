"""Masks keep the ids they were saved with, or are rejected."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stages.data import mask_colours
from stages.data.masks import decode_mask, encode_mask, get_ignore_index, voc_palette
from stages.errors import BadData

IDS = np.array([[0, 1, 5, 255], [20, 0, 3, 3]], dtype=np.uint8)


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def get_error(data: bytes, **options) -> str:
    with pytest.raises(BadData) as error:
        decode_mask(data, where="m.png", **{"num_classes": 20, **options})
    assert str(error.value).startswith("m.png: ")
    return str(error.value)


def test_known_colours_of_the_palette():
    palette = voc_palette()
    assert palette[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip
    assert len({tuple(colour) for colour in palette.tolist()}) == 256


def test_mask_round_trip():
    data = encode_mask(IDS)
    assert Image.open(io.BytesIO(data)).mode == "P"
    decoded = decode_mask(data, where="m", num_classes=20, size=(2, 4))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, IDS)
    wide = np.array([[0, 300, 65535]], dtype=np.uint16)
    decoded = decode_mask(encode_mask(wide), where="m", num_classes=300)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, wide)
    with pytest.raises(ValueError, match="int64"):
        encode_mask(IDS.astype(np.int64))


def test_rgb_and_rgba_are_decoded_by_the_palette():
    colours = voc_palette()[IDS]
    alpha = np.full((*IDS.shape, 1), 255, np.uint8)
    for array in (colours, np.concatenate([colours, alpha], axis=2)):
        np.testing.assert_array_equal(
            decode_mask(encode(Image.fromarray(array)), where="m", num_classes=20), IDS
        )
    colours[0, 0] = (1, 2, 3)
    assert "(1, 2, 3)" in get_error(encode(Image.fromarray(colours)))


def test_bands_of_an_rgb_mask_are_decoded_alike(monkeypatch):
    monkeypatch.setattr(mask_colours, "_BAND_PIXELS", 100)
    ids = np.random.default_rng(2).choice(np.array([0, 3, 20, 255], np.uint8), (31, 40))
    colours = voc_palette()[ids]
    np.testing.assert_array_equal(decode_mask(encode(Image.fromarray(colours)), where="m", num_classes=20), ids)
    colours[-1, -1] = (9, 9, 9)
    assert "(9, 9, 9)" in get_error(encode(Image.fromarray(colours)))


@pytest.mark.parametrize("num_classes", [1, 19, 20, 253, 254, 255, 300])
def test_ids_up_to_the_last_class_are_accepted(num_classes):
    last = min(num_classes, 254)
    ids = np.array([[0, last, 255]], np.uint8)
    expected = [[0, last, 255 if num_classes <= 254 else 65535]]
    decoded = decode_mask(encode(Image.fromarray(ids)), where="m", num_classes=num_classes)
    assert decoded.tolist() == expected and decoded.flags.writeable
    if num_classes < 254:
        assert f"id {last + 1}," in get_error(encode(Image.fromarray(ids + np.uint8(1))), num_classes=num_classes)


def test_grey_values_are_class_ids():
    np.testing.assert_array_equal(decode_mask(encode(Image.fromarray(IDS)), where="m", num_classes=20), IDS)
    small = np.array([[0, 1, 3, 2]], dtype=np.uint8)
    ones = Image.fromarray(small > 0)
    assert decode_mask(encode(ones), where="m", num_classes=20).tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_and_grey_of_few_bits(bits):
    ids = (np.arange(8, dtype=np.uint8) % 2**bits).reshape(2, 4)
    paletted = Image.fromarray(ids)
    paletted.putpalette(voc_palette().ravel().tolist())
    data = encode(paletted, bits=bits)
    assert data[24] == bits
    np.testing.assert_array_equal(decode_mask(data, where="m", num_classes=20), ids)
    grey = _convert_to_grey(data)
    np.testing.assert_array_equal(decode_mask(grey, where="m", num_classes=20), ids)


def _convert_to_grey(data: bytes) -> bytes:
    """Rewrite the header of a palette PNG as grey with the same number of bits."""
    import struct
    import zlib

    header = bytearray(data[12:29])
    header[13] = 0  # colour type
    palette = data.index(b"PLTE") - 4
    length = struct.unpack(">I", data[palette : palette + 4])[0]
    rest = data[33:palette] + data[palette + 12 + length :]
    return data[:12] + bytes(header) + struct.pack(">I", zlib.crc32(bytes(header))) + rest


def test_sixteen_bit_files_with_eight_bit_ids():
    wide = np.array([[0, 20, 65535, 255]], dtype=np.uint16)
    decoded = decode_mask(encode(Image.fromarray(wide)), where="m", num_classes=20)
    assert decoded.dtype == np.uint8 and decoded.tolist() == [[0, 20, 255, 255]]
    eight = decode_mask(encode(Image.fromarray(IDS)), where="m", num_classes=300)
    assert eight.dtype == np.uint16 and eight[0, 3] == 65535 == get_ignore_index(300)
    assert decode_mask(encode(Image.fromarray(wide)), where="m", num_classes=300)[0, 3] == 255
    assert get_ignore_index(254) == 255 and get_ignore_index(255) == 65535


def test_other_files_are_rejected():
    assert "the class id 20, but the classes are 0..19" in get_error(encode_mask(IDS), num_classes=19)
    assert "id 21" in get_error(encode(Image.fromarray(np.array([[21]], np.uint16))))
    assert "JPEG" in get_error(encode(Image.fromarray(IDS), "JPEG"))
    assert "not an image (3 bytes)" in get_error(b"abc")
    noise = np.random.default_rng(1).integers(0, 20, (99, 99), dtype=np.uint8)
    assert "damaged" in get_error(encode_mask(noise)[:2000])


def test_masks_are_never_resized():
    line = get_error(encode_mask(IDS), size=(3, 4))
    assert "2x4" in line and "3x4" in line
    assert "--apply-exif" in get_error(encode_mask(IDS), size=(4, 2))
