"""`wsss train-cls csd`, as users run it."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.conftest import TRAINING
from cli.runner import good, refused, run
from stages.nets.files import read_net
from stages.shards import Contents, Item, Run, write_shard
from training.test_command import _torchrun
from waiting import PATIENCE, wait_until

SMALL = ("--base", "cam", *TRAINING)


@pytest.fixture(scope="module")
def given(tiny_index, tmp_path_factory) -> tuple:
    """Return the inputs: index, --cooc and --masks. Not to be changed."""
    folder = tmp_path_factory.mktemp("given")
    good("cooc", tiny_index, "-o", folder / "counted.h5")
    # Cats and dogs are as many, and as often together: cats are to be drawn more often all the same.
    write_shard(folder / "cooc.h5", cooc_of(folder / "counted.h5", np.array([[0.9, 0.1], [0.7, 0.3]])))
    masks_of(tiny_index, folder / "masks.h5")
    return (tiny_index, "--cooc", folder / "cooc.h5", "--masks", folder / "masks.h5")


@pytest.fixture(scope="module")
def csd(given, tmp_path_factory) -> Path:
    """Return a net. Not to be changed."""
    net = tmp_path_factory.mktemp("csd") / "csd.safetensors"
    assert good("train-cls", "csd", *given, *SMALL, "-o", net) == [str(net)]
    return net


def masks_of(index: Path, path: Path, *, without: tuple[str, ...] = (), broken: str = "",
             empty: tuple[str, ...] = ()) -> Path:
    """Write a masks run of an index's true masks, without some, with one of another size, and some without objects."""
    shard = Run([index], "index").first
    root = index.parent / shard.attribute("root")
    items = []
    for item_id in shard.ids:
        if item_id not in without:
            mask = np.asarray(Image.open(root / shard.item(item_id).attrs["mask_path"]))
            mask = np.zeros_like(mask) if item_id in empty else mask
            items.append(Item(item_id, {"mask": mask[1:] if item_id == broken else mask}))
    write_shard(path, Contents("masks", shard.classes, items, provenance=shard.provenance, index_digest=shard.digest,
                               index_path=str(index)))
    return path


def tagged(folder, path: Path, tags: list[str]) -> Path:
    """Write an index of the pictures of `folder` with other tags."""
    path.mkdir()
    with (path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "labels"), *zip(folder.ids, tags, strict=False)])
    good("index", "table", path / "labels.csv", "--images", folder.root / "JPEGImages", "--masks",
         folder.root / "SegmentationClass", "--class-names", folder.root / "classes.txt", "-o", path / "train.h5")
    return path / "train.h5"


def logged(net: Path) -> list[dict]:
    return [json.loads(line) for line in net.with_suffix(".log.jsonl").read_text().splitlines()]


def test_a_net_that_makes_maps_and_is_the_same_twice(given, csd, tmp_path):
    again = tmp_path / "again.safetensors"
    train = ("train-cls", "csd", *given, *SMALL, "-o", again)
    done = run(*train)
    assert done.code == 0 and "left out" not in done.err and "never pasted" not in done.err
    assert again.read_bytes() == csd.read_bytes()
    tensors, described = read_net(csd)
    told = described["provenance"][-1]
    assert (told["method"], told["config"]["base"], described["supervision"]) == ("csd", "cam", "tags")
    assert set(told["inputs"]) == {"index", "cooc", "masks"}
    assert (told["config"]["lambda_fg"], told["config"]["lambda_bg"]) == (0.01, 0.1)
    line = logged(csd)[-1]
    wanted = line["classification"] + 0.01 * line["foreground"] + 0.1 * line["background"]
    assert line["loss"] == pytest.approx(wanted, abs=1e-5)
    assert line["foreground"] > 0 and line["no_object"] < 1
    assert "up to date" in run(*train).err
    refused(run(*train, "--lambda-bg", "0.2"), 73, "lambda_bg: 0.1 -> 0.2")
    good("cams", "cnn", given[0], "--net", csd, "--scales", "1", "--device", "cpu", "-o", tmp_path / "cams")
    good("train-cls", "cam", given[0], *TRAINING, "-o", tmp_path / "cam.safetensors")
    assert set(read_net(tmp_path / "cam.safetensors")[0]) == set(tensors)


@pytest.mark.parametrize("option", [
    ("--lambda-fg", "0.5"), ("--lambda-bg", "0.5"), ("--reduction", "sum"), ("--constant", "0.5"),
    ("--constant-of", "one"), ("--saliency", "per-class"), ("--terms", "own"), ("--temperature", "2"),
    ("--background-gain", "10"), ("--resampling", "off"), ("--resampling", "classes"), ("--targets", "own"),
    ("--targets", "any"), ("--short-side", "34"), ("--placement", "random"), ("--paste-scale", "0.6,0.9"),
    ("--paste-rotation", "90"), ("--seed", "1"), ("--masks", "truth")], ids=" ".join)
def test_every_option_changes_the_net(given, csd, tmp_path, option):
    good("train-cls", "csd", *given, *SMALL, *option, "-o", tmp_path / "csd.safetensors")
    one, other = (read_net(path)[1] for path in (csd, tmp_path / "csd.safetensors"))
    assert other["digest"] != one["digest"]
    if option[0] == "--masks":
        # The masks are the same: only what they are is told.
        assert other["sha256"] == one["sha256"]
        assert other["supervision"].startswith("truth (full supervision")
    else:
        assert other["sha256"] != one["sha256"]


def test_on_mctformer_with_its_defaults_and_its_options(given, tmp_path):
    net = tmp_path / "mct.safetensors"
    good("train-cls", "csd", *given, "--base", "mctformer", "--net", "timm:vit_tiny_patch16_224", "--crop-size", "64",
         "--epochs", "1", "--batch-size", "4", "--threads", "1", "--device", "cpu", "--version", "plus",
         "--colour-jitter", "0.1,0,0,0", "-o", net)
    told = read_net(net)[1]
    config = told["provenance"][-1]["config"]
    assert told["architecture"]["head"] == "mctformer-plus"
    assert (config["optimizer"], config["rand_augment"], config["crop_area"]) == ("adamw", 9.0, [0.08, 1.0])
    assert config["colour_jitter"] == [0.1, 0, 0, 0] and "dropout" not in config
    assert logged(net)[-1]["foreground"] > 0
    good("cams", "mctformer", given[0], "--net", net, "--device", "cpu", "-o", tmp_path / "cams")


def test_settings_by_recipe(given, csd, tmp_path):
    recipe = tmp_path / "recipe.toml"
    words = [word[2:] for word in SMALL if word.startswith("--")]
    values = [word for word in SMALL if not word.startswith("--")]
    lines = [f"{name} = {value if value.isdigit() else f'[{value}]' if ',' in value else repr(value)}"
             for name, value in zip(words, values, strict=True)]
    recipe.write_text("[train-cls.csd]\n" + "\n".join(lines) + "\n")
    good("train-cls", "csd", *given, "--config", recipe, "-o", tmp_path / "csd.safetensors")
    assert (tmp_path / "csd.safetensors").read_bytes() == csd.read_bytes()


@pytest.mark.parametrize(("options", "told"), [
    ((), ("--base is missing", "cam, mctformer")), (("--base", "irn"), ("--base 'irn'", "cam, mctformer")),
    (("--base", "mctformer", "--dropout", "0.5"), ("--dropout is no setting of --base mctformer",)),
    (("--base", "cam", "--drop-path", "0.1"), ("--drop-path is no setting of --base cam",)),
    (("--base", "cam", "--csd-maps", "fused"), ("--csd-maps is no setting of --base cam",)),
    (("--base", "mctformer", "--csd-maps", "attention"), ("--csd-maps 'attention'", "refined, fused, patch-logits")),
    (("--base", "mctformer", "--version", "v1", "--csd-maps", "patch-logits"), ("v1 has no patch classifier", "v2")),
    (("--base", "mctformer", "--csd-layers", "13"), ("--csd-layers 13", "12")),
    (("--base", "cam", "--paste-scale", "1"), ("--paste-scale takes 2 numbers",)),
    (("--base", "cam", "--lambda-fg", "-1"), ("--lambda-fg -1",)),
    (("--base", "cam", "--preview", "0"), ("--preview", "or equal to 1")),
    (("--base", "cam", "--preview", "2"), ("is to be a picture", "FILE.png"))], ids=" ".join)
def test_what_can_not_be_meant_so(given, tmp_path, options, told):
    refused(run("train-cls", "csd", *given, *options, "-o", tmp_path / "x.safetensors"), 2, *told)
    assert not list(tmp_path.iterdir())


def test_without_resampling_no_cooc_is_read(given, tmp_path):
    index, masks = given[0], given[3:]
    refused(run("train-cls", "csd", index, *masks, *SMALL, "-o", tmp_path / "x.safetensors"), 2, "--cooc is missing")
    good("train-cls", "csd", index, *masks, *SMALL, "--resampling", "off", "-o", tmp_path / "off.safetensors")
    assert set(read_net(tmp_path / "off.safetensors")[1]["provenance"][-1]["inputs"]) == {"index", "masks"}


def test_masks_of_the_single_label_images_alone(given, tiny_folder, tiny_net, tmp_path):
    """As the paper has them: index split --single, cams, pseudo. What has no mask is as what has no object."""
    good("index", "split", given[0], "--single", "-o", tmp_path / "single.h5")
    good("cams", "cnn", tmp_path / "single.h5", "--net", tiny_net, "--scales", "1", "--device", "cpu", "-o",
         tmp_path / "cams")
    good("pseudo", tmp_path / "cams", "-o", tmp_path / "masks")
    made = (*given[:3], "--masks", tmp_path / "masks", *SMALL)
    for more, output in (((), "made.safetensors"), (("--preview", "3"), "pairs.png")):
        done = run("train-cls", "csd", *made, *more, "-o", tmp_path / output)
        assert done.code == 0, done.err
        assert "4 of 4 multi-label images have no mask: backgrounds are pasted over their objects too" in done.err
        assert "left out" not in done.err
    several = tuple(name for name, tags in zip(tiny_folder.ids, tiny_folder.labels, strict=True) if len(tags) == 2)
    masks_of(given[0], tmp_path / "few.h5", without=several)
    masks_of(given[0], tmp_path / "empty.h5", empty=several)
    found = {}
    for name in ("few", "empty", "all"):
        masks = given[4] if name == "all" else tmp_path / f"{name}.h5"
        good("train-cls", "csd", *given[:3], "--masks", masks, *SMALL, "-o", tmp_path / f"{name}.safetensors")
        found[name] = read_net(tmp_path / f"{name}.safetensors")[1]["sha256"]
    assert found["few"] == found["empty"] != found["all"]


def test_images_without_a_mask_are_counted(given, tiny_folder, tmp_path):
    cats = tuple(name for name, tags in zip(tiny_folder.ids, tiny_folder.labels, strict=True) if tags == (1,))
    several = tuple(name for name, tags in zip(tiny_folder.ids, tiny_folder.labels, strict=True) if len(tags) == 2)
    masks_of(given[0], tmp_path / "few.h5", without=(*cats, several[0]))
    few = (*given[:3], "--masks", tmp_path / "few.h5")
    done = run("train-cls", "csd", *few, *SMALL, "-o", tmp_path / "csd.safetensors")
    assert done.code == 0, done.err
    assert f"{len(cats)} of 8 single-label images have no mask and are left out" in done.err
    assert "1 of 4 multi-label images have no mask: backgrounds are pasted over their objects too" in done.err
    assert "classes without a single-label image with a mask, never pasted: 1 (cat)" in done.err
    picture = tmp_path / "pairs.png"
    assert "never pasted: 1 (cat)" in run("train-cls", "csd", *few, *SMALL, "--preview", "3", "-o", picture).err
    masks_of(given[0], tmp_path / "none.h5", without=tuple(tiny_folder.ids[:11]))
    none = (*given[:3], "--masks", tmp_path / "none.h5")
    refused(run("train-cls", "csd", *none, *SMALL, "-o", tmp_path / "x.safetensors"), 65,
            "none.h5: none of the 8 single-label images of the index has a mask", "wsss pseudo")


def test_a_set_without_single_or_without_multi_label_images(given, tiny_folder, tmp_path):
    for name, tags, told in (("multi", ["cat;dog"] * 12, "no image bears exactly one class"),
                             ("single", ["cat", "dog"] * 6, "no image bears more than one class"),
                             ("none", [""] * 12, "no image bears exactly one class")):
        index = tagged(tiny_folder, tmp_path / name, tags)
        done = run("train-cls", "csd", index, *given[1:3], "--masks", "truth", *SMALL, "-o", tmp_path / "x.safetensors")
        refused(done, 65, "train.h5", told)
        assert "was counted on another index" in done.err
    assert not (tmp_path / "x.safetensors").exists()


def test_a_target_whose_classes_never_stand_with_a_single_one(given, tiny_folder, tmp_path):
    """Without a diagonal a class is never drawn for itself: pictures of a cat and a dog find no other class."""
    index = tagged(tiny_folder, tmp_path / "set", ["cat"] * 4 + ["cat;dog"] * 8)
    good("cooc", index, "--diagonal", "zero", "-o", tmp_path / "zero.h5")
    train = ("train-cls", "csd", index, "--cooc", tmp_path / "zero.h5", "--masks", "truth", *SMALL, "-o")
    done = run(*train, tmp_path / "a.safetensors")
    assert done.code == 0 and "never pasted: 1 (dog)" in done.err
    write_shard(tmp_path / "apart.h5", cooc_of(tmp_path / "zero.h5", np.array([[0.0, 1], [0, 1]])))
    refused(run(*train, tmp_path / "b.safetensors", "--cooc", tmp_path / "apart.h5"), 65, "no class that appears",
            "--resampling off")


def cooc_of(path: Path, probability: np.ndarray, classes: tuple[str, ...] = ()) -> Contents:
    """Return a cooc shard like another, with other probabilities or classes."""
    shard = Run([path], "cooc").first
    return Contents("cooc", classes or shard.classes, ids=shard.ids, provenance=shard.provenance,
                    index_digest=shard.index_digest, index_path=str(path),
                    root_datasets={"counts": shard.root("counts"), "probability": probability,
                                   "single_label": shard.root("single_label")})


def test_inputs_of_other_classes_or_kinds(given, tmp_path):
    index, _, cooc, _, masks = given
    write_shard(tmp_path / "other.h5", cooc_of(cooc, np.eye(2), ("background", "cat", "cow")))
    train = ("train-cls", "csd", index, *SMALL, "-o", tmp_path / "x.safetensors")
    refused(run(*train, "--cooc", tmp_path / "other.h5", "--masks", masks), 65, "other.h5: its classes differ",
            "'dog'/'cow'")
    refused(run(*train, "--cooc", masks, "--masks", masks), 65, "cooc")
    refused(run(*train, "--cooc", cooc, "--masks", cooc), 65, "masks")
    refused(run(*train, "--cooc", tmp_path / "gone.h5", "--masks", masks), 66, "gone.h5")
    masks_of(index, tmp_path / "broken.h5", broken="picture_000")
    done = run(*train, "--cooc", cooc, "--masks", tmp_path / "broken.h5", "--epochs", "3")
    refused(done, 65, "picture_000: the mask is (47, 64), the image (48, 64)", "make the masks again")


def test_a_look_at_the_pairs(given, tmp_path):
    pairs = tmp_path / "look" / "pairs.png"
    draw = ("train-cls", "csd", *given, "--base", "mctformer", "--crop-size", "64", "--preview", "3", "-o")
    assert good(*draw, pairs) == [str(pairs)]
    assert [path.name for path in pairs.parent.iterdir()] == ["pairs.png"]
    good(*draw, tmp_path / "again.png")
    good(*draw, tmp_path / "other.png", "--seed", "1")
    good(*draw, tmp_path / "moved.png", "--placement", "random")
    pictures = [Image.open(path).tobytes() for path in (pairs, *(tmp_path / f"{name}.png" for name in
                                                                 ("again", "other", "moved")))]
    assert pictures[0] == pictures[1] and pictures[2] != pictures[0] != pictures[3]
    assert Image.open(pairs).width > 6 * 180
    assert "would draw" in run(*draw, tmp_path / "dry.png", "-n").err and not (tmp_path / "dry.png").exists()


def test_pairs_that_are_skipped_are_counted(given, csd, tiny_folder, tmp_path):
    """Every sample has a pair; in these masks no single-label image has its object."""
    single = tuple(name for name, tags in zip(tiny_folder.ids, tiny_folder.labels, strict=True) if len(tags) == 1)
    masks_of(given[0], tmp_path / "empty.h5", empty=single)
    done = run("train-cls", "csd", *given[:3], "--masks", tmp_path / "empty.h5", *SMALL, "--epochs", "2", "-o",
               tmp_path / "csd.safetensors")
    assert done.code == 0
    lines = logged(tmp_path / "csd.safetensors")
    assert [(line["pairs"], line["pairs_without_object"]) for line in lines] == [(12, 12)] * 2
    backgrounds = sum(line["pairs_without_surroundings"] for line in lines)
    assert (f"24 pairs: 24 without a cell wholly inside the object, {backgrounds} without one wholly inside the "
            "background; these were skipped") in done.err
    line = logged(csd)[-1]
    assert line["pairs"] == 12 and line["pairs_without_object"] == pytest.approx(12 * line["no_object"], abs=1e-4)


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_same_net(given, wsss):
    train = ("train-cls", "csd", *given, *SMALL, "--epochs", "12", "--placement", "random")
    good(*train, "-o", wsss.cwd / "whole.safetensors")
    process = wsss.start(*train, "-o", "cut.safetensors")
    log = wsss.cwd / "cut.log.jsonl"
    assert wait_until(lambda: log.exists() and len(log.read_text().splitlines()) >= 3, process), process.communicate()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 75
    done = run(*train, "-o", wsss.cwd / "cut.safetensors")
    assert done.code == 0 and "goes on after step" in done.err
    assert "144 pairs: " in done.err, "of the whole training, wherever it was cut"
    assert sum(line["pairs"] for line in logged(wsss.cwd / "cut.safetensors")) == 144
    assert (wsss.cwd / "cut.safetensors").read_bytes() == (wsss.cwd / "whole.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_of_which_one_may_have_no_pair(given, wsss):
    """A batch of one image each: with `own` most steps have a pair in one process, or in none."""
    both = _torchrun(wsss, "train-cls", "csd", *given, *SMALL, "--batch-size", "1", "--targets", "own", "-o",
                     "two.safetensors")
    out, err = both.communicate(timeout=PATIENCE)
    assert (both.returncode, out) == (0, "two.safetensors\n"), err
    assert logged(wsss.cwd / "two.safetensors")[-1]["pairs"] == 4
    assert err.count("4 pairs: ") == 1
