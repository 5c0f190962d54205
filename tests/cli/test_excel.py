"""Command-line tests of `cams excel` on a seeded CLIP."""

from __future__ import annotations

import numpy as np
import pytest

from cli.runner import check_error, run, run_ok
from cli.test_clip_es import clip, draw_noise, read_cams, write_index
from stages.shards import Run

__all__ = ["clip"]
SMALL = ("--side", "64", "--calibrated-layers", "2")


@pytest.fixture(scope="module")
def centres(tmp_path_factory):
    """Write a file of five centres for a CLIP with 12 channels."""
    path = tmp_path_factory.mktemp("centres") / "bank.npy"
    np.save(path, np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def plain_cams(tiny_index, clip, tmp_path_factory):
    """Return the CAMs with the options of `SMALL` only."""
    path = tmp_path_factory.mktemp("plain") / "out"
    run_ok("cams", "excel", tiny_index, *clip, *SMALL, "-o", path)
    return read_cams(path)


def compute_difference(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> float:
    """Return the largest difference of the CAMs of two runs."""
    return max(np.abs(cam.astype(float) - second[name].astype(float)).max(initial=0) for name, cam in first.items())


def test_cams_span_images_of_any_shape_and_feed_later_stages(clip, tmp_path):
    images = {"wide": draw_noise(40, 90), "tall": draw_noise(90, 40, 1), "none": draw_noise(30, 30, 2)}
    index = write_index(tmp_path, images, {"wide": "cat;dog", "tall": "dog", "none": ""})
    run_ok("cams", "excel", index, *clip, *SMALL, "-o", tmp_path / "out", "--save-raw", tmp_path / "raw")
    cams = Run([tmp_path / "out"], "cams")
    for name, count in (("wide", 2), ("tall", 1), ("none", 0)):
        item = cams.item(name)
        assert item.datasets["cam"].shape == (count, 4, 4)
        assert tuple(item.attrs["covers"]) == images[name].shape[:2]
        assert ((item.datasets["scores"] > 0) & (item.datasets["scores"] < 1)).all()
    run_ok("cams", "excel", index, *clip, *SMALL, "-o", tmp_path / "batch", "--batch-size", "3")
    assert compute_difference(read_cams(tmp_path / "out"), read_cams(tmp_path / "batch")) < 2e-3
    # The raw run is what --affinity none writes, so that command finds it up to date.
    assert "is up to date" in run("cams", "excel", index, *clip, *SMALL, "-o", tmp_path / "raw", "--affinity",
                                  "none").err
    run_ok("refine", "crf", tmp_path / "out", "--preset", "clip-es", "-o", tmp_path / "crf")
    run_ok("pseudo", tmp_path / "crf", "-o", tmp_path / "masks")
    masks = Run([tmp_path / "masks"], "masks")
    assert {name: masks.item(name).datasets["mask"].shape for name in images} == {
        name: image.shape[:2] for name, image in images.items()}
    run_ok("show", tmp_path / "out", tmp_path / "masks", "-o", tmp_path / "show.png")


def test_text_shift_changes_cams_and_is_recorded_by_content(tiny_index, clip, centres, tmp_path):
    cams = {}
    for shift in ("none", "mean", f"mean:{centres}", f"bank:{centres}"):
        path = tmp_path / f"out{len(cams)}"
        run_ok("cams", "excel", tiny_index, *clip, *SMALL, "--text-shift", shift, "-o", path)
        cams[shift] = read_cams(path)
    shifts = list(cams)
    for position, first in enumerate(shifts):
        for second in shifts[position + 1:]:
            assert compute_difference(cams[first], cams[second]) > 1e-3, (first, second)
    entry = Run([path], "cams").first.provenance[-1]
    assert entry["config"]["text_shift"] == "bank:bank.npy"
    assert len(entry["inputs"]["text_centres"]) == 64
    copy = tmp_path / "elsewhere" / "bank.npy"
    copy.parent.mkdir()
    copy.write_bytes(centres.read_bytes())
    command = ("cams", "excel", tiny_index, *clip, *SMALL, "--text-shift", f"bank:{copy}", "-o", path)
    assert "is up to date" in run(*command).err
    np.save(copy, np.load(copy)[::-1])
    check_error(run(*command), 73, "text_centres")


@pytest.mark.parametrize(("option", "code", "words"), [
    ("median", 2, ("--text-shift median", "bank:FILE")), ("bank", 2, ("needs a file of centres",)),
    ("bank:missing.npy", 66, ("missing.npy",)), ("bank:wide.npy", 65, ("wide.npy", "(5, 99)", "12 channels")),
    ("mean:nan.npy", 65, ("nan.npy", "not finite", "[1, 2]"))])
def test_invalid_text_shift(tiny_index, clip, tmp_path, option, code, words):
    np.save(tmp_path / "wide.npy", np.zeros((5, 99)))
    numbers = np.zeros((5, 12))
    numbers[1, 2] = np.nan
    np.save(tmp_path / "nan.npy", numbers)
    done = run("cams", "excel", tiny_index, *clip, *SMALL, "--text-shift", option, "-o", "out", cwd=tmp_path)
    check_error(done, code, *words)
    assert not (tmp_path / "out").exists()


def test_more_calibrated_layers_than_blocks(tiny_index, clip, tmp_path):
    check_error(run("cams", "excel", tiny_index, *clip, "-o", tmp_path / "out"), 2, "--calibrated-layers 5",
                "3 layers", "from 1 to 3")


def test_towers_without_ordinary_blocks_are_rejected(tiny_index, tmp_path):
    check_error(run("cams", "excel", tiny_index, "--clip", "RN50", "--weights", "random", "-o", tmp_path / "out"), 69,
                "RN50 is a ResNet", "--clip ViT-B-16")


def test_a_single_word_is_rejected(clip, tmp_path):
    index = write_index(tmp_path, {"one": draw_noise(40, 40)}, {"one": "cat"}, "cat\n")
    check_error(run("cams", "excel", index, *clip, *SMALL, "--no-background-words", "-o", tmp_path / "out"), 2,
                "single word", "--no-background-words")


def test_image_files_and_their_words(clip, tmp_path):
    from PIL import Image

    Image.fromarray(draw_noise(40, 60)).save(tmp_path / "photo.png")
    done = run("cams", "excel", "photo.png", *clip, *SMALL, "--words", "cow; wet grass = grass, lawn", "-o", "out",
               cwd=tmp_path)
    assert done.code == 0
    assert (tmp_path / "out" / "photo.png").is_file()
    assert read_cams(tmp_path / "out")["photo"].shape == (2, 4, 4)


@pytest.mark.parametrize("option", [("--statistics", "clip"), ("--affinity", "mhsa"),
                                    ("--no-background-words",), ("--names", "none", "--template", "imagenet"),
                                    ("--as-released",), ("--precision", "bf16")], ids=" ".join)
def test_options_change_cams(tiny_index, clip, plain_cams, tmp_path, option):
    run_ok("cams", "excel", tiny_index, *clip, *SMALL, *option, "-o", tmp_path / "out")
    assert compute_difference(plain_cams, read_cams(tmp_path / "out")) > 1e-3


def test_a_side_is_rounded_up_to_whole_patches(tiny_index, clip, tmp_path):
    run_ok("cams", "excel", tiny_index, *clip, *SMALL, "--side", "65", "-o", tmp_path / "out")
    assert {cam.shape[1:] for cam in read_cams(tmp_path / "out").values()} == {(5, 5)}
