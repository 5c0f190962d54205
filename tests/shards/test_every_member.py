"""Shards in which one member is missing, a group, or a value of another type, shape or size.

`check_shard` reports each of them, and every way of reading succeeds or fails with an error in one line.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shards.samples import build_contents
from stages.errors import WsssError
from stages.shards import Shard, check_shard, write_shard
from stages.shards.schema import COMMON_ROOT, KINDS

MISSING, GROUP = object(), object()
REPLACEMENTS = (
    MISSING, GROUP, np.int64(-1), np.int64(2**40), np.float64("nan"), np.bool_(True), b"", b"a", b"\xff", "é",
    b"[1]", np.zeros(0, "i1"), np.zeros((2, 3, 4), "f4"), np.full(3, 2**31, "u4"), np.zeros(2, [("a", "u1")]),
    np.array([b"a", b"a", b"\xff"]), np.array(["a", "b"], h5py.string_dtype()), h5py.Empty("f4"))


def _list_members(file: h5py.File) -> list[tuple[str, str, str]]:
    """Return (group or dataset, "attrs" or "members", name) of every attribute and member."""
    members = [("/", "attrs", name) for name in file.attrs]

    def add(path: str, node: Any) -> None:
        holder, _, name = path.rpartition("/")
        members.append((holder or "/", "members", name))
        members.extend((path, "attrs", name) for name in node.attrs)

    file.visititems(add)
    return members


def _replace(path: Path, member: tuple[str, str, str], replacement: Any) -> bool:
    """Replace a member; return whether HDF5 allows it."""
    node, container, name = member
    with h5py.File(path, "r+") as file:
        holder = file[node].attrs if container == "attrs" else file[node]
        del holder[name]
        if replacement is GROUP and container == "attrs":
            return False
        if replacement is GROUP:
            holder.create_group(name)
        elif replacement is not MISSING:
            holder[name] = replacement
    return True


def _collect_errors(path: Path) -> Iterator[WsssError]:
    yield from check_shard(path)
    for read in _list_readers(KINDS[path.stem]):
        try:
            read(Shard(path))
        except WsssError as error:
            yield error


def _list_readers(kind: Any) -> Iterator[Callable[[Shard], Any]]:
    yield from (lambda shard: list(shard.items()), lambda shard: shard.provenance, lambda shard: shard.request,
                lambda shard: shard.index_digest, lambda shard: shard.errors, lambda shard: shard.max_pixels)
    for array in (*COMMON_ROOT, *kind.root):
        yield lambda shard, name=array.name: shard.read_root(name)
    for name in kind.root_attrs:
        yield lambda shard, name=name: shard.attribute(name)
    for array in kind.item:
        yield lambda shard, name=array.name: list(shard.iterate_datasets(name))
        yield lambda shard, name=array.name: list(shard.iterate_shapes(name))
        yield lambda shard, name=array.name: [shard.read_item_dataset(item_id, name) for item_id in shard.ids
                                              if item_id not in shard.errors]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_shard_with_a_replaced_member_is_read_or_rejected_in_one_line(kind, tmp_path):
    whole = tmp_path / "whole.h5"
    write_shard(whole, build_contents(kind, ("a", "b"), failed=("b",) if KINDS[kind].item else ()))
    with h5py.File(whole) as file:
        members = _list_members(file)
    assert len(members) > 14
    shard = tmp_path / f"{kind}.h5"
    for member in members:
        for replacement in REPLACEMENTS:
            # A new file each time, because HDF5 identifies open files by inode and an error may keep one open.
            shard.unlink(missing_ok=True)
            shutil.copy(whole, shard)
            if not _replace(shard, member, replacement):
                continue
            case = f"{member}: {replacement!r:.40}"
            try:
                errors = [str(error) for error in _collect_errors(shard)]
            except Exception as error:
                raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
            assert not [line for line in errors if "\n" in line], case
            assert errors, case
