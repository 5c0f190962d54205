"""Flips bytes of a shard one after another and reads it: run in a process of its own, since HDF5 may crash.

`python flips.py SHARD FIRST STRIDE MASK` prints how many flips gave an error, and how many the same contents;
it ends 1, naming the byte, when contents were different or something else than a line for the user came out.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stages.errors import WsssError
from stages.shards import Shard

_NAMES = ("kind", "part", "parts", "classes", "ids", "errors", "provenance", "digest", "index_digest")


def everything(path: Path) -> str:
    """Return all that a reader can learn from a shard, as text."""
    shard = Shard(path)
    try:
        items = [(item.id, item.error, sorted((name, array.dtype.str, array.shape, array.tobytes())
                                              for name, array in item.datasets.items()),
                  sorted((name, repr(value)) for name, value in item.attrs.items())) for item in shard.items()]
        return repr([[getattr(shard, name) for name in _NAMES], shard.attribute("index_path"), items])
    finally:
        shard.close()


def main(path: Path, first: int, stride: int, mask: int) -> int:
    """Flip every `stride`-th byte from `first` on."""
    data, whole, refused, same = path.read_bytes(), everything(path), 0, 0
    # A new name for every flip: HDF5 keeps what it knows by file.
    for place in range(first, len(data), stride):
        broken = path.with_name(f"flipped-{place}.h5")
        broken.write_bytes(data[:place] + bytes([data[place] ^ mask]) + data[place + 1:])
        print(place, end="\r", file=sys.stderr, flush=True)
        try:
            if everything(broken) != whole:
                print(f"byte {place} of {len(data)} flipped: other contents without an error")
                return 1
            same += 1
        except WsssError as error:
            if "\n" in str(error) or str(broken) not in str(error):
                print(f"byte {place} of {len(data)} flipped: an odd line: {error}")
                return 1
            refused += 1
        broken.unlink()
    print(refused, same)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
