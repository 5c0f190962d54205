"""Flips the bytes of a file one after another and reads it, in a process of its own, because HDF5 may crash.

`python flips.py FILE FIRST STRIDE MASK` prints how many flips gave an error, and how many the same contents. It exits
with 1, naming the byte, if the contents were different, if the error was not a line for the user, or if `check` did
not report what failed to be read.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stages.errors import WsssError
from stages.shards import KINDS, Shard, check_shard, read_image_records, read_in_training

_NAMES = ("kind", "part", "parts", "classes", "ids", "errors", "provenance", "digest", "index_digest",
          "images_digest")


def read_everything(path: Path) -> str:
    """Return the whole contents of a shard, a network or a training checkpoint as text."""
    if path.suffix in (".safetensors", ".part"):
        return _read_tensors(path)
    shard = Shard(path)
    try:
        kind = KINDS[shard.kind]
        items = [(item.id, item.error, _describe_arrays(item.datasets),
                  sorted((name, repr(value)) for name, value in item.attrs.items()))
                 for item in (shard.items() if kind.item else ())]
        roots = _describe_arrays({array.name: shard.read_root(array.name) for array in kind.root})
        images = repr([rows if rows is None else rows.tolist() for rows in (read_image_records(shard),
                                                                           read_in_training(shard))])
        attributes = [str(shard.attribute(name)) for name in ("index_path", *kind.root_attrs)]
        return repr([[getattr(shard, name) for name in _NAMES], attributes, roots, items, images])
    finally:
        shard.close()


def _read_tensors(path: Path) -> str:
    from stages.nets.net_files import read_net
    from stages.training.checkpoint import Checkpoint
    is_net_file = path.suffix == ".safetensors"
    if is_net_file:
        tensors, metadata = read_net(path)
    else:
        tensors, metadata = Checkpoint(path.with_suffix(""), {}, is_main_process=False).read()
    return repr([_describe_arrays({name: tensor.numpy() for name, tensor in tensors.items()}), metadata])


def _describe_arrays(arrays: dict) -> list:
    return sorted((name, array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items())


def main(path: Path, first: int, stride: int, mask: int) -> int:
    """Flip every `stride`-th byte from `first` on; return the exit code."""
    data, expected, num_errors, num_same = path.read_bytes(), read_everything(path), 0, 0
    # A new name for every flip, because HDF5 caches open files.
    for position in range(first, len(data), stride):
        damaged = path.with_name(f"flipped-{position}{path.suffix}")
        damaged.write_bytes(data[:position] + bytes([data[position] ^ mask]) + data[position + 1:])
        print(position, end="\r", file=sys.stderr, flush=True)
        failure = _find_failure(damaged, expected)
        if failure:
            print(f"byte {position} of {len(data)} flipped: {failure}")
            return 1
        num_errors, num_same = (num_errors, num_same + 1) if failure is None else (num_errors + 1, num_same)
        damaged.unlink()
    print(num_errors, num_same)
    return 0


def _find_failure(damaged: Path, expected: str) -> str | None:
    """Return None for the same contents, an empty string for a correct error, else what went wrong."""
    try:
        return None if read_everything(damaged) == expected else "different contents without an error"
    except WsssError as error:
        if "\n" in str(error) or str(damaged) not in str(error):
            return f"an unexpected message: {error}"
    if damaged.suffix == ".h5" and not list(check_shard(damaged)):
        return "check did not report it"
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
