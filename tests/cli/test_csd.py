"""`wsss train-cls csd` from the command line."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.conftest import TRAINING
from cli.runner import check_error, run, run_ok
from stages.nets.net_files import read_net
from stages.shards import Item, Run, ShardContents, write_shard
from training.test_command import start_torchrun
from waiting import PATIENCE, wait_until

SMALL = ("--base", "cam", *TRAINING)


@pytest.fixture(scope="module")
def inputs(tiny_index, tmp_path_factory) -> tuple:
    """Return the inputs: index, --cooc and --masks. Read only."""
    folder = tmp_path_factory.mktemp("inputs")
    run_ok("cooc", tiny_index, "-o", folder / "counted.h5")
    # Cats and dogs are equally frequent; these probabilities make cats more likely to be drawn.
    write_shard(folder / "cooc.h5", build_cooc(folder / "counted.h5", np.array([[0.9, 0.1], [0.7, 0.3]])))
    write_masks(tiny_index, folder / "masks.h5")
    return (tiny_index, "--cooc", folder / "cooc.h5", "--masks", folder / "masks.h5")


@pytest.fixture(scope="module")
def csd(inputs, tmp_path_factory) -> Path:
    """Return a trained network. Read only."""
    net = tmp_path_factory.mktemp("csd") / "csd.safetensors"
    assert run_ok("train-cls", "csd", *inputs, *SMALL, "-o", net) == [str(net)]
    return net


def write_masks(index: Path, path: Path, *, without: tuple[str, ...] = (), broken: str = "",
             empty: tuple[str, ...] = ()) -> Path:
    """Write a run of an index's true masks: some missing, one of another size, some empty."""
    shard = Run([index], "index").first
    root = index.parent / shard.attribute("root")
    items = []
    for item_id in shard.ids:
        if item_id not in without:
            mask = np.asarray(Image.open(root / shard.item(item_id).attrs["mask_path"]))
            mask = np.zeros_like(mask) if item_id in empty else mask
            items.append(Item(item_id, {"mask": mask[1:] if item_id == broken else mask}))
    write_shard(path, ShardContents("masks", shard.classes, items, provenance=shard.provenance,
                                    index_digest=shard.digest,
                               index_path=str(index)))
    return path


def write_index_with_tags(folder, path: Path, tags: list[str]) -> Path:
    """Write an index of the images of `folder` with other tags."""
    path.mkdir()
    with (path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "labels"), *zip(folder.ids, tags, strict=False)])
    run_ok("index", "table", path / "labels.csv", "--images", folder.root / "JPEGImages", "--masks",
           folder.root / "SegmentationClass", "--class-names", folder.root / "classes.txt", "-o", path / "train.h5",
           "--allow-contradictions")
    return path / "train.h5"


def read_log(net: Path) -> list[dict]:
    return [json.loads(line) for line in net.with_suffix(".log.jsonl").read_text().splitlines()]


def test_network_is_reproducible_and_makes_cams(inputs, csd, tmp_path):
    again = tmp_path / "again.safetensors"
    train = ("train-cls", "csd", *inputs, *SMALL, "-o", again)
    done = run(*train)
    assert done.code == 0 and "Skipping" not in done.err and "never pasted" not in done.err
    assert again.read_bytes() == csd.read_bytes()
    tensors, description = read_net(csd)
    entry = description["provenance"][-1]
    assert (entry["method"], entry["config"]["base"], description["supervision"]) == ("csd", "cam", "tags")
    assert set(entry["inputs"]) == {"index", "cooc", "masks"}
    assert (entry["config"]["lambda_fg"], entry["config"]["lambda_bg"]) == (0.01, 0.1)
    line = read_log(csd)[-1]
    expected = line["classification"] + 0.01 * line["foreground"] + 0.1 * line["background"]
    assert line["loss"] == pytest.approx(expected, abs=1e-5)
    assert line["foreground"] > 0 and line["no_object"] < 1
    assert "up to date" in run(*train).err
    check_error(run(*train, "--lambda-bg", "0.2"), 73, "lambda_bg: 0.1 -> 0.2")
    run_ok("cams", "cnn", inputs[0], "--net", csd, "--scales", "1", "--device", "cpu", "-o", tmp_path / "cams")
    run_ok("train-cls", "cam", inputs[0], *TRAINING, "-o", tmp_path / "cam.safetensors")
    assert set(read_net(tmp_path / "cam.safetensors")[0]) == set(tensors)


@pytest.mark.parametrize("option", [
    ("--lambda-fg", "0.5"), ("--lambda-bg", "0.5"), ("--reduction", "sum"), ("--constant", "0.5"),
    ("--constant-of", "one"), ("--saliency", "per-class"), ("--terms", "own"), ("--temperature", "2"),
    ("--background-gain", "10"), ("--resampling", "off"), ("--resampling", "classes"), ("--targets", "own"),
    ("--targets", "any"), ("--short-side", "34"), ("--placement", "random"), ("--paste-scale", "0.6,0.9"),
    ("--paste-rotation", "90"), ("--seed", "1"), ("--masks", "truth")], ids=" ".join)
def test_every_option_changes_the_network(inputs, csd, tmp_path, option):
    run_ok("train-cls", "csd", *inputs, *SMALL, *option, "-o", tmp_path / "csd.safetensors")
    plain, changed = (read_net(path)[1] for path in (csd, tmp_path / "csd.safetensors"))
    assert changed["digest"] != plain["digest"]
    if option[0] == "--masks":
        # The masks are the same; only the supervision in the description differs.
        assert changed["sha256"] == plain["sha256"]
        assert changed["supervision"].startswith("truth (full supervision")
    else:
        assert changed["sha256"] != plain["sha256"]


def test_base_mctformer_with_its_defaults_and_options(inputs, tmp_path):
    net = tmp_path / "mct.safetensors"
    run_ok("train-cls", "csd", *inputs, "--base", "mctformer", "--net", "timm:vit_tiny_patch16_224", "--crop-size",
           "64",
         "--epochs", "1", "--batch-size", "4", "--threads", "1", "--device", "cpu", "--version", "plus",
         "--colour-jitter", "0.1,0,0,0", "-o", net)
    description = read_net(net)[1]
    config = description["provenance"][-1]["config"]
    assert description["architecture"]["head"] == "mctformer-plus"
    assert (config["optimizer"], config["rand_augment"], config["crop_area"]) == ("adamw", 9.0, [0.08, 1.0])
    assert config["colour_jitter"] == [0.1, 0, 0, 0] and "dropout" not in config
    assert read_log(net)[-1]["foreground"] > 0
    run_ok("cams", "mctformer", inputs[0], "--net", net, "--device", "cpu", "-o", tmp_path / "cams")


def test_settings_from_a_recipe(inputs, csd, tmp_path):
    recipe = tmp_path / "recipe.toml"
    words = [word[2:] for word in SMALL if word.startswith("--")]
    values = [word for word in SMALL if not word.startswith("--")]
    lines = [f"{name} = {value if value.isdigit() else f'[{value}]' if ',' in value else repr(value)}"
             for name, value in zip(words, values, strict=True)]
    recipe.write_text("[train-cls.csd]\n" + "\n".join(lines) + "\n")
    run_ok("train-cls", "csd", *inputs, "--config", recipe, "-o", tmp_path / "csd.safetensors")
    assert (tmp_path / "csd.safetensors").read_bytes() == csd.read_bytes()


@pytest.mark.parametrize(("options", "fragments"), [
    ((), ("--base is missing", "cam, mctformer")), (("--base", "irn"), ("--base 'irn'", "cam, mctformer")),
    (("--base", "mctformer", "--dropout", "0.5"), ("--dropout has no effect with --base mctformer",)),
    (("--base", "cam", "--drop-path", "0.1"), ("--drop-path has no effect with --base cam",)),
    (("--base", "cam", "--csd-maps", "fused"), ("--csd-maps has no effect with --base cam",)),
    (("--base", "mctformer", "--csd-maps", "attention"), ("--csd-maps 'attention'", "refined, fused, patch-logits")),
    (("--base", "mctformer", "--version", "v1", "--csd-maps", "patch-logits"), ("v1 has no patch classifier", "v2")),
    (("--base", "mctformer", "--csd-layers", "13"), ("--csd-layers 13", "12")),
    (("--base", "cam", "--paste-scale", "1"), ("--paste-scale takes 2 numbers",)),
    (("--base", "cam", "--lambda-fg", "-1"), ("--lambda-fg -1",)),
    (("--base", "cam", "--preview", "0"), ("--preview", "or equal to 1")),
    (("--base", "cam", "--preview", "2"), ("does not end in .png", "FILE.png"))], ids=" ".join)
def test_invalid_options(inputs, tmp_path, options, fragments):
    check_error(run("train-cls", "csd", *inputs, *options, "-o", tmp_path / "x.safetensors"), 2, *fragments)
    assert not list(tmp_path.iterdir())


def test_cooc_is_not_needed_without_resampling(inputs, tmp_path):
    index, masks = inputs[0], inputs[3:]
    check_error(run("train-cls", "csd", index, *masks, *SMALL, "-o", tmp_path / "x.safetensors"), 2,
                "--cooc is missing")
    run_ok("train-cls", "csd", index, *masks, *SMALL, "--resampling", "off", "-o", tmp_path / "off.safetensors")
    assert set(read_net(tmp_path / "off.safetensors")[1]["provenance"][-1]["inputs"]) == {"index", "masks"}


def test_masks_of_single_label_images_only(inputs, tiny_dataset, tiny_net, tmp_path):
    """As in the paper: index split --single, cams, pseudo. A missing mask has the effect of an empty one."""
    run_ok("index", "split", inputs[0], "--single", "-o", tmp_path / "single.h5")
    run_ok("cams", "cnn", tmp_path / "single.h5", "--net", tiny_net, "--scales", "1", "--device", "cpu", "-o",
         tmp_path / "cams")
    run_ok("pseudo", tmp_path / "cams", "-o", tmp_path / "masks")
    arguments = (*inputs[:3], "--masks", tmp_path / "masks", *SMALL)
    for options, output in (((), "csd.safetensors"), (("--preview", "3"), "pairs.png")):
        done = run("train-cls", "csd", *arguments, *options, "-o", tmp_path / output)
        assert done.code == 0, done.err
        assert "4 of 4 multi-label images have no mask: backgrounds are pasted over their objects too" in done.err
        assert "Skipping" not in done.err
    multi_label_ids = tuple(name for name, tags in zip(tiny_dataset.ids, tiny_dataset.labels,
                                                       strict=True) if len(tags) == 2)
    write_masks(inputs[0], tmp_path / "few.h5", without=multi_label_ids)
    write_masks(inputs[0], tmp_path / "empty.h5", empty=multi_label_ids)
    digests = {}
    for name in ("few", "empty", "all"):
        masks = inputs[4] if name == "all" else tmp_path / f"{name}.h5"
        run_ok("train-cls", "csd", *inputs[:3], "--masks", masks, *SMALL, "-o", tmp_path / f"{name}.safetensors")
        digests[name] = read_net(tmp_path / f"{name}.safetensors")[1]["sha256"]
    assert digests["few"] == digests["empty"] != digests["all"]


def test_images_without_a_mask_are_reported(inputs, tiny_dataset, tmp_path):
    cat_ids = tuple(name for name, tags in zip(tiny_dataset.ids, tiny_dataset.labels, strict=True) if tags == (1,))
    multi_label_ids = tuple(name for name, tags in zip(tiny_dataset.ids, tiny_dataset.labels,
                                                       strict=True) if len(tags) == 2)
    write_masks(inputs[0], tmp_path / "few.h5", without=(*cat_ids, multi_label_ids[0]))
    few = (*inputs[:3], "--masks", tmp_path / "few.h5")
    done = run("train-cls", "csd", *few, *SMALL, "-o", tmp_path / "csd.safetensors")
    assert done.code == 0, done.err
    assert f"Skipping {len(cat_ids)} of 8 single-label images: they have no mask" in done.err
    assert "1 of 4 multi-label images have no mask: backgrounds are pasted over their objects too" in done.err
    assert "1 classes have no single-label image with a mask and are never pasted (cat)" in done.err
    picture = tmp_path / "pairs.png"
    assert "never pasted (cat)" in run("train-cls", "csd", *few, *SMALL, "--preview", "3", "-o", picture).err
    write_masks(inputs[0], tmp_path / "none.h5", without=tuple(tiny_dataset.ids[:11]))
    none = (*inputs[:3], "--masks", tmp_path / "none.h5")
    check_error(run("train-cls", "csd", *none, *SMALL, "-o", tmp_path / "x.safetensors"), 65,
            "none.h5: none of the 8 single-label images of the index has a mask", "wsss pseudo")


def test_index_without_single_or_multi_label_images(inputs, tiny_dataset, tmp_path):
    for name, tags, message in (("multi", ["cat;dog"] * 12, "no image of the index has exactly one class"),
                                ("single", ["cat", "dog"] * 6, "no image of the index has more than one class"),
                                ("none", [""] * 11 + ["cat;dog"], "no image of the index has exactly one class")):
        index = write_index_with_tags(tiny_dataset, tmp_path / name, tags)
        done = run("train-cls", "csd", index, *inputs[1:3], "--masks", "truth", *SMALL, "-o",
                   tmp_path / "x.safetensors")
        check_error(done, 65, "train.h5", message)
        assert "was made from a different index than" in done.err
    assert not (tmp_path / "x.safetensors").exists()


def test_target_classes_that_never_cooccur_with_a_single_label_image(inputs, tiny_dataset, tmp_path):
    """With --diagonal zero a class is never drawn for itself: images of a cat and a dog have no other class."""
    index = write_index_with_tags(tiny_dataset, tmp_path / "set", ["cat"] * 4 + ["cat;dog"] * 8)
    run_ok("cooc", index, "--diagonal", "zero", "-o", tmp_path / "zero.h5")
    train = ("train-cls", "csd", index, "--cooc", tmp_path / "zero.h5", "--masks", "truth", *SMALL, "-o")
    done = run(*train, tmp_path / "a.safetensors")
    assert done.code == 0 and "never pasted (dog)" in done.err
    write_shard(tmp_path / "apart.h5", build_cooc(tmp_path / "zero.h5", np.array([[0.0, 1], [0, 1]])))
    check_error(run(*train, tmp_path / "b.safetensors", "--cooc", tmp_path / "apart.h5"), 65, "no class that co-occurs",
            "--resampling off")


def build_cooc(path: Path, probability: np.ndarray, classes: tuple[str, ...] = ()) -> ShardContents:
    """Return the contents of a cooc shard with other probabilities or classes."""
    shard = Run([path], "cooc").first
    return ShardContents("cooc", classes or shard.classes, ids=shard.ids, provenance=shard.provenance,
                    index_digest=shard.index_digest, index_path=str(path),
                    root_datasets={"counts": shard.read_root("counts"), "probability": probability,
                                   "single_label": shard.read_root("single_label")})


def test_inputs_with_other_classes_or_of_another_kind(inputs, tmp_path):
    index, _, cooc, _, masks = inputs
    write_shard(tmp_path / "other.h5", build_cooc(cooc, np.eye(2), ("background", "cat", "cow")))
    train = ("train-cls", "csd", index, *SMALL, "-o", tmp_path / "x.safetensors")
    check_error(run(*train, "--cooc", tmp_path / "other.h5", "--masks", masks), 65, "other.h5: its classes differ",
            "'dog'/'cow'")
    check_error(run(*train, "--cooc", masks, "--masks", masks), 65, "cooc")
    check_error(run(*train, "--cooc", cooc, "--masks", cooc), 65, "masks")
    check_error(run(*train, "--cooc", tmp_path / "gone.h5", "--masks", masks), 66, "gone.h5")
    write_masks(index, tmp_path / "broken.h5", broken="picture_000")
    done = run(*train, "--cooc", cooc, "--masks", tmp_path / "broken.h5", "--epochs", "3")
    check_error(done, 65, "picture_000: the mask has 47x64 pixels (height x width), but the image has 48x64",
                "Make the masks again")


def test_preview_draws_pairs(inputs, tmp_path):
    pairs = tmp_path / "look" / "pairs.png"
    draw = ("train-cls", "csd", *inputs, "--base", "mctformer", "--crop-size", "64", "--preview", "3", "-o")
    assert run_ok(*draw, pairs) == [str(pairs)]
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs.png"]
    run_ok(*draw, tmp_path / "again.png")
    run_ok(*draw, tmp_path / "other.png", "--seed", "1")
    run_ok(*draw, tmp_path / "moved.png", "--placement", "random")
    pictures = [Image.open(path).tobytes() for path in (pairs, *(tmp_path / f"{name}.png" for name in
                                                                 ("again", "other", "moved")))]
    assert pictures[0] == pictures[1] and pictures[2] != pictures[0] != pictures[3]
    assert Image.open(pairs).width > 6 * 180
    assert "Would draw" in run(*draw, tmp_path / "dry.png", "-n").err and not (tmp_path / "dry.png").exists()


def test_skipped_pairs_are_counted(inputs, csd, tiny_dataset, tmp_path):
    """Every sample has a pair; the masks of the single-label images are empty."""
    single_label_ids = tuple(name for name, tags in zip(tiny_dataset.ids, tiny_dataset.labels,
                                                        strict=True) if len(tags) == 1)
    write_masks(inputs[0], tmp_path / "empty.h5", empty=single_label_ids)
    done = run("train-cls", "csd", *inputs[:3], "--masks", tmp_path / "empty.h5", *SMALL, "--epochs", "2", "-o",
               tmp_path / "csd.safetensors")
    assert done.code == 0
    lines = read_log(tmp_path / "csd.safetensors")
    assert [(line["pairs"], line["pairs_without_object"]) for line in lines] == [(12, 12)] * 2
    backgrounds = sum(line["pairs_without_surroundings"] for line in lines)
    assert (f"Of 24 pasted pairs, 24 had no cell wholly inside the object and {backgrounds} none wholly inside the "
            "background; they were skipped.") in done.err
    line = read_log(csd)[-1]
    assert line["pairs"] == 12 and line["pairs_without_object"] == pytest.approx(12 * line["no_object"], abs=1e-4)


@pytest.mark.slow
def test_stopped_training_resumes_to_the_same_network(inputs, wsss):
    train = ("train-cls", "csd", *inputs, *SMALL, "--epochs", "12", "--placement", "random")
    run_ok(*train, "-o", wsss.cwd / "whole.safetensors")
    process = wsss.start(*train, "-o", "cut.safetensors")
    log = wsss.cwd / "cut.log.jsonl"
    assert wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 3, process), process.communicate()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    done = run(*train, "-o", wsss.cwd / "cut.safetensors")
    assert done.code == 0 and "Resuming after step" in done.err
    assert "Of 144 pasted pairs, " in done.err, "of the whole training, not of the second process only"
    assert sum(line["pairs"] for line in read_log(wsss.cwd / "cut.safetensors")) == 144
    assert (wsss.cwd / "cut.safetensors").read_bytes() == (wsss.cwd / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_when_one_has_no_pair(inputs, wsss):
    """Batches of one image: with --targets own, most steps have a pair in one process or in none."""
    process = start_torchrun(wsss, "train-cls", "csd", *inputs, *SMALL, "--batch-size", "1", "--targets", "own", "-o",
                     "two.safetensors")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "two.safetensors\n"), err
    assert read_log(wsss.cwd / "two.safetensors")[-1]["pairs"] == 4
    assert err.count("Of 4 pasted pairs, ") == 1
