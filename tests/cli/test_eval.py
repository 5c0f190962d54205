"""`wsss eval`: tables, the three rules, missing predictions, and warnings about the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, TRAINING, check_error, copy_dataset, index_table, run, run_ok
from stages.data.image_source import ImageSource
from stages.flow.item_arrays import resize_to_image
from stages.kernels.background import Background, cams_to_mask
from stages.shards import Item, Run, Shard, ShardContents, write_shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return CAMs of the whole tiny data set."""
    folder = tmp_path_factory.mktemp("eval") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


def evaluate(*args: object) -> dict:
    """Run `wsss eval` and return its JSON result."""
    return json.loads("\n".join(run_ok("eval", *args, "--json")))


def write_masks(index: Path, path: Path, masks: dict[str, np.ndarray | None]) -> Path:
    """Write a masks shard with these masks; None stands for a failed image."""
    shard = Shard(index)
    items = [Item(name, error="broken") if mask is None else Item(name, {"mask": mask}) for name, mask in masks.items()]
    write_shard(path, ShardContents("masks", shard.classes, items, provenance=shard.provenance,
                                    index_digest=shard.digest, index_path=str(index)))
    return path


def read_truth(index: Path) -> dict[str, np.ndarray]:
    """Return the ground-truth mask of every image."""
    source = ImageSource(Shard(index))
    return {name: source.read_mask(name) for name in source.index.ids}


def compute_miou(truth: dict, predicted: dict, rule: str = "either", *, skip_ignored: bool = False) -> float:
    """Compute the mIoU of three classes from its definition."""
    true_ids, predicted_ids = (np.concatenate([masks[name].ravel() for name in truth]) for masks in (truth, predicted))
    is_counted = (true_ids != 255) & ~(skip_ignored & (predicted_ids == 255))
    true_ids, predicted_ids = true_ids[is_counted], predicted_ids[is_counted]
    ious = []
    for label in range(3):
        union = ((true_ids == label) | (predicted_ids == label)).sum()
        if rule == "all" or (union if rule == "either" else (true_ids == label).sum()):
            ious.append(((true_ids == label) & (predicted_ids == label)).sum() / max(1, union))
    return float(np.mean(ious))


def test_sweep_chooses_the_best_constant_and_warns(cams, tiny_index):
    done = run("eval", cams, "--json")
    result = json.loads(done.out)
    assert "chosen on the ground truth" in done.err
    truth, maps = read_truth(tiny_index), Run([cams])
    rows = {name: resize_to_image(maps.item(name)) for name in truth}
    mious = []
    for step in range(100):
        rule = Background("constant", (step / 100,))
        mious.append(compute_miou(truth, {name: cams_to_mask(*rows[name], rule, 255) for name in truth}))
    assert result["miou"] == pytest.approx(max(mious), abs=1e-12)
    expected = {"rule": "constant", "value": mious.index(max(mious)) / 100, "chosen_on": "ground-truth",
                "index": Shard(tiny_index).digest}
    assert result["background"] == expected
    assert (result["images"], result["missing"], result["coverage"]) == (12, 0, 1.0)
    fixed = evaluate(cams, "--background", f"constant:{expected['value']}")
    assert fixed["miou"] == result["miou"]
    assert fixed["background"]["chosen_on"] == "given"


def test_sweep_over_powers(cams):
    result = evaluate(cams, "--background", "sweep-power")
    assert result["background"]["rule"] == "power"
    assert evaluate(cams, "--background", f"power:{result['background']['value']}")["miou"] == result["miou"]


def test_table_agrees_with_json(cams):
    result = evaluate(cams)
    rows = dict(line.split("\t") for line in run_ok("eval", cams))
    assert list(rows) == ["class", *result["per_class"], "mIoU", "images", "background score", "rule"]
    assert rows["mIoU"] == f"{result['miou']:.2%}"
    assert rows["cat"] == f"{result['per_class']['cat']:.2%}"
    assert rows["background score"] == f"constant:{result['background']['value']} (ground-truth)"


def test_ground_truth_scores_1(tiny_index, tmp_path):
    path = write_masks(tiny_index, tmp_path / "masks.h5", read_truth(tiny_index))
    result = evaluate(path)
    assert (result["miou"], set(result["per_class"].values())) == (1.0, {1.0})
    assert result["background"] is None
    assert set(result) == {
        "miou", "per_class", "precision", "recall", "images", "missing", "refused", "coverage", "rule", "background",
        "protocol"}


@pytest.fixture
def random_masks(tiny_index) -> dict[str, np.ndarray]:
    """Return random masks of background, cats and ignored pixels, without dogs."""
    random = np.random.default_rng(4)
    return {name: random.choice(np.array([0, 1, 255], np.uint8), mask.shape)
            for name, mask in read_truth(tiny_index).items()}


def test_ignored_pixels_are_misses_unless_skipped(tiny_index, random_masks, tmp_path):
    path, truth = write_masks(tiny_index, tmp_path / "masks.h5", random_masks), read_truth(tiny_index)
    plain, skipped = evaluate(path), evaluate(path, "--ignore-predicted")
    assert plain["miou"] == pytest.approx(compute_miou(truth, random_masks))
    assert skipped["miou"] == pytest.approx(compute_miou(truth, random_masks, skip_ignored=True))
    assert skipped["miou"] > plain["miou"]
    assert plain["coverage"] == pytest.approx(2 / 3, abs=0.02)
    assert "misses" in plain["protocol"]
    assert "skipped" in skipped["protocol"]


def test_the_three_rules(tiny_dataset, tmp_path, random_masks):
    """The ground truth has no dogs; dogs are predicted or absent."""
    root = copy_dataset(tiny_dataset, tmp_path / "cats")
    cat_ids = [name for name, ids in zip(tiny_dataset.ids, tiny_dataset.labels, strict=True) if ids == (1,)]
    (root / "labels.csv").write_text("id,labels\n" + "".join(f"{name},cat\n" for name in cat_ids))
    assert index_table(root, tmp_path / "cats.h5").code == 0
    truth = read_truth(tmp_path / "cats.h5")
    for number, label in enumerate((0, 2)):
        masks = {name: np.where(random_masks[name] == 255, np.uint8(label), random_masks[name]) for name in cat_ids}
        path = write_masks(tmp_path / "cats.h5", tmp_path / f"masks{number}.h5", masks)
        for rule in ("either", "truth", "all"):
            result = evaluate(path, "--rule", rule)
            assert result["miou"] == pytest.approx(compute_miou(truth, masks, rule))
            assert result["rule"] == rule
            assert result["per_class"]["dog"] == (None if label == 0 else 0.0)


def test_missing_predictions_count_as_background(tiny_index, tiny_dataset, tmp_path):
    truth = read_truth(tiny_index)
    first, second, *others = tiny_dataset.ids
    masks = {name: truth[name] for name in others} | {second: None}
    path = write_masks(tiny_index, tmp_path / "masks.h5", masks)
    done = run("eval", path, "--json")
    assert done.code == 0
    assert "Counted 2 of 12 images as background because they have no prediction." in done.err
    result = json.loads(done.out)
    assert (result["images"], result["missing"]) == (12, 2)
    filled = truth | {name: np.zeros_like(truth[name]) for name in (first, second)}
    assert result["miou"] == pytest.approx(compute_miou(truth, filled))
    skipping = run("eval", path, "--json", "--skip-missing")
    assert "Skipped 2 of 12 images because they have no prediction." in skipping.err
    result = json.loads(skipping.out)
    assert (result["miou"], result["images"], result["missing"]) == (1.0, 10, 2)
    assert "images without prediction left out" in result["protocol"]


def test_warns_if_the_network_was_trained_on_this_index(tiny_index, tmp_path):
    net = tmp_path / "seg.safetensors"
    run_ok("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", net)
    run_ok("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "out", "--device", "cpu")
    assert "trained on these images" in run("eval", tmp_path / "out").err


def test_rejects_an_index_of_other_images(cams, tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "other")
    (root / "labels.csv").write_text("id,labels\npicture_000,cat\n")
    assert index_table(root, tmp_path / "other.h5").code == 0
    check_error(run("eval", cams, "--index", tmp_path / "other.h5"), 65, "other.h5",
                "does not contain picture_001 (image 2 of 12)", "--index")


def test_rejects_masks_of_another_size(tiny_index, tmp_path):
    masks = read_truth(tiny_index)
    masks["picture_003"] = masks["picture_003"][:, :-1]
    path = write_masks(tiny_index, tmp_path / "masks.h5", masks)
    check_error(run("eval", path), 65, "picture_003", "(48, 63)", "(48, 64)")


@pytest.mark.parametrize(("label", "message"), [(3, "3"), (200, "200")])
def test_rejects_masks_with_unknown_class_ids(tiny_index, tmp_path, label, message):
    masks = read_truth(tiny_index)
    masks["picture_003"] = np.full_like(masks["picture_003"], label)
    check_error(run("eval", write_masks(tiny_index, tmp_path / "masks.h5", masks)), 65, "picture_003", message)


def test_rejects_a_background_for_masks(tiny_index, tmp_path):
    path = write_masks(tiny_index, tmp_path / "masks.h5", read_truth(tiny_index))
    check_error(run("eval", path, "--background", "constant:0.3"), 2, "--background")


def test_reports_images_that_the_index_rejected(tiny_dataset, tiny_net, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    (root / "JPEGImages" / "picture_004.jpg").write_bytes(b"")
    assert index_table(root, tmp_path / "i.h5").code == 65
    trained = run("train-cls", "cam", tmp_path / "i.h5", *TRAINING, "-o", tmp_path / "n.safetensors")
    assert "Skipping 1 images that the index rejected" in trained.err
    trained = run("train-seg", tmp_path / "i.h5", "--masks", "truth", *TRAINING, "-o", tmp_path / "s.safetensors")
    assert "Skipping 1 images that the index rejected" in trained.err
    run_ok("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "cams", "--allow-errors", "1", *SMALL)
    done = run("eval", tmp_path / "cams", "--json")
    assert "Skipped 1 of 12 images because the index rejected them." in done.err
    result = json.loads(done.out)
    assert (result["images"], result["missing"], result["refused"]) == (11, 0, 1)


def test_ground_truth_of_ignored_pixels_has_no_miou(tiny_dataset, tiny_net, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    for path in (root / "SegmentationClass").glob("*.png"):
        with Image.open(path) as mask:
            Image.fromarray(np.full((mask.height, mask.width), 255, np.uint8)).save(path)
    assert index_table(root, tmp_path / "i.h5", "--masks", root / "SegmentationClass").code == 0
    run_ok("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    result = evaluate(tmp_path / "cams")
    assert result["miou"] is None and set(result["per_class"].values()) == {None}
