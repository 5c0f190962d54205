"""The reader of pickles returns arrays as NumPy and PyTorch pickled them, and rejects everything else as data."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.errors import BadData
from stages.import_.numpy_files import decode_npy, decode_npz
from stages.import_.pickle_reader import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
VALUES = np.random.default_rng(0).random((2, 3, 4))


def is_equal(value: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return isinstance(value, np.ndarray) and value.dtype == expected.dtype and np.array_equal(value, expected)
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(is_equal(value[key], expected[key]) for key in expected)
    return type(value) is type(expected) and value == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1", "i2", "u2", "i8", "?"])
def test_arrays_of_every_type_and_layout(protocol, dtype):
    array = (VALUES * 100).astype(dtype)
    for layout in (array, np.asfortranarray(array), array[:, ::2], array[0, 0], np.zeros((0, 3), dtype)):
        assert is_equal(read_pickle(pickle.dumps({"a": layout}, protocol), "x"), {"a": layout})
    swapped = array.astype(np.dtype(dtype).newbyteorder(">"))
    assert is_equal(read_pickle(pickle.dumps(swapped, protocol), "x"), array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_and_numbers(protocol):
    shared = VALUES[0]
    value = {"keys": [1, -5, 2**70, 1.5, True, None, "caf\xe9", b"\x00\xff"], 3: (shared, shared),
             "t": ((), (1,), (1, 2), (1, 2, 3, 4))}
    result = read_pickle(pickle.dumps(value, protocol), "x")
    assert result["keys"] == value["keys"] and result["t"] == value["t"]
    assert all(is_equal(array, shared) for array in result[3])
    assert is_equal(read_pickle(pickle.dumps({np.int64(4): np.float32(0.5)}, protocol), "x"), {4: 0.5})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_tensors_are_arrays(protocol, dtype):
    tensor = (torch.from_numpy(VALUES) * 100).to(dtype)
    for view in (tensor, tensor[1], tensor.permute(2, 0, 1), tensor[:, 1:, ::2], torch.zeros(0, 2, dtype=dtype)):
        assert is_equal(read_pickle(pickle.dumps({"cam": view}, protocol), "x"), {"cam": view.numpy()})


def test_npy_and_npz_files(tmp_path):
    content = {"keys": torch.tensor([2]), "cam": VALUES}
    for name, value in (("a", content), ("b", [VALUES])):
        np.save(tmp_path / f"{name}.npy", np.array(value, dtype=object), allow_pickle=True)
    assert is_equal(decode_npy((tmp_path / "a.npy").read_bytes(), "x"), {"keys": np.array([2]), "cam": VALUES})
    for array in (VALUES, np.asfortranarray(VALUES), VALUES.astype(">f4"), np.zeros((0, 2))):
        np.save(tmp_path / "c.npy", array)
        assert np.array_equal(decode_npy((tmp_path / "c.npy").read_bytes(), "x"), array)
    np.savez_compressed(tmp_path / "d.npz", cat=VALUES, dog=VALUES[0])
    assert is_equal(dict(decode_npz((tmp_path / "d.npz").read_bytes(), "x")), {"cat": VALUES, "dog": VALUES[0]})


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_called(protocol, tmp_path):
    marker = tmp_path / "executed"
    array = np.array([Calls(Path(marker).touch)], dtype=object)
    for value in (Calls(os.system, f"touch {marker}"), {"keys": Calls(eval, "1"), "cam": VALUES}, array,
                  Calls(np.load, str(marker)), Calls(torch.load, str(marker)), {"a": np.float32}, print, np.dtype("f4"),
                  np.ndarray, VALUES.astype("M8[s]"), np.array(["a"]), {1: Path("a")}):
        with pytest.raises(BadData, match=r"x: .*pickle"):
            read_pickle(pickle.dumps(value, protocol), "x")
    assert not marker.exists()


def build_array_pickle(shape: str, data: bytes) -> bytes:
    """Return the pickle of a float array with this shape, written as opcodes, and these bytes."""
    return (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR(I1\n" + shape.encode()
            + b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntRI00\nB" + len(data).to_bytes(4, "little") + data + b"tb.")


def test_the_pickle_that_is_changed_below_is_valid():
    array = np.array([[1, 2]], np.float32)
    assert is_equal(read_pickle(build_array_pickle("(I1\nI2\nt", array.tobytes()), "x"), array)


_BOMB: tuple = ("a",)
for _ in range(60):
    _BOMB = (_BOMB, _BOMB)
HOSTILE = {
    "huge memo": b"\x80\x02]r\xff\xff\xff\xff.", "huge bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.",
    "huge text": b"X\xff\xff\xff\x7f.", "huge frame": b"\x80\x04\x95" + b"\xff" * 8 + b"].",
    "huge array": build_array_pickle("(I1000000\nI1000000\nt", bytes(8)),
    "negative shape": build_array_pickle("(I-1\nI-2\nt", bytes(8)),
    "shape of text": build_array_pickle("(S'a'\nt", bytes(8)), "no marks": b"t.", "empty": b"", "no end": b"]",
    "pop": b"0.", "get": b"h\x05.", "nested tuples": pickle.dumps(_BOMB),
    "nested key": b"}" + pickle.dumps(_BOMB, 2)[2:-1] + b"K\x01s.",
    "nested lists": b"(" * 100_000 + b"l" * 100_000 + b".", "itself": b"]\x94h\x00a.", "extension": b"\x82\x01.",
    "persistent": b"Pa\n.", "build of a list": b"](b.", "new object": b"cnumpy\nndarray\n)\x81.",
    "instance": b"(ios\nsystem\n.", "long number": b"I" + b"9" * 100_000 + b"\n.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_take_neither_memory_nor_time(name):
    tracemalloc.start()
    try:
        read_pickle(HOSTILE[name], "x")
    except BadData as error:
        assert str(error).startswith("x: ") and "\n" not in str(error)
    else:
        # Memo numbers and frames are only labels, and a list may contain itself.
        assert name in ("huge memo", "huge frame", "itself")
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 40 << 20


def test_repeated_data_do_not_multiply():
    data = bytes(1 << 20)
    one = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR(I1\n(I262144\ntcnumpy\ndtype\n"
           b"(S'f4'\nI0\nI1\ntR(I3\nS'>'\nNNNtbI00\nh\x07tb")
    with pytest.raises(BadData, match="many times"):
        read_pickle(b"B" + len(data).to_bytes(4, "little") + data + b"q\x070]" + (one + b"a") * 1000 + b".", "x")


def test_a_header_that_claims_more_than_the_file_holds_is_rejected_before_memory_is_taken(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((10, 10)))
    data = (tmp_path / "a.npy").read_bytes().replace(b"(10, 10)", b"(10**9,)")
    with pytest.raises(BadData, match="damaged"):
        decode_npy(data, "x")
    data = (tmp_path / "a.npy").read_bytes().replace(b"(10, 10)", b"(9999,9)")
    with pytest.raises(BadData, match="its header says 719928"):
        decode_npy(data, "x")
    for wrong in (data[:40], data[:3], b"\x93NUMPY\x09\x00", b"PK\x03\x04" + bytes(40)):
        with pytest.raises(BadData):
            (decode_npz if wrong.startswith(b"PK") else decode_npy)(wrong, "x")
