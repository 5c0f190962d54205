"""Images with masks and tags as a data set of torch, also in worker processes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import wsss
from cli.runner import run_ok


def test_samples(inside):
    dataset = wsss.torch_dataset("train.h5", masks="masks")
    masks = wsss.open_run("masks")
    assert isinstance(dataset, Dataset) and dataset.ids == masks.ids and len(dataset) == 7
    assert dataset.classes == ("background", "cat", "dog") and dataset.ignore_index == 255
    for number, item in enumerate(masks):
        sample = dataset[number]
        assert sorted(sample) == ["id", "image", "labels", "mask"] and sample["id"] == item.id
        pixels = np.array(Image.open(inside / "set" / "JPEGImages" / f"{item.id}.jpg"))
        assert sample["image"].dtype == torch.uint8 and sample["mask"].dtype == torch.int64
        np.testing.assert_array_equal(sample["image"].permute(1, 2, 0).numpy(), pixels)
        np.testing.assert_array_equal(sample["mask"].numpy(), item.mask)
    assert dataset[2]["labels"].tolist() == [1, 1] and dataset[0]["labels"].tolist() == [1, 0]
    with pytest.raises(IndexError):
        dataset[7]


def test_ground_truth_and_no_masks(inside):
    truth = wsss.torch_dataset("train.h5", truth=True)[1]
    expected = np.array(Image.open(inside / "set" / "SegmentationClass" / "picture_001.png"))
    np.testing.assert_array_equal(truth["mask"].numpy(), expected)
    assert 255 in truth["mask"]
    plain = wsss.torch_dataset(wsss.open_run("train.h5"))
    assert len(plain) == 8 and "mask" not in plain[0]
    with pytest.raises(wsss.BadData, match="changed since it was indexed"):
        plain[7]
    with pytest.raises(wsss.UsageError, match="both choose the masks"):
        wsss.torch_dataset("train.h5", masks="masks", truth=True)


def test_large_images_are_reduced_with_their_masks(inside):
    sample = wsss.torch_dataset("train.h5", truth=True, max_side=32)[2]
    assert sample["image"].shape == (3, 24, 32) and sample["mask"].shape == (24, 32)
    full = wsss.torch_dataset("train.h5", truth=True)[2]["mask"]
    np.testing.assert_array_equal(sample["mask"], full[1::2, 1::2])


@pytest.mark.parametrize("context", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_worker_processes(inside, context):
    dataset = wsss.torch_dataset("train.h5", masks="masks")
    assert dataset[0]["id"] == "picture_000", "files are open before the workers start"
    loader = DataLoader(dataset, batch_size=3, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    assert [len(batch["id"]) for batch in batches] == [3, 3, 1]
    assert batches[0]["image"].shape == (3, 3, 48, 64) and batches[0]["labels"].shape == (3, 2)
    masks = torch.cat([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(masks.numpy(), np.stack([item.mask for item in wsss.open_run("masks")]))


def test_transforms_move_image_and_mask_alike(inside):
    plain = wsss.torch_dataset("train.h5", masks="masks")[2]
    flipping = wsss.torch_dataset("train.h5", masks="masks", transform=v2.RandomHorizontalFlip(1))
    dataset = pickle.loads(pickle.dumps(flipping))
    for name in ("image", "mask"):
        assert torch.equal(torch.as_tensor(dataset[2][name]), plain[name].flip(-1))
    resize = wsss.torch_dataset("train.h5", masks="masks", transform=v2.Resize((24, 32)))
    assert set(resize[2]["mask"].unique().tolist()) <= set(plain["mask"].unique().tolist()), "ids are never blended"
    assert resize[2]["image"].shape == (3, 24, 32) and resize[2]["labels"].tolist() == [1, 1]


def test_captions_and_unknown_tags(inside, tmp_path):
    (tmp_path / "captions.csv").write_text("id,caption\npicture_000,a cat\npicture_000,one cat\npicture_001,a dog\n")
    run_ok("index", "table", tmp_path / "captions.csv", "--images", "set/JPEGImages", "--class-names",
           "set/classes.txt", "-o", tmp_path / "captions.h5", "-q")
    dataset = wsss.torch_dataset(tmp_path / "captions.h5", captions=True)
    assert dataset[0]["captions"] == ["a cat", "one cat"] and dataset[1]["captions"] == ["a dog"]
    assert dataset[0]["labels"].shape == (2,) and dataset[0]["labels"].isnan().all()
    with pytest.raises(wsss.MissingInput, match="no image of the index has a mask"):
        wsss.torch_dataset(tmp_path / "captions.h5", truth=True)


def test_masks_of_other_classes(inside, tmp_path):
    (tmp_path / "names.txt").write_text("background\nbird\n")
    run_ok("index", "folder", "set/JPEGImages", "--class-names", tmp_path / "names.txt", "--allow-errors", 1, "-o",
           tmp_path / "other.h5", "-q")
    with pytest.raises(wsss.BadData, match="classes differ"):
        wsss.torch_dataset(tmp_path / "other.h5", masks="masks")
