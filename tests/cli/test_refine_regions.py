"""`refine regions` as users run it: means of CAMs, votes of masks, SEPL's rule, and regions that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, read_items, run, run_ok
from stages.flow.item_arrays import resize_to_image
from stages.shards import Run

SIZE = (48, 64)
PARTS = ("--shard-size", "5", "-j", "1")


def build_regions(number: int) -> np.ndarray:
    """Return stripes of different widths with ids that do not follow each other; the first rows are in no region."""
    regions = np.repeat(np.arange(8, dtype=np.int32) * 7 + number, 8)[None].repeat(SIZE[0], axis=0)
    regions[:5] = 0
    return regions


def save_regions(folder: Path, ids, size: tuple[int, int] = SIZE) -> Path:
    folder.mkdir()
    for number, item_id in enumerate(ids):
        np.save(folder / f"{item_id}.npy", build_regions(number)[:size[0], :size[1]])
    return folder


@pytest.fixture(scope="module")
def inputs(tiny_dataset, tiny_index, maps, tmp_path_factory):
    """Return a folder with regions, the masks of CAMs, and the true masks, in which some pixels are ignored."""
    folder = tmp_path_factory.mktemp("regions")
    run_ok("import", "regions", save_regions(folder / "files", tiny_dataset.ids), "--index", tiny_index, "-o",
           folder / "regions")
    run_ok("import", "masks", tiny_dataset.root / "SegmentationClass", "--index", tiny_index, *PARTS, "-o",
           folder / "masks")
    return folder


def test_maps_get_mean_of_each_region(wsss, inputs, maps, tmp_path):
    done = wsss("refine", "regions", maps, "--regions", inputs / "regions", "-o", tmp_path / "out")
    assert (done.code, done.out) == (0, f"{tmp_path / 'out' / 'cams-00000-of-00001.h5'}\n"), done.err
    before, after = Run([maps], "cams"), Run([tmp_path / "out"], "cams")
    assert after.first.attribute("background") == before.first.attribute("background") == "none"
    regions = read_items(inputs / "regions", "regions", "labels")
    for item_id in before.ids:
        scores, class_ids = resize_to_image(before.item(item_id))
        item = after.item(item_id).datasets
        assert item["class_ids"].tolist() == class_ids.tolist()
        assert (item["cam"].shape, item["cam"].dtype) == ((len(class_ids), *SIZE), np.uint8)
        expected = scores.copy()
        for region in np.unique(regions[item_id][regions[item_id] > 0]):
            inside = regions[item_id] == region
            expected[:, inside] = scores[:, inside].mean(axis=1, keepdims=True)
        # Half a step of 8 bits, and a sum of at most 384 pixels in float32.
        np.testing.assert_allclose(item["cam"] / 255, expected, atol=0.5 / 255 + 384 * 2 ** -24)
    run_ok("pseudo", tmp_path / "out", "-o", tmp_path / "masks")


def test_masks_get_most_frequent_class_of_each_region(inputs, tmp_path):
    paths = run_ok("refine", "regions", inputs / "masks", "--regions", inputs / "regions", "--rule", "vote", "-j", "1",
                   "-o", tmp_path / "out")
    assert [Path(path).name for path in paths] == [f"masks-0000{part}-of-00003.h5" for part in range(3)]
    before, regions = (read_items(inputs / name, kind, dataset) for name, kind, dataset in (
        ("masks", "masks", "mask"), ("regions", "regions", "labels")))
    after = read_items(tmp_path / "out", "masks", "mask")
    assert any((after[item_id] != mask).any() for item_id, mask in before.items())
    for item_id, mask in before.items():
        expected = mask.copy()
        for region in np.unique(regions[item_id][regions[item_id] > 0]):
            values, counts = np.unique(mask[(regions[item_id] == region) & (mask != 255)], return_counts=True)
            if len(values):
                expected[regions[item_id] == region] = values[counts.argmax()]
        np.testing.assert_array_equal(after[item_id], expected)
    assert "confidence" not in Run([tmp_path / "out"], "masks").item(next(iter(after))).datasets
    run_ok("export", "png", tmp_path / "out", "-o", tmp_path / "png")


def test_classes_choose_regions(inputs, tiny_dataset, tiny_index, tmp_path):
    """A region of which more than half lies in the class joins it; of the others, the class loses its pixels."""
    (tmp_path / "files").mkdir()
    for item_id in tiny_dataset.ids:
        mask = np.zeros(SIZE, np.uint8)
        mask[5:, 4:14] = 1  # half of the stripe 0..7, six of the eight columns 8..15
        mask[:2, 40:] = 255
        Image.fromarray(mask).save(tmp_path / "files" / f"{item_id}.png")
    run_ok("import", "masks", tmp_path / "files", "--index", tiny_index, "-o", tmp_path / "masks")
    run_ok("refine", "regions", tmp_path / "masks", "--regions", inputs / "regions", "--rule", "sepl", "-o",
           tmp_path / "out")
    expected = np.zeros(SIZE, np.uint8)
    expected[5:, 8:16] = 1
    # Of the first image the first stripe has the id 0, so it is in no region and keeps its class.
    for number, mask in enumerate(read_items(tmp_path / "out", "masks", "mask").values()):
        expected[5:, 4:8] = number == 0
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(("rule", "source", "texts"), [
    ("vote", "cams", ("--rule vote needs masks", "--rule mean", "wsss pseudo")),
    ("mean", "masks", ("--rule mean needs cams", "--rule vote"))])
def test_rule_for_other_kind_is_rejected(rule, source, texts, inputs, maps, tmp_path):
    path = maps if source == "cams" else inputs / "masks"
    check_error(run("refine", "regions", path, "--regions", inputs / "regions", "--rule", rule, "-j", "1", "-o",
                    tmp_path / "out"), 2, *texts, f"{source}-00000")


def test_wrong_regions_are_named(inputs, maps, tmp_path):
    def refine(regions: object, *more: object):
        return run("refine", "regions", maps, *(("--regions", regions) if regions else ()), *more, "-o",
                   tmp_path / "out")

    check_error(refine(maps), 65, "cams", "regions")
    check_error(refine(tmp_path / "none"), 66, "none")
    check_error(refine(None), 2, "--regions")
    check_error(refine(inputs / "regions", "--rule", "median"), 2, "--rule", "mean")


def test_regions_of_other_images_are_rejected(inputs, tiny_dataset, maps, tmp_path):
    (tmp_path / "images").mkdir()
    for item_id in tiny_dataset.ids:
        Image.new("RGB", SIZE[::-1], "red").save(tmp_path / "images" / f"{item_id}.png")
    run_ok("index", "table", tiny_dataset.root / "labels.csv", "--images", tmp_path / "images", "-o",
           tmp_path / "other.h5")
    run_ok("import", "regions", inputs / "files", "--index", tmp_path / "other.h5", "-o", tmp_path / "regions")
    check_error(run("refine", "regions", maps, "--regions", tmp_path / "regions", "-o", tmp_path / "out"), 65,
                tiny_dataset.ids[0])


def test_images_without_regions_fail_alone(inputs, tiny_dataset, tiny_index, maps, tmp_path):
    missing = tiny_dataset.ids[3]
    folder = save_regions(tmp_path / "files", tiny_dataset.ids)
    (folder / f"{missing}.npy").unlink()
    run("import", "regions", folder, "--index", tiny_index, "--allow-errors", "1", "-o", tmp_path / "regions")
    words = ("refine", "regions", maps, "--regions", tmp_path / "regions", "-o", tmp_path / "out")
    done = run(*words)
    assert done.code == 65 and missing in done.err
    assert run(*words, "--allow-errors", "1").code == 0
    after = Run([tmp_path / "out"], "cams")
    assert [item_id for item_id in after.ids if after.item(item_id).error] == [missing]
