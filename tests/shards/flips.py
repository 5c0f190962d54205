"""Flips bytes of a file one after another and reads it: run in a process of its own, since HDF5 may crash.

`python flips.py FILE FIRST STRIDE MASK` prints how many flips gave an error, and how many the same contents;
it ends 1, naming the byte, when contents were different, when something else than a line for the user came out, or when
`check` did not find what a reader stumbled over.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stages.errors import WsssError
from stages.shards import KINDS, Shard, check_shard

_NAMES = ("kind", "part", "parts", "classes", "ids", "errors", "provenance", "digest", "index_digest")


def everything(path: Path) -> str:
    """Return all that a reader can learn from a shard, a net or the state of a training, as text."""
    if path.suffix in (".safetensors", ".part"):
        return _all_of_tensors(path)
    shard = Shard(path)
    try:
        kind = KINDS[shard.kind]
        items = [(item.id, item.error, _described(item.datasets),
                  sorted((name, repr(value)) for name, value in item.attrs.items()))
                 for item in (shard.items() if kind.item else ())]
        roots = _described({array.name: shard.root(array.name) for array in kind.root})
        attributes = [str(shard.attribute(name)) for name in ("index_path", *kind.root_attrs)]
        return repr([[getattr(shard, name) for name in _NAMES], attributes, roots, items])
    finally:
        shard.close()


def _all_of_tensors(path: Path) -> str:
    from stages.nets.files import read_net
    from stages.training.checkpoint import Checkpoint
    is_net = path.suffix == ".safetensors"
    tensors, told = read_net(path) if is_net else Checkpoint(path.with_suffix(""), {}, leads=False).read()
    return repr([_described({name: tensor.numpy() for name, tensor in tensors.items()}), told])


def _described(arrays: dict) -> list:
    return sorted((name, array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items())


def main(path: Path, first: int, stride: int, mask: int) -> int:
    """Flip every `stride`-th byte from `first` on."""
    data, whole, refused, same = path.read_bytes(), everything(path), 0, 0
    # A new name for every flip: HDF5 keeps what it knows by file.
    for place in range(first, len(data), stride):
        broken = path.with_name(f"flipped-{place}{path.suffix}")
        broken.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1:])
        print(place, end="\r", file=sys.stderr, flush=True)
        told = _odd(broken, whole)
        if told:
            print(f"byte {place} of {len(data)} flipped: {told}")
            return 1
        refused, same = (refused, same + 1) if told is None else (refused + 1, same)
        broken.unlink()
    print(refused, same)
    return 0


def _odd(broken: Path, whole: str) -> str | None:
    """Return None for the same contents, an empty text for a good answer, else what was wrong."""
    try:
        return None if everything(broken) == whole else "other contents without an error"
    except WsssError as error:
        if "\n" in str(error) or str(broken) not in str(error):
            return f"an odd line: {error}"
    if broken.suffix == ".h5" and not list(check_shard(broken)):
        return "check did not find it"
    return ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
