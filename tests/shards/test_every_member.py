"""Shards of which one member is another: left out, a group, or a value of another type, shape or size.

`check_shard` tells each, and every way of reading returns, or refuses in one line.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shards.samples import contents
from stages.errors import WsssError
from stages.shards import Shard, check_shard, write_shard
from stages.shards.schema import COMMON_ROOT, KINDS

GONE, GROUP = object(), object()
OTHERS = (GONE, GROUP, np.int64(-1), np.int64(2**40), np.float64("nan"), np.bool_(True), b"", b"a", b"\xff", "é",
          b"[1]", np.zeros(0, "i1"), np.zeros((2, 3, 4), "f4"), np.full(3, 2**31, "u4"), np.zeros(2, [("a", "u1")]),
          np.array([b"a", b"a", b"\xff"]), np.array(["a", "b"], h5py.string_dtype()), h5py.Empty("f4"))


def _members(file: h5py.File) -> list[tuple[str, str, str]]:
    """Return (group or dataset, which of its attributes or members, name)."""
    found = [("/", "attrs", name) for name in file.attrs]

    def add(path: str, node: Any) -> None:
        holder, _, name = path.rpartition("/")
        found.append((holder or "/", "members", name))
        found.extend((path, "attrs", name) for name in node.attrs)

    file.visititems(add)
    return found


def _replace(path: Path, place: tuple[str, str, str], other: Any) -> bool:
    """Put `other` in its place; return whether HDF5 can have it there."""
    node, what, name = place
    with h5py.File(path, "r+") as file:
        holder = file[node].attrs if what == "attrs" else file[node]
        del holder[name]
        if other is GROUP and what == "attrs":
            return False
        if other is GROUP:
            holder.create_group(name)
        elif other is not GONE:
            holder[name] = other
    return True


def _refusals(path: Path) -> Iterator[WsssError]:
    yield from check_shard(path)
    for read in _ways(KINDS[path.stem]):
        try:
            read(Shard(path))
        except WsssError as error:
            yield error


def _ways(kind: Any) -> Iterator[Callable[[Shard], Any]]:
    yield from (lambda shard: list(shard.items()), lambda shard: shard.provenance, lambda shard: shard.request,
                lambda shard: shard.index_digest, lambda shard: shard.errors, lambda shard: shard.max_pixels)
    for array in (*COMMON_ROOT, *kind.root):
        yield lambda shard, name=array.name: shard.root(name)
    for name in kind.root_attrs:
        yield lambda shard, name=name: shard.attribute(name)
    for array in kind.item:
        yield lambda shard, name=array.name: list(shard.each(name))
        yield lambda shard, name=array.name: list(shard.shapes(name))
        yield lambda shard, name=array.name: [shard.member(one, name) for one in shard.ids if one not in shard.errors]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_shard_with_another_member_is_read_or_refused_in_one_line(kind, tmp_path):
    whole = tmp_path / "whole.h5"
    write_shard(whole, contents(kind, ("a", "b"), refused=("b",) if KINDS[kind].item else ()))
    with h5py.File(whole) as file:
        places = _members(file)
    assert len(places) > 14
    shard = tmp_path / f"{kind}.h5"
    for place in places:
        for other in OTHERS:
            # A new file each time: what an error still holds of the one before is open, for which HDF5 asks by inode.
            shard.unlink(missing_ok=True)
            shutil.copy(whole, shard)
            if not _replace(shard, place, other):
                continue
            case = f"{place}: {other!r:.40}"
            try:
                refused = [str(error) for error in _refusals(shard)]
            except Exception as error:
                raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
            assert not [line for line in refused if "\n" in line], case
            assert refused, case
