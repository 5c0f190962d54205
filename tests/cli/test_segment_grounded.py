"""`wsss segment tcl | code` and `show --net` as users run them, on nets that `train-text` has just made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.runner import good, of_items, refused, run
from seeded_clip import Recipe
from stages.data.views import patch_views
from stages.nets.files import load_net
from stages.shards import Run

QUICK = ("--device", "cpu", "--short-side", "48", "--window", "32", "--stride", "16", "--template", "a photo of a {}.")
WORDS = ("--words", "cat; dog; grass")


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> dict[str, Path]:
    """Return a net of each method of `train-text`, a step old."""
    folder = tmp_path_factory.mktemp("nets")
    Recipe(99, 64, 2, 1, 64, 64, 2, 1).write(folder)
    draws = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(draws.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"p{number}.png")
    (folder / "t.csv").write_text("id,caption\np0,A red dog on the lawn\np1,Two cats near a car\n")
    good("index", "table", "t.csv", "--images", ".", "-o", "c.h5", cwd=folder)
    for method in ("tcl", "code"):
        good("train-text", method, "c.h5", "--clip", "seeded.json", "--weights", "seeded.pt", "--crop-size", "32",
             "--batch-size", "2", "--threads", "1", "--device", "cpu", "--warmup", "1", "--lr", "1e-2", "--workers",
             "0", "--steps", "2", *(("--nouns", "rules") if method == "code" else ()), "-o", f"{method}.safetensors",
             cwd=folder)
    return {method: folder / f"{method}.safetensors" for method in ("tcl", "code")}


def test_a_photo_and_three_words(wsss, nets, photo, tmp_path):
    done = wsss("segment", "code", photo, "--net", nets["code"], *QUICK, *WORDS, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'out' / 'masks-00000-of-00001.h5'}\n"
    assert "3 classes: cat, dog, grass" in done.err
    mask = of_items(tmp_path / "out", "masks", "mask")["photo"]
    assert mask.shape == (40, 60) and set(np.unique(mask)) <= {0, 1, 2, 3}
    assert Run([tmp_path / "out"], "masks").classes == ("background", "cat", "dog", "grass")
    with Image.open(tmp_path / "out" / "photo.png") as picture:
        assert picture.size == (60, 40)


def test_features_are_the_embedding_of_its_clip(nets, photo, tmp_path):
    good("features", photo, "--net", nets["tcl"], "--device", "cpu", "-o", tmp_path / "out")
    shard = Run([tmp_path / "out"], "features").first
    assert (shard.ids, shard.classes, shard.root("labels").tolist()) == (("photo",), ("background",), [[0]])
    net, told = load_net(nets["tcl"])
    view = patch_views(np.asarray(Image.open(photo)), (1.0,), net.clip.cell, told["mean"], told["std"])[0]
    with torch.inference_mode():
        wanted = net.clip.image_embedding(torch.from_numpy(view)[None])
    np.testing.assert_allclose(shard.root("features"), wanted, rtol=1e-4, atol=1e-5)
    refused(run("features", photo, "--net", nets["tcl"], "--layer", "clip", "-o", tmp_path / "x"), 2, "--layer 'clip'",
            "leave it out")


def test_settings_give_other_scores(nets, photo, tmp_path):
    found = {}
    for name, method, more in [
            ("tcl", "tcl", ()), ("code", "code", ()), ("own", "code", ("--knowledge", "0", "--no-pamr")),
            ("words", "code", ("--background", "words")), ("sclip", "code", ("--protocol", "sclip")),
            ("template", "code", ("--template", "{}!"))]:
        out = tmp_path / name
        good("segment", method, photo, "--net", nets[method], *QUICK, *WORDS, *more, "-o", out / "masks", "--scores",
             out / "scores")
        found[name] = of_items(out / "scores", "cams", "cam")["photo"].astype(float)
        assert found[name].shape == (4, 40, 60) and found[name].min() >= 0 and found[name].max() <= 1
    names = list(found)
    for place, one in enumerate(names):
        for other in names[place + 1:]:
            assert np.abs(found[one] - found[other]).max() > 1e-4, (one, other)
    # The learnt map is compared with nouns in their learnt context, whatever the prompts for CLIP's own map are.
    good("segment", "code", photo, "--net", nets["code"], *QUICK, *WORDS, "--knowledge", "0", "--no-pamr", "--template",
         "{}!", "-o", tmp_path / "again", "--scores", tmp_path / "scores")
    np.testing.assert_array_equal(of_items(tmp_path / "scores", "cams", "cam")["photo"], found["own"])


def test_an_index_brings_its_classes_and_the_result_its_protocol(nets, tiny_index, tmp_path):
    good("segment", "code", tiny_index, "--net", nets["code"], *QUICK[:-2], "-o", tmp_path / "out", "--scores",
         tmp_path / "scores")
    written, index = Run([tmp_path / "out"], "masks"), Run([tiny_index], "index")
    assert written.classes == index.classes
    told = json.loads("\n".join(good("eval", tmp_path / "out", "--json")))
    assert 0 <= told["miou"] <= 1
    assert ("code by words (tcl): short side 48, windows of 32 every 16, net statistics, names none, 9 templates, the "
            "net's masks with 0.3 of CLIP's own, background by threshold, threshold 0.4, PAMR 1,2,4,8,12,24 x 10"
            ) in told["protocol"]
    good("pseudo", tmp_path / "scores", "-o", tmp_path / "pseudo")
    masks, again = of_items(tmp_path / "out", "masks", "mask"), of_items(tmp_path / "pseudo", "masks", "mask")
    assert all(np.array_equal(mask, again[name]) for name, mask in masks.items())
    refused(run("segment", "code", tiny_index, "--net", nets["code"], *QUICK[:-2], "--no-pamr", "-o", tmp_path / "out"),
            73, "pamr", "threshold: 0.4 -> 0.5")


def benchmark(root: Path, command: str) -> None:
    """Write one picture of a benchmark as its folders have it, and index it as val.h5 beside."""
    shape, random = (30, 60), np.random.default_rng(0)
    files = {"ade20k": ("images/validation/a.jpg", "annotations/validation/a.png"),
             "coco-object": ("images/val2017/a.jpg", "annotations/val2017/a_instanceTrainIds.png")}[command]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture = random.integers(0, 19, shape + (3,) * (name == files[0]), dtype=np.uint8)
        Image.fromarray(picture).save(root / name)
    good("index", command, root, "-o", root.parent / "val.h5")


@pytest.mark.parametrize(("command", "classes", "background"), [
    ("ade20k", 150, False), ("coco-object", 81, True)])
def test_benchmarks_from_their_folders_to_their_scores(nets, tmp_path, command, classes, background):
    benchmark(tmp_path / command, command)
    good("segment", "code", tmp_path / "val.h5", "--net", nets["code"], *QUICK, "-o", tmp_path / "masks")
    told = json.loads("\n".join(good("eval", tmp_path / "masks", "--json")))
    assert told["protocol"].startswith(f"{classes} classes {'with' if background else 'without'} background")
    mask = next(iter(of_items(tmp_path / "masks", "masks", "mask").values()))
    assert mask.shape == (30, 60) and (background or mask.min() > 0)


def test_four_hundred_words(nets, photo, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(f"thing number {place}" for place in range(400)))
    good("segment", "code", photo, "--net", nets["code"], *QUICK, "--words", tmp_path / "words.txt", "--no-pamr",
         "--threshold", "0", "-o", tmp_path / "out")
    mask = of_items(tmp_path / "out", "masks", "mask")["photo"]
    assert mask.dtype == np.uint16 and 0 < mask.max() <= 400


def test_words_and_settings_that_can_not_be_meant(nets, photo, tmp_path):
    how = ("segment", "code", photo, "--net", nets["code"], *QUICK, "-o", tmp_path / "out")
    refused(run(*how), 2, "no classes", "--words")
    refused(run(*how, "--words", " ; "), 2, "no word", "cat; dog; grass")
    refused(run(*how, "--words", "cat; \u200b"), 65, "no letter")
    refused(run(*how, "--words", "nowhere.txt"), 66, "nowhere.txt")
    refused(run(*how, "--words", "very " * 60 + "long"), 65, "have 63 tokens, the net reads 61")
    refused(run("segment", "tcl", photo, "--net", nets["tcl"], *QUICK, "-o", tmp_path / "other", "--words",
                "very " * 90 + "long"), 65, "very very", "reads 77")
    refused(run(*how, *WORDS, "--stride", "40"), 2, "--stride 40", "--window 32")
    refused(run(*how, *WORDS, "--scale", "20"), 2, "--scale 20", "softmax")
    assert not list(tmp_path.glob("*/masks*"))


def test_doubtful_words_are_told(nets, photo, tmp_path):
    done = run("segment", "code", photo, "--net", nets["code"], *QUICK, "--words", "猫が草の上にいる; dog; qzxvbrk",
               "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "猫が草の上にいる: the text tower of seeded was made for English" in done.err
    assert "qzxvbrk: no words that the tokenizer knows" in done.err


def test_nets_of_another_kind(nets, tiny_net, photo, tmp_path):
    out = (*QUICK, *WORDS, "-o", tmp_path / "out")
    refused(run("segment", "code", photo, "--net", nets["tcl"], *out), 65, "is a net of train-text tcl, not of code",
            "wsss segment tcl")
    refused(run("segment", "tcl", photo, "--net", nets["code"], *out), 65, "of train-text code", "wsss segment code")
    refused(run("segment", "code", photo, "--net", tiny_net, *out), 65, "is a net for classification",
            "train-text code")
    refused(run("segment", "net", photo, "--net", nets["code"], "-o", tmp_path / "out"), 65,
            "is a net for text-segmentation", "wsss segment code")
    refused(run("segment", "code", photo, "--net", tmp_path / "gone.safetensors", *out), 66, "no such file")
    assert run("segment", "code", photo, *out).code == 2


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_captions_and_what_a_net_makes_of_them(nets, tmp_path):
    index, output = nets["code"].parent / "c.h5", tmp_path / "new" / "look.png"
    done = run("show", index, "--net", nets["code"], "--count", "2", "--cell", "100", "-o", output)
    assert (done.code, done.out) == (0, f"{output}\n"), done.err
    assert "nouns: the built-in rules" in done.err
    both = pixels(output)
    good("show", index, "--net", nets["code"], "--ids", "p1", "--cell", "100", "-o", tmp_path / "one.png")
    one = pixels(tmp_path / "one.png")
    # Image, two regions and words beside each other, and a row for each image.
    assert one.shape[1] == both.shape[1] == 32 + 4 * 100 + 3 * 8 and both.shape[0] > 1.5 * one.shape[0]
    assert np.ptp(one[60:, -100:].reshape(-1, 3), axis=0).max() > 100


def test_captions_that_can_not_be_shown(nets, tiny_index, tmp_path):
    index, out = nets["code"].parent / "c.h5", ("-o", tmp_path / "x.png")
    refused(run("show", index, "--net", nets["tcl"], *out), 65, "is no net of train-text code", "tcl.safetensors")
    refused(run("show", index, "--net", nets["code"], "--terminal"), 2, "--net", "--terminal")
    refused(run("show", index, "--net", nets["code"], "--ids", "nobody", *out), 66, "no image nobody")
    refused(run("show", tiny_index, "--net", nets["code"], *out), 65, "no image has a caption")
    assert not (tmp_path / "x.png").exists()
