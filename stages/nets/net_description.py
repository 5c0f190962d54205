"""The description in a network file, and its verification without torch, whose import takes 2 s.

`net_files` describes the format; it loads the tensors, which needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from stages.errors import BadData, MissingInput
from stages.nets.nonfinite import build_nonfinite_error, count_nonfinite_bytes

FORMAT = "wsss-net"
FORMAT_VERSION = "1.1"
METADATA_KEY = "wsss"
NOT_FINITE_NET_REMEDY = "Train the network again"
# The names of torch for the types that a safetensors file names.
_TORCH_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
                "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32",
                "U64": "uint64", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
                "C64": "complex64"}


class StoredTensor(NamedTuple):
    """A tensor in a file: its name, its type in torch, its shape, and its little-endian bytes."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes


def read_verified_description(path: str | PathLike[str]) -> dict[str, Any]:
    """Return the description of a network file after comparing its tensors with their sha256, as `read_net` does.

    Raises what `read_net` raises. Reads the tensors one by one, and does not import torch.
    """
    check_exists(path)
    try:
        with safe_open(path, framework="numpy") as file:  # checks the header and the size of the file
            text = (file.metadata() or {}).get(METADATA_KEY)
    except Exception as error:
        raise build_unreadable_error(error, path) from error
    description = parse_description(text, str(path))
    sha256, nonfinite = hashlib.sha256(), {}
    for tensor in iterate_tensors(path):
        sha256.update((json.dumps([tensor.name, tensor.dtype, tensor.shape]) + "\n").encode())
        sha256.update(tensor.data)
        if num_nonfinite := count_nonfinite_bytes(tensor.name, tensor.dtype, tensor.data):
            nonfinite[tensor.name] = (num_nonfinite, tensor.shape)
    if sha256.hexdigest() != description["sha256"]:
        raise build_damaged_error(path)
    if nonfinite:
        raise build_nonfinite_error(nonfinite, str(path), NOT_FINITE_NET_REMEDY)
    return description


def iterate_tensors(path: str | PathLike[str]) -> Iterator[StoredTensor]:
    """Yield the tensors of a valid safetensors file in the order of their names.

    The file starts with the length of a JSON header in 8 bytes; the header has the type, the shape and the position of
    each tensor.
    """
    with Path(path).open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(start - 8))
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items()):
            first, end = entry["data_offsets"]
            stream.seek(start + first)
            yield StoredTensor(name, _TORCH_TYPES.get(entry["dtype"], entry["dtype"]), entry["shape"],
                               stream.read(end - first))


def check_exists(path: str | PathLike[str]) -> None:
    """Raise MissingInput if a network file does not exist."""
    if not Path(path).is_file():
        raise MissingInput("the file does not exist", "Use a network written by `wsss train-cls`, `wsss train-aff`, "
                           "`wsss train-seg` or `wsss train-text`", where=str(path))


def build_unreadable_error(error: Exception, path: str | PathLike[str]) -> BadData:
    """Return the error for a file that is not in the format of safetensors."""
    return BadData(f"the file is not a network file of wsss, or is truncated ({error})",
                   "Copy the file again or train the network again", where=str(path))


def build_damaged_error(path: str | PathLike[str]) -> BadData:
    """Return the error for tensors that differ from their sha256."""
    return BadData("the file is damaged: its tensors do not match their sha256", "Copy the file again",
                   where=str(path))


def format_canonical_json(description: Mapping[str, Any]) -> str:
    """Return a description as JSON with sorted keys and without spaces."""
    return json.dumps(description, sort_keys=True, separators=(",", ":"))


def parse_description(text: str | None, where: str) -> dict[str, Any]:
    """Parse and verify the description of a network file; `text` is None when the file has none. Raises BadData."""
    if text is None:
        raise BadData("the file holds weights only, not a network of wsss: it has no description",
                      "Use it as --weights of a training such as `wsss train-cls`", where=where)
    try:
        description = json.loads(text)
        version = str(description["format_version"])
        content = {key: value for key, value in description.items() if key != "digest"}
        digest = hashlib.sha256(format_canonical_json(content).encode()).hexdigest()
        has_valid_digest = digest == description["digest"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData("the file is damaged: its description cannot be read", "Copy the file again",
                      where=where) from error
    if description.get("format") == FORMAT and version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
        raise BadData(f"the file has format version {version} but this wsss reads version {FORMAT_VERSION}",
                      "Install a newer wsss", where=where)
    if not has_valid_digest or format_canonical_json(description) != text or description.get("format") != FORMAT:
        raise BadData("the file is damaged: its description does not match its digest", "Copy the file again",
                      where=where)
    return description
