"""`export`, `info` and `check`: output for people and other tools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, check_error, copy_dataset, list_messages, run, run_ok
from stages.data.masks import decode_mask
from stages.shards import Item, Run, Shard, ShardContents, write_shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return CAMs of the whole tiny set."""
    folder = tmp_path_factory.mktemp("look") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def masks(cams) -> Path:
    """Return pseudo masks with some ignored pixels."""
    run_ok("pseudo", cams, "--background", "two-thresholds:0.2,0.5", "-o", cams.parent / "masks")
    return cams.parent / "masks"


@pytest.fixture(scope="module")
def whole(cams) -> Path:
    """Return pseudo masks without ignored pixels."""
    run_ok("pseudo", cams, "-o", cams.parent / "whole")
    return cams.parent / "whole"


def test_export_png_writes_class_ids_as_palette_indices(masks, tiny_dataset, tmp_path):
    paths = run_ok("export", "png", masks, "-o", tmp_path / "png")
    names = [*(f"{name}.png" for name in tiny_dataset.ids), "labelmap.txt"]
    assert paths == [str(tmp_path / "png" / name) for name in names]
    run_ok("export", "png", masks, "-o", tmp_path / "grey", "--no-palette")
    mask_run = Run([masks])
    for name in tiny_dataset.ids:
        expected = mask_run.item(name).datasets["mask"]
        for folder, mode in (("png", "P"), ("grey", "L")):
            with Image.open(tmp_path / folder / f"{name}.png") as picture:
                assert picture.mode == mode
                np.testing.assert_array_equal(np.asarray(picture), expected)
    with Image.open(tmp_path / "png" / "picture_002.png") as picture:
        assert picture.getpalette()[3:6] == [128, 0, 0]
        assert picture.getpalette()[-3:] == [224, 224, 192]


def test_export_replaces_files_only_with_force(masks, whole, tmp_path):
    paths = run_ok("export", "png", masks, "-o", tmp_path)
    assert run_ok("export", "png", masks, "-o", tmp_path) == paths
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = run("export", "png", whole, "-o", tmp_path)
    assert done.code == 73
    assert "already exists with different contents" in done.err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    run_ok("export", "png", whole, "-o", tmp_path, "--force")
    assert before != {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_index_reads_the_tree_of_export_voc(masks, tiny_dataset, tmp_path):
    run_ok("export", "voc", masks, "-o", tmp_path / "voc", "--split", "pseudo")
    assert (tmp_path / "voc/ImageSets/Segmentation/pseudo.txt").read_text().split() == list(tiny_dataset.ids)
    assert (tmp_path / "voc/classes.txt").read_text().split() == list(tiny_dataset.classes)
    run_ok("index", "voc", tiny_dataset.root, "--list", tmp_path / "voc/ImageSets/Segmentation/pseudo.txt", "--masks",
         tmp_path / "voc/SegmentationClass", "-o", tmp_path / "again.h5")
    data = (tmp_path / "voc/SegmentationClass/picture_002.png").read_bytes()
    mask = decode_mask(data, where="", num_classes=2)
    np.testing.assert_array_equal(mask, Run([masks]).item("picture_002").datasets["mask"])


def test_a_submission_has_the_layout_of_the_server_and_no_ignored_pixels(masks, whole, tiny_dataset, tmp_path):
    folder = tmp_path / "results/VOC2012/Segmentation/comp6_test_cls"
    assert run_ok("export", "voc", whole, "--submission", "-o", tmp_path) == [
        str(folder / f"{name}.png") for name in tiny_dataset.ids]
    check_error(run("export", "voc", masks, "--submission", "-o", tmp_path / "no"), 65, "ignored pixels", "picture_")
    assert not (tmp_path / "no").exists(), "nothing is written if the server would reject it"


def test_a_submission_works_for_a_test_split_without_ground_truth(tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "voc")
    (root / "classes.txt").unlink()  # VOC's own classes
    shutil.rmtree(root / "SegmentationClass")
    (root / "labels.csv").unlink()
    (root / "ImageSets/Segmentation/test.txt").write_text("picture_004\npicture_001\n")
    run_ok("index", "voc", root, "--split", "test", "-o", tmp_path / "test.h5")
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 20
    items = [Item(name, {"mask": mask}) for name in ("picture_004", "picture_001")]
    done = run("export", "voc", write_masks(tmp_path / "test.h5", items, tmp_path / "masks.h5"), "--submission", "-o",
               tmp_path / "upload", "--competition", "comp5")
    assert done.code == 0 and not list_messages(done)
    folder = tmp_path / "upload/results/VOC2012/Segmentation/comp5_test_cls"
    assert {path.relative_to(tmp_path / "upload") for path in (tmp_path / "upload").rglob("*") if path.is_file()} == {
        folder.relative_to(tmp_path / "upload") / f"{name}.png" for name in ("picture_001", "picture_004")}
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (64, 48))
            assert picture.getpalette()[60:63] == [0, 64, 128], "VOC's colour of tvmonitor"
            np.testing.assert_array_equal(np.asarray(picture), mask)


def write_masks(index: Path, items: list[Item], path: Path) -> Path:
    """Write a shard of masks for an index."""
    shard = Shard(index)
    write_shard(path, ShardContents("masks", shard.classes, items, index_digest=shard.digest, index_path=index.name))
    return path


@pytest.mark.parametrize(("last", "messages"), [
    (Item("picture_001", {"mask": np.zeros((48, 63), np.uint8)}), ("picture_001", "48x63", "48x64")),
    (Item("picture_001", {"mask": np.full((48, 64), 3, np.uint8)}), ("picture_001", "contains class 3", "0..2")),
    (Item("picture_001", error="its photograph is broken"), ("1 of 2 images", "picture_001")),
    (None, ("1 of 2 images", "picture_001"))], ids=["another size", "no class", "failed", "missing"])
def test_a_submission_that_the_server_would_reject_is_not_written(tiny_dataset, tmp_path, last, messages):
    (tmp_path / "test.txt").write_text("picture_000\npicture_001\n")
    run_ok("index", "voc", tiny_dataset.root, "--list", tmp_path / "test.txt", "-o", tmp_path / "test.h5")
    first = Item("picture_000", {"mask": np.zeros((48, 64), np.uint8)})
    masks = write_masks(tmp_path / "test.h5", [first, *([last] if last else [])], tmp_path / "masks.h5")
    done = run("export", "voc", masks, "--submission", "-o", tmp_path / "upload")
    check_error(done, 65, *messages)
    assert "VOC server scores the 20 classes of VOC" in done.err
    assert not (tmp_path / "upload").exists()


def test_export_accepts_masks_only(cams, tmp_path):
    check_error(run("export", "png", cams, "-o", tmp_path / "png"), 65, "holds cams, not masks")


def test_a_dry_run_of_export_writes_nothing(masks, tmp_path):
    done = run("export", "png", masks, "-o", tmp_path / "png", "-n")
    assert (done.code, done.out) == (0, "")
    assert not (tmp_path / "png").exists()


def test_a_dry_run_of_export_voc_writes_nothing(masks, tmp_path):
    assert run("export", "voc", masks, "-o", tmp_path / "voc", "-n").out == ""
    assert not (tmp_path / "voc").exists()


def test_info_prints_the_provenance(masks, tiny_net):
    descriptions = json.loads("\n".join(run_ok("info", masks, tiny_net, "--json")))
    paths = [description["path"] for description in descriptions]
    assert paths == [str(masks / "masks-00000-of-00001.h5"), str(tiny_net)]
    assert [entry["stage"] for entry in descriptions[0]["provenance"]] == ["index", "cams", "pseudo"]
    assert descriptions[0]["provenance"][-1]["config"]["background"]["rule"] == "two-thresholds:0.2,0.5"
    rows = [line.split("\t") for line in run_ok("info", masks)]
    assert rows[0] == ["path", "key", "value"]
    assert all(len(row) == 3 for row in rows)
    assert [row[1] for row in rows[-3:]] == ["index table", "cams cnn", "pseudo"]


def test_check_reports_good_files(masks, tiny_index, tiny_net):
    lines = run_ok("check", masks, tiny_index, tiny_net)
    assert [line.split("\t")[1] for line in lines] == ["good", "good", "good"]


def test_info_needs_a_file(wsss):
    check_error(wsss("info"), 2, "FILE is missing")
