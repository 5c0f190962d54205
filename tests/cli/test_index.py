"""`wsss index`: every layout, packed and in parts, and the stages that read it afterwards."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, copy_of, good, index_table, refused, run
from pictures import draw, save_mask
from stages.data.source import ImageSource
from stages.shards import Run, Shard


def entry(path) -> dict:
    return Shard(path).provenance[-1]


def labels(path) -> dict[str, list[int] | None]:
    """Return the tags of every image of an index."""
    source = ImageSource(Shard(path))
    return {one: None if source.labels(one) is None else list(source.labels(one)) for one in source.index.ids}


def wanted(folder) -> dict[str, list[int]]:
    return {one: list(ids) for one, ids in zip(folder.ids, folder.labels, strict=True)}


@pytest.fixture
def voc(tiny_folder, tmp_path):
    return copy_of(tiny_folder, tmp_path / "voc")


def write_xml(root, folder) -> None:
    (root / "Annotations").mkdir()
    for name, ids in zip(folder.ids, folder.labels, strict=True):
        objects = "".join(f"<object><name>{folder.classes[one]}</name><difficult>1</difficult></object>" for one in ids)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def test_a_table_gives_images_tags_and_masks(tiny_folder, tiny_index):
    shard = Shard(tiny_index, "index")
    assert shard.ids == tiny_folder.ids
    assert shard.classes == tiny_folder.classes
    assert labels(tiny_index) == wanted(tiny_folder)
    assert entry(tiny_index)["config"]["supervision"] == "tags"
    source = ImageSource(shard)
    assert source.size(tiny_folder.ids[0]) == source.mask(tiny_folder.ids[0]).shape == (48, 64)
    assert str(tiny_folder.root) not in (tiny_index.read_bytes()).decode("latin1")


def table_text(folder, kind: str) -> str:
    rows = [(name, [folder.classes[one] for one in ids]) for name, ids in zip(folder.ids, folder.labels, strict=True)]
    if kind == "jsonl":
        return "".join(json.dumps({"id": name, "tags": tags}) + "\n" for name, tags in rows)
    if kind == "path.csv":
        return "path,classes,caption\r\n" + "".join(f'{n}.jpg,"{",".join(t)}",a {t[0]}\r\n' for n, t in rows)
    return "id\ttags\n" + "".join(f"{name}\t{'|'.join(tags)}\n" for name, tags in rows)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "path.csv"])
def test_tables_of_every_kind_say_the_same(tiny_folder, voc, tmp_path, kind):
    table = tmp_path / f"tags.{kind}"
    table.write_bytes(b"\xef\xbb\xbf" + table_text(tiny_folder, kind).encode())
    output = tmp_path / "index.h5"
    assert good("index", "table", table, "--images", voc / "JPEGImages", "-o", output) == [str(output)]
    assert labels(output) == wanted(tiny_folder)
    assert Shard(output).classes == tiny_folder.classes


def test_a_voc_tree_by_split_with_tags_from_its_annotations(tiny_folder, voc, tmp_path):
    write_xml(voc, tiny_folder)
    output = tmp_path / "index.h5"
    good("index", "voc", voc, "--split", "train", "-o", output)
    assert labels(output) == wanted(tiny_folder)
    assert all(ImageSource(Shard(output)).has_mask(one) for one in tiny_folder.ids)


def test_a_voc_tree_by_list_with_masks_elsewhere_and_a_table(tiny_folder, voc, tmp_path):
    shutil.move(voc / "SegmentationClass", tmp_path / "masks" / "of")
    (tmp_path / "list.txt").write_text("\n".join(tiny_folder.ids[3:6]))
    output = tmp_path / "index.h5"
    good("index", "voc", voc, "--list", tmp_path / "list.txt", "--masks", tmp_path / "masks" / "of", "--labels",
         voc / "labels.csv", "-o", output)
    assert labels(output) == {one: wanted(tiny_folder)[one] for one in tiny_folder.ids[3:6]}
    assert ImageSource(Shard(output)).mask(tiny_folder.ids[3]).shape == (48, 64)


def test_tags_from_masks_must_be_asked_for_and_are_recorded(tiny_folder, voc, tmp_path):
    unknown = run("index", "voc", voc, "--split", "train", "-o", tmp_path / "unknown.h5")
    assert unknown.code == 0
    assert "unknown" in unknown.err
    assert set(labels(tmp_path / "unknown.h5").values()) == {None}
    leak = run("index", "voc", voc, "--split", "train", "--labels-from-masks", "-o", tmp_path / "leak.h5")
    assert "ground truth supervises" in leak.err
    assert labels(tmp_path / "leak.h5") == wanted(tiny_folder)
    assert entry(tmp_path / "leak.h5")["config"]["supervision"] == "masks"
    assert entry(tmp_path / "unknown.h5")["config"]["supervision"] == "none"


def test_a_test_split_has_no_masks(voc, tiny_net, tmp_path):
    shutil.rmtree(voc / "SegmentationClass")
    (voc / "ImageSets/Segmentation/test.txt").write_text("picture_001\npicture_004\n")
    output = tmp_path / "test.h5"
    good("index", "voc", voc, "--split", "test", "-o", output)
    source = ImageSource(Shard(output))
    assert source.index.ids == ("picture_001", "picture_004")
    assert not source.has_mask("picture_001")
    good("cams", "cnn", output, "--net", tiny_net, "--tags", "all", "-o", tmp_path / "cams", *SMALL)
    refused(run("eval", tmp_path / "cams"), 66, "no masks", str(output))


def test_coco_instances_and_captions(tiny_folder, tiny_index, voc, tmp_path):
    images = [{"id": 7 + n, "file_name": f"{name}.jpg"} for n, name in enumerate(tiny_folder.ids)]
    boxes = [{"image_id": 7 + n, "category_id": 10 * one} for n, ids in enumerate(tiny_folder.labels) for one in ids]
    categories = [{"id": 20, "name": "dog"}, {"id": 10, "name": "cat"}]
    captions = [{"image_id": 7, "caption": "a red cat"}, {"image_id": 7, "caption": "a cat,\n striped"}]
    (tmp_path / "i.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
    output = tmp_path / "coco.h5"
    good("index", "coco", tmp_path / "i.json", "--images", voc / "JPEGImages", "--captions", tmp_path / "c.json",
         "-o", output)
    assert labels(output) == wanted(tiny_folder)
    assert Shard(output).classes == ("background", "cat", "dog")
    assert Shard(output).item("picture_000").datasets["captions"].tolist() == [b"a red cat", b"a cat, striped"]
    assert not ImageSource(Shard(output)).has_mask("picture_000")
    good("index", "coco", tmp_path / "i.json", "--images", voc / "JPEGImages", "--masks", voc / "SegmentationClass",
         "-o", tmp_path / "scored.h5")
    scored, table = ImageSource(Shard(tmp_path / "scored.h5")), ImageSource(Shard(tiny_index))
    for name in tiny_folder.ids:
        np.testing.assert_array_equal(scored.mask(name), table.mask(name))


def test_a_folder_per_class(tiny_folder, voc, tmp_path):
    for name, ids in zip(tiny_folder.ids, tiny_folder.labels, strict=True):
        place = tmp_path / "photos" / tiny_folder.classes[ids[0]]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(voc / "JPEGImages" / f"{name}.jpg", place)
    shutil.copy(voc / "JPEGImages" / "picture_000.jpg", tmp_path / "photos" / "beside.jpg")
    output = tmp_path / "folder.h5"
    good("index", "folder", tmp_path / "photos", "-o", output)
    found = labels(output)
    assert found.pop("beside") is None
    assert found == {f"{tiny_folder.classes[ids[0]]}/{name}": [ids[0]]
                     for name, ids in zip(tiny_folder.ids, tiny_folder.labels, strict=True)}


def test_a_packed_index_travels_without_its_images(tiny_folder, voc, tiny_index, tiny_net, tmp_path):
    assert index_table(voc, tmp_path / "packed.h5", "--pack").code == 0
    elsewhere = tmp_path / "node" / "packed.h5"
    elsewhere.parent.mkdir()
    shutil.move(tmp_path / "packed.h5", elsewhere)
    shutil.rmtree(voc)
    good("cams", "cnn", elsewhere, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    good("refine", "crf", tmp_path / "cams", "-o", tmp_path / "crf")
    good("eval", tmp_path / "crf")
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "same", *SMALL)
    packed, plain = (Run([tmp_path / name], "cams") for name in ("cams", "same"))
    for one in tiny_folder.ids:
        np.testing.assert_array_equal(packed.item(one).datasets["cam"], plain.item(one).datasets["cam"])


def test_tags_only_opens_no_image(voc, tmp_path):
    for path in (voc / "JPEGImages").iterdir():
        path.write_bytes(b"")
    output = tmp_path / "tags.h5"
    assert index_table(voc, output, "--tags-only").code == 0
    assert set(Shard(output).item("picture_000").attrs) == {"path", "mask_path"}
    assert not Shard(output).errors


def test_parts_are_worked_one_for_one(tiny_folder, voc, tiny_net, tmp_path):
    assert index_table(voc, tmp_path / "train", "--shard-size", "5").code == 0
    names = [f"index-0000{part}-of-00003.h5" for part in range(3)]
    assert sorted(path.name for path in (tmp_path / "train").glob("*.h5")) == names
    printed = good("cams", "cnn", tmp_path / "train", "--net", tiny_net, "-o", tmp_path / "cams", "-j", "1",
                   "--shard-size", "2", *SMALL)
    assert printed == [str(tmp_path / "cams" / f"cams-0000{part}-of-00003.h5") for part in range(3)]
    for name, made in zip(names, printed, strict=True):
        assert Shard(tmp_path / "train" / name).ids == Shard(made).ids
    json_of = json.loads("\n".join(good("eval", tmp_path / "cams", "--json")))
    assert (json_of["images"], json_of["missing"]) == (len(tiny_folder.ids), 0)


def test_the_same_index_again_is_up_to_date_and_another_is_not_overwritten(voc, tmp_path):
    output = tmp_path / "index.h5"
    assert index_table(voc, output).code == 0
    before = output.read_bytes()
    again = index_table(voc, output)
    assert (again.code, again.out) == (0, f"{output}\n")
    refused(index_table(voc, output, "--pack"), 73, str(output), "pack", "--force")
    (voc / "labels.csv").write_text((voc / "labels.csv").read_text().replace("picture_000,cat", "picture_000,dog"))
    refused(index_table(voc, output), 73, str(output), "--force")
    assert output.read_bytes() == before
    assert index_table(voc, output, "--force").code == 0
    assert labels(output)["picture_000"] == [2]


def test_a_dry_run_writes_nothing(voc, tmp_path):
    done = index_table(voc, tmp_path / "index.h5", "-n")
    assert (done.code, done.out) == (0, "")
    assert "12 images of 2 classes" in done.err
    assert not (tmp_path / "index.h5").exists()


def test_a_data_set_without_background(tmp_path, tiny_net):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    image, mask = draw((32, 32), (1,), random)
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    save_mask(mask, tmp_path / "masks" / "a.png")
    (tmp_path / "names.txt").write_text("void\ncat\n")
    (tmp_path / "tags.csv").write_text("id,tags\na,cat\n")
    good("index", "table", tmp_path / "tags.csv", "--images", tmp_path / "images", "--masks", tmp_path / "masks",
         "--class-names", tmp_path / "names.txt", "-o", tmp_path / "i.h5")
    source = ImageSource(Shard(tmp_path / "i.h5"))
    assert source.classes == ("", "cat")
    assert set(np.unique(source.mask("a")).tolist()) == {1, 255}
    refused(run("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "c", *SMALL), 65, "classes")
