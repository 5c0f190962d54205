"""What `wsss index` reports about the images that it accepts, and what it records to detect later changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import TRAINING, check_error, copy_dataset, index_table, list_messages, run, run_ok
from cli.test_bad_images import NAME, encode, image_path, mask_path
from stages.data.image_source import ImageSource
from stages.errors import BadData
from stages.shards import Item, Shard, ShardContents, write_shard

NOT_APPLIED = "have an EXIF orientation, which is not applied (see --apply-exif)"


@pytest.fixture
def root(tiny_dataset, tmp_path) -> Path:
    """Return a copy of the tiny data set of 12 images, which a test may change."""
    return copy_dataset(tiny_dataset, tmp_path / "set")


def set_orientation(path: Path, orientation: int) -> np.ndarray:
    """Set the EXIF orientation of an image and return its pixels, which do not change."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        pixels = np.asarray(image)
    path.write_bytes(encode(Image.fromarray(pixels), "PNG", exif=exif))
    return pixels


def test_an_exif_orientation_that_fits_the_mask_is_reported(root, tmp_path):
    pixels = set_orientation(image_path(root), 3)
    done = index_table(root, tmp_path / "i.h5")
    assert (done.code, list_messages(done)) == (0, [f"1 of 12 images {NOT_APPLIED}."])
    np.testing.assert_array_equal(ImageSource(Shard(tmp_path / "i.h5")).read_image(NAME), pixels)
    applied = index_table(root, tmp_path / "j.h5", "--apply-exif")
    assert applied.code == 0
    assert list_messages(applied) == ["1 of 12 images are rotated according to their EXIF orientation."]
    np.testing.assert_array_equal(ImageSource(Shard(tmp_path / "j.h5")).read_image(NAME), pixels[::-1, ::-1])


def test_an_exif_orientation_is_reported_without_masks(root, tmp_path):
    set_orientation(image_path(root), 6)
    (root / "SegmentationClass").rename(tmp_path / "masks")
    done = run("index", "folder", root, "-o", tmp_path / "i.h5")
    assert (done.code, list_messages(done)) == (0, [f"1 of 12 images {NOT_APPLIED}."])
    assert run("index", "folder", root, "-o", tmp_path / "j.h5", "-q").err == ""


def test_verbose_names_the_converted_images(root, tmp_path):
    set_orientation(image_path(root), 3)
    for number in (3, 5):
        path = image_path(root).with_name(f"picture_00{number}.jpg")
        path.write_bytes(encode(Image.new("CMYK", (64, 48)), "JPEG"))
    messages = ["2 of 12 images have CMYK colours and are converted to RGB.", f"1 of 12 images {NOT_APPLIED}."]
    assert list_messages(index_table(root, tmp_path / "i.h5")) == messages
    assert list_messages(index_table(root, tmp_path / "j.h5", "-v")) == [
        f"JPEGImages/{NAME}.jpg is among the images that {NOT_APPLIED}.",
        *(f"JPEGImages/picture_00{number}.jpg is among the images that have CMYK colours and are converted to RGB."
          for number in (3, 5)), *messages]


def test_the_first_image_of_an_mpo_file_is_used(root, tmp_path):
    first, second = (Image.new("RGB", (64, 48), (value, 0, 0)) for value in (200, 10))
    image_path(root).write_bytes(encode(first, "MPO", save_all=True, append_images=[second]))
    done = index_table(root, tmp_path / "i.h5")
    assert list_messages(done) == ["1 of 12 images contain several images, of which the first is used."]
    assert ImageSource(Shard(tmp_path / "i.h5")).read_image(NAME)[0, 0, 0] > 190


def test_damage_in_the_body_of_a_jpeg_is_detected_only_after_indexing(root, tmp_path):
    whole = image_path(root).read_bytes()
    with Image.open(image_path(root)) as image:
        image.resize((640, 480)).resize((64, 48)).save(image_path(root), quality=95)
    data = bytearray(image_path(root).read_bytes())
    middle = len(data) * 3 // 4
    data[middle:middle + 4] = bytes(4)
    image_path(root).write_bytes(data)
    assert index_table(root, tmp_path / "i.h5").code == 0, "libjpeg decodes it without an error"
    assert ImageSource(Shard(tmp_path / "i.h5")).read_image(NAME).shape == (48, 64, 3)
    image_path(root).write_bytes(whole)
    with pytest.raises(BadData, match="the image has changed since it was indexed"):
        ImageSource(Shard(tmp_path / "i.h5")).read_image(NAME)


@pytest.mark.parametrize(("row", "messages"), [(",cat", "labels.csv:2"), ('"a\tb",cat', "labels.csv:2")],
                         ids=["empty", "with a tab"])
def test_invalid_ids(root, tmp_path, row, messages):
    table = root / "labels.csv"
    table.write_text(f"id,labels\n{row}\n")
    check_error(index_table(root, tmp_path / "i.h5"), 65, messages, " id")
    assert not (tmp_path / "i.h5").exists()


def test_max_pixels_of_the_index_applies_to_its_readers(root, tmp_path):
    for limit in (3000, 60_000_000):
        index = tmp_path / f"{limit}.h5"
        run_ok("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--tags-only", "--max-pixels",
             limit, "-o", index)
        assert Shard(index).max_pixels == limit
    with pytest.raises(BadData, match=r"= 3072 pixels, more than the limit of 3000\W.* --max-pixels"):
        ImageSource(Shard(tmp_path / "3000.h5")).read_image(NAME)
    assert ImageSource(Shard(tmp_path / "60000000.h5")).read_image(NAME).shape == (48, 64, 3)


def test_a_mask_that_changed_since_it_was_indexed(root, tmp_path):
    index = tmp_path / "i.h5"
    assert index_table(root, index).code == 0
    shard = Shard(index)
    items = [Item(name, {"mask": ImageSource(shard).read_mask(name)}) for name in shard.ids]
    write_shard(tmp_path / "masks.h5", ShardContents("masks", shard.classes, items, provenance=shard.provenance,
                                                index_digest=shard.digest, index_path="i.h5"))
    assert json.loads("\n".join(run_ok("eval", tmp_path / "masks.h5", "--json")))["miou"] == 1
    mask_path(root).write_bytes(encode(Image.new("L", (64, 48), 1), "PNG"))
    message = f"SegmentationClass/{NAME}.png: the mask has changed since it was indexed"
    check_error(run("eval", tmp_path / "masks.h5"), 65, message)
    check_error(run("train-seg", index, "--masks", "truth", *TRAINING, "-o", tmp_path / "n.safetensors"), 65, message)


def test_an_index_without_mask_checksums_is_read(root, tmp_path):
    assert index_table(root, tmp_path / "i.h5").code == 0
    shard = Shard(tmp_path / "i.h5")
    items = [Item(item.id, item.datasets, {key: value for key, value in item.attrs.items() if key != "mask_crc32"})
             for item in shard.items()]
    write_shard(tmp_path / "old.h5", ShardContents("index", shard.classes, items, provenance=shard.provenance,
                                              root_attrs={"root": shard.attribute("root")}))
    mask_path(root).write_bytes(encode(Image.new("L", (64, 48), 1), "PNG"))
    assert (ImageSource(Shard(tmp_path / "old.h5")).read_mask(NAME) == 1).all()
    run_ok("check", tmp_path / "old.h5")
