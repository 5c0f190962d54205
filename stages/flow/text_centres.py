"""Read the centres of text features of descriptions that shift the text features of classes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import torch

from stages.data.npy_arrays import decode_npy_numbers
from stages.data.text_files import read_bytes
from stages.errors import BadData, UsageError
from stages.nets.weights import read_torch_file

_MODES = ("none", "mean")
_FILE_MODES = ("mean", "bank")
_SAVE_REMEDY = "Save the centres as one array of numbers with np.save, one centre per row"


def parse_text_shift(option: str) -> tuple[str, Path | None]:
    """Return (mode, file) of `none`, `mean`, `mean:FILE` or `bank:FILE`. Raises UsageError."""
    mode, colon, file = option.partition(":")
    if (not colon and mode in _MODES) or (file and mode in _FILE_MODES):
        return mode, Path(file) if file else None
    if option in ("bank", "bank:", "mean:"):
        raise UsageError(f"--text-shift {option} needs a file of centres", f"Use --text-shift {mode}:FILE")
    raise UsageError(f"--text-shift {option} is not known", "Use none, mean, mean:FILE or bank:FILE")


def load_text_centres(path: Path) -> np.ndarray:
    """Read the array of two axes in a .npy, .npz, .pt or .pth file, as float32.

    A .npz, .pt or .pth file may hold several arrays if one is called `bank`. Raises MissingInput, and BadData for other
    files, for another number of axes and for values that are not finite.
    """
    data, where = read_bytes(path), str(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        array = decode_npy_numbers(data, where)
    elif suffix == ".npz":
        array = _decode_npz(data, where)
    elif suffix in (".pt", ".pth"):
        array = _read_tensor(path)
    else:
        raise BadData(f"a file of text centres is a .npy, .npz or .pt file, not {suffix or 'one without suffix'}",
                      _SAVE_REMEDY, where=where)
    if array.ndim != 2 or not array.size:
        raise BadData(f"the array of text centres has the shape {array.shape}, not (centres, channels)", _SAVE_REMEDY,
                      where=where)
    with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which is reported
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise BadData(f"the text centres are not finite: {array[row, column]} at [{row}, {column}]",
                      "Compute the text features of the descriptions again", where=where)
    return array


def orient_text_centres(array: np.ndarray, num_channels: int, where: str) -> torch.Tensor:
    """Return the centres (n, E) in an array (n, E), or (E, n) as released, for E = `num_channels`.

    Raises BadData if neither axis has the length E, or both have.
    """
    is_row, is_column = (length == num_channels for length in array.shape[::-1])
    if is_row and is_column:
        raise BadData(f"the array of text centres has the shape {array.shape}, so whether a centre is a row or a "
                      "column is unknown", "Save one centre more or fewer", where=where)
    if not is_row and not is_column:
        raise BadData(f"the array of text centres has the shape {array.shape}, but the text features of this CLIP have "
                      f"{num_channels} channels", "Use the CLIP with which the centres were computed, with --clip and "
                      "--weights", where=where)
    return torch.from_numpy(np.ascontiguousarray(array if is_row else array.T))


def _decode_npz(data: bytes, where: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = _select_name([name.removesuffix(".npy") for name in archive.namelist()], where)
            content = archive.read(name if name in archive.namelist() else f"{name}.npy")
    except BadData:
        raise
    except Exception as error:  # zipfile and zlib raise many types of exceptions for damaged archives
        raise BadData(f"the .npz file is damaged ({str(error)[:100] or type(error).__name__})", _SAVE_REMEDY,
                      where=where) from None
    return decode_npy_numbers(content, where)


def _read_tensor(path: Path) -> np.ndarray:
    try:
        content = read_torch_file(path)
    except BadData as error:
        raise BadData(error.message, _SAVE_REMEDY, where=error.where) from None
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        content = tensors[_select_name(list(tensors), str(path))]
    if not isinstance(content, torch.Tensor) or content.is_complex() or content.is_quantized or content.is_sparse:
        raise BadData("the file does not hold a tensor of numbers", _SAVE_REMEDY, where=str(path))
    return content.detach().to("cpu", torch.float32).numpy()


def _select_name(names: list[str], where: str) -> str:
    """Return the only name, or `bank`. Raises BadData if there is neither."""
    if len(names) == 1:
        return names[0]
    if "bank" in names:
        return "bank"
    raise BadData(f"the file holds {len(names)} arrays ({', '.join(sorted(names)[:5]) or 'none'}), none of which is "
                  "called bank", _SAVE_REMEDY, where=where)
