"""Masks of SBD, as MATLAB's own format has them: read by us as by scipy, and refused in one line."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from pictures import sbd_mask
from stages.data.masks import decode_mask
from stages.errors import BadData

IDS = np.array([[0, 1, 5, 5], [20, 0, 3, 3], [0, 0, 0, 7]], dtype=np.uint8)


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(BadData) as caught:
        decode_mask(data, where="cls/m.mat", **{"n_classes": 20, **options})
    assert str(caught.value).startswith("cls/m.mat: ")
    return str(caught.value)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("ids", [IDS, IDS[:1], IDS[:, :1], IDS[:1, :1], np.asfortranarray(IDS), IDS.astype(np.float64),
                                 IDS.astype(np.int16)], ids=lambda ids: f"{ids.dtype}{ids.shape}")
def test_read_as_scipy_reads_it(ids, compress):
    data = sbd_mask(ids, compress=compress)
    told = loadmat(io.BytesIO(data))["GTcls"]["Segmentation"][0, 0]
    found = decode_mask(data, where="m", n_classes=20, size=ids.shape)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, told)
    np.testing.assert_array_equal(found, ids)


def test_classes_above_254_and_the_other_byte_order():
    wide = np.array([[0, 300, 254]], dtype=np.uint16)
    np.testing.assert_array_equal(decode_mask(sbd_mask(wide), where="m", n_classes=300), wide)
    # A struct of 1x1 with one field, its words turned round, as a big-endian machine writes it.
    inner = [struct.pack(">IIII", 6, 8, 9, 0), struct.pack(">IIii", 5, 8, 1, 2), struct.pack(">II", 1, 0),
             struct.pack(">HH2B2x", 2, 2, 4, 5)]
    segmentation = struct.pack(">II", 14, sum(map(len, inner))) + b"".join(inner)
    outer = [struct.pack(">IIII", 6, 8, 2, 0), struct.pack(">IIii", 5, 8, 1, 1), struct.pack(">II8s", 1, 5, b"GTcls"),
             struct.pack(">HHI", 4, 5, 16), struct.pack(">II16s", 1, 16, b"Segmentation"), segmentation]
    header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    data = header + struct.pack(">II", 14, sum(map(len, outer))) + b"".join(outer)
    np.testing.assert_array_equal(loadmat(io.BytesIO(data))["GTcls"]["Segmentation"][0, 0], [[4, 5]])
    np.testing.assert_array_equal(decode_mask(data, where="m", n_classes=20), [[4, 5]])


def test_ids_and_sizes_are_checked_as_those_of_pictures():
    assert "mask with id 20, the classes are 0..7" in refused(sbd_mask(IDS), n_classes=7)
    assert "mask of 3x4 pixels (height x width), its image has 4x3" in refused(sbd_mask(IDS), size=(4, 3))
    assert "12 pixels is over the limit of 11" in refused(sbd_mask(IDS), max_pixels=11)
    for values in (IDS + 0.5, IDS - 1.0, IDS * np.nan, IDS * 1e6, IDS[:0]):
        assert "no class ids" in refused(sbd_mask(values))


def test_foreign_files():
    assert "without the variable GTcls (it has GTinst); give the folder cls of SBD" in refused(
        sbd_mask(IDS, variable="GTinst"))
    assert "no matrix of numbers" in refused(sbd_mask(IDS, Segmentation="text"))
    assert "no matrix of numbers" in refused(sbd_mask(IDS, Segmentation=np.zeros((2, 2, 2))))
    file = io.BytesIO()
    savemat(file, {"GTcls": {"Boundaries": IDS}})
    assert "without the field Segmentation (it has Boundaries)" in refused(file.getvalue())
    file = io.BytesIO()
    savemat(file, {"GTcls": IDS})
    assert "without the field Segmentation (it has none)" in refused(file.getvalue())
    assert "version 7.3; save it with -v7" in refused(b"MATLAB 7.3 MAT-file, Platform" + bytes(600))


@pytest.mark.parametrize("compress", [True, False])
def test_cut_anywhere_or_with_any_byte_changed_it_is_read_or_refused(compress):
    data = sbd_mask(IDS, compress=compress)
    for length in range(128, len(data), 1 if compress else 7):
        if not np.array_equal(_read(data[:length]), IDS):
            assert "cut short or damaged" in refused(data[:length]) or "without the variable" in refused(data[:length])
    for place in range(0, len(data), 3):
        _read(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1:])


def _read(data: bytes) -> np.ndarray | None:
    try:
        return decode_mask(data, where="m", n_classes=20)
    except BadData:
        return None


def test_what_a_header_claims_is_not_allocated():
    bomb = sbd_mask(np.zeros((3000, 3000), np.uint8))
    assert len(bomb) < 100_000
    tracemalloc.start()
    assert "expands to over" in refused(bomb, max_pixels=1000)
    data = bytearray(sbd_mask(IDS, compress=False))
    data[160:168] = struct.pack("<ii", 400_000_000, 1)
    assert np.array_equal(decode_mask(bytes(data), where="m", n_classes=20), IDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
