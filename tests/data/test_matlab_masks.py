"""SBD's masks in MATLAB files: decoded as by scipy, or rejected in one line."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from stages.data.masks import decode_mask
from stages.errors import BadData
from tiny_datasets import encode_sbd_mask

IDS = np.array([[0, 1, 5, 5], [20, 0, 3, 3], [0, 0, 0, 7]], dtype=np.uint8)


def get_error(data: bytes, **options: Any) -> str:
    with pytest.raises(BadData) as error:
        decode_mask(data, where="cls/m.mat", **{"num_classes": 20, **options})
    assert str(error.value).startswith("cls/m.mat: ")
    return str(error.value)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("ids", [IDS, IDS[:1], IDS[:, :1], IDS[:1, :1], np.asfortranarray(IDS), IDS.astype(np.float64),
                                 IDS.astype(np.int16)], ids=lambda ids: f"{ids.dtype}{ids.shape}")
def test_masks_are_decoded_as_by_scipy(ids, compress):
    data = encode_sbd_mask(ids, compress=compress)
    expected = loadmat(io.BytesIO(data))["GTcls"]["Segmentation"][0, 0]
    decoded = decode_mask(data, where="m", num_classes=20, size=ids.shape)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(decoded, ids)


def test_classes_above_254_and_the_other_byte_order():
    wide = np.array([[0, 300, 254]], dtype=np.uint16)
    np.testing.assert_array_equal(decode_mask(encode_sbd_mask(wide), where="m", num_classes=300), wide)
    # A struct of 1x1 with one field, in the byte order of a big-endian machine.
    inner = [struct.pack(">IIII", 6, 8, 9, 0), struct.pack(">IIii", 5, 8, 1, 2), struct.pack(">II", 1, 0),
             struct.pack(">HH2B2x", 2, 2, 4, 5)]
    segmentation = struct.pack(">II", 14, sum(map(len, inner))) + b"".join(inner)
    outer = [struct.pack(">IIII", 6, 8, 2, 0), struct.pack(">IIii", 5, 8, 1, 1), struct.pack(">II8s", 1, 5, b"GTcls"),
             struct.pack(">HHI", 4, 5, 16), struct.pack(">II16s", 1, 16, b"Segmentation"), segmentation]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    data = header + struct.pack(">II", 14, sum(map(len, outer))) + b"".join(outer)
    np.testing.assert_array_equal(loadmat(io.BytesIO(data))["GTcls"]["Segmentation"][0, 0], [[4, 5]])
    np.testing.assert_array_equal(decode_mask(data, where="m", num_classes=20), [[4, 5]])


def test_ids_and_sizes_are_checked():
    assert "the mask has the class id 20, but the classes are 0..7" in get_error(encode_sbd_mask(IDS), num_classes=7)
    line = get_error(encode_sbd_mask(IDS), size=(4, 3))
    assert "the mask has 3x4 pixels (height x width), but its image has 4x3" in line
    assert "12 pixels, more than the limit of 11" in get_error(encode_sbd_mask(IDS), max_pixels=11)
    for values in (IDS + 0.5, IDS - 1.0, IDS * np.nan, IDS * 1e6, IDS[:0]):
        assert "not class ids" in get_error(encode_sbd_mask(values))


def test_foreign_files():
    assert "lacks the variable GTcls (it has GTinst)" in get_error(
        encode_sbd_mask(IDS, variable="GTinst"))
    assert "is not a matrix of numbers" in get_error(encode_sbd_mask(IDS, Segmentation="text"))
    assert "is not a matrix of numbers" in get_error(encode_sbd_mask(IDS, Segmentation=np.zeros((2, 2, 2))))
    file = io.BytesIO()
    savemat(file, {"GTcls": {"Boundaries": IDS}})
    assert "lacks the field Segmentation (it has Boundaries)" in get_error(file.getvalue())
    file = io.BytesIO()
    savemat(file, {"GTcls": IDS})
    assert "lacks the field Segmentation (it has none)" in get_error(file.getvalue())
    line = get_error(b"MATLAB 7.3 MAT-file, Platform" + bytes(600))
    assert "version 7.3" in line and "Save it with -v7" in line


@pytest.mark.parametrize("compress", [True, False])
def test_truncated_or_changed_files_are_decoded_or_rejected(compress):
    data = encode_sbd_mask(IDS, compress=compress)
    for length in range(128, len(data), 1 if compress else 7):
        if not np.array_equal(_decode_or_none(data[:length]), IDS):
            line = get_error(data[:length])
            assert "truncated or damaged" in line or "lacks the variable" in line
    for position in range(0, len(data), 3):
        _decode_or_none(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1:])


def _decode_or_none(data: bytes) -> np.ndarray | None:
    try:
        return decode_mask(data, where="m", num_classes=20)
    except BadData:
        return None


def test_sizes_claimed_by_a_header_are_not_allocated():
    bomb = encode_sbd_mask(np.zeros((3000, 3000), np.uint8))
    assert len(bomb) < 100_000
    tracemalloc.start()
    assert "decompresses to more than" in get_error(bomb, max_pixels=1000)
    data = bytearray(encode_sbd_mask(IDS, compress=False))
    data[160:168] = struct.pack("<ii", 400_000_000, 1)
    assert np.array_equal(decode_mask(bytes(data), where="m", num_classes=20), IDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
