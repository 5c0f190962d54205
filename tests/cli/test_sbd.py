"""`wsss index voc --sbd`: masks of SBD where VOC has none, and the split that the two make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import copy_of, good, refused, run
from pictures import sbd_mask
from stages.data.source import ImageSource
from stages.shards import Shard


@pytest.fixture
def voc(tiny_folder, tmp_path):
    """Return a VOC tree: train of 4 pictures and val of 2 with masks; the other 6 have none."""
    root = copy_of(tiny_folder, tmp_path / "voc")
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("".join(f"{one}\n" for one in tiny_folder.ids[:4]))
    (lists / "val.txt").write_text("".join(f"{one}\n" for one in tiny_folder.ids[4:6]))
    return root


@pytest.fixture
def sbd(voc, tiny_folder, tmp_path):
    """Return SBD as it is unpacked: masks of all pictures but the first, those of VOC's own with other values."""
    cls = tmp_path / "benchmark_RELEASE" / "dataset" / "cls"
    cls.mkdir(parents=True)
    for place, name in enumerate(tiny_folder.ids[1:], 1):
        mask = voc / "SegmentationClass" / f"{name}.png"
        ids = np.asarray(Image.open(mask))
        if place >= 6:
            mask.unlink()
        (cls / f"{name}.mat").write_bytes(sbd_mask(np.where(ids == 255, 0, ids) if place >= 6 else ids * 0))
    (cls / f"._{tiny_folder.ids[1]}.mat").write_bytes(b"of a Mac")
    return tmp_path / "benchmark_RELEASE"


def index(voc: Path, *more: object) -> tuple:
    return ("index", "voc", voc, "--labels", voc / "labels.csv", *more, "-o", voc.parent / "train.h5", "-f")


@pytest.mark.parametrize("below", ["", "dataset", "dataset/cls"])
def test_train_aug_is_train_and_sbd_without_val(wsss, voc, sbd, tiny_folder, below):
    done = wsss(*index(voc, "--split", "train_aug", "--sbd", sbd / below))
    assert (done.code, done.out.split()) == (0, [str(voc.parent / "train.h5")]), done.err
    assert "4 images of train.txt and 6 more of SBD, without those of val.txt; 10 together" in done.err
    assert "6 of 10 images have a mask of SBD, without VOC's border of 255" in done.err
    shard = Shard(voc.parent / "train.h5")
    assert list(shard.ids) == [*tiny_folder.ids[:4], *tiny_folder.ids[6:]]
    source = ImageSource(shard)
    for name in shard.ids:
        place = tiny_folder.ids.index(name)
        assert str(source.entry(name).attrs["mask_path"]).endswith(".png" if place < 4 else ".mat")
        mask = source.mask(name)
        assert set(np.unique(mask)) - {0, 255} == set(tiny_folder.labels[place])
        assert (mask == 255).any() == (place < 4)


def test_masks_of_sbd_serve_every_stage(voc, sbd, tiny_folder, tmp_path):
    good(*index(voc, "--split", "train_aug", "--sbd", sbd, "--pack"))
    good("train-seg", tmp_path / "train.h5", "--masks", "truth", "--net", "wsss:tiny", "--crop-size", "32", "--epochs",
         "1", "--batch-size", "4", "--threads", "1", "--device", "cpu", "-o", tmp_path / "seg.safetensors")
    good(*index(voc, "--split", "val", "--masks", sbd / "dataset" / "cls"))
    assert not ImageSource(Shard(tmp_path / "train.h5")).mask(tiny_folder.ids[4]).any()


def test_a_list_of_ones_own_goes_before_the_rule(voc, sbd, tiny_folder):
    (voc / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(f"{tiny_folder.ids[7]}\n{tiny_folder.ids[2]}\n")
    good(*index(voc, "--split", "train_aug", "--sbd", sbd))
    assert list(Shard(voc.parent / "train.h5").ids) == [tiny_folder.ids[7], tiny_folder.ids[2]]


def test_what_is_missing(voc, sbd, tmp_path):
    refused(run(*index(voc, "--split", "train_aug")), 66, "no split 'train_aug'", "--sbd DIR", "--list FILE")
    refused(run(*index(voc, "--split", "train_aug", "--sbd", voc)), 66, "no .mat file", "benchmark_RELEASE")
    refused(run(*index(voc, "--split", "train_aug", "--sbd", tmp_path / "gone")), 66, "gone", "no such folder")
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    refused(run(*index(voc, "--split", "train_aug", "--sbd", sbd)), 66, "val.txt", "train_aug is made of")


def test_a_broken_file_refuses_its_image(voc, sbd, tiny_folder):
    cls = sbd / "dataset" / "cls"
    whole = (cls / f"{tiny_folder.ids[8]}.mat").read_bytes()
    (cls / f"{tiny_folder.ids[8]}.mat").write_bytes(whole[:-20])
    done = run(*index(voc, "--split", "train_aug", "--sbd", sbd))
    assert done.code == 65
    assert f"{tiny_folder.ids[8]}.mat: MATLAB file cut short or damaged" in Shard(voc.parent / "train.h5").errors[
        tiny_folder.ids[8]]
