"""`regions superpixels`: a run of regions from an index or from photographs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cli.runner import check_error, index_table, read_items, run, run_ok
from stages.data.image_size import resize_labels
from stages.regions.superpixels import compute_superpixels

pytest.importorskip("skimage")


def read_regions(path: Path) -> dict[str, np.ndarray]:
    return read_items(path, "regions", "labels")


def test_the_settings_reach_the_superpixels_of_every_image(tiny_dataset, tiny_index, tmp_path):
    paths = run_ok("regions", "superpixels", tiny_index, "--segments", "20", "--compactness", "5", "--sigma", "1",
                   "--shard-size", "5", "-j", "1", "-o", tmp_path / "regions")
    assert [Path(path).name for path in paths] == [f"regions-{number:05}-of-00003.h5" for number in range(3)]
    regions = read_regions(tmp_path / "regions")
    assert list(regions) == list(tiny_dataset.ids)
    for item_id, labels in regions.items():
        image = np.asarray(Image.open(tiny_dataset.root / "JPEGImages" / f"{item_id}.jpg").convert("RGB"))
        assert labels.dtype == np.int32
        assert np.array_equal(labels, compute_superpixels(image, 20, 5.0, 1.0))


def test_other_settings_need_force_and_equal_settings_are_up_to_date(tiny_index, tmp_path):
    command = ("regions", "superpixels", tiny_index, "-j", "1", "-o", tmp_path / "regions")
    run_ok(*command, "--segments", "6")
    shard = tmp_path / "regions" / "regions-00000-of-00001.h5"
    first = shard.read_bytes()
    assert "up to date" in run(*command, "--segments", "6").err
    for option in ("--segments", "--compactness", "--sigma", "--max-side"):
        check_error(run(*command, "--segments", "6", option, "33"), 73, f"{option[2:].replace('-', '_')}: ", "-> 33")
    run_ok(*command, "--segments", "6", "--force")
    assert shard.read_bytes() == first
    run_ok(*command, "--segments", "12", "--force")
    assert shard.read_bytes() != first


def test_tasks_and_reuse_make_the_same_regions(tiny_index, tmp_path):
    command = ("regions", "superpixels", tiny_index, "--segments", "9", "--shard-size", "5", "-j", "1")
    run_ok(*command, "-o", tmp_path / "whole")
    for task in ("0/2", "1/2"):
        run_ok(*command, "--task", task, "-o", tmp_path / "tasks")
    run_ok(*command, "--reuse", tmp_path / "whole", "-o", tmp_path / "reused")
    whole = read_regions(tmp_path / "whole")
    for other in ("tasks", "reused"):
        assert all(np.array_equal(labels, whole[item_id])
                   for item_id, labels in read_regions(tmp_path / other).items())
    for path in (tmp_path / "whole").glob("*.h5"):
        assert path.read_bytes() == (tmp_path / "tasks" / path.name).read_bytes()


def test_a_large_photograph_is_computed_smaller_and_its_regions_have_its_size(tmp_path):
    random = np.random.default_rng(0)
    pixels = np.repeat(np.repeat(random.integers(0, 256, (5, 7, 3), np.uint8), 31, 0), 23, 1)  # 155 x 161
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    run_ok("regions", "superpixels", tmp_path / "photo.png", "--max-side", "64", "--segments", "30", "-j", "1",
           "-o", tmp_path / "out")
    labels = read_regions(tmp_path / "out")["photo"]
    assert labels.shape == (155, 161)
    assert np.array_equal(np.unique(labels), np.arange(1, labels.max() + 1))
    assert all(ndimage.label(labels == label)[1] == 1 for label in np.unique(labels))
    reduced = np.asarray(Image.fromarray(pixels).resize((64, 62), Image.Resampling.BICUBIC))
    assert np.array_equal(labels, resize_labels(compute_superpixels(reduced, 30, 20.0, 0.0), (155, 161)))


def test_photographs_have_a_default_folder_and_a_dry_run_writes_nothing(tiny_dataset, tmp_path):
    (tmp_path / "photos").mkdir()
    for item_id in tiny_dataset.ids[:2]:
        shutil.copy(tiny_dataset.root / "JPEGImages" / f"{item_id}.jpg", tmp_path / "photos")
    done = run("regions", "superpixels", "photos", "--dry-run", cwd=tmp_path)
    assert done.code == 0
    assert "Would compute the superpixels of 2 image files." in done.err
    assert not (tmp_path / "regions").exists()
    assert run_ok("regions", "superpixels", "photos", "--segments", "8", cwd=tmp_path) == \
        ["regions/regions-00000-of-00001.h5"]
    run_ok("show", "regions", "-o", "look.png", cwd=tmp_path)
    assert Image.open(tmp_path / "look.png").size > (0, 0)
    check_error(run("regions", "superpixels", tmp_path / "regions" / "images.h5"), 2, "missing option '-o'",
                "wsss regions superpixels --help")


def test_a_damaged_photograph_fails_alone(tiny_dataset, tmp_path):
    root = Path(shutil.copytree(tiny_dataset.root, tmp_path / "set"))
    assert index_table(root, tmp_path / "train.h5").code == 0
    damaged = tiny_dataset.ids[1]
    (root / "JPEGImages" / f"{damaged}.jpg").write_bytes(b"no image")
    command = ("regions", "superpixels", tmp_path / "train.h5", "--segments", "8", "-j", "1", "-o", tmp_path / "out")
    check_error(run(*command), 65, "1 of", "--allow-errors")
    assert run(*command, "--allow-errors", "1").code == 0
    assert damaged not in read_regions(tmp_path / "out")


@pytest.mark.parametrize(("option", "value"), [
    ("--segments", "0"), ("--compactness", "0"), ("--compactness", "nan"),
    ("--sigma", "-1"), ("--sigma", "inf"), ("--max-side", "8")])
def test_settings_out_of_range_are_rejected(option, value, tiny_index, tmp_path):
    check_error(run("regions", "superpixels", tiny_index, option, value, "-o", tmp_path / "out"), 2, option, value)
    assert not (tmp_path / "out").exists()


def test_without_scikit_image_nothing_is_written(tiny_index, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    check_error(run("regions", "superpixels", tiny_index, "-o", tmp_path / "out"), 69, "scikit-image",
                "pip install 'wsss[superpixels]'")
    assert not (tmp_path / "out").exists()
