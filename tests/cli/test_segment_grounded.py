"""`wsss segment tcl | code` and `show --net` as users run them, on networks just trained by `train-text`."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.runner import check_error, read_items, run, run_ok
from seeded_clip import ClipRecipe
from stages.data.inference_views import build_patch_aligned_views
from stages.nets.net_files import load_net
from stages.shards import Run

QUICK = ("--device", "cpu", "--short-side", "48", "--window", "32", "--stride", "16", "--template", "a photo of a {}.")
WORDS = ("--words", "cat; dog; grass")


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> dict[str, Path]:
    """Return a network of each method of `train-text`, after two steps."""
    folder = tmp_path_factory.mktemp("nets")
    ClipRecipe(99, 64, 2, 1, 64, 64, 2, 1).write(folder)
    draws = np.random.default_rng(0)
    for number in range(2):
        Image.fromarray(draws.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"p{number}.png")
    (folder / "t.csv").write_text("id,caption\np0,A red dog on the lawn\np1,Two cats near a car\n")
    run_ok("index", "table", "t.csv", "--images", ".", "-o", "c.h5", cwd=folder)
    for method in ("tcl", "code"):
        run_ok("train-text", method, "c.h5", "--clip", "seeded.json", "--weights", "seeded.pt", "--crop-size", "32",
               "--batch-size", "2", "--threads", "1", "--device", "cpu", "--warmup", "1", "--lr", "1e-2", "--workers",
               "0", "--steps", "2", *(("--nouns", "rules") if method == "code" else ()), "-o", f"{method}.safetensors",
               cwd=folder)
    return {method: folder / f"{method}.safetensors" for method in ("tcl", "code")}


def test_a_photo_and_three_words(wsss, nets, photo, tmp_path):
    done = wsss("segment", "code", photo, "--net", nets["code"], *QUICK, *WORDS, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'out' / 'masks-00000-of-00001.h5'}\n"
    assert "Found 3 classes in --words: cat, dog, grass." in done.err
    mask = read_items(tmp_path / "out", "masks", "mask")["photo"]
    assert mask.shape == (40, 60) and set(np.unique(mask)) <= {0, 1, 2, 3}
    assert Run([tmp_path / "out"], "masks").classes == ("background", "cat", "dog", "grass")
    with Image.open(tmp_path / "out" / "photo.png") as picture:
        assert picture.width > 2 * 480 and picture.height > 480 * 40 / 60


def test_features_are_the_embedding_of_its_clip(nets, photo, tmp_path):
    run_ok("features", photo, "--net", nets["tcl"], "--device", "cpu", "-o", tmp_path / "out")
    shard = Run([tmp_path / "out"], "features").first
    assert (shard.ids, shard.classes, shard.read_root("labels").tolist()) == (("photo",), ("background",), [[0]])
    net, description = load_net(nets["tcl"])
    view = build_patch_aligned_views(np.asarray(Image.open(photo)), (1.0,), net.clip.cell, description["mean"],
                                     description["std"])[0]
    with torch.inference_mode():
        expected = net.clip.encode_image(torch.from_numpy(view)[None])
    np.testing.assert_allclose(shard.read_root("features"), expected, rtol=1e-4, atol=1e-5)
    check_error(run("features", photo, "--net", nets["tcl"], "--layer", "clip", "-o", tmp_path / "x"), 2,
                "--layer 'clip'", "Leave out --layer")


def test_every_setting_changes_the_scores(nets, photo, tmp_path):
    scores = {}
    for name, method, more in [
            ("tcl", "tcl", ()), ("code", "code", ()), ("own", "code", ("--knowledge", "0", "--no-pamr")),
            ("words", "code", ("--background", "words")), ("sclip", "code", ("--protocol", "sclip")),
            ("template", "code", ("--template", "{}!"))]:
        out = tmp_path / name
        run_ok("segment", method, photo, "--net", nets[method], *QUICK, *WORDS, *more, "-o", out / "masks", "--scores",
               out / "scores")
        scores[name] = read_items(out / "scores", "cams", "cam")["photo"].astype(float)
        assert scores[name].shape == (4, 40, 60) and scores[name].min() >= 0 and scores[name].max() <= 1
    for first, second in combinations(scores, 2):
        assert np.abs(scores[first] - scores[second]).max() > 1e-4, (first, second)
    # The learnt map is compared with nouns in their learnt context, independently of the prompts for CLIP's own map.
    run_ok("segment", "code", photo, "--net", nets["code"], *QUICK, *WORDS, "--knowledge", "0", "--no-pamr",
           "--template", "{}!", "-o", tmp_path / "again", "--scores", tmp_path / "scores")
    np.testing.assert_array_equal(read_items(tmp_path / "scores", "cams", "cam")["photo"], scores["own"])


def test_classes_come_from_the_index_and_the_result_names_its_protocol(nets, tiny_index, tmp_path):
    run_ok("segment", "code", tiny_index, "--net", nets["code"], *QUICK[:-2], "-o", tmp_path / "out", "--scores",
           tmp_path / "scores")
    written, index = Run([tmp_path / "out"], "masks"), Run([tiny_index], "index")
    assert written.classes == index.classes
    result = json.loads("\n".join(run_ok("eval", tmp_path / "out", "--json")))
    assert 0 <= result["miou"] <= 1
    assert ("code by words (tcl): short side 48, windows of 32 every 16, net statistics, names none, 9 templates, the "
            "net's masks with 0.3 of CLIP's own, background by threshold, threshold 0.4, PAMR 1,2,4,8,12,24 x 10"
            ) in result["protocol"]
    run_ok("pseudo", tmp_path / "scores", "-o", tmp_path / "pseudo")
    masks, again = read_items(tmp_path / "out", "masks", "mask"), read_items(tmp_path / "pseudo", "masks", "mask")
    assert all(np.array_equal(mask, again[name]) for name, mask in masks.items())
    check_error(run("segment", "code", tiny_index, "--net", nets["code"], *QUICK[:-2], "--no-pamr", "-o",
                    tmp_path / "out"),
                73, "pamr", "threshold: 0.4 -> 0.5")


def index_benchmark(root: Path, command: str) -> None:
    """Write one image in the folder layout of a benchmark, and index it as val.h5 next to that folder."""
    shape, random = (30, 60), np.random.default_rng(0)
    files = {"ade20k": ("images/validation/a.jpg", "annotations/validation/a.png"),
             "coco-object": ("images/val2017/a.jpg", "annotations/val2017/a_instanceTrainIds.png")}[command]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 19, shape + (3,) * (name == files[0]), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    run_ok("index", command, root, "-o", root.parent / "val.h5")


@pytest.mark.parametrize(("command", "classes", "background"), [
    ("ade20k", 150, False), ("coco-object", 81, True)])
def test_benchmarks_from_folders_to_scores(nets, tmp_path, command, classes, background):
    index_benchmark(tmp_path / command, command)
    run_ok("segment", "code", tmp_path / "val.h5", "--net", nets["code"], *QUICK, "-o", tmp_path / "masks")
    result = json.loads("\n".join(run_ok("eval", tmp_path / "masks", "--json")))
    assert result["protocol"].startswith(f"{classes} classes {'with' if background else 'without'} background")
    mask = next(iter(read_items(tmp_path / "masks", "masks", "mask").values()))
    assert mask.shape == (30, 60) and (background or mask.min() > 0)


def test_four_hundred_words(nets, photo, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(f"thing number {number}" for number in range(400)))
    run_ok("segment", "code", photo, "--net", nets["code"], *QUICK, "--words", tmp_path / "words.txt", "--no-pamr",
           "--threshold", "0", "-o", tmp_path / "out")
    mask = read_items(tmp_path / "out", "masks", "mask")["photo"]
    assert mask.dtype == np.uint16 and 0 < mask.max() <= 400


def test_rejects_invalid_words_and_settings(nets, photo, tmp_path):
    command = ("segment", "code", photo, "--net", nets["code"], *QUICK, "-o", tmp_path / "out")
    check_error(run(*command), 2, "no classes", "--words")
    check_error(run(*command, "--words", " ; "), 2, "no word", "cat; dog; grass")
    check_error(run(*command, "--words", "cat; \u200b"), 65, "no letter")
    check_error(run(*command, "--words", "nowhere.txt"), 66, "nowhere.txt")
    check_error(run(*command, "--words", "very " * 60 + "long"), 65, "have 63 tokens, but the network reads at most 61")
    check_error(run("segment", "tcl", photo, "--net", nets["tcl"], *QUICK, "-o", tmp_path / "other", "--words",
                    "very " * 90 + "long"), 65, "very very", "reads at most 77")
    check_error(run(*command, *WORDS, "--stride", "40"), 2, "--stride 40", "--window 32")
    check_error(run(*command, *WORDS, "--scale", "20"), 2, "--scale 20", "softmax")
    assert not list(tmp_path.glob("*/masks*"))


def test_warns_of_doubtful_words(nets, photo, tmp_path):
    done = run("segment", "code", photo, "--net", nets["code"], *QUICK, "--words", "猫が草の上にいる; dog; qzxvbrk",
               "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "The text tower of seeded was trained on English, so expect poor masks for 猫が草の上にいる." in done.err
    assert "The tokenizer of seeded does not know qzxvbrk" in done.err


def test_rejects_networks_of_another_kind(nets, tiny_net, photo, tmp_path):
    out = (*QUICK, *WORDS, "-o", tmp_path / "out")
    check_error(run("segment", "code", photo, "--net", nets["tcl"], *out), 65,
                "was trained by `wsss train-text tcl`, not", "wsss segment tcl")
    check_error(run("segment", "tcl", photo, "--net", nets["code"], *out), 65, "by `wsss train-text code`",
                "wsss segment code")
    check_error(run("segment", "code", photo, "--net", tiny_net, *out), 65, "was trained for classification",
                "train-text code")
    check_error(run("segment", "net", photo, "--net", nets["code"], "-o", tmp_path / "out"), 65,
                "was trained for text-segmentation", "wsss segment code")
    check_error(run("segment", "code", photo, "--net", tmp_path / "gone.safetensors", *out), 66, "does not exist")
    assert run("segment", "code", photo, *out).code == 2


def read_pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_shows_captions_and_their_regions(nets, tmp_path):
    index, output = nets["code"].parent / "c.h5", tmp_path / "new" / "look.png"
    done = run("show", index, "--net", nets["code"], "--count", "2", "--cell", "100", "-o", output)
    assert (done.code, done.out) == (0, f"{output}\n"), done.err
    assert "Finding nouns with the built-in rules" in done.err
    both = read_pixels(output)
    run_ok("show", index, "--net", nets["code"], "--ids", "p1", "--cell", "100", "-o", tmp_path / "one.png")
    single = read_pixels(tmp_path / "one.png")
    # One row per image: the image, two regions, and words.
    assert single.shape[1] == both.shape[1] == 32 + 4 * 100 + 3 * 8 and both.shape[0] > 1.5 * single.shape[0]
    assert np.ptp(single[60:, -100:].reshape(-1, 3), axis=0).max() > 100
    assert "\u2580" in run_ok("show", index, "--net", nets["code"], "--ids", "p1", "--terminal")[0]


def test_rejects_captions_that_can_not_be_shown(nets, tiny_index, tmp_path):
    index, out = nets["code"].parent / "c.h5", ("-o", tmp_path / "x.png")
    check_error(run("show", index, "--net", nets["tcl"], *out), 65, "not a network of `train-text code`",
                "tcl.safetensors")
    check_error(run("show", index, "--net", nets["code"], "--truth", *out), 2, "--net", "--truth")
    check_error(run("show", index, "--net", nets["code"]), 2, "-o is missing", "--terminal")
    check_error(run("show", index, "--net", nets["code"], "--ids", "nobody", *out), 66, "no image nobody")
    check_error(run("show", tiny_index, "--net", nets["code"], *out), 65, "no image has a caption")
    assert not (tmp_path / "x.png").exists()
