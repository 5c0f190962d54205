"""Files of text centres, and the option that names them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.errors import BadData, MissingInput, UsageError
from stages.flow.text_centres import load_text_centres, orient_text_centres, parse_text_shift

CENTRES = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)


def save(path: Path, content: object) -> Path:
    """Save an array, or arrays by name, in the format of the suffix."""
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(("option", "expected"), [
    ("none", ("none", None)), ("mean", ("mean", None)), ("mean:a.npy", ("mean", Path("a.npy"))),
    ("bank:C:/x y.pt", ("bank", Path("C:/x y.pt")))])
def test_option(option, expected):
    assert parse_text_shift(option) == expected


@pytest.mark.parametrize("option", ["", "bank", "bank:", "mean:", "none:a.npy", "median", "a.npy"])
def test_invalid_option(option):
    with pytest.raises(UsageError, match=r"--text-shift .*Use .*:FILE"):
        parse_text_shift(option)


@pytest.mark.parametrize(("name", "content"), [
    ("a.npy", CENTRES), ("a.npy", np.asfortranarray(CENTRES)), ("a.npz", {"any": CENTRES}),
    ("a.npz", {"bank": CENTRES, "other": np.zeros(3)}), ("a.pt", torch.from_numpy(CENTRES)),
    ("a.pth", {"bank": torch.from_numpy(CENTRES), "epoch": 3}),
    ("a.pt", torch.nn.Parameter(torch.from_numpy(CENTRES)))])
def test_formats(tmp_path, name, content):
    array = load_text_centres(save(tmp_path / name, content))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, CENTRES)


def test_half_and_double_precision(tmp_path):
    for dtype in (np.float16, np.float64):
        array = load_text_centres(save(tmp_path / "a.npy", CENTRES.astype(dtype)))
        np.testing.assert_allclose(array, CENTRES, atol=2e-3)
    half = load_text_centres(save(tmp_path / "a.pt", torch.from_numpy(CENTRES).bfloat16()))
    np.testing.assert_allclose(half, CENTRES, atol=2e-2)


BAD_NUMBERS = [
    (CENTRES[0], r"shape \(8,\)"), (CENTRES[None], r"shape \(1, 5, 8\)"), (CENTRES[:0], r"shape \(0, 8\)"),
    (np.where(CENTRES[2, 3] == CENTRES, np.nan, CENTRES), r"nan at \[2, 3\]"),
    (np.where(CENTRES[2, 3] == CENTRES, 1e60, CENTRES.astype(float)), r"inf at \[2, 3\]")]


@pytest.mark.parametrize(("content", "words"), BAD_NUMBERS)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_invalid_numbers(tmp_path, suffix, content, words):
    contents = {".npy": content, ".npz": {"x": content}, ".pt": torch.from_numpy(np.array(content))}
    path = save(tmp_path / f"a{suffix}", contents[suffix])
    with pytest.raises(BadData, match=words) as caught:
        load_text_centres(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.npz", {"x": CENTRES, "y": CENTRES}, r"2 arrays \(x, y\), none of which is called bank"),
    ("a.pt", {"x": torch.zeros(2, 8), "y": torch.zeros(2, 8)}, "none of which is called bank"),
    ("a.npy", CENTRES.astype(complex), "holds no numbers"), ("a.npy", np.array(["a"]), "holds no numbers"),
    ("a.pt", torch.zeros(2, 8, dtype=torch.complex64), "does not hold a tensor of numbers"),
    ("a.pt", {"epoch": 3}, r"0 arrays \(none\)"), ("a.pt", [1, 2], "does not hold a tensor"),
    ("a.pt", torch.zeros(2, 8).to_sparse(), "does not hold a tensor"), ("a.pt", Path("x"), "not only tensors")])
def test_invalid_contents(tmp_path, name, content, words):
    with pytest.raises(BadData, match=words) as caught:
        load_text_centres(save(tmp_path / name, content))
    assert "np.save" in caught.value.remedy


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "a.csv", "a"])
def test_damaged_and_unknown_files(tmp_path, name):
    (tmp_path / name).write_bytes(b"no array at all")
    with pytest.raises(BadData, match=name):
        load_text_centres(tmp_path / name)


def test_damaged_member_of_an_archive(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("bank.npy", b"\x93NUMPY damaged")
    (tmp_path / "a.npz").write_bytes(stream.getvalue())
    with pytest.raises(BadData, match="damaged"):
        load_text_centres(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_missing_file_and_folder(tmp_path, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    for name in ("missing", "folder"):
        with pytest.raises(MissingInput, match=name):
            load_text_centres(tmp_path / f"{name}{suffix}")


def test_orientation():
    rows = orient_text_centres(CENTRES, 8, "a.npy")
    np.testing.assert_array_equal(rows, CENTRES)
    np.testing.assert_array_equal(orient_text_centres(CENTRES.T, 8, "a.npy"), CENTRES)
    with pytest.raises(BadData, match=r"a.npy.*\(5, 8\).*512 channels.*--clip"):
        orient_text_centres(CENTRES, 512, "a.npy")
    with pytest.raises(BadData, match="row or a column"):
        orient_text_centres(np.eye(8, dtype=np.float32), 8, "a.npy")
