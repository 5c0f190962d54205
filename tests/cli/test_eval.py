"""`wsss eval`: tables, the three rules, what is missing, and what is told beside the number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, TRAINING, copy_of, good, index_table, refused, run
from stages.data.source import ImageSource
from stages.flow.maps import full_size
from stages.kernels.background import Background, mask_of_maps
from stages.shards import Contents, Item, Run, Shard, write_shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return maps of the whole tiny set."""
    folder = tmp_path_factory.mktemp("eval") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


def scored(*args: object) -> dict:
    return json.loads("\n".join(good("eval", *args, "--json")))


def masks_of(index: Path, path: Path, masks: dict[str, np.ndarray | None]) -> Path:
    """Write a masks shard beside `path`'s folder with these masks; None: refused."""
    shard = Shard(index)
    items = [Item(name, error="broken") if mask is None else Item(name, {"mask": mask}) for name, mask in masks.items()]
    write_shard(path, Contents("masks", shard.classes, items, provenance=shard.provenance,
                               index_digest=shard.digest, index_path=str(index)))
    return path


def truth_of(index: Path) -> dict[str, np.ndarray]:
    source = ImageSource(Shard(index))
    return {name: source.mask(name) for name in source.index.ids}


def by_hand(truth: dict, predicted: dict, rule: str = "either", *, skip_ignored: bool = False) -> float:
    """Return the mIoU of three classes from its definition."""
    real, guess = (np.concatenate([one[name].ravel() for name in truth]) for one in (truth, predicted))
    counted = (real != 255) & ~(skip_ignored & (guess == 255))
    real, guess = real[counted], guess[counted]
    ious = []
    for label in range(3):
        union = ((real == label) | (guess == label)).sum()
        if rule == "all" or (union if rule == "either" else (real == label).sum()):
            ious.append(((real == label) & (guess == label)).sum() / max(1, union))
    return float(np.mean(ious))


def test_the_sweep_over_maps_takes_the_best_constant_and_says_so(cams, tiny_index):
    done = run("eval", cams, "--json")
    result = json.loads(done.out)
    assert "chosen on the ground truth" in done.err
    truth, maps = truth_of(tiny_index), Run([cams])
    rows = {name: full_size(maps.item(name)) for name in truth}
    each = []
    for step in range(100):
        rule = Background("constant", (step / 100,))
        each.append(by_hand(truth, {name: mask_of_maps(*rows[name], rule, 255) for name in truth}))
    assert result["miou"] == pytest.approx(max(each), abs=1e-12)
    chosen = {"rule": "constant", "value": each.index(max(each)) / 100, "chosen_on": "ground-truth",
              "index": Shard(tiny_index).digest}
    assert result["background"] == chosen
    assert (result["images"], result["missing"], result["coverage"]) == (12, 0, 1.0)
    fixed = scored(cams, "--background", f"constant:{chosen['value']}")
    assert fixed["miou"] == result["miou"]
    assert fixed["background"]["chosen_on"] == "given"


def test_a_sweep_of_powers(cams):
    result = scored(cams, "--background", "sweep-power")
    assert result["background"]["rule"] == "power"
    assert scored(cams, "--background", f"power:{result['background']['value']}")["miou"] == result["miou"]


def test_the_table_says_what_the_json_says(cams):
    result = scored(cams)
    rows = dict(line.split("\t") for line in good("eval", cams))
    assert list(rows) == ["class", *result["per_class"], "mIoU", "images", "background score", "rule"]
    assert rows["mIoU"] == f"{result['miou']:.2%}"
    assert rows["cat"] == f"{result['per_class']['cat']:.2%}"
    assert rows["background score"] == f"constant:{result['background']['value']} (ground-truth)"


def test_the_truth_itself_scores_1(tiny_index, tmp_path):
    path = masks_of(tiny_index, tmp_path / "masks.h5", truth_of(tiny_index))
    result = scored(path)
    assert (result["miou"], set(result["per_class"].values())) == (1.0, {1.0})
    assert result["background"] is None
    assert set(result) == {
        "miou", "per_class", "images", "missing", "refused", "coverage", "rule", "background", "protocol"}


@pytest.fixture
def guesses(tiny_index) -> dict[str, np.ndarray]:
    """Return masks that hold background, cats and ignored pixels, and no dog."""
    random = np.random.default_rng(4)
    return {name: random.choice(np.array([0, 1, 255], np.uint8), mask.shape)
            for name, mask in truth_of(tiny_index).items()}


def test_ignored_pixels_of_predictions(tiny_index, guesses, tmp_path):
    path, truth = masks_of(tiny_index, tmp_path / "masks.h5", guesses), truth_of(tiny_index)
    plain, skipped = scored(path), scored(path, "--ignore-predicted")
    assert plain["miou"] == pytest.approx(by_hand(truth, guesses))
    assert skipped["miou"] == pytest.approx(by_hand(truth, guesses, skip_ignored=True))
    assert skipped["miou"] > plain["miou"]
    assert plain["coverage"] == pytest.approx(2 / 3, abs=0.02)
    assert "misses" in plain["protocol"]
    assert "skipped" in skipped["protocol"]


def test_the_three_rules(tiny_folder, tmp_path, guesses):
    """Of a set without dogs in its truth, where dogs are predicted or nowhere."""
    root = copy_of(tiny_folder, tmp_path / "cats")
    keep = [name for name, ids in zip(tiny_folder.ids, tiny_folder.labels, strict=True) if ids == (1,)]
    (root / "labels.csv").write_text("id,labels\n" + "".join(f"{name},cat\n" for name in keep))
    assert index_table(root, tmp_path / "cats.h5").code == 0
    truth = truth_of(tmp_path / "cats.h5")
    for number, label in enumerate((0, 2)):
        masks = {name: np.where(guesses[name] == 255, np.uint8(label), guesses[name]) for name in keep}
        path = masks_of(tmp_path / "cats.h5", tmp_path / f"masks{number}.h5", masks)
        for rule in ("either", "truth", "all"):
            result = scored(path, "--rule", rule)
            assert result["miou"] == pytest.approx(by_hand(truth, masks, rule))
            assert result["rule"] == rule
            assert result["per_class"]["dog"] == (None if label == 0 else 0.0)


def test_missing_predictions_count_as_background_and_are_told(tiny_index, tiny_folder, tmp_path):
    truth = truth_of(tiny_index)
    first, second, *others = tiny_folder.ids
    masks = {name: truth[name] for name in others} | {second: None}
    path = masks_of(tiny_index, tmp_path / "masks.h5", masks)
    done = run("eval", path, "--json")
    assert done.code == 0
    assert "2 images have no prediction and are counted as background" in done.err
    result = json.loads(done.out)
    assert (result["images"], result["missing"]) == (12, 2)
    filled = truth | {name: np.zeros_like(truth[name]) for name in (first, second)}
    assert result["miou"] == pytest.approx(by_hand(truth, filled))
    left = run("eval", path, "--json", "--skip-missing")
    assert "2 images have no prediction and are left out" in left.err
    result = json.loads(left.out)
    assert (result["miou"], result["images"], result["missing"]) == (1.0, 10, 2)
    assert "images without prediction left out" in result["protocol"]


def test_a_net_scored_on_what_it_was_trained_on_is_told(tiny_index, tmp_path):
    net = tmp_path / "seg.safetensors"
    good("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", net)
    good("segment", "net", tiny_index, "--net", net, "-o", tmp_path / "out", "--device", "cpu")
    assert "trained on this index" in run("eval", tmp_path / "out").err


def test_another_index_is_no_index_of_it(cams, tiny_folder, tmp_path):
    root = copy_of(tiny_folder, tmp_path / "other")
    (root / "labels.csv").write_text("id,labels\npicture_000,cat\n")
    assert index_table(root, tmp_path / "other.h5").code == 0
    refused(run("eval", cams, "--index", tmp_path / "other.h5"), 65, "other.h5", "digest differs", "--index")


def test_masks_of_another_size(tiny_index, tmp_path):
    masks = truth_of(tiny_index)
    masks["picture_003"] = masks["picture_003"][:, :-1]
    path = masks_of(tiny_index, tmp_path / "masks.h5", masks)
    refused(run("eval", path), 65, "picture_003", "(48, 63)", "(48, 64)")


@pytest.mark.parametrize(("label", "told"), [(3, "3"), (200, "200")])
def test_masks_with_ids_that_are_no_class(tiny_index, tmp_path, label, told):
    masks = truth_of(tiny_index)
    masks["picture_003"] = np.full_like(masks["picture_003"], label)
    refused(run("eval", masks_of(tiny_index, tmp_path / "masks.h5", masks)), 65, "picture_003", told)


def test_a_background_has_no_meaning_for_masks(tiny_index, tmp_path):
    path = masks_of(tiny_index, tmp_path / "masks.h5", truth_of(tiny_index))
    refused(run("eval", path, "--background", "constant:0.3"), 2, "--background")


def test_images_that_the_index_refused_are_told(tiny_folder, tiny_net, tmp_path):
    root = copy_of(tiny_folder, tmp_path / "set")
    (root / "JPEGImages" / "picture_004.jpg").write_bytes(b"")
    assert index_table(root, tmp_path / "i.h5").code == 65
    trained = run("train-cls", "cam", tmp_path / "i.h5", *TRAINING, "-o", tmp_path / "n.safetensors")
    assert "1 images were refused by the index and are left out" in trained.err
    trained = run("train-seg", tmp_path / "i.h5", "--masks", "truth", *TRAINING, "-o", tmp_path / "s.safetensors")
    assert "1 images were refused by the index and are left out" in trained.err
    good("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "cams", "--allow-errors", "1", *SMALL)
    done = run("eval", tmp_path / "cams", "--json")
    assert "1 images were refused by the index and are not scored" in done.err
    result = json.loads(done.out)
    assert (result["images"], result["missing"], result["refused"]) == (11, 0, 1)


def test_truth_that_says_nothing(tiny_folder, tiny_net, tmp_path):
    root = copy_of(tiny_folder, tmp_path / "set")
    for path in (root / "SegmentationClass").glob("*.png"):
        with Image.open(path) as mask:
            Image.fromarray(np.full((mask.height, mask.width), 255, np.uint8)).save(path)
    assert index_table(root, tmp_path / "i.h5", "--masks", root / "SegmentationClass").code == 0
    good("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    result = scored(tmp_path / "cams")
    assert result["miou"] is None and set(result["per_class"].values()) == {None}
