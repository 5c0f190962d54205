"""`pseudo` and `train-seg` warn about masks that are almost entirely background, and continue."""

from __future__ import annotations

import numpy as np
import pytest

from cli.runner import SMALL, TRAINING, read_items, run, run_ok
from cli.test_clip_es import draw_noise, write_index
from stages.flow.background_share import PixelCounts

HIGH = ("--background", "constant:0.9999")


@pytest.fixture(scope="module")
def three_part_cams(tiny_index, tiny_net, tmp_path_factory):
    """Return a run of CAMs in three parts. Tests must not modify it."""
    folder = tmp_path_factory.mktemp("parts") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "--shard-size", "4", "-j", "1", "-o", folder)
    return folder


def compute_background_share(folder) -> float:
    """Return the share of background pixels in a run of masks."""
    masks = np.concatenate([mask.ravel() for mask in read_items(folder, "masks", "mask").values()])
    return float((masks == 0).mean())


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_pseudo_warns_once(three_part_cams, tmp_path, jobs):
    done = run("pseudo", three_part_cams, *HIGH, "-j", jobs, "-o", tmp_path / "masks")
    assert done.code == 0, done.err
    part_share = compute_background_share(tmp_path / "masks")
    assert part_share > 0.99
    assert done.err.count("warning:") == 1
    assert f"warning: {part_share:.2%} of the pixels of 12 images with a class are background; check --background" in (
        done.err)
    assert "warning" not in done.out and len(done.out.split()) == 3
    again = run("pseudo", three_part_cams, *HIGH, "-j", jobs, "-o", tmp_path / "masks")
    # Nothing is computed again, but the warning is repeated.
    assert (again.code, again.err.count(f"warning: {part_share:.2%}")) == (0, 1)


def test_existing_masks_are_counted_after_interruption(three_part_cams, tmp_path):
    paths = run_ok("pseudo", three_part_cams, *HIGH, "-j", "1", "-o", tmp_path / "masks")
    (tmp_path / "masks" / paths[1].rsplit("/", 1)[-1]).unlink()
    done = run("pseudo", three_part_cams, *HIGH, "-o", tmp_path / "masks")
    assert done.code == 0
    assert f"{compute_background_share(tmp_path / 'masks'):.2%} of the pixels of 12 images" in done.err
    task = run("pseudo", three_part_cams, *HIGH, "--task", "1/3", "-o", tmp_path / "masks")
    assert "of 4 images with a class" in task.err, "a task counts only its own parts"
    assert "warning" not in run("pseudo", three_part_cams, *HIGH, "--dry-run", "-o", tmp_path / "other").err


def test_large_runs_are_counted_in_part(three_part_cams, tmp_path, monkeypatch):
    monkeypatch.setattr("stages.flow.background_share.MAX_COUNTED_IMAGES", 5)
    done = run("pseudo", three_part_cams, *HIGH, "-j", "1", "-o", tmp_path / "masks")
    assert done.code == 0 and "of the pixels of 5 images with a class are background" in done.err


def test_no_warning_for_normal_masks(three_part_cams, tmp_path):
    done = run("pseudo", three_part_cams, "--background", "constant:0.01", "-j", "1", "-o", tmp_path / "masks")
    assert compute_background_share(tmp_path / "masks") < 0.99
    assert "warning:" not in done.err


def test_warning_about_ignored_pixels(three_part_cams, tmp_path):
    done = run("pseudo", three_part_cams, "--min-confidence", "1", "-o", tmp_path / "masks")
    assert done.code == 0
    assert "are ignored; lower --min-confidence" in done.err


def test_images_without_classes_are_not_counted(tiny_net, tmp_path):
    images = {f"p{number}": draw_noise(40, 50, number) for number in range(4)}
    index = write_index(tmp_path / "set", images, {"p0": "cat", "p1": "", "p2": "", "p3": ""})
    run_ok("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    done = run("pseudo", tmp_path / "cams", *HIGH, "-o", tmp_path / "masks")
    assert "of 1 images with a class" in done.err


@pytest.mark.parametrize(("background", "expected"), [(99, ""), (100, "warning: 100.00% of the pixels of 1 images")])
def test_warning_threshold(background, expected):
    counts, mask = PixelCounts(), np.ones((10, 10), np.uint8)
    mask.ravel()[:background] = 0
    counts.add(mask)
    warning = counts.build_warning("look", "lower")
    assert warning.startswith(expected) and bool(expected) == bool(warning)


def test_ignored_pixels_do_not_hide_the_background():
    counts, mask = PixelCounts(), np.zeros((20, 20), np.uint16)
    mask[:10] = 65535
    mask[10, 0] = 3
    counts.add(mask)
    warning = counts.build_warning("look", "")
    assert warning == "warning: 99.50% of the pixels of 1 images with a class are background; look"
    assert PixelCounts().build_warning("look", "lower") == ""


def test_train_seg_warns_once(tiny_index, three_part_cams, tmp_path):
    run_ok("pseudo", three_part_cams, *HIGH, "-o", tmp_path / "masks")
    two_epochs = [*TRAINING[:4], "--epochs", "2", *TRAINING[6:]]
    done = run("train-seg", tiny_index, "--masks", tmp_path / "masks", *two_epochs, "-o", tmp_path / "seg.safetensors")
    assert done.code == 0, done.err
    assert done.err.count("warning:") == 1
    assert "of the pixels with a loss are background. Look at the masks" in done.err
    run_ok("pseudo", three_part_cams, "--background", "constant:0.01", "-o", tmp_path / "better")
    done = run("train-seg", tiny_index, "--masks", tmp_path / "better", *TRAINING, "-o", tmp_path / "b.safetensors")
    assert "warning" not in done.err
