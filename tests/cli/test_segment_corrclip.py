"""`segment corrclip`: the command, with and without regions."""

from __future__ import annotations

import numpy as np
import pytest

from cli.runner import check_error, run, run_ok
from seeded_clip import ClipRecipe
from stages.shards import Run


@pytest.fixture(scope="module")
def folder(tiny_dataset, tiny_index, tmp_path_factory):
    """Return a folder with a seeded CLIP and regions of the images."""
    folder = tmp_path_factory.mktemp("corrclip")
    ClipRecipe(99, 64, 3, 1, 64, 64, 2, 1).write(folder)
    run_ok("import", "regions", tiny_dataset.root / "SegmentationClass", "--index", tiny_index, "--none-value", "255",
           "-o", folder / "regions")
    return folder


def segment(folder, index, *words):
    return run("segment", "corrclip", index, "--clip", folder / "seeded.json", "--weights", folder / "seeded.pt",
               "--proxy", "timm:test_vit", "--proxy-weights", "random", "--template", "a {}", "--short-side", "48",
               "--window", "32", "--stride", "16", "--device", "cpu", "-j", "1", *words)


def read_masks(path):
    run_of_masks = Run([path], "masks")
    return {item_id: run_of_masks.item(item_id).datasets["mask"] for item_id in run_of_masks.ids}


def test_a_region_has_one_class_and_pixels_without_one_keep_theirs(folder, tiny_index, tmp_path):
    for name, words in {"voted": (), "raw": ("--no-vote",)}.items():
        done = segment(folder, tiny_index, "--regions", folder / "regions", *words, "-o", tmp_path / name)
        assert done.code == 0, done.err
    voted, raw, regions = (read_masks(tmp_path / "voted"), read_masks(tmp_path / "raw"), Run([folder / "regions"]))
    for item_id, mask in voted.items():
        labels = regions.item(item_id).datasets["labels"]
        assert all(len(np.unique(mask[labels == region])) == 1 for region in np.unique(labels) if region)
        assert np.array_equal(mask[labels == 0], raw[item_id][labels == 0])


def test_regions_and_settings_change_the_masks(folder, tiny_index, tmp_path):
    regions = ("--regions", folder / "regions", "--no-vote")
    options = {"none": (), "regions": regions, "released": (*regions, "--as-released"),
               "alone": (*regions, "--semantic-weight", "0", "--spatial-weight", "0")}
    for name, words in options.items():
        done = segment(folder, tiny_index, *words, "--background", "none", "-o", tmp_path / name)
        assert done.code == 0, done.err
    confidences = {name: [Run([tmp_path / name]).item(item_id).datasets["confidence"] for item_id in
                          Run([tmp_path / name]).ids] for name in options}
    names = list(options)
    for position, name in enumerate(names):
        for other in names[position + 1:]:
            assert any(not np.array_equal(a, b) for a, b in zip(confidences[name], confidences[other], strict=True)), (
                name, other)


def test_wrong_inputs_are_named(folder, tiny_index, maps, tmp_path):
    check_error(segment(folder, tiny_index, "--regions", maps, "-o", tmp_path / "out"), 65, "cams")
    check_error(segment(folder, tiny_index, "--regions", tmp_path / "none", "-o", tmp_path / "out"), 66, "none")
    check_error(segment(folder, tiny_index, "--proxy", "wsss:tiny", "-o", tmp_path / "out"), 69, "wsss:tiny",
                "--proxy timm:vit_base_patch8_224")
