"""`show`, `export`, `info` and `check`: what people and other tools see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, copy_of, good, refused, run
from stages.data.masks import decode_mask
from stages.shards import Contents, Item, Run, Shard, write_shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return maps of the whole tiny set."""
    folder = tmp_path_factory.mktemp("look") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def masks(cams) -> Path:
    """Return pseudo masks, some pixels of which are ignored."""
    good("pseudo", cams, "--background", "two-thresholds:0.2,0.5", "-o", cams.parent / "masks")
    return cams.parent / "masks"


@pytest.fixture(scope="module")
def whole(cams) -> Path:
    """Return pseudo masks without ignored pixels."""
    good("pseudo", cams, "-o", cams.parent / "whole")
    return cams.parent / "whole"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_sheet_of_runs_side_by_side(cams, masks, tmp_path):
    output = tmp_path / "new" / "look.png"
    assert good("show", cams, masks, "--ids", "picture_002,picture_005", "--truth", "-o", output) == [str(output)]
    small = tmp_path / "small.png"
    good("show", cams, "--ids", "picture_002,picture_005", "-o", small)
    assert pixels(output).shape[1] > 1.8 * pixels(small).shape[1]
    assert np.ptp(pixels(output)) > 100


def test_columns_bear_the_titles_that_are_given(cams, masks, tiny_index, tmp_path):
    """The titles of the runs' names and the same titles given by hand make one picture, others another."""
    drawn = {}
    for name, more in (("default", ()), ("same", ("--titles", "cams,masks")), ("other", ("--titles", "base,ours"))):
        good("show", tiny_index, cams, masks, "--ids", "picture_002", *more, "-o", tmp_path / f"{name}.png")
        drawn[name] = pixels(tmp_path / f"{name}.png")
    assert (drawn["default"] == drawn["same"]).all()
    assert (drawn["default"][:40] != drawn["other"][:40]).any(), "the titles stand on top"
    assert (drawn["default"][60:] == drawn["other"][60:]).all(), "and nothing else differs"
    refused(run("show", cams, masks, "--titles", "base", "-o", tmp_path / "x.png"), 2, "--titles has 1 titles for 2")
    assert not (tmp_path / "x.png").exists()


def test_images_are_those_of_the_first_run(cams, tiny_index, tmp_path):
    """An index of some images before the runs chooses among these, and takes no column."""
    good("index", "split", tiny_index, "--multi", "-o", tmp_path / "multi.h5")
    ids = list(Run([tmp_path / "multi.h5"]).ids)
    done = run("show", tmp_path / "multi.h5", cams, "--count", 99, "--dry-run", "-o", tmp_path / "x.png")
    assert f"would draw {', '.join(ids)} to" in done.err
    assert 0 < len(ids) < len(list(Run([tiny_index]).ids))


def test_one_image_of_one_run_is_a_picture_of_its_size(cams, masks, tmp_path):
    shapes = {}
    for name, more in (("heat", ()), ("mask", ("--background", "constant:0.3"))):
        good("show", cams, "--ids", "picture_002", *more, "-o", tmp_path / f"{name}.png")
        shapes[name] = pixels(tmp_path / f"{name}.png")
    assert shapes["heat"].shape == shapes["mask"].shape == (48, 64, 3)
    assert (shapes["heat"] != shapes["mask"]).any()
    good("show", masks, "--ids", "picture_002", "-o", tmp_path / "masks.png")
    assert pixels(tmp_path / "masks.png").shape == (48, 64, 3)


def test_drawn_in_the_terminal(cams, tiny_index):
    for path in (cams, tiny_index):
        lines = good("show", path, "--terminal", "--columns", "20")
        assert all(line.count("\u2580") == 20 and line.endswith("\x1b[0m") for line in lines)
        assert len(lines) > 2


def test_show_needs_a_place_and_ids_that_are_there(cams, tmp_path):
    refused(run("show", cams), 2, "-o", "--terminal")
    refused(run("show", cams, "--ids", "nobody", "-o", tmp_path / "x.png"), 66, "nobody")
    refused(run("show", tmp_path / "none.h5", "--terminal"), 66, "none.h5")


def test_export_png_gives_class_ids_as_palette_indices(masks, tiny_folder, tmp_path):
    printed = good("export", "png", masks, "-o", tmp_path / "png")
    assert printed == [str(tmp_path / "png" / f"{name}.png") for name in tiny_folder.ids]
    good("export", "png", masks, "-o", tmp_path / "grey", "--no-palette")
    run_of = Run([masks])
    for name in tiny_folder.ids:
        expected = run_of.item(name).datasets["mask"]
        for folder, mode in (("png", "P"), ("grey", "L")):
            with Image.open(tmp_path / folder / f"{name}.png") as picture:
                assert picture.mode == mode
                np.testing.assert_array_equal(np.asarray(picture), expected)
    with Image.open(tmp_path / "png" / "picture_002.png") as picture:
        assert picture.getpalette()[3:6] == [128, 0, 0]
        assert picture.getpalette()[-3:] == [224, 224, 192]


def test_export_again_replaces_nothing_unasked(masks, whole, tmp_path):
    printed = good("export", "png", masks, "-o", tmp_path)
    assert good("export", "png", masks, "-o", tmp_path) == printed
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = run("export", "png", whole, "-o", tmp_path)
    assert done.code == 73
    assert "exists and differs" in done.err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    good("export", "png", whole, "-o", tmp_path, "--force")
    assert before != {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_export_voc_is_a_tree_that_index_reads_again(masks, tiny_folder, tmp_path):
    good("export", "voc", masks, "-o", tmp_path / "voc", "--split", "pseudo")
    assert (tmp_path / "voc/ImageSets/Segmentation/pseudo.txt").read_text().split() == list(tiny_folder.ids)
    assert (tmp_path / "voc/classes.txt").read_text().split() == list(tiny_folder.classes)
    good("index", "voc", tiny_folder.root, "--list", tmp_path / "voc/ImageSets/Segmentation/pseudo.txt", "--masks",
         tmp_path / "voc/SegmentationClass", "-o", tmp_path / "again.h5")
    data = (tmp_path / "voc/SegmentationClass/picture_002.png").read_bytes()
    mask = decode_mask(data, where="", n_classes=2)
    np.testing.assert_array_equal(mask, Run([masks]).item("picture_002").datasets["mask"])


def test_a_submission_has_the_servers_layout_and_no_ignored_pixel(masks, whole, tiny_folder, tmp_path):
    folder = tmp_path / "results/VOC2012/Segmentation/comp6_test_cls"
    assert good("export", "voc", whole, "--submission", "-o", tmp_path) == [
        str(folder / f"{name}.png") for name in tiny_folder.ids]
    refused(run("export", "voc", masks, "--submission", "-o", tmp_path / "no"), 65, "ignored pixels", "picture_")
    assert not (tmp_path / "no").exists(), "nothing is written of what the server would reject"


def test_a_submission_is_made_from_a_test_split_without_truth(tiny_folder, tmp_path):
    root = copy_of(tiny_folder, tmp_path / "voc")
    (root / "classes.txt").unlink()  # VOC's own classes
    shutil.rmtree(root / "SegmentationClass")
    (root / "labels.csv").unlink()
    (root / "ImageSets/Segmentation/test.txt").write_text("picture_004\npicture_001\n")
    good("index", "voc", root, "--split", "test", "-o", tmp_path / "test.h5")
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 20
    items = [Item(name, {"mask": mask}) for name in ("picture_004", "picture_001")]
    done = run("export", "voc", masks_of(tmp_path / "test.h5", items, tmp_path / "masks.h5"), "--submission", "-o",
               tmp_path / "upload", "--competition", "comp5")
    assert (done.code, done.err) == (0, "")
    folder = tmp_path / "upload/results/VOC2012/Segmentation/comp5_test_cls"
    assert {path.relative_to(tmp_path / "upload") for path in (tmp_path / "upload").rglob("*") if path.is_file()} == {
        folder.relative_to(tmp_path / "upload") / f"{name}.png" for name in ("picture_001", "picture_004")}
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (64, 48))
            assert picture.getpalette()[60:63] == [0, 64, 128], "VOC's colour of tvmonitor"
            np.testing.assert_array_equal(np.asarray(picture), mask)


def masks_of(index: Path, items: list[Item], path: Path) -> Path:
    """Write a shard of masks of an index."""
    shard = Shard(index)
    write_shard(path, Contents("masks", shard.classes, items, index_digest=shard.digest, index_path=index.name))
    return path


@pytest.mark.parametrize(("last", "told"), [
    (Item("picture_001", {"mask": np.zeros((48, 63), np.uint8)}), ("picture_001", "48x63", "48x64")),
    (Item("picture_001", {"mask": np.full((48, 64), 3, np.uint8)}), ("picture_001", "holds 3", "0..2")),
    (Item("picture_001", error="its photograph is broken"), ("1 of 2 images", "picture_001")),
    (None, ("1 of 2 images", "picture_001"))], ids=["another size", "no class", "failed", "missing"])
def test_a_submission_that_the_server_would_reject_is_not_written(tiny_folder, tmp_path, last, told):
    (tmp_path / "test.txt").write_text("picture_000\npicture_001\n")
    good("index", "voc", tiny_folder.root, "--list", tmp_path / "test.txt", "-o", tmp_path / "test.h5")
    first = Item("picture_000", {"mask": np.zeros((48, 64), np.uint8)})
    masks = masks_of(tmp_path / "test.h5", [first, *([last] if last else [])], tmp_path / "masks.h5")
    done = run("export", "voc", masks, "--submission", "-o", tmp_path / "upload")
    refused(done, 65, *told)
    assert "the VOC server scores the 20 classes of VOC" in done.err
    assert not (tmp_path / "upload").exists()


def test_export_takes_masks_only(cams, tmp_path):
    refused(run("export", "png", cams, "-o", tmp_path / "png"), 65, "holds cams, not masks")


def test_a_dry_run_of_export_writes_nothing(masks, tmp_path):
    done = run("export", "png", masks, "-o", tmp_path / "png", "-n")
    assert (done.code, done.out) == (0, "")
    assert not (tmp_path / "png").exists()


def test_a_dry_run_of_export_voc_writes_nothing(masks, tmp_path):
    assert run("export", "voc", masks, "-o", tmp_path / "voc", "-n").out == ""
    assert not (tmp_path / "voc").exists()


def test_info_tells_how_a_file_was_made(masks, tiny_net):
    described = json.loads("\n".join(good("info", masks, tiny_net, "--json")))
    assert [one["path"] for one in described] == [str(masks / "masks-00000-of-00001.h5"), str(tiny_net)]
    assert [entry["stage"] for entry in described[0]["provenance"]] == ["index", "cams", "pseudo"]
    assert described[0]["provenance"][-1]["config"]["background"]["rule"] == "two-thresholds:0.2,0.5"
    rows = [line.split("\t") for line in good("info", masks)]
    assert rows[0] == ["path", "key", "value"]
    assert all(len(row) == 3 for row in rows)
    assert [row[1] for row in rows[-3:]] == ["index table", "cams cnn", "pseudo"]


def test_check_finds_good_files_good(masks, tiny_index, tiny_net):
    lines = good("check", masks, tiny_index, tiny_net)
    assert [line.split("\t")[1] for line in lines] == ["good", "good", "good"]


def test_looking_needs_something_to_look_at(wsss):
    refused(wsss("info"), 2, "FILE is missing")
