"""`wsss index`: all layouts, packed indexes and indexes in shards, and the stages that read them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, check_error, copy_dataset, index_table, run, run_ok
from stages.data.image_source import ImageSource
from stages.shards import Run, Shard
from tiny_datasets import draw_image, save_mask


def read_last_provenance_entry(path) -> dict:
    return Shard(path).provenance[-1]


def read_labels(path) -> dict[str, list[int] | None]:
    """Return the class ids of every image of an index (None: unknown)."""
    source = ImageSource(Shard(path))
    return {item_id: None if source.read_labels(item_id) is None else list(source.read_labels(item_id))
            for item_id in source.index.ids}


def get_expected_labels(folder) -> dict[str, list[int]]:
    return {item_id: list(ids) for item_id, ids in zip(folder.ids, folder.labels, strict=True)}


@pytest.fixture
def voc(tiny_dataset, tmp_path):
    return copy_dataset(tiny_dataset, tmp_path / "voc")


def write_annotations(root, folder) -> None:
    (root / "Annotations").mkdir()
    for name, ids in zip(folder.ids, folder.labels, strict=True):
        objects = "".join(f"<object><name>{folder.classes[class_id]}</name><difficult>1</difficult></object>"
                          for class_id in ids)
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")


def test_a_table_is_indexed_with_images_tags_and_masks(tiny_dataset, tiny_index):
    shard = Shard(tiny_index, "index")
    assert shard.ids == tiny_dataset.ids
    assert shard.classes == tiny_dataset.classes
    assert read_labels(tiny_index) == get_expected_labels(tiny_dataset)
    assert read_last_provenance_entry(tiny_index)["config"]["supervision"] == "tags"
    source = ImageSource(shard)
    assert source.read_size(tiny_dataset.ids[0]) == source.read_mask(tiny_dataset.ids[0]).shape == (48, 64)
    assert str(tiny_dataset.root) not in (tiny_index.read_bytes()).decode("latin1")


def format_table(folder, kind: str) -> str:
    rows = [(name, [folder.classes[class_id] for class_id in ids])
            for name, ids in zip(folder.ids, folder.labels, strict=True)]
    if kind == "jsonl":
        return "".join(json.dumps({"id": name, "tags": tags}) + "\n" for name, tags in rows)
    if kind == "path.csv":
        return "path,classes,caption\r\n" + "".join(f'{n}.jpg,"{",".join(t)}",a {t[0]}\r\n' for n, t in rows)
    return "id\ttags\n" + "".join(f"{name}\t{'|'.join(tags)}\n" for name, tags in rows)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "path.csv"])
def test_all_table_formats_give_the_same_index(tiny_dataset, voc, tmp_path, kind):
    table = tmp_path / f"tags.{kind}"
    table.write_bytes(b"\xef\xbb\xbf" + format_table(tiny_dataset, kind).encode())
    output = tmp_path / "index.h5"
    assert run_ok("index", "table", table, "--images", voc / "JPEGImages", "-o", output) == [str(output)]
    assert read_labels(output) == get_expected_labels(tiny_dataset)
    assert Shard(output).classes == tiny_dataset.classes


def test_a_voc_split_has_tags_from_its_annotations(tiny_dataset, voc, tmp_path):
    write_annotations(voc, tiny_dataset)
    output = tmp_path / "index.h5"
    run_ok("index", "voc", voc, "--split", "train", "-o", output)
    assert read_labels(output) == get_expected_labels(tiny_dataset)
    assert all(ImageSource(Shard(output)).has_mask(item_id) for item_id in tiny_dataset.ids)


def test_a_voc_list_with_masks_in_another_folder_and_a_table_of_tags(tiny_dataset, voc, tmp_path):
    shutil.move(voc / "SegmentationClass", tmp_path / "masks" / "of")
    (tmp_path / "list.txt").write_text("\n".join(tiny_dataset.ids[3:6]))
    output = tmp_path / "index.h5"
    run_ok("index", "voc", voc, "--list", tmp_path / "list.txt", "--masks", tmp_path / "masks" / "of", "--labels",
         voc / "labels.csv", "-o", output)
    expected = get_expected_labels(tiny_dataset)
    assert read_labels(output) == {item_id: expected[item_id] for item_id in tiny_dataset.ids[3:6]}
    assert ImageSource(Shard(output)).read_mask(tiny_dataset.ids[3]).shape == (48, 64)


def test_tags_are_read_from_masks_only_on_request_and_this_is_recorded(tiny_dataset, voc, tmp_path):
    unknown = run("index", "voc", voc, "--split", "train", "-o", tmp_path / "unknown.h5")
    assert unknown.code == 0
    assert "unknown" in unknown.err
    assert set(read_labels(tmp_path / "unknown.h5").values()) == {None}
    leak = run("index", "voc", voc, "--split", "train", "--labels-from-masks", "-o", tmp_path / "leak.h5")
    assert "ground truth supervises" in leak.err
    assert read_labels(tmp_path / "leak.h5") == get_expected_labels(tiny_dataset)
    assert read_last_provenance_entry(tmp_path / "leak.h5")["config"]["supervision"] == "masks"
    assert read_last_provenance_entry(tmp_path / "unknown.h5")["config"]["supervision"] == "none"


def test_a_test_split_has_no_masks(voc, tiny_net, tmp_path):
    shutil.rmtree(voc / "SegmentationClass")
    (voc / "ImageSets/Segmentation/test.txt").write_text("picture_001\npicture_004\n")
    output = tmp_path / "test.h5"
    run_ok("index", "voc", voc, "--split", "test", "-o", output)
    source = ImageSource(Shard(output))
    assert source.index.ids == ("picture_001", "picture_004")
    assert not source.has_mask("picture_001")
    run_ok("cams", "cnn", output, "--net", tiny_net, "--tags", "all", "-o", tmp_path / "cams", *SMALL)
    check_error(run("eval", tmp_path / "cams"), 66, "no ground-truth masks", str(output))


def test_coco_instances_captions_and_masks(tiny_dataset, tiny_index, voc, tmp_path):
    images = [{"id": 7 + n, "file_name": f"{name}.jpg"} for n, name in enumerate(tiny_dataset.ids)]
    boxes = [{"image_id": 7 + n, "category_id": 10 * class_id} for n, ids in enumerate(tiny_dataset.labels)
             for class_id in ids]
    categories = [{"id": 20, "name": "dog"}, {"id": 10, "name": "cat"}]
    captions = [{"image_id": 7, "caption": "a red cat"}, {"image_id": 7, "caption": "a cat,\n striped"}]
    (tmp_path / "i.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": captions}))
    output = tmp_path / "coco.h5"
    run_ok("index", "coco", tmp_path / "i.json", "--images", voc / "JPEGImages", "--captions", tmp_path / "c.json",
         "-o", output)
    assert read_labels(output) == get_expected_labels(tiny_dataset)
    assert Shard(output).classes == ("background", "cat", "dog")
    assert Shard(output).item("picture_000").datasets["captions"].tolist() == [b"a red cat", b"a cat, striped"]
    assert not ImageSource(Shard(output)).has_mask("picture_000")
    run_ok("index", "coco", tmp_path / "i.json", "--images", voc / "JPEGImages", "--masks", voc / "SegmentationClass",
         "-o", tmp_path / "scored.h5")
    scored, table = ImageSource(Shard(tmp_path / "scored.h5")), ImageSource(Shard(tiny_index))
    for name in tiny_dataset.ids:
        np.testing.assert_array_equal(scored.read_mask(name), table.read_mask(name))


def test_a_folder_per_class_gives_tags(tiny_dataset, voc, tmp_path):
    for name, ids in zip(tiny_dataset.ids, tiny_dataset.labels, strict=True):
        folder = tmp_path / "photos" / tiny_dataset.classes[ids[0]]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(voc / "JPEGImages" / f"{name}.jpg", folder)
    shutil.copy(voc / "JPEGImages" / "picture_000.jpg", tmp_path / "photos" / "beside.jpg")
    output = tmp_path / "folder.h5"
    run_ok("index", "folder", tmp_path / "photos", "-o", output)
    labels = read_labels(output)
    assert labels.pop("beside") is None
    assert labels == {f"{tiny_dataset.classes[ids[0]]}/{name}": [ids[0]]
                     for name, ids in zip(tiny_dataset.ids, tiny_dataset.labels, strict=True)}


def test_a_packed_index_works_without_its_image_files(tiny_dataset, voc, tiny_index, tiny_net, tmp_path):
    assert index_table(voc, tmp_path / "packed.h5", "--pack").code == 0
    elsewhere = tmp_path / "node" / "packed.h5"
    elsewhere.parent.mkdir()
    shutil.move(tmp_path / "packed.h5", elsewhere)
    shutil.rmtree(voc)
    run_ok("cams", "cnn", elsewhere, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    run_ok("refine", "crf", tmp_path / "cams", "-o", tmp_path / "crf")
    run_ok("eval", tmp_path / "crf")
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "same", *SMALL)
    packed, plain = (Run([tmp_path / name], "cams") for name in ("cams", "same"))
    for item_id in tiny_dataset.ids:
        np.testing.assert_array_equal(packed.item(item_id).datasets["cam"], plain.item(item_id).datasets["cam"])


def test_tags_only_opens_no_images(voc, tmp_path):
    for path in (voc / "JPEGImages").iterdir():
        path.write_bytes(b"")
    output = tmp_path / "tags.h5"
    assert index_table(voc, output, "--tags-only").code == 0
    assert set(Shard(output).item("picture_000").attrs) == {"path", "mask_path"}
    assert not Shard(output).errors


def test_every_index_shard_gives_one_output_shard(tiny_dataset, voc, tiny_net, tmp_path):
    assert index_table(voc, tmp_path / "train", "--shard-size", "5").code == 0
    names = [f"index-0000{part}-of-00003.h5" for part in range(3)]
    assert sorted(path.name for path in (tmp_path / "train").glob("*.h5")) == names
    paths = run_ok("cams", "cnn", tmp_path / "train", "--net", tiny_net, "-o", tmp_path / "cams", "-j", "1",
                   "--shard-size", "2", *SMALL)
    assert paths == [str(tmp_path / "cams" / f"cams-0000{part}-of-00003.h5") for part in range(3)]
    for name, output_path in zip(names, paths, strict=True):
        assert Shard(tmp_path / "train" / name).ids == Shard(output_path).ids
    result = json.loads("\n".join(run_ok("eval", tmp_path / "cams", "--json")))
    assert (result["images"], result["missing"]) == (len(tiny_dataset.ids), 0)


def test_the_same_index_is_up_to_date_and_a_different_one_is_not_overwritten(voc, tmp_path):
    output = tmp_path / "index.h5"
    assert index_table(voc, output).code == 0
    before = output.read_bytes()
    again = index_table(voc, output)
    assert (again.code, again.out) == (0, f"{output}\n")
    check_error(index_table(voc, output, "--pack"), 73, str(output), "pack", "--force")
    (voc / "labels.csv").write_text((voc / "labels.csv").read_text().replace("picture_000,cat", "picture_000,dog"))
    check_error(index_table(voc, output), 73, str(output), "--force")
    assert output.read_bytes() == before
    assert index_table(voc, output, "--force").code == 0
    assert read_labels(output)["picture_000"] == [2]


def test_a_dry_run_writes_nothing(voc, tmp_path):
    done = index_table(voc, tmp_path / "index.h5", "-n")
    assert (done.code, done.out) == (0, "")
    assert "12 images of 2 classes" in done.err
    assert not (tmp_path / "index.h5").exists()


def test_a_data_set_without_a_background_class(tmp_path, tiny_net):
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    image, mask = draw_image((32, 32), (1,), random)
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    save_mask(mask, tmp_path / "masks" / "a.png")
    (tmp_path / "names.txt").write_text("void\ncat\n")
    (tmp_path / "tags.csv").write_text("id,tags\na,cat\n")
    run_ok("index", "table", tmp_path / "tags.csv", "--images", tmp_path / "images", "--masks", tmp_path / "masks",
         "--class-names", tmp_path / "names.txt", "-o", tmp_path / "i.h5")
    source = ImageSource(Shard(tmp_path / "i.h5"))
    assert source.classes == ("", "cat")
    assert set(np.unique(source.read_mask("a")).tolist()) == {1, 255}
    check_error(run("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "c", *SMALL), 65, "classes")
