"""`wsss eval` with several runs: what is compared, the numbers, the files, and the messages."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, check_error, copy_dataset, index_table, run, run_ok
from cli.test_eval import compute_miou, evaluate, read_truth, write_masks
from stages.shards import Shard


@pytest.fixture(scope="module")
def truth(tiny_index) -> dict[str, np.ndarray]:
    """Return the ground-truth mask of every image."""
    return read_truth(tiny_index)


def spoil(truth: dict[str, np.ndarray], share: float, seed: int) -> dict[str, np.ndarray]:
    """Return masks in which this share of the pixels, at random, is background."""
    random = np.random.default_rng(seed)
    return {name: np.where(random.random(mask.shape) < share, np.uint8(0), np.where(mask == 255, np.uint8(0), mask))
            for name, mask in truth.items()}


@pytest.fixture(scope="module")
def masks(truth) -> dict[str, dict[str, np.ndarray]]:
    """Return the masks of two runs, of which `good` is better on every image but the first."""
    good, poor = spoil(truth, 0.1, 1), spoil(truth, 0.3, 2)
    first = next(iter(truth))
    good[first], poor[first] = poor[first], good[first]
    return {"poor": poor, "good": good}


@pytest.fixture(scope="module")
def folder(tiny_index, masks, tmp_path_factory) -> Path:
    """Return a folder with the runs poor.h5 and good.h5."""
    path = tmp_path_factory.mktemp("compare")
    for name, masks_by_id in masks.items():
        write_masks(tiny_index, path / f"{name}.h5", masks_by_id)
    return path


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return CAMs of the tiny data set in two shards."""
    path = tmp_path_factory.mktemp("compared-cams") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", path, "--shard-size", "6", "-j", "1", *SMALL)
    return path


def test_compares_with_the_first_run(folder, masks, truth):
    done = run("eval", "poor.h5", "good.h5", "--json", cwd=folder)
    result = json.loads(done.out)
    poor, good = result["runs"]
    expected = {name: compute_miou(truth, masks[name]) for name in masks}
    assert (poor["miou"], good["miou"]) == pytest.approx((expected["poor"], expected["good"]))
    (difference,) = result["differences"]
    assert difference["difference"] == pytest.approx(expected["good"] - expected["poor"])
    low, high = difference["interval"]
    assert 0 < low < difference["difference"] < high
    assert (difference["better"], difference["worse"]) == pytest.approx((11 / 12, 1 / 12))
    assert (result["images"], result["left_out"], result["draws"], result["seed"]) == (12, 0, 2000, 0)
    gain = 100 * difference["difference"]
    sentence = (f"good is better than poor on 92 % of the 12 images and worse on 8 %: {gain:+.1f} mIoU, 95 % interval "
                f"{100 * low:.1f} to {100 * high:.1f} (2,000 draws, seed 0).")
    assert sentence in done.err.splitlines()
    assert difference["conclusion"] == sentence


def test_scores_of_each_run_are_those_of_the_run_alone(folder):
    compared = evaluate(folder / "poor.h5", folder / "good.h5")
    for run_result, name in zip(compared["runs"], ("poor", "good"), strict=True):
        alone = evaluate(folder / f"{name}.h5")
        assert {key: run_result[key] for key in ("miou", "per_class", "precision", "recall", "coverage")} == {
            key: alone[key] for key in ("miou", "per_class", "precision", "recall", "coverage")}


def test_equal_masks_can_not_be_told_apart(tiny_index, folder, masks, tmp_path):
    write_masks(tiny_index, tmp_path / "copy.h5", masks["poor"])
    done = run("eval", folder / "poor.h5", tmp_path / "copy.h5")
    assert "No difference between copy and poor can be told from these 12 images: +0.0 mIoU" in done.err


def test_masks_and_cams(cams, folder):
    done = run("eval", folder / "poor.h5", cams, "--json")
    result = json.loads(done.out)
    assert "cams: The background score was chosen on the ground truth that is scored" in done.err
    assert result["runs"][0]["background"] is None
    assert result["runs"][1]["miou"] == evaluate(cams)["miou"]
    fixed = evaluate(folder / "poor.h5", cams, "--background", "constant:0.3")
    assert fixed["runs"][1]["background"]["value"] == 0.3
    check_error(run("eval", folder / "poor.h5", folder / "good.h5", "--background", "constant:0.3"), 2, "--background")


def test_shards_of_one_run_are_not_compared(cams, tmp_path):
    first, second = sorted(cams.glob("*.h5"))
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(second, tmp_path / "moved")
    index = cams.parent / "train.h5"
    index_options = ("--index", index) if index.exists() else ("--index", find_index(first))
    assert evaluate(first, moved, *index_options) == evaluate(cams)
    check_error(run("eval", first), 66, "lacks part 1 of 2")


def find_index(path: Path) -> Path:
    """Return the path of the index that a shard was made from."""
    return (path.parent / Shard(path).attribute("index_path")).resolve()


def test_parts_of_several_runs_belong_to_their_folders(cams, tmp_path):
    copy = Path(shutil.copytree(cams, tmp_path / "again"))
    mixed = [path for pair in zip(sorted(cams.glob("*.h5")), sorted(copy.glob("*.h5")), strict=True) for path in pair]
    # The second path is not part 1 of the first run but part 0 of another, whose part 1 comes last.
    result = evaluate(*mixed, "--index", find_index(mixed[0]))
    assert [run_result["name"] for run_result in result["runs"]] == ["cams", "again"]
    assert (result["differences"][0]["difference"], result["differences"][0]["interval"]) == (0, [0, 0])


def test_the_folder_of_a_run_is_its_name(cams, folder):
    result = json.loads("\n".join(run_ok("eval", ".", folder / "poor.h5", "--json", cwd=cams)))
    assert [run_result["name"] for run_result in result["runs"]] == ["cams", "poor"]


def test_only_common_images_are_compared(tiny_index, folder, masks, truth, tmp_path):
    fewer = {name: mask for name, mask in masks["good"].items() if name not in ("picture_000", "picture_003")}
    write_masks(tiny_index, tmp_path / "fewer.h5", fewer)
    done = run("eval", folder / "poor.h5", tmp_path / "fewer.h5", "--json")
    assert "Compared 10 images and left out 2 that not all runs contain." in done.err
    result = json.loads(done.out)
    assert (result["images"], result["left_out"]) == (10, 2)
    common = {name: truth[name] for name in fewer}
    assert result["runs"][0]["miou"] == pytest.approx(compute_miou(common, masks["poor"]))


def test_rejects_runs_without_common_images(tiny_index, masks, tmp_path):
    ids = list(masks["good"])
    for name, kept in (("one", ids[:5]), ("two", ids[5:])):
        write_masks(tiny_index, tmp_path / f"{name}.h5", {item_id: masks["good"][item_id] for item_id in kept})
    check_error(run("eval", tmp_path / "one.h5", tmp_path / "two.h5"), 65, "no image in common", "picture_000")


def test_rejects_other_photographs_of_the_same_name(tiny_dataset, tiny_net, cams, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "other")
    path = root / "JPEGImages" / "picture_002.jpg"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert index_table(root, tmp_path / "i.h5", "--masks", root / "SegmentationClass").code == 0
    run_ok("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    check_error(run("eval", f"A={cams}", f"B={tmp_path / 'cams'}"), 65, "picture_002", "other images than")


def test_groups_of_seeds(tiny_index, truth, tmp_path):
    mious = {}
    for name, share in (("a", 0.3), ("b", 0.1)):
        for seed in (1, 2, 3):
            masks = spoil(truth, share, seed)
            write_masks(tiny_index, tmp_path / f"{name}{seed}.h5", masks)
            mious[name, seed] = compute_miou(truth, masks)
    done = run("eval", "CAM=a1.h5,a2.h5,a3.h5", "CRF=b1.h5,b2.h5,b3.h5", "--json", cwd=tmp_path)
    result = json.loads(done.out)
    for group, name in zip(result["runs"], "ab", strict=True):
        values = [mious[name, seed] for seed in (1, 2, 3)]
        assert group["miou"] == pytest.approx(np.mean(values))
        assert group["standard_deviation"] == pytest.approx(np.std(values, ddof=1))
        assert group["range"] == pytest.approx([min(values), max(values)])
        assert [seed["miou"] for seed in group["seeds"]] == pytest.approx(values)
    assert result["differences"][0]["ranges_overlap"] is False
    assert "CRF is better than CAM" in done.err and "overlap" not in done.err
    table = run_ok("eval", "CAM=a1.h5,b2.h5", "CRF=b1.h5,b3.h5", cwd=tmp_path)
    assert table[0].split("\t")[:3] == ["run", "mIoU", "sd"]
    overlapping = run("eval", "CAM=a1.h5,b2.h5", "CRF=b1.h5,b3.h5", cwd=tmp_path)
    best, worst = max(mious["b", 1], mious["b", 3]), min(mious["b", 1], mious["b", 3])
    assert ("overlap" in overlapping.err) == (worst <= mious["b", 2]) and best > mious["a", 1]
    check_error(run("eval", "CAM=a1.h5,a1.h5", cwd=tmp_path), 2, "the same run twice")
    check_error(run("eval", "CAM=a1.h5,", cwd=tmp_path), 2, "NAME=RUN")


def test_table_of_images(folder, masks, truth, tmp_path):
    run_ok("eval", folder / "poor.h5", folder / "good.h5", "--per-image", tmp_path / "out" / "images.csv")
    with (tmp_path / "out" / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["id", "poor", "good", "good - poor", "poor: background"]
    assert [row["id"] for row in rows] == list(truth)
    for row in rows:
        for name in ("poor", "good"):
            alone = {row["id"]: truth[row["id"]]}
            assert float(row[name]) == pytest.approx(compute_miou(alone, masks[name]), abs=1e-5)
        assert float(row["good - poor"]) == pytest.approx(float(row["good"]) - float(row["poor"]), abs=2e-6)
        for label, name in ((1, "cat"), (2, "dog")):
            has_class = label in truth[row["id"]] or label in masks["good"][row["id"]]
            assert (row[f"good: {name}"] != "") == has_class


def test_table_of_images_as_parquet(folder, truth, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    run_ok("eval", folder / "good.h5", "--per-image", tmp_path / "images.parquet")
    table = parquet.read_table(tmp_path / "images.parquet").to_pydict()
    assert list(table) == ["id", "good", "background", "cat", "dog"]
    assert table["id"] == list(truth)
    assert {value is None for value in table["cat"]} == {True, False}


def test_worst_images_can_be_shown(folder, tmp_path):
    result = evaluate(folder / "poor.h5", folder / "good.h5", "--worst", "3")
    assert result["worst"] == ["picture_000"], "only the first image is worse in the second run"
    lines = run_ok("eval", folder / "poor.h5", "--worst", "2")
    ids = lines[lines.index("worst images") + 1]
    assert len(ids.split(",")) == 2
    run_ok("show", folder / "poor.h5", "--ids", ids, "-o", tmp_path / "worst.png")


def test_confusion_matrix(folder, masks, truth, tmp_path):
    run_ok("eval", folder / "good.h5", "--confusion", tmp_path / "c.csv")
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows[0] == ["run", "true class", "background", "cat", "dog", "ignored"]
    true_ids, predicted = (np.concatenate([table[name].ravel() for name in truth]) for table in (truth, masks["good"]))
    for label, row in enumerate(rows[1:]):
        counts = [int(((true_ids == label) & (predicted == other)).sum()) for other in (0, 1, 2, 255)]
        assert list(map(int, row[2:])) == counts
    run_ok("eval", folder / "poor.h5", folder / "good.h5", "--confusion", tmp_path / "c.png")
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["c-2.png", "c.png"]


def test_boundary_and_calibration(cams, folder, tiny_index, truth, tmp_path):
    write_masks(tiny_index, tmp_path / "truth.h5", truth)
    result = evaluate(tmp_path / "truth.h5", folder / "good.h5", "--boundary")
    assert result["runs"][0]["boundary_miou"] == 1
    assert result["runs"][1]["boundary_miou"] < result["runs"][1]["miou"]
    calibrated = evaluate(cams, "--calibration", "--confusion", tmp_path / "c.csv")
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))[1:]
    num_right = sum(int(row[2 + label]) for label, row in enumerate(rows))
    assert sum(row["pixels"] * (row["accuracy"] or 0) for row in calibrated["reliability"]) == pytest.approx(num_right)
    num_pixels = sum(int((mask != 255).sum()) for mask in truth.values())
    assert sum(row["pixels"] for row in calibrated["reliability"]) == num_pixels
    assert 0 <= calibrated["calibration_error"] <= 1
    check_error(run("eval", folder / "good.h5", "--calibration"), 2, "--calibration", "good.h5")


@pytest.mark.parametrize(("name", "start"), [("text", "run   mIoU"), ("tsv", "run\tmIoU"), ("markdown", "| run | mIoU"),
                                             ("latex", r"\begin{tabular}{lrrrrr}"), ("json", "{")])
def test_formats(folder, name, start, tmp_path):
    lines = run_ok("eval", folder / "poor.h5", folder / "good.h5", "--format", name)
    assert lines[0].startswith(start)
    run_ok("eval", folder / "poor.h5", folder / "good.h5", "--format", name, "-o", tmp_path / "result")
    assert (tmp_path / "result").read_text().splitlines() == lines


def test_names_are_escaped(folder):
    paths = [f"a|b_1={folder / 'poor.h5'}", f"50%={folder / 'good.h5'}"]
    assert "| a\\|b_1 |" in run_ok("eval", *paths, "--format", "markdown")[2]
    latex = run_ok("eval", *paths, "--format", "latex")
    assert latex[4].startswith(r"a\textbar{}b\_1 &") and latex[5].startswith(r"50\% &")


def test_draws_interval_and_seed(folder):
    paths = (folder / "poor.h5", folder / "good.h5")
    assert evaluate(*paths) == evaluate(*paths)
    other = evaluate(*paths, "--seed", "1")["differences"][0]["interval"]
    usual = evaluate(*paths)["differences"][0]["interval"]
    narrow = evaluate(*paths, "--interval", "0.5")["differences"][0]["interval"]
    assert other != usual
    assert usual[0] < narrow[0] < narrow[1] < usual[1]
    assert "80 % interval" in run("eval", *paths, "--interval", "0.8").err


def test_dry_run_and_usage_errors(folder, tmp_path):
    paths = (folder / "poor.h5", folder / "good.h5")
    assert "Would compare poor, good on 12 images" in run("eval", *paths, "-n").err
    check_error(run("eval", *paths, "--format", "xml"), 2, "--format 'xml'", "latex")
    check_error(run("eval", *paths, "--json", "--format", "tsv"), 2, "contradict")
    check_error(run("eval", *paths, "--per-image", tmp_path / "x.xlsx"), 2, ".csv or .parquet")
    check_error(run("eval", *paths, "--confusion", tmp_path / "x.txt"), 2, ".csv, .png or .pdf")
    check_error(run("eval", paths[0], paths[0]), 65, "twice")
    check_error(run("eval", f"A={paths[0]}", f"A={paths[1]}"), 2, "A is given twice", "NAME=RUN")
    check_error(run("eval", *paths, "--draws", "5"), 2, "--draws 5")
    check_error(run("eval", *paths, "--boundary-width", "0.1"), 2, "--boundary-width has no effect")
