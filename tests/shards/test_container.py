"""Shards are read as they were written, equal contents give equal bytes, and HDF5 is used as FORMAT.md describes."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from shards.samples import CLASSES, IDS, PROVENANCE, build_contents, items_equal
from stages.errors import BadData, MissingInput
from stages.shards import KINDS, Item, Shard, check_shard, validate_item_id, write_shard
from stages.shards.digest import compute_digest
from stages.shards.items import group_name, parse_group_name
from stages.shards.writer import encode_shard


def _write(folder: Path, contents: object, name: str = "shard.h5") -> Path:
    write_shard(folder / name, contents)
    return folder / name


@pytest.mark.parametrize("ids", [IDS, IDS[:1], ()], ids=["many", "one", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_every_kind_as_it_was_written(tmp_path: Path, kind: str, ids: tuple[str, ...]) -> None:
    contents = build_contents(kind, ids, failed=IDS[4:6], part=2, parts=5)
    shard = Shard(_write(tmp_path, contents), kind)
    assert (shard.kind, shard.part, shard.parts, shard.classes) == (kind, 2, 5, CLASSES)
    assert shard.ids == ids
    assert shard.provenance == list(PROVENANCE)
    assert all(shard.attribute(name) == value for name, value in contents.root_attrs.items())
    for name, array in contents.root_datasets.items():
        values = shard.read_root(name)
        assert values.dtype == array.dtype
        np.testing.assert_array_equal(values, array)
    assert len(list(contents.items)) == (len(ids) if KINDS[kind].item else 0)
    for item in contents.items:
        assert items_equal(shard.item(item.id), item), item.id
    assert shard.errors == {item.id: item.error for item in contents.items if item.error}
    assert not list(check_shard(shard.path))


def test_equal_contents_give_equal_bytes_at_any_time_and_path(tmp_path: Path) -> None:
    for kind in KINDS:
        first = _write(tmp_path, build_contents(kind)).read_bytes()
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        # Long enough for HDF5 time stamps, which have a resolution of a second, to differ.
        if kind == "index":
            time.sleep(1.1)
        assert _write(tmp_path / "elsewhere", build_contents(kind), "other.h5").read_bytes() == first
    contents = build_contents("masks")
    reordered = [Item(item.id, dict(reversed(item.datasets.items())), item.attrs) for item in contents.items]
    assert encode_shard(replace(contents, items=reordered)) == encode_shard(contents)


@pytest.mark.parametrize("change", [
    {"classes": ("background", "cat", "dog")}, {"part": 1, "parts": 2}, {"index_path": "elsewhere.h5"},
    {"index_digest": "cd" * 32}, {"provenance": ()}, {"root_attrs": {"background": "included"}},
])
def test_every_change_changes_the_digest(change: dict) -> None:
    contents = build_contents("cams")
    assert encode_shard(replace(contents, **change))[1] != encode_shard(contents)[1]
    reordered = [*contents.items[1:], contents.items[0]]
    assert encode_shard(replace(contents, items=reordered))[1] != encode_shard(contents)[1]


def _compute_documented_digest(path: Path) -> str:
    """Compute the digest as documented: over sorted (path, dtype, shape, little-endian bytes)."""
    entries = []

    def add(name: str, value: object, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        dtype_name = f"|S{dtype.itemsize}" if dtype.kind == "S" else dtype.newbyteorder("<").str
        raw = np.array(value, dtype=dtype_name).tobytes()
        entries.append((name.encode(), f"{dtype_name}\0{','.join(str(size) for size in shape)}\0".encode() + raw))

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        for attribute in node.attrs:
            if (name, attribute) != ("", "digest"):
                kind = h5py.h5a.open(node.id, attribute.encode())
                add(f"{name}@{attribute}", node.attrs[attribute], kind.dtype, kind.shape)
        if isinstance(node, h5py.Dataset):
            add(name, node[()], node.dtype, node.shape)

    with h5py.File(path, "r", locking=False) as file:
        visit("", file)
        file.visititems(visit)
    total = hashlib.sha256()
    for name, rest in sorted(entries):
        total.update(name + b"\0" + rest)
    return total.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_digest_is_as_documented_and_independent_of_the_layout(tmp_path: Path, kind: str) -> None:
    path = _write(tmp_path, build_contents(kind, failed=IDS[:1]))
    assert Shard(path).digest == _compute_documented_digest(path)
    # The same contents from another writer: contiguous, big-endian except for strings, in another order.
    with h5py.File(path, "r", locking=False) as source, h5py.File(tmp_path / "other.h5", "w") as other:
        def copy(name: str, node: h5py.Group | h5py.Dataset) -> None:
            if isinstance(node, h5py.Dataset):
                dtype = node.dtype if node.dtype.kind == "S" else node.dtype.newbyteorder(">")
                copied = other.create_dataset(name, node.shape, dtype)
                copied[()] = node[()]
            else:
                copied = other.require_group(name)
            for attribute in reversed(list(node.attrs)):
                value = node.attrs.get_id(attribute)
                copied.attrs.create(attribute, node.attrs[attribute], dtype=value.dtype, shape=value.shape)
        source.visititems(copy)
        for attribute in source.attrs:
            value = source.attrs.get_id(attribute)
            other.attrs.create(attribute, source.attrs[attribute], dtype=value.dtype, shape=value.shape)
        assert compute_digest(other) == compute_digest(source) == source.attrs["digest"].decode()


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

    with h5py.File(_write(tmp_path, build_contents(kind)), "r", locking=False) as file:
        visit("/", file)
        file.visititems(visit)
    assert {"/classes", "/ids", "/error_ids", "/error_messages"} <= set(datasets)


def test_files_have_the_format_of_hdf5_1_10_and_contain_no_paths(tmp_path: Path) -> None:
    path = _write(tmp_path, build_contents("cams"))
    assert path.read_bytes()[8] == 3  # the superblock of 1.10; 'latest' would bind readers to the newest library
    assert str(os.getuid()) + str(tmp_path) not in str(path.read_bytes())
    assert str(tmp_path).encode() not in path.read_bytes()


@pytest.mark.parametrize("text", IDS)
def test_group_names_of_ids_are_unique_and_invertible(text: str) -> None:
    name = group_name(text)
    assert "/" not in name and name not in (".", "..")
    assert parse_group_name(name) == text
    assert validate_item_id(text) == text
    assert sum(group_name(other) == name for other in IDS) == 1


@pytest.mark.parametrize("text", ["", "x" * 201, "a\nb", "a\tb", "a\0b", "a\rb", "\udcff"])
def test_rejects_invalid_ids(text: str) -> None:
    with pytest.raises(BadData, match=r"list\.csv"):
        validate_item_id(text, where="list.csv")


@pytest.mark.parametrize("kind", ["index", "cams", "masks"])
def test_iterates_over_one_dataset_of_every_item(tmp_path: Path, kind: str) -> None:
    contents = build_contents(kind, failed=IDS[4:6])
    shard = Shard(_write(tmp_path, contents), kind)
    for array in KINDS[kind].item:
        datasets = dict(shard.iterate_datasets(array.name))
        assert list(datasets) == [item_id for item_id in IDS if item_id not in IDS[4:6]]
        assert dict(shard.iterate_shapes(array.name)) == {
            name: None if dataset is None else dataset.shape for name, dataset in datasets.items()}
        for item in contents.items:
            if item.error is None:
                expected = item.datasets.get(array.name)
                assert (datasets[item.id] is None) == (expected is None)
                assert expected is None or (datasets[item.id].dtype.str, datasets[item.id].tolist()) == (
                    expected.dtype.str, expected.tolist())


def test_writes_arrays_of_any_layout_and_attributes_of_any_type(tmp_path: Path) -> None:
    mask = np.arange(35, dtype=np.uint8).reshape(5, 7)
    attrs = {"share": 0.5, "flag": True, "sizes": [1, 2], "small": np.float32(2), "none": "", "große": "ä"}
    items = [Item("a", {"mask": np.asfortranarray(mask), "confidence": mask[::2, ::-1]}, attrs)]
    path = _write(tmp_path, build_contents("masks", items=items))
    item = Shard(path).item("a")
    np.testing.assert_array_equal(item.datasets["mask"], mask)
    np.testing.assert_array_equal(item.datasets["confidence"], mask[::2, ::-1])
    assert {**item.attrs, "sizes": list(item.attrs["sizes"])} == attrs
    assert not list(check_shard(path))


def test_only_datasets_over_16_mib_have_several_chunks(tmp_path: Path) -> None:
    large = np.zeros((17 << 20,), np.uint8)
    items = [Item("a", {"image": large}, {"path": "a"}), Item("b", {"image": large[:16 << 20]}, {"path": "b"})]
    with h5py.File(_write(tmp_path, build_contents("index", items=items)), "r", locking=False) as file:
        assert file["items/a/image"].chunks[0] < 1 << 20
        assert file["items/b/image"].chunks == (16 << 20,)


def test_group_names_that_are_not_ascii_are_marked_as_utf_8(tmp_path: Path) -> None:
    with h5py.File(_write(tmp_path, build_contents("masks")), "r", locking=False) as file:
        items = file["items"]
        encodings = {name: items.id.links.get_info(name.encode()).cset for name in items}
    assert set(encodings) == {group_name(item_id) for item_id in IDS}
    assert all((encoding == h5py.h5t.CSET_UTF8) == (not name.isascii()) for name, encoding in encodings.items())


def test_writing_replaces_a_shard_atomically_and_leaves_no_other_files(tmp_path: Path) -> None:
    path = _write(tmp_path, build_contents("masks"))
    reader = Shard(path)
    before = reader.item(IDS[0])
    (tmp_path / "shard.h5.tmp").write_bytes(b"left by a crash" * 10_000)
    _write(tmp_path, build_contents("masks", IDS[::-1]))
    assert items_equal(reader.item(IDS[0]), before)  # an open reader still reads the old file
    assert Shard(path).ids == IDS[::-1]
    assert path.read_bytes() == encode_shard(build_contents("masks", IDS[::-1]))[0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["shard.h5"]


def test_reading_an_unknown_id_is_an_error(tmp_path: Path) -> None:
    shard = Shard(_write(tmp_path, build_contents("masks")))
    with pytest.raises((BadData, MissingInput), match="nobody"):
        shard.item("nobody")
