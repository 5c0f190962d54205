"""`wsss segment net`: masks of an index or of image files, and scores as a companion run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, TRAINING, check_error, run, run_ok
from stages.shards import Run, Shard

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def net(tiny_index, tmp_path_factory) -> Path:
    """Return a network trained for a few steps on the ground truth."""
    path = tmp_path_factory.mktemp("segment") / "seg.safetensors"
    run_ok("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", path)
    return path


def read_masks(path: Path) -> dict[str, np.ndarray]:
    """Return every mask of a run."""
    masks_run = Run([path], "masks")
    return {name: masks_run.item(name).datasets["mask"] for name in masks_run.ids}


def test_masks_of_an_index(tiny_index, tiny_dataset, net, tmp_path):
    printed = run_ok("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "out", *CPU)
    assert printed == [str(tmp_path / "out" / "masks-00000-of-00001.h5")]
    masks_by_id = read_masks(tmp_path / "out")
    assert tuple(masks_by_id) == tiny_dataset.ids
    assert {mask.shape for mask in masks_by_id.values()} == {(48, 64)}
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize("more", [(), ("--scales", "0.5,1", "--fusion", "max"), ("--crf", "deeplab")], ids=str)
def test_masks_are_the_same_with_and_without_scores(tiny_index, net, tmp_path, more):
    run_ok("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "plain", *CPU, *more)
    printed = run_ok("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "out", "--scores",
                     tmp_path / "scores", *CPU, *more)
    assert printed == [str(tmp_path / "out" / "masks-00000-of-00001.h5")]
    plain, out = read_masks(tmp_path / "plain"), read_masks(tmp_path / "out")
    scores = Run([tmp_path / "scores"], "cams")
    assert scores.first.attribute("background") == "included"
    for name, mask in plain.items():
        np.testing.assert_array_equal(out[name], mask)
        item = scores.item(name)
        assert item.datasets["class_ids"].tolist() == [0, 1, 2]
        if "max" not in more:
            np.testing.assert_allclose(item.datasets["cam"].astype(float).sum(axis=0), 1, atol=3e-3)


def test_later_stages_read_the_scores(tiny_index, net, tmp_path):
    run_ok("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "out", "--scores", tmp_path / "scores", *CPU)
    run_ok("pseudo", tmp_path / "scores", "-o", tmp_path / "masks")
    for name, mask in read_masks(tmp_path / "out").items():
        np.testing.assert_array_equal(read_masks(tmp_path / "masks")[name], mask)
    results = [json.loads("\n".join(run_ok("eval", tmp_path / name, "--json"))) for name in ("out", "scores")]
    assert results[0]["miou"] == results[1]["miou"]


def test_image_files_get_an_overlay_each(tiny_dataset, tiny_index, net, tmp_path):
    files = [tiny_dataset.root / "JPEGImages" / f"{name}.jpg" for name in tiny_dataset.ids[:2]]
    done = run("segment", "net", *files, "--net", net, "-o", tmp_path / "out", *CPU)
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'out' / 'masks-00000-of-00001.h5'}\n"
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["picture_000.png", "picture_001.png"]
    for file in files:
        with Image.open(tmp_path / "out" / f"{file.stem}.png") as picture:
            assert picture.width > 2 * 480 and picture.height > 480 * 48 / 64
    run_ok("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "indexed", *CPU)
    for name, mask in read_masks(tmp_path / "out").items():
        np.testing.assert_array_equal(mask, read_masks(tmp_path / "indexed")[name])


def test_other_image_files_do_not_replace_a_run(tiny_dataset, net, tmp_path):
    first, second = (tiny_dataset.root / "JPEGImages" / f"{name}.jpg" for name in tiny_dataset.ids[:2])
    run_ok("segment", "net", first, "--net", net, "-o", tmp_path / "out", *CPU)
    check_error(run("segment", "net", second, "--net", net, "-o", tmp_path / "out", *CPU), 73, "--force")
    assert run_ok("show", tmp_path / "out", "--terminal"), "the first masks still belong to their image"
    run_ok("segment", "net", second, "--net", net, "-o", tmp_path / "out", "--force", *CPU)
    assert list(read_masks(tmp_path / "out")) == ["picture_001"]


def test_a_damaged_file_does_not_stop_the_others(tiny_dataset, net, tmp_path):
    shutil.copy(tiny_dataset.root / "JPEGImages" / "picture_000.jpg", tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"<html>not found</html>")
    files = (tmp_path / "good.jpg", tmp_path / "bad.jpg")
    done = run("segment", "net", *files, "--net", net, "-o", tmp_path / "out", *CPU)
    assert done.code == 65
    assert "bad.jpg: " in done.err
    assert (tmp_path / "out" / "good.png").is_file()
    assert list(Shard(tmp_path / "out" / "masks-00000-of-00001.h5").errors) == ["bad"]


def test_rejects_unusable_image_files(tiny_dataset, tiny_index, net, tmp_path):
    file = tiny_dataset.root / "JPEGImages" / "picture_000.jpg"
    out = ("--net", net, "-o", tmp_path / "out")
    check_error(run("segment", "net", tmp_path / "none.jpg", *out), 66, "none.jpg")
    check_error(run("segment", "net", file, tiny_index, *out), 2, str(tiny_index))
    check_error(run("segment", "net", file, "--net", net, "-o", tmp_path / "out.h5"), 2, "out.h5")
    check_error(run("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "out", "--scores", tmp_path / "out"),
                2, "--scores")


def test_rejects_an_empty_list_of_scales(tiny_index, net, tmp_path):
    check_error(run("segment", "net", tiny_index, "--net", net, "--scales", "", "-o", tmp_path / "out"), 2, "--scales")


def test_dry_run_on_image_files_writes_nothing(tiny_dataset, net, tmp_path):
    file = tiny_dataset.root / "JPEGImages" / "picture_000.jpg"
    assert run_ok("segment", "net", file, "--net", net, "-o", tmp_path / "out", "-n") == []
    assert not (tmp_path / "out").exists()


def test_task_without_a_part_writes_no_scores(tiny_index, net, tmp_path):
    assert run_ok("segment", "net", tiny_index, "--net", net, *SMALL, "--task", "3/4", "-o", tmp_path / "out",
                  "--scores", tmp_path / "scores") == []
    assert not list(tmp_path.iterdir())
