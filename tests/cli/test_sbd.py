"""`wsss index voc --sbd`: masks of SBD for images without VOC masks, and the combined split train_aug."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, copy_dataset, run, run_ok
from stages.data.image_source import ImageSource
from stages.shards import Shard
from tiny_datasets import encode_sbd_mask


@pytest.fixture
def voc(tiny_dataset, tmp_path):
    """Return a VOC tree whose lists have 4 training and 2 validation images, of 12; SBD replaces the other masks."""
    root = copy_dataset(tiny_dataset, tmp_path / "voc")
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("".join(f"{item_id}\n" for item_id in tiny_dataset.ids[:4]))
    (lists / "val.txt").write_text("".join(f"{item_id}\n" for item_id in tiny_dataset.ids[4:6]))
    return root


@pytest.fixture
def sbd(voc, tiny_dataset, tmp_path):
    """Return SBD as unpacked: masks of all images but the first; for those with VOC masks, the values are 0."""
    cls = tmp_path / "benchmark_RELEASE" / "dataset" / "cls"
    cls.mkdir(parents=True)
    for index, name in enumerate(tiny_dataset.ids[1:], 1):
        mask = voc / "SegmentationClass" / f"{name}.png"
        ids = np.asarray(Image.open(mask))
        if index >= 6:
            mask.unlink()
        (cls / f"{name}.mat").write_bytes(encode_sbd_mask(np.where(ids == 255, 0, ids) if index >= 6 else ids * 0))
    (cls / f"._{tiny_dataset.ids[1]}.mat").write_bytes(b"of a Mac")
    return tmp_path / "benchmark_RELEASE"


def build_command(voc: Path, *more: object) -> tuple:
    return ("index", "voc", voc, "--labels", voc / "labels.csv", *more, "-o", voc.parent / "train.h5", "-f")


@pytest.mark.parametrize("subfolder", ["", "dataset", "dataset/cls"])
def test_train_aug_is_train_and_sbd_without_val(wsss, voc, sbd, tiny_dataset, subfolder):
    done = wsss(*build_command(voc, "--split", "train_aug", "--sbd", sbd / subfolder))
    assert (done.code, done.out.split()) == (0, [str(voc.parent / "train.h5")]), done.err
    assert "4 images of train.txt and 6 more of SBD that are not in val.txt. That is 10 images" in done.err
    assert "6 of 10 images have a mask of SBD, which has no border of 255 around objects" in done.err
    shard = Shard(voc.parent / "train.h5")
    assert list(shard.ids) == [*tiny_dataset.ids[:4], *tiny_dataset.ids[6:]]
    source = ImageSource(shard)
    for name in shard.ids:
        index = tiny_dataset.ids.index(name)
        assert str(source.read_entry(name).attrs["mask_path"]).endswith(".png" if index < 4 else ".mat")
        mask = source.read_mask(name)
        assert set(np.unique(mask)) - {0, 255} == set(tiny_dataset.labels[index])
        assert (mask == 255).any() == (index < 4)


def test_masks_of_sbd_work_in_other_stages(voc, sbd, tiny_dataset, tmp_path):
    run_ok(*build_command(voc, "--split", "train_aug", "--sbd", sbd, "--pack"))
    run_ok("train-seg", tmp_path / "train.h5", "--masks", "truth", "--net", "wsss:tiny", "--crop-size", "32",
           "--epochs", "1", "--batch-size", "4", "--threads", "1", "--device", "cpu", "-o",
           tmp_path / "seg.safetensors")
    run_ok(*build_command(voc, "--split", "val", "--masks", sbd / "dataset" / "cls"))
    assert not ImageSource(Shard(tmp_path / "train.h5")).read_mask(tiny_dataset.ids[4]).any()


def test_an_existing_train_aug_list_is_used(voc, sbd, tiny_dataset):
    (voc / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(f"{tiny_dataset.ids[7]}\n{tiny_dataset.ids[2]}\n")
    run_ok(*build_command(voc, "--split", "train_aug", "--sbd", sbd))
    assert list(Shard(voc.parent / "train.h5").ids) == [tiny_dataset.ids[7], tiny_dataset.ids[2]]


def test_missing_sbd_files(voc, sbd, tmp_path):
    train_aug = ("--split", "train_aug")
    check_error(run(*build_command(voc, *train_aug)), 66, "no split 'train_aug'", "--sbd DIR", "--list FILE")
    check_error(run(*build_command(voc, *train_aug, "--sbd", voc)), 66, "no .mat file", "benchmark_RELEASE")
    check_error(run(*build_command(voc, *train_aug, "--sbd", tmp_path / "gone")), 66, "gone", "no such folder")
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    check_error(run(*build_command(voc, "--split", "train_aug", "--sbd", sbd)), 66, "val.txt", "is built from")


def test_a_damaged_mask_rejects_its_image(voc, sbd, tiny_dataset):
    cls = sbd / "dataset" / "cls"
    data = (cls / f"{tiny_dataset.ids[8]}.mat").read_bytes()
    (cls / f"{tiny_dataset.ids[8]}.mat").write_bytes(data[:-20])
    done = run(*build_command(voc, "--split", "train_aug", "--sbd", sbd))
    assert done.code == 65
    errors = Shard(voc.parent / "train.h5").errors
    assert f"{tiny_dataset.ids[8]}.mat: the MATLAB file is truncated or damaged" in errors[
        tiny_dataset.ids[8]]
