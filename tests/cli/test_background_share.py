"""Masks that are background almost everywhere: `pseudo` and `train-seg` warn, and go on."""

from __future__ import annotations

import numpy as np
import pytest

from cli.runner import SMALL, TRAINING, good, of_items, run
from cli.test_clip_es import index_of, noise
from stages.flow.background_share import PixelCounts

HIGH = ("--background", "constant:0.9999")


@pytest.fixture(scope="module")
def parts(tiny_index, tiny_net, tmp_path_factory):
    """Return a run of maps in three parts. Not to be changed."""
    folder = tmp_path_factory.mktemp("parts") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "--shard-size", "4", "-j", "1", "-o", folder)
    return folder


def share(folder) -> float:
    """Return the share of background in a run of masks."""
    masks = np.concatenate([mask.ravel() for mask in of_items(folder, "masks", "mask").values()])
    return float((masks == 0).mean())


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_pseudo_warns_once(parts, tmp_path, jobs):
    done = run("pseudo", parts, *HIGH, "-j", jobs, "-o", tmp_path / "masks")
    assert done.code == 0, done.err
    part_share = share(tmp_path / "masks")
    assert part_share > 0.99
    assert done.err.count("warning:") == 1
    assert f"warning: {part_share:.2%} of the pixels of 12 images with a class are background; check --background" in (
        done.err)
    assert "warning" not in done.out and len(done.out.split()) == 3
    again = run("pseudo", parts, *HIGH, "-j", jobs, "-o", tmp_path / "masks")
    assert (again.code, again.err.count(f"warning: {part_share:.2%}")) == (0, 1), "nothing made, and told all the same"


def test_a_run_that_was_cut_counts_what_was_there(parts, tmp_path):
    made = good("pseudo", parts, *HIGH, "-j", "1", "-o", tmp_path / "masks")
    (tmp_path / "masks" / made[1].rsplit("/", 1)[-1]).unlink()
    done = run("pseudo", parts, *HIGH, "-o", tmp_path / "masks")
    assert done.code == 0
    assert f"{share(tmp_path / 'masks'):.2%} of the pixels of 12 images" in done.err
    task = run("pseudo", parts, *HIGH, "--task", "1/3", "-o", tmp_path / "masks")
    assert "of 4 images with a class" in task.err, "a task tells of its own parts"
    assert "warning" not in run("pseudo", parts, *HIGH, "--dry-run", "-o", tmp_path / "other").err


def test_large_runs_are_not_counted_as_a_whole(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.flow.background_share.MOST_COUNTED", 5)
    done = run("pseudo", parts, *HIGH, "-j", "1", "-o", tmp_path / "masks")
    assert done.code == 0 and "of the pixels of 5 images with a class are background" in done.err


def test_no_warning_for_ordinary_masks(parts, tmp_path):
    done = run("pseudo", parts, "--background", "constant:0.01", "-j", "1", "-o", tmp_path / "masks")
    assert share(tmp_path / "masks") < 0.99
    assert "warning" not in done.err


def test_ignored_pixels_are_told_too(parts, tmp_path):
    done = run("pseudo", parts, "--min-confidence", "1", "-o", tmp_path / "masks")
    assert done.code == 0
    assert "are ignored; lower --min-confidence" in done.err


def test_images_without_a_class_are_rightly_background(tiny_net, tmp_path):
    pictures = {f"p{number}": noise(40, 50, number) for number in range(4)}
    index = index_of(tmp_path / "set", pictures, {"p0": "cat", "p1": "", "p2": "", "p3": ""})
    good("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    done = run("pseudo", tmp_path / "cams", *HIGH, "-o", tmp_path / "masks")
    assert "of 1 images with a class" in done.err


@pytest.mark.parametrize(("background", "expected"), [(99, ""), (100, "warning: 100.00% of the pixels of 1 images")])
def test_the_threshold(background, expected):
    counts, mask = PixelCounts(), np.ones((10, 10), np.uint8)
    mask.ravel()[:background] = 0
    counts.add(mask)
    assert counts.warning("look", "lower").startswith(expected) and bool(expected) == bool(counts.warning("", ""))


def test_ignored_pixels_do_not_hide_the_background():
    counts, mask = PixelCounts(), np.zeros((20, 20), np.uint16)
    mask[:10] = 65535
    mask[10, 0] = 3
    counts.add(mask)
    assert counts.warning("look", "") == "warning: 99.50% of the pixels of 1 images with a class are background; look"
    assert PixelCounts().warning("look", "lower") == ""


def test_train_seg_warns_once(tiny_index, parts, tmp_path):
    good("pseudo", parts, *HIGH, "-o", tmp_path / "masks")
    longer = [*TRAINING[:4], "--epochs", "2", *TRAINING[6:]]
    done = run("train-seg", tiny_index, "--masks", tmp_path / "masks", *longer, "-o", tmp_path / "seg.safetensors")
    assert done.code == 0, done.err
    assert done.err.count("warning:") == 1
    assert "of the pixels with a loss are background; look at the masks" in done.err
    good("pseudo", parts, "--background", "constant:0.01", "-o", tmp_path / "better")
    done = run("train-seg", tiny_index, "--masks", tmp_path / "better", *TRAINING, "-o", tmp_path / "b.safetensors")
    assert "warning" not in done.err
