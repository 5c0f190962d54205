"""Masks made in Python become a run that the commands read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import wsss
from cli.runner import run_ok
from stages.shards import Item, ShardContents, write_shard
from tiny_datasets import create_dataset

SIZE = (48, 64)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """Return an index of 6 images with ground truth."""
    folder = tmp_path_factory.mktemp("masks")
    create_dataset(folder / "set", n=6)
    run_ok("index", "table", "set/labels.csv", "--images", "set/JPEGImages", "--masks", "set/SegmentationClass",
           "--class-names", "set/classes.txt", "-o", "train.h5", "-q", cwd=folder)
    return folder / "train.h5"


@pytest.fixture(scope="module")
def truth(index) -> dict[str, np.ndarray]:
    """Return the ground truth by id."""
    run = wsss.open_run(index)
    return {item_id: run.read_truth(item_id) for item_id in run.ids}


def test_commands_read_the_run(index, truth, tmp_path):
    messages: list[str] = []
    result = wsss.write_masks(tmp_path / "masks", truth, index=index, note="copied from the truth", shard_size=4,
                              report=messages.append)
    assert [path.name for path in result.paths] == ["masks-00000-of-00002.h5", "masks-00001-of-00002.h5"]
    assert messages == ["Values of the masks: 0 = background, 1 = cat, 2 = dog, 255 = ignored."]
    run = result.open()
    assert run.kind == "masks" and run.ids == tuple(truth) and run[0].confidence is None
    for item in run:
        np.testing.assert_array_equal(item.mask, truth[item.id], strict=True)
    assert json.loads("\n".join(run_ok("eval", tmp_path / "masks", "--json")))["miou"] == 1.0
    entry = run.provenance[-1]
    assert (entry["stage"], entry["method"], entry["config"]["note"]) == ("import", "python", "copied from the truth")
    run_ok("check", tmp_path / "masks")
    run_ok("show", tmp_path / "masks", "--truth", "--count", 2, "-o", tmp_path / "look.png")
    run_ok("export", "png", tmp_path / "masks", "-o", tmp_path / "png")
    run_ok("merge", tmp_path / "masks", "-o", tmp_path / "merged.h5")
    run_ok("train-seg", index, "--masks", tmp_path / "masks", "--net", "wsss:tiny", "--crop-size", 32, "--epochs", 1,
           "--batch-size", 2, "--threads", 1, "--device", "cpu", "-o", tmp_path / "seg.safetensors")


def test_some_images_in_any_order_are_the_same_run(index, truth, tmp_path):
    some = [(item_id, truth[item_id]) for item_id in list(truth)[:3]]
    result = wsss.write_masks(tmp_path / "masks.h5", iter(some), index=wsss.open_run(index))
    assert result.open().ids == tuple(item_id for item_id, _ in some)
    assert result.messages[1] == "3 of 6 images of the index have a mask; the others are not part of the run."
    again = wsss.write_masks(tmp_path / "masks.h5", some[::-1], index=index)
    assert (again.num_written, again.num_up_to_date) == (0, 1)
    with pytest.raises(wsss.CannotCreate, match="different settings"):
        wsss.write_masks(tmp_path / "masks.h5", some[:2], index=index)
    forced = wsss.write_masks(tmp_path / "masks.h5", some[:2], index=index, force=True)
    assert len(forced.open()) == 2
    assert "4 of 6 images as background" in " ".join(wsss.eval(forced).messages)


def test_items_of_another_run_keep_their_confidence(index, truth, tmp_path):
    cams = tmp_path / "confident"
    wsss.write_masks(cams, truth, index=index)
    items = [wsss.MaskItem(item.id, item.size, item.mask, np.full(SIZE, 7, np.uint8), item.classes)
             for item in wsss.open_run(cams)]
    run = wsss.write_masks(tmp_path / "masks", items, index=index).open()
    assert all((item.confidence == 7).all() for item in run)


@pytest.mark.parametrize(("classes", "value"), [
    ({0: "background", 9: "dog", -1: None}, 9), (["background", "dog"], 1), (("", "cat", "dog"), 2)])
def test_values_are_explained_by_name(index, tmp_path, classes, value):
    mask = np.zeros(SIZE, np.int64)
    mask[:5] = value
    if isinstance(classes, dict):
        mask[10:12] = -1
    result = wsss.write_masks(tmp_path / "masks", {"picture_001": torch.from_numpy(mask)}, index=index,
                              classes=classes)
    written = result.open()[0].mask
    assert written.dtype == np.uint8
    assert (written[:5] == 2).all() and (written[12:] == 0).all()
    assert (written[10:12] == (255 if isinstance(classes, dict) else 0)).all()


def test_booleans_of_one_class(index, tmp_path):
    mask = np.zeros(SIZE, bool)
    mask[3:9] = True
    result = wsss.write_masks(tmp_path / "masks", {"picture_000": mask}, index=index, classes={0: "", 1: "dog"})
    assert result.open()[0].class_names == ("dog",)


def test_masks_of_background_only_give_a_warning(index, truth, tmp_path):
    empty = {item_id: np.zeros(SIZE, np.uint8) for item_id in truth}
    with pytest.warns(UserWarning, match="of the pixels of 6 images with a class are background"):
        result = wsss.write_masks(tmp_path / "masks", empty, index=index)
    assert "warning: 100.00% of the pixels of 6 images with a class are background" in result.messages[-1]


@pytest.mark.parametrize(("masks", "message"), [
    ({}, "there are no masks"), ({"picture_01": np.zeros(SIZE, int)}, "Did you mean 'picture_001'?"),
    ({"picture_001": np.zeros((64, 48), int)}, "the mask has the size (64, 48), but the image (48, 64)"),
    ({"picture_001": np.zeros((1, *SIZE), int)}, "shape (1, 48, 64)"),
    ({"picture_001": np.zeros(SIZE)}, "the type float64"),
    ({"picture_001": np.full(SIZE, 3)}, "the value 3, which is not one of 0 = background, 1 = cat"),
    ([("picture_001", np.zeros(SIZE, int))] * 2, "picture_001: there are two masks of this image"),
    ([np.zeros(SIZE, int)], "not a pair (id, mask)"), ({1: np.zeros(SIZE, int)}, "has no image 1")])
def test_what_cannot_be_written(index, tmp_path, masks, message):
    with pytest.raises(wsss.Error) as raised:
        wsss.write_masks(tmp_path / "masks", masks, index=index)
    assert message in str(raised.value)
    assert not (tmp_path / "masks").exists()


def test_classes_that_cannot_be_meant(index, truth, tmp_path):
    for classes, message in ((["cat", "dog"], "does not start with the background"),
                             ({0: "background", 1: "catt"}, "Did you mean 'cat'?"),
                             ("cat", "does not start with the background")):
        with pytest.raises(wsss.UsageError) as raised:
            wsss.write_masks(tmp_path / "masks", truth, index=index, classes=classes)
        assert message in str(raised.value)


def test_the_parts_of_an_index_are_the_parts_of_the_masks(index, truth, tmp_path):
    run_ok("index", "table", index.parent / "set" / "labels.csv", "--images", index.parent / "set" / "JPEGImages",
           "--class-names", index.parent / "set" / "classes.txt", "--shard-size", 4, "-o", tmp_path / "index", "-q")
    some = dict(list(truth.items())[:3])
    run = wsss.write_masks(tmp_path / "masks", some, index=tmp_path / "index").open()
    assert len(run.paths) == 2 and run.ids == tuple(some)
    assert run.read_image("picture_001").shape == (*SIZE, 3)


def test_a_data_set_without_background(index, tmp_path):
    item = Item("picture_000", {}, {"path": "JPEGImages/picture_000.jpg", "height": 48, "width": 64})
    write_shard(tmp_path / "train.h5", ShardContents("index", ("", "cat"), [item],
                                                     root_attrs={"root": str(index.parent / "set")}))
    mask = np.zeros(SIZE, np.uint8)
    mask[:4] = 1
    run = wsss.write_masks(tmp_path / "masks", {"picture_000": mask}, index=tmp_path / "train.h5").open()
    assert run.classes[0] == "" and np.unique(run[0].mask).tolist() == [1, 255]


def test_another_index_of_the_same_images(index, truth, tmp_path):
    """Masks written before there was ground truth are scored with an index that was made later, under another name."""
    data = index.parent / "set"
    first = wsss.index.table(data / "labels.csv", images=data / "JPEGImages", class_names=data / "classes.txt",
                             output=tmp_path / "untrue.h5")
    some = dict(list(truth.items())[1:5])
    written = wsss.write_masks(tmp_path / "masks", some, index=first)
    result = json.loads("\n".join(run_ok("eval", written.path, "--index", index, "--json")))
    assert (result["miou"], result["images"]) == (1.0, 4)
    run_ok("show", written.path, "--index", index, "--truth", "--count", 2, "-o", tmp_path / "look.png")
    np.testing.assert_array_equal(wsss.open_run(written, index=index).read_truth("picture_001"), some["picture_001"])
    assert len(wsss.torch_dataset(index, masks=written)) == 4


def test_an_index_of_other_images(index, truth, tmp_path):
    written = wsss.write_masks(tmp_path / "masks", truth, index=index)
    create_dataset(tmp_path / "set", n=6)
    image = tmp_path / "set" / "JPEGImages" / "picture_002.jpg"
    image.write_bytes((tmp_path / "set" / "JPEGImages" / "picture_003.jpg").read_bytes())
    other = wsss.index.table(tmp_path / "set" / "labels.csv", images=tmp_path / "set" / "JPEGImages",
                             class_names=tmp_path / "set" / "classes.txt", output=tmp_path / "other.h5")
    for read in (lambda: wsss.eval(written, index=other.path), lambda: wsss.torch_dataset(other, masks=written)):
        with pytest.raises(wsss.BadData, match=r"was made from other images than .*picture_002"):
            read()
