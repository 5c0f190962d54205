"""Data sets, masks and regions of other tools, in Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsss
from cli.runner import run_ok
from wsss_api.tables import build_rows, list_columns

SIZE = (48, 64)


@pytest.fixture(scope="module")
def annotations(folder, tmp_path_factory) -> Path:
    """Return a COCO file of two images: a rectangle of dog in the first, only a box in the second."""
    path = tmp_path_factory.mktemp("coco") / "coco.json"
    path.write_text(json.dumps({
        "images": [{"id": number, "file_name": f"picture_00{number}.jpg", "height": 48, "width": 64}
                   for number in range(2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {"image_id": 0, "category_id": 7, "segmentation": [[4, 2, 40, 2, 40, 30, 4, 30]], "bbox": [4, 2, 36, 28]},
            {"image_id": 1, "category_id": 3, "bbox": [4, 2, 36, 28]}]}))
    return path


def test_the_value_of_an_index_is_its_summary(inside, annotations, tmp_path):
    result = wsss.index.coco(annotations, images="set/JPEGImages", output=tmp_path / "coco.h5",
                             summary_json=tmp_path / "python.json")
    run_ok("index", "coco", annotations, "--images", "set/JPEGImages", "-o", tmp_path / "again.h5",
           "--summary-json", tmp_path / "command.json", "-q")
    assert result.path.read_bytes() == (tmp_path / "again.h5").read_bytes()
    assert result.value == json.loads((tmp_path / "command.json").read_text())
    assert (tmp_path / "python.json").read_bytes() == (tmp_path / "command.json").read_bytes()
    assert result.value["class_images"] == {"cat": 1, "dog": 1} and result.value["masks"] == 1
    assert result.value["pixel_shares"]["dog"] == pytest.approx(36 * 28 / (48 * 64), abs=1e-6)
    again = wsss.index.coco(annotations, images="set/JPEGImages", output=tmp_path / "coco.h5")
    assert again.num_up_to_date == 1 and again.value == result.value
    with pytest.raises(wsss.UsageError, match=r"summary_json .*coco\.h5 is the name of a shard"):
        wsss.index.coco(annotations, images="set/JPEGImages", output=tmp_path / "c.h5", summary_json=result.path)


def test_masks_that_were_drawn_from_outlines(inside, annotations, tmp_path):
    index = wsss.index.coco(annotations, images="set/JPEGImages", output=tmp_path / "coco.h5")
    run = wsss.open_run(index, "index")
    expected = np.zeros(SIZE, np.uint8)
    expected[2:30, 4:40] = 2
    assert [(item.has_mask, item.mask_path, item.tags) for item in run] == [(True, None, ("dog",)),
                                                                            (False, None, ("cat",))]
    assert [row[-1] for row in build_rows(run)] == [True, False]
    np.testing.assert_array_equal(run.read_truth("picture_000"), expected, strict=True)
    with pytest.raises(wsss.BadData, match="has no mask of this image"):
        run.read_truth("picture_001")
    dataset = wsss.torch_dataset(index, truth=True)
    assert dataset.ids == ("picture_000",)
    np.testing.assert_array_equal(dataset[0]["mask"].numpy(), expected)
    exported = wsss.export.png(index, output=tmp_path / "png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "png" / "picture_000.png")), expected)
    assert exported.num_images == 2 and "1 images of the index that have no ground truth" in " ".join(exported.messages)


def test_imported_masks_are_those_of_the_command(inside, tmp_path):
    result = wsss.import_.masks("set/SegmentationClass", index=wsss.open_run("train.h5"), shard_size=5,
                                output=tmp_path / "masks")
    assert result.paths == wsss.run("import masks", "set/SegmentationClass", index="train.h5", shard_size=5,
                                    output=tmp_path / "masks").paths
    run_ok("import", "masks", "set/SegmentationClass", "--index", "train.h5", "--shard-size", 5, "-o",
           tmp_path / "again", "-q")
    assert [path.read_bytes() for path in result.paths] == [
        path.read_bytes() for path in sorted((tmp_path / "again").glob("*.h5"))]
    assert len(result.open()) == 8
    tree = wsss.export.coco(result, output=tmp_path / "coco")
    assert json.loads((tree.path / "annotations" / "instances_train.json").read_text())["images"]


def test_images_without_a_result_are_an_error(inside, tmp_path):
    shutil.copytree("set/SegmentationClass", tmp_path / "some")
    (tmp_path / "some" / "picture_002.png").unlink()
    with pytest.raises(wsss.FailedImages, match=r"1 of 8 images failed\. .*force=True, or accept them") as raised:
        wsss.import_.masks(tmp_path / "some", index="train.h5", output=tmp_path / "masks")
    assert list(raised.value.result.open().errors) == ["picture_002"]
    with pytest.raises(wsss.UnknownSetting, match="has no setting 'retry'"):
        wsss.import_.masks(tmp_path / "some", index="train.h5", output=tmp_path / "masks", retry=True)
    with pytest.raises(wsss.UsageError, match="index is missing"):
        wsss.import_.masks(tmp_path / "some", output=tmp_path / "masks")
    with pytest.raises(wsss.FailedImages, match=r"1 of 8 images failed\. Read the messages"):
        wsss.export.png("masks", output=tmp_path / "png")


def test_regions(inside, tmp_path):
    labels = np.zeros(SIZE, np.int32)
    labels[:, 8:20], labels[4:9, 30:] = 7, 300
    (tmp_path / "sam").mkdir()
    for number in range(7):
        np.save(tmp_path / "sam" / f"picture_00{number}.npy", labels)
    run = wsss.import_.regions(tmp_path / "sam", index="train.h5", output=tmp_path / "regions", allow_errors=1).open()
    item = wsss.open_run(tmp_path / "regions", "regions")["picture_003"]
    assert isinstance(item, wsss.RegionItem) and item.size == SIZE and run.kind == "regions"
    np.testing.assert_array_equal(item.labels, labels, strict=True)
    assert item.region_ids == (7, 300) and run.read_image(item.id).shape == (*SIZE, 3)
    with pytest.raises(wsss.BadData, match=r"this image failed .*force=True if it was imported"):
        run["picture_007"]
    assert list_columns(run) == ("id", "region", "pixels", "share")
    assert build_rows(run)[:3] == [("picture_000", region, pixels, pixels / labels.size)
                                   for region, pixels in ((0, labels.size - 48 * 12 - 5 * 34), (7, 48 * 12),
                                                          (300, 5 * 34))]


def test_ground_truth_in_a_folder(inside, tmp_path):
    assert wsss.eval("masks", truth="set/SegmentationClass").value["per_class"] == wsss.eval("masks").value["per_class"]
    for number in range(8):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / f"picture_00{number}.png")
    result = wsss.eval("masks", truth=tmp_path).value
    assert result["per_class"]["cat"] == 0 and result["per_class"]["background"] > 0


def test_images_of_another_run_are_reused(inside, tmp_path):
    first = wsss.pseudo("cams", allow_errors=1, output=tmp_path / "first")
    again = wsss.pseudo("cams", allow_errors=1, reuse=first, output=tmp_path / "again")
    assert (first.num_reused, again.num_reused) == (0, 7)
    assert [path.read_bytes() for path in again.paths] == [path.read_bytes() for path in first.paths]
