"""What index tells of the pictures that it takes, and what it records so that a change is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import TRAINING, copy_of, good, index_table, refused, run
from cli.test_bad_pictures import NAME, encoded, mask, picture
from stages.data.source import ImageSource
from stages.errors import BadData
from stages.shards import Contents, Item, Shard, write_shard

LEFT = "have an EXIF orientation, which is not applied (see --apply-exif)"


@pytest.fixture
def root(tiny_folder, tmp_path) -> Path:
    """Return a copy of the tiny set of 12 pictures, to be changed."""
    return copy_of(tiny_folder, tmp_path / "set")


def turn(path: Path, orientation: int) -> np.ndarray:
    """Give a picture an EXIF orientation, and return its pixels, which stay."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        pixels = np.asarray(image)
    path.write_bytes(encoded(Image.fromarray(pixels), "PNG", exif=exif))
    return pixels


def test_an_exif_orientation_under_which_the_mask_fits_all_the_same_is_told(root, tmp_path):
    pixels = turn(picture(root), 3)
    done = index_table(root, tmp_path / "i.h5")
    assert (done.code, done.err) == (0, f"1 of 12 images {LEFT}\n")
    np.testing.assert_array_equal(ImageSource(Shard(tmp_path / "i.h5")).image(NAME), pixels)
    applied = index_table(root, tmp_path / "j.h5", "--apply-exif")
    assert (applied.code, applied.err) == (0, "1 of 12 images are turned as their EXIF orientation says\n")
    np.testing.assert_array_equal(ImageSource(Shard(tmp_path / "j.h5")).image(NAME), pixels[::-1, ::-1])


def test_an_exif_orientation_is_told_where_there_are_no_masks(root, tmp_path):
    turn(picture(root), 6)
    (root / "SegmentationClass").rename(tmp_path / "masks")
    done = run("index", "folder", root, "-o", tmp_path / "i.h5")
    assert (done.code, done.err) == (0, f"1 of 12 images {LEFT}\n")
    assert run("index", "folder", root, "-o", tmp_path / "j.h5", "-q").err == ""


def test_a_line_for_each_kind_and_with_verbose_the_pictures_by_name(root, tmp_path):
    turn(picture(root), 3)
    for number in (3, 5):
        path = picture(root).with_name(f"picture_00{number}.jpg")
        path.write_bytes(encoded(Image.new("CMYK", (64, 48)), "JPEG"))
    told = ["2 of 12 images have CMYK colours, converted to RGB", f"1 of 12 images {LEFT}"]
    assert index_table(root, tmp_path / "i.h5").err.splitlines() == told
    assert index_table(root, tmp_path / "j.h5", "-v").err.splitlines() == [
        f"JPEGImages/{NAME}.jpg is among the images that {LEFT}",
        *(f"JPEGImages/picture_00{number}.jpg is among the images that have CMYK colours, converted to RGB"
          for number in (3, 5)), *told]


def test_of_a_camera_s_pictures_the_first_is_taken(root, tmp_path):
    first, second = (Image.new("RGB", (64, 48), (value, 0, 0)) for value in (200, 10))
    picture(root).write_bytes(encoded(first, "MPO", save_all=True, append_images=[second]))
    done = index_table(root, tmp_path / "i.h5")
    assert done.err == "1 of 12 images hold several pictures, of which the first is taken\n"
    assert ImageSource(Shard(tmp_path / "i.h5")).image(NAME)[0, 0, 0] > 190


def test_a_jpeg_damaged_in_its_body_decodes_and_is_found_only_when_that_came_later(root, tmp_path):
    whole = picture(root).read_bytes()
    with Image.open(picture(root)) as image:
        image.resize((640, 480)).resize((64, 48)).save(picture(root), quality=95)
    data = bytearray(picture(root).read_bytes())
    middle = len(data) * 3 // 4
    data[middle:middle + 4] = bytes(4)
    picture(root).write_bytes(data)
    assert index_table(root, tmp_path / "i.h5").code == 0, "libjpeg takes it for a picture"
    assert ImageSource(Shard(tmp_path / "i.h5")).image(NAME).shape == (48, 64, 3)
    picture(root).write_bytes(whole)
    with pytest.raises(BadData, match="not the file that was indexed"):
        ImageSource(Shard(tmp_path / "i.h5")).image(NAME)


@pytest.mark.parametrize(("row", "told"), [(",cat", "labels.csv:2"), ('"a\tb",cat', "labels.csv:2")],
                         ids=["empty", "with a tab"])
def test_ids_that_can_not_be(root, tmp_path, row, told):
    table = root / "labels.csv"
    table.write_text(f"id,labels\n{row}\n")
    refused(index_table(root, tmp_path / "i.h5"), 65, told, " id")
    assert not (tmp_path / "i.h5").exists()


def test_the_limit_of_the_index_is_that_of_its_readers(root, tmp_path):
    for limit in (3000, 60_000_000):
        index = tmp_path / f"{limit}.h5"
        good("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--tags-only", "--max-pixels",
             limit, "-o", index)
        assert Shard(index).max_pixels == limit
    with pytest.raises(BadData, match=r"= 3072 pixels is over the limit of 3000; .* --max-pixels of wsss index"):
        ImageSource(Shard(tmp_path / "3000.h5")).image(NAME)
    assert ImageSource(Shard(tmp_path / "60000000.h5")).image(NAME).shape == (48, 64, 3)


def test_a_mask_that_changed_since_it_was_indexed(root, tmp_path):
    index = tmp_path / "i.h5"
    assert index_table(root, index).code == 0
    shard = Shard(index)
    items = [Item(name, {"mask": ImageSource(shard).mask(name)}) for name in shard.ids]
    write_shard(tmp_path / "masks.h5", Contents("masks", shard.classes, items, provenance=shard.provenance,
                                                index_digest=shard.digest, index_path="i.h5"))
    assert json.loads("\n".join(good("eval", tmp_path / "masks.h5", "--json")))["miou"] == 1
    mask(root).write_bytes(encoded(Image.new("L", (64, 48), 1), "PNG"))
    told = f"SegmentationClass/{NAME}.png: is not the mask that was indexed; index it again"
    refused(run("eval", tmp_path / "masks.h5"), 65, told)
    refused(run("train-seg", index, "--masks", "truth", *TRAINING, "-o", tmp_path / "n.safetensors"), 65, told)


def test_an_index_without_checksums_of_masks_is_read_as_before(root, tmp_path):
    assert index_table(root, tmp_path / "i.h5").code == 0
    shard = Shard(tmp_path / "i.h5")
    items = [Item(one.id, one.datasets, {key: value for key, value in one.attrs.items() if key != "mask_crc32"})
             for one in shard.items()]
    write_shard(tmp_path / "old.h5", Contents("index", shard.classes, items, provenance=shard.provenance,
                                              root_attrs={"root": shard.attribute("root")}))
    mask(root).write_bytes(encoded(Image.new("L", (64, 48), 1), "PNG"))
    assert (ImageSource(Shard(tmp_path / "old.h5")).mask(NAME) == 1).all()
    good("check", tmp_path / "old.h5")
