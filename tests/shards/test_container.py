"""What is written is what is read, equal contents are equal bytes, and HDF5 is used as FORMAT.md promises."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from shards.samples import CLASSES, IDS, PROVENANCE, contents, same_items
from stages.errors import BadData, MissingInput
from stages.shards import KINDS, Item, Shard, check_shard, checked_id, write_shard
from stages.shards.digest import digest_of
from stages.shards.items import group_name, item_id
from stages.shards.writer import shard_bytes


def _put(folder: Path, made: object, name: str = "made.h5") -> Path:
    write_shard(folder / name, made)
    return folder / name


@pytest.mark.parametrize("ids", [IDS, IDS[:1], ()], ids=["many", "one", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_it_was_written(tmp_path: Path, kind: str, ids: tuple[str, ...]) -> None:
    made = contents(kind, ids, refused=IDS[4:6], part=2, parts=5)
    shard = Shard(_put(tmp_path, made), kind)
    assert (shard.kind, shard.part, shard.parts, shard.classes) == (kind, 2, 5, CLASSES)
    assert shard.ids == ids
    assert shard.provenance == list(PROVENANCE)
    assert all(shard.attribute(name) == value for name, value in made.root_attrs.items())
    for name, array in made.root_datasets.items():
        found = shard.root(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert len(list(made.items)) == (len(ids) if KINDS[kind].item else 0)
    for item in made.items:
        assert same_items(shard.item(item.id), item), item.id
    assert shard.errors == {item.id: item.error for item in made.items if item.error}
    assert not list(check_shard(shard.path))


def test_equal_contents_are_equal_bytes_whenever_and_wherever_they_are_written(tmp_path: Path) -> None:
    for kind in KINDS:
        first = _put(tmp_path, contents(kind)).read_bytes()
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        # Long enough for the seconds that HDF5 keeps in time stamps to differ.
        if kind == "index":
            time.sleep(1.1)
        assert _put(tmp_path / "elsewhere", contents(kind), "other.h5").read_bytes() == first
    made = contents("masks")
    reordered = [Item(one.id, dict(reversed(one.datasets.items())), one.attrs) for one in made.items]
    assert shard_bytes(replace(made, items=reordered)) == shard_bytes(made)


@pytest.mark.parametrize("change", [
    {"classes": ("background", "cat", "dog")}, {"part": 1, "parts": 2}, {"index_path": "elsewhere.h5"},
    {"index_digest": "cd" * 32}, {"provenance": ()}, {"root_attrs": {"background": "included"}},
])
def test_the_digest_tells_every_difference(change: dict) -> None:
    made = contents("cams")
    assert shard_bytes(replace(made, **change))[1] != shard_bytes(made)[1]
    assert shard_bytes(replace(made, items=[*made.items[1:], made.items[0]]))[1] != shard_bytes(made)[1]


def _digest_from_scratch(path: Path) -> str:
    """Compute the digest by the words of the contract: sorted (path, dtype, shape, little-endian bytes)."""
    entries = []

    def note(name: str, value: object, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        spelled = f"|S{dtype.itemsize}" if dtype.kind == "S" else dtype.newbyteorder("<").str
        raw = np.array(value, dtype=spelled).tobytes()
        entries.append((name.encode(), f"{spelled}\0{','.join(str(size) for size in shape)}\0".encode() + raw))

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        for attribute in node.attrs:
            if (name, attribute) != ("", "digest"):
                kind = h5py.h5a.open(node.id, attribute.encode())
                note(f"{name}@{attribute}", node.attrs[attribute], kind.dtype, kind.shape)
        if isinstance(node, h5py.Dataset):
            note(name, node[()], node.dtype, node.shape)

    with h5py.File(path, "r", locking=False) as file:
        visit("", file)
        file.visititems(visit)
    total = hashlib.sha256()
    for name, rest in sorted(entries):
        total.update(name + b"\0" + rest)
    return total.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_is_the_documented_one_and_independent_of_the_layout(tmp_path: Path, kind: str) -> None:
    path = _put(tmp_path, contents(kind, refused=IDS[:1]))
    assert Shard(path).digest == _digest_from_scratch(path)
    # The same contents laid out by another writer: contiguous, big-endian where that can be, another order.
    with h5py.File(path, "r", locking=False) as source, h5py.File(tmp_path / "other.h5", "w") as other:
        def copy(name: str, node: h5py.Group | h5py.Dataset) -> None:
            if isinstance(node, h5py.Dataset):
                turned = node.dtype if node.dtype.kind == "S" else node.dtype.newbyteorder(">")
                made = other.create_dataset(name, node.shape, turned)
                made[()] = node[()]
            else:
                made = other.require_group(name)
            for attribute in reversed(list(node.attrs)):
                value = node.attrs.get_id(attribute)
                made.attrs.create(attribute, node.attrs[attribute], dtype=value.dtype, shape=value.shape)
        source.visititems(copy)
        for attribute in source.attrs:
            value = source.attrs.get_id(attribute)
            other.attrs.create(attribute, source.attrs[attribute], dtype=value.dtype, shape=value.shape)
        assert digest_of(other) == digest_of(source) == source.attrs["digest"].decode()


@pytest.mark.parametrize("kind", KINDS)
def test_every_dataset_is_chunked_filtered_and_of_fixed_length(tmp_path: Path, kind: str) -> None:
    datasets = []

    def visit(_: str, node: h5py.Group | h5py.Dataset) -> None:
        for name in node.attrs:
            kind = node.attrs.get_id(name).get_type()
            assert not (isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()), name
        if isinstance(node, h5py.Dataset):
            datasets.append(node.name)
            assert node.chunks and node.shuffle and node.compression == "gzip" and node.fletcher32, node.name
            assert h5py.check_string_dtype(node.dtype) is None or h5py.check_string_dtype(node.dtype).length
            assert not (node.is_virtual or node.external)
            assert not node.id.get_create_plist().get_obj_track_times()

    with h5py.File(_put(tmp_path, contents(kind)), "r", locking=False) as file:
        visit("/", file)
        file.visititems(visit)
    assert {"/classes", "/ids", "/error_ids", "/error_messages"} <= set(datasets)


def test_files_are_of_hdf5_1_10_and_hold_no_time(tmp_path: Path) -> None:
    path = _put(tmp_path, contents("cams"))
    assert path.read_bytes()[8] == 3  # the superblock of 1.10; 'latest' would bind readers to the newest library
    assert str(os.getuid()) + str(tmp_path) not in str(path.read_bytes())
    assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("text", IDS)
def test_group_names_of_ids_are_unique_and_have_an_inverse(text: str) -> None:
    name = group_name(text)
    assert "/" not in name and name not in (".", "..")
    assert item_id(name) == text
    assert checked_id(text) == text
    assert sum(group_name(other) == name for other in IDS) == 1


@pytest.mark.parametrize("text", ["", "x" * 201, "a\nb", "a\tb", "a\0b", "a\rb", "\udcff"])
def test_what_can_be_no_id(text: str) -> None:
    with pytest.raises(BadData, match=r"list\.csv"):
        checked_id(text, where="list.csv")


@pytest.mark.parametrize("kind", ["index", "cams", "masks"])
def test_one_dataset_of_every_item(tmp_path: Path, kind: str) -> None:
    made = contents(kind, refused=IDS[4:6])
    shard = Shard(_put(tmp_path, made), kind)
    for array in KINDS[kind].item:
        found = dict(shard.each(array.name))
        assert list(found) == [one for one in IDS if one not in IDS[4:6]]
        assert dict(shard.shapes(array.name)) == {
            name: None if dataset is None else dataset.shape for name, dataset in found.items()}
        for item in made.items:
            if item.error is None:
                wanted = item.datasets.get(array.name)
                assert (found[item.id] is None) == (wanted is None)
                assert wanted is None or (found[item.id].dtype.str, found[item.id].tolist()) == (
                    wanted.dtype.str, wanted.tolist())


def test_arrays_in_any_layout_and_attributes_of_any_type(tmp_path: Path) -> None:
    mask = np.arange(35, dtype=np.uint8).reshape(5, 7)
    attrs = {"share": 0.5, "flag": True, "sizes": [1, 2], "small": np.float32(2), "none": "", "große": "ä"}
    items = [Item("a", {"mask": np.asfortranarray(mask), "confidence": mask[::2, ::-1]}, attrs)]
    path = _put(tmp_path, contents("masks", items=items))
    found = Shard(path).item("a")
    np.testing.assert_array_equal(found.datasets["mask"], mask)
    np.testing.assert_array_equal(found.datasets["confidence"], mask[::2, ::-1])
    assert {**found.attrs, "sizes": list(found.attrs["sizes"])} == attrs
    assert not list(check_shard(path))


def test_datasets_beyond_16_mib_have_chunks_of_their_own(tmp_path: Path) -> None:
    large = np.zeros((17 << 20,), np.uint8)
    items = [Item("a", {"image": large}, {"path": "a"}), Item("b", {"image": large[:16 << 20]}, {"path": "b"})]
    with h5py.File(_put(tmp_path, contents("index", items=items)), "r", locking=False) as file:
        assert file["items/a/image"].chunks[0] < 1 << 20
        assert file["items/b/image"].chunks == (16 << 20,)


def test_group_names_that_are_not_ascii_are_marked_as_utf_8(tmp_path: Path) -> None:
    with h5py.File(_put(tmp_path, contents("masks")), "r", locking=False) as file:
        items = file["items"]
        marked = {name: items.id.links.get_info(name.encode()).cset for name in items}
    assert set(marked) == {group_name(one) for one in IDS}
    assert all((cset == h5py.h5t.CSET_UTF8) == (not name.isascii()) for name, cset in marked.items())


def test_writing_replaces_in_one_step_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = _put(tmp_path, contents("masks"))
    reader = Shard(path)
    before = reader.item(IDS[0])
    (tmp_path / "made.h5.tmp").write_bytes(b"left by a crash" * 10_000)
    _put(tmp_path, contents("masks", IDS[::-1]))
    assert same_items(reader.item(IDS[0]), before)  # an open reader goes on with what it opened
    assert Shard(path).ids == IDS[::-1]
    assert path.read_bytes() == shard_bytes(contents("masks", IDS[::-1]))[0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["made.h5"]


def test_no_item_of_an_id_that_is_not_there(tmp_path: Path) -> None:
    shard = Shard(_put(tmp_path, contents("masks")))
    with pytest.raises((BadData, MissingInput), match="nobody"):
        shard.item("nobody")
