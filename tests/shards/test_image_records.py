"""Image records: what identifies an image, and what does not; the documented digest; training images."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from shards.samples import build_contents
from stages.errors import BadData
from stages.flow.training_images import describe_training_images, read_training_images
from stages.shards import (
    Item,
    Run,
    Shard,
    build_image_keys,
    build_image_records,
    check_shard,
    describe_image_difference,
    mark_training_images,
    read_image_records,
    read_in_training,
    select_image_records,
    write_shard,
)

ITEM = Item("a", {"labels": np.array([2, 5], np.uint16)}, {"path": "a.jpg", "crc32": 7, "bytes": 77, "height": 3,
                                                           "width": 5})
LISTED = Item("b", {}, {"path": "b.jpg"})
FAILED = Item("c", error="broken")
RECORDS = np.array([[7, 77, 3, 5, zlib.crc32(b"\2\0\5\0")], [-1] * 5, [-1] * 5])


def write_masks(path: Path, records: np.ndarray, **fields: object) -> Shard:
    """Write a masks shard of two images with these records."""
    write_shard(path, build_contents("masks", ("a", "é"), image_records=records, **fields))
    return Shard(path)


def test_the_records_of_an_index():
    np.testing.assert_array_equal(build_image_records([ITEM, LISTED, FAILED]), RECORDS)
    untagged = replace(ITEM, datasets={"labels": np.zeros(0, np.uint16)})
    assert build_image_records([untagged])[0, 4] == 0
    assert build_image_records([]).shape == (0, 5)


@pytest.mark.parametrize(("change", "is_same"), [
    ({"mask_path": "a.png", "mask_crc32": 9}, True), ({"path": "moved/a.jpg"}, True), ({"offset": 512}, True),
    ({"crc32": 8}, False), ({"bytes": 78}, False), ({"height": 4}, False), ({"width": 6}, False),
])
def test_what_identifies_an_image(change, is_same):
    first, other = build_image_records([ITEM, replace(ITEM, attrs={**ITEM.attrs, **change})])
    assert (describe_image_difference(first, other) == "") == is_same


def test_the_digest_is_as_documented(tmp_path):
    records = np.array([[7, 77, 3, 5, 1], [-1] * 5])
    text = '[false,[["a",7,77,3,5],["\\u00e9",-1,-1,-1,-1]]]'
    digest = hashlib.sha256(text.encode()).hexdigest()
    shard = write_masks(tmp_path / "a.h5", records)
    assert shard.images_digest == digest
    # Tags are in the records, but do not identify an image; EXIF orientations do, since they turn what is read.
    records[0, 4] = 2
    assert write_masks(tmp_path / "b.h5", records).images_digest == digest
    turned = ({"tool": "wsss", "stage": "index", "config": {"apply_exif": True}, "inputs": {}},)
    other = write_masks(tmp_path / "c.h5", records, provenance=turned).images_digest
    assert other == hashlib.sha256(text.replace("false", "true").encode()).hexdigest()


def test_a_shard_without_records(tmp_path):
    path = tmp_path / "a.h5"
    write_shard(path, build_contents("masks", ("a", "b")))
    assert Shard(path).images_digest == ""
    assert read_image_records(Shard(path)) is None and read_in_training(Shard(path)) is None
    assert not list(check_shard(path))
    write_shard(path, build_contents("index", ("a", "b")))
    assert read_image_records(Shard(path))[:, 1].tolist() == [77, 77]


def test_the_records_of_a_part_come_from_its_index_if_it_has_none(tmp_path):
    write_shard(tmp_path / "i.h5", build_contents("index", ("z", "b", "a")))
    write_shard(tmp_path / "m.h5", build_contents("masks", ("a", "b")))
    index, source = Shard(tmp_path / "i.h5"), Shard(tmp_path / "m.h5")
    np.testing.assert_array_equal(select_image_records(source, index, slice(0, 2)), read_image_records(index)[[2, 1]])


def test_wrong_records_are_found(tmp_path):
    records = np.array([[7, 77, 3, 5, 1], [8, 77, 3, 5, 1]])
    write_shard(tmp_path / "a.h5", build_contents("masks", ("a", "b"), image_records=records))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["images_digest"] = np.bytes_("0" * 64)
    assert any("don't match its images_digest" in str(error) for error in check_shard(tmp_path / "a.h5"))
    write_shard(tmp_path / "b.h5", build_contents("masks", ("a", "b"), image_records=records))
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        del file["image_records"]
        file["image_records"] = np.zeros((1, 5), np.int64)
    with pytest.raises(BadData, match=r"\(1, 5\) for 2 images"):
        read_image_records(Shard(tmp_path / "b.h5"))


def test_training_images(tmp_path):
    records = np.array([[2**32 - 1, 2**33 + 5, 3, 5, 1], [1, 5, 3, 5, 1], [-1] * 5])
    keys = build_image_keys(records)
    assert keys.tolist() == [((2**32 - 1) << 32) + 5, (1 << 32) + 5]
    assert mark_training_images(records, keys[1:]).tolist() == [0, 1, 0]
    write_shard(tmp_path / "i.h5", build_contents("index", ("a", "b", "c"), image_records=records))
    index = Run([tmp_path / "i.h5"])
    described = describe_training_images(index, {"a", "b"})
    np.testing.assert_array_equal(read_training_images(described, "net"), np.sort(keys))
    assert describe_training_images(index, {"a", "c"}) == {}  # nobody knows which image c is
    assert read_training_images({}, "net") is None
    with pytest.raises(BadData, match="training images"):
        read_training_images({"training_images": "*"}, "net")
