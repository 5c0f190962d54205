"""The training-free methods of `wsss segment` as users run them, on a seeded CLIP; and `refine pamr`."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, read_items, run, run_ok
from seeded_clip import ClipRecipe
from stages.shards import Run

RECIPE = ClipRecipe(seed=11, width=32, layers=3, heads=4, embed=12, text_width=32, text_layers=1, text_heads=2,
                    scale=10.0)
METHODS = ("naclip", "sclip", "clearclip", "maskclip")
# One prompt and small windows: quick, and the quality of the masks does not matter here.
QUICK = ("--template", "a photo of a {}.", "--short-side", "48", "--window", "32", "--stride", "16")
WORDS = ("--words", "cat; dog; grass")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[object, ...]:
    """Return the options that name a seeded CLIP, and quick settings."""
    config, weights = RECIPE.write(tmp_path_factory.mktemp("clip"))
    return "--clip", config, "--weights", weights, "--device", "cpu", *QUICK


def test_a_photo_and_three_words(wsss, clip, photo, tmp_path):
    done = wsss("segment", "naclip", photo, *clip, *WORDS, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'out' / 'masks-00000-of-00001.h5'}\n"
    assert "Found 3 classes in --words: cat, dog, grass." in done.err
    mask = read_items(tmp_path / "out", "masks", "mask")["photo"]
    assert mask.shape == (40, 60) and set(np.unique(mask)) <= {0, 1, 2, 3}
    assert Run([tmp_path / "out"], "masks").classes == ("background", "cat", "dog", "grass")
    with Image.open(tmp_path / "out" / "photo.png") as picture:
        assert picture.width > 2 * 480 and picture.height > 480 * 40 / 60


def test_every_method_and_setting_changes_the_scores(clip, photo, tmp_path):
    scores = {}
    for name, method, more in [*((method, method, ()) for method in METHODS),
                               ("pamr", "naclip", ("--pamr",)), ("tcl", "naclip", ("--protocol", "tcl")),
                               ("tcl pamr", "naclip", ("--protocol", "tcl", "--pamr")),
                               ("wide", "naclip", ("--deviation", "0")), ("whole", "naclip", ("--whole-block",)),
                               ("threshold", "naclip", ("--background", "threshold")),
                               ("scale", "naclip", ("--scale", "10")), ("blend", "naclip", ("--blend", "scores"))]:
        out = tmp_path / name
        run_ok("segment", method, photo, *clip, *WORDS, *more, "-o", out / "masks", "--scores", out / "scores")
        scores[name] = read_items(out / "scores", "cams", "cam")["photo"].astype(float)
        assert scores[name].shape == (4, 40, 60)
        assert scores[name].min() >= 0 and scores[name].max() <= 1
    for first, second in combinations(scores, 2):
        assert np.abs(scores[first] - scores[second]).max() > 1e-4, (first, second)


def test_proxyclip(clip, photo, tmp_path):
    named = ("--proxy", "wsss:tiny", "--proxy-weights", "random")
    run_ok("segment", "proxyclip", photo, *clip, *WORDS, *named, "-o", tmp_path / "out")
    run_ok("segment", "proxyclip", photo, *clip, *WORDS, "--proxy", "timm:test_vit", "--proxy-weights", "random", "-o",
           tmp_path / "vit")
    assert read_items(tmp_path / "out", "masks", "mask")["photo"].shape == (40, 60)
    done = run("segment", "proxyclip", photo, *clip, *WORDS, "-o", tmp_path / "x")
    assert done.code == 2 and "'--proxy'" in done.err
    check_error(run("segment", "proxyclip", photo, *clip, *WORDS, "--proxy", "timm:vit_no", "--proxy-weights", "random",
                    "-o", tmp_path / "x"), 2, "vit_no")


def test_masks_are_the_same_with_and_without_scores(tiny_index, clip, tmp_path):
    for more in ((), ("--grid-stride", "4")):
        out = tmp_path / str(len(more))
        run_ok("segment", "naclip", tiny_index, *clip, *more, "-o", out / "plain")
        printed = run_ok("segment", "naclip", tiny_index, *clip, *more, "-o", out / "masks", "--scores", out / "scores")
        assert printed == [str(out / "masks" / "masks-00000-of-00001.h5")]
        plain, masks = read_items(out / "plain", "masks", "mask"), read_items(out / "masks", "masks", "mask")
        for name, mask in plain.items():
            np.testing.assert_array_equal(masks[name], mask)
        assert Run([out / "scores"], "cams").first.attribute("background") == "included"
        run_ok("pseudo", out / "scores", "-o", out / "pseudo")
        for name, mask in read_items(out / "pseudo", "masks", "mask").items():
            np.testing.assert_array_equal(plain[name], mask)


def test_classes_come_from_the_index(tiny_index, clip, tmp_path):
    run_ok("segment", "naclip", tiny_index, *clip, "-o", tmp_path / "out")
    written, index = Run([tmp_path / "out"], "masks"), Run([tiny_index], "index")
    assert written.classes == index.classes
    result = json.loads("\n".join(run_ok("eval", tmp_path / "out", "--json")))
    assert 0 <= result["miou"] <= 1
    config = written.first.provenance[-1]["config"]
    assert (config["protocol"], config["short_side"], config["scale"], config["threshold"]) == ("sclip", 48, 40.0, 0.1)
    assert config["background"] == "both" and config["words"]["background"]
    run_ok("segment", "naclip", tiny_index, *clip, *WORDS, "-o", tmp_path / "free")
    assert Run([tmp_path / "free"], "masks").classes == ("background", "cat", "dog", "grass")
    check_error(run("segment", "naclip", tiny_index, *clip, *WORDS, "-o", tmp_path / "out"), 73, "words")


def test_no_background_without_a_background_class(tiny_dataset, clip, tmp_path):
    (tmp_path / "classes.txt").write_text("void\ncat\ndog\n")
    (tmp_path / "tags.csv").write_text("id,tags\npicture_000,cat\n")
    run_ok("index", "table", tmp_path / "tags.csv", "--images", tiny_dataset.root / "JPEGImages", "--class-names",
           tmp_path / "classes.txt", "-o", tmp_path / "index.h5")
    run_ok("segment", "sclip", tmp_path / "index.h5", *clip, "--threshold", "0.99", "-o", tmp_path / "out")
    assert set(np.unique(read_items(tmp_path / "out", "masks", "mask")["picture_000"])) <= {1, 2}


def test_benchmark_from_folder_to_score(clip, tmp_path):
    root, random = tmp_path / "cityscapes", np.random.default_rng(0)
    for name in ("leftImg8bit/val/bonn/a_leftImg8bit.png", "gtFine/val/bonn/a_gtFine_labelIds.png"):
        (root / name).parent.mkdir(parents=True)
        shape = (30, 60, 3) if name.startswith("left") else (30, 60)
        Image.fromarray(random.integers(0, 34, shape, dtype=np.uint8)).save(root / name)
    run_ok("index", "cityscapes", root, "-o", tmp_path / "val.h5")
    # A single window, so that the short side of the benchmark does not take long.
    run_ok("segment", "sclip", tmp_path / "val.h5", *clip[:6], "--template", "a {}.", "--window", "1200", "--stride",
           "600", "--smooth", "--area-threshold", "0.1", "-o", tmp_path / "masks")
    written = Run([tmp_path / "masks"], "masks")
    config = written.first.provenance[-1]["config"]
    assert (config["short_side"], config["words"]["source"]) == (560, "sclip-cityscapes")
    assert set(np.unique(read_items(tmp_path / "masks", "masks", "mask")["bonn/a"])) <= set(range(1, 20))
    result = json.loads("\n".join(run_ok("eval", tmp_path / "masks", "--json")))
    assert result["protocol"].startswith("19 classes without background")
    assert ("sclip by words (sclip): short side 560, smoothed, windows of 1200 every 600, clip statistics, names "
            "sclip-cityscapes, 1 templates, softmax at 40.0") in result["protocol"]
    assert "classes below 0.1 of an image left out" in result["protocol"]
    assert result["protocol"].endswith("no PAMR, mean of the windows' cosines")
    run_ok("segment", "sclip", tmp_path / "val.h5", *clip[:6], "--template", "a {}.", "--window", "1200", "--stride",
           "600", "--protocol", "tcl", "--as-released", "-o", tmp_path / "other")
    result = json.loads("\n".join(run_ok("eval", tmp_path / "other", "--json")))
    assert "sigmoid at 10.0 shifted by -2.5" in result["protocol"]
    assert result["protocol"].endswith("mean of the windows' scores, as released")


def test_voc_with_and_without_background(tiny_dataset, tmp_path):
    (tmp_path / "names.txt").write_text("background\ncat\ndog\n")
    more = ("--split", "train", "--class-names", tmp_path / "names.txt")
    for flag, first in (("--background", "background"), ("--no-background", "")):
        run_ok("index", "voc", tiny_dataset.root, *more, flag, "-o", tmp_path / f"{flag}.h5")
        assert Run([tmp_path / f"{flag}.h5"], "index").classes[0] == first


def test_threshold_that_no_class_reaches(clip, photo, tmp_path):
    run_ok("segment", "sclip", photo, *clip, *WORDS, "--background", "threshold", "--threshold", "1", "-o",
           tmp_path / "out")
    assert not read_items(tmp_path / "out", "masks", "mask")["photo"].any()
    run_ok("segment", "sclip", photo, *clip, *WORDS, "--background", "none", "-o", tmp_path / "none")
    assert read_items(tmp_path / "none", "masks", "mask")["photo"].all()


def test_batch_size_makes_no_difference(clip, photo, tmp_path):
    scores = []
    for size in ("1", "3", "16"):
        out = tmp_path / size
        run_ok("segment", "naclip", photo, *clip, *WORDS, "--batch-size", size, "-o", out / "m", "--scores", out / "s")
        scores.append(read_items(out / "s", "cams", "cam")["photo"].astype(float))
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)
    np.testing.assert_allclose(scores[0], scores[2], atol=1e-3)


def test_cached_word_vectors_make_no_difference(clip, photo, tmp_path, monkeypatch):
    """The first run caches some words, the second reuses some of them, the third all."""
    shards = []
    for name, cache, words in (("plain", "off", "dog; cat"), ("first", "cache", "cat; grass"),
                               ("some", "cache", "dog; cat"), ("all", "cache", "dog; cat")):
        monkeypatch.setenv("WSSS_CACHE", cache if cache == "off" else str(tmp_path / cache))
        out = tmp_path / name
        run_ok("segment", "naclip", photo, *clip, "--words", words, "-o", out / "m", "--scores", out / "s")
        shards.append((out / "s" / "cams-00000-of-00001.h5").read_bytes())
    assert shards[0] == shards[2] == shards[3] != shards[1]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_four_hundred_words(clip, photo, tmp_path):
    words = "\n".join(f"thing number {number}" for number in range(400))
    (tmp_path / "words.txt").write_text(words)
    run_ok("segment", "naclip", photo, *clip, "--words", tmp_path / "words.txt", "-o", tmp_path / "out")
    mask = read_items(tmp_path / "out", "masks", "mask")["photo"]
    assert mask.dtype == np.uint16 and mask.max() <= 400


def test_words_option_longer_than_a_path(tiny_index, clip, tmp_path):
    words = "; ".join(f"thing number {number}" for number in range(400))
    command = ("segment", "naclip", tiny_index, *clip, "--words", words, "-o", tmp_path / "masks.h5")
    run_ok(*command)
    before = (tmp_path / "masks.h5").read_bytes()
    run_ok(*command)
    run_ok(*command, "--force")
    assert (tmp_path / "masks.h5").read_bytes() == before


def test_rejects_invalid_words(tiny_index, clip, photo, tmp_path):
    out = ("-o", tmp_path / "out")
    check_error(run("segment", "naclip", photo, *clip, *out), 2, "no classes", "--words")
    check_error(run("segment", "naclip", photo, *clip, "--words", " ; ", *out), 2, "no word", "cat; dog; grass")
    for input_path in (photo, tiny_index):
        check_error(run("segment", "naclip", input_path, *clip, "--words", "", *out), 2, "--words is empty",
                    "leave it out")
    check_error(run("segment", "naclip", tiny_index, *clip, "--words", ";", *out), 2, "no word")
    (tmp_path / "empty.txt").write_text("\n")
    check_error(run("segment", "naclip", photo, *clip, "--words", tmp_path / "empty.txt", *out), 2, "there is no word")
    check_error(run("segment", "naclip", photo, *clip, *WORDS, "--names", "sclip-voc", *out), 2, "--names sclip-voc")
    check_error(run("segment", "naclip", photo, *clip, "--words", "cat; \u200b", *out), 65, "no letter")
    check_error(run("segment", "naclip", photo, *clip, "--words", "nowhere.txt", *out), 66, "nowhere.txt")
    check_error(run("segment", "naclip", photo, *clip, "--words", "very " * 90 + "long", *out), 65, "very very",
                "reads at most 77")
    check_error(run("segment", "naclip", photo, *clip, *WORDS, "--stride", "40", *out), 2, "--stride 40", "--window 32")
    check_error(run("segment", "naclip", photo, *clip, *WORDS, "--template", "a photo", *out), 66, "a photo")
    assert not list(tmp_path.glob("out/masks*"))


def test_rejects_classes_with_the_same_words(tiny_index, clip, photo, tmp_path):
    for command, input_path, words in (("segment naclip", photo, "cat; feline = cat"),
                                       ("segment sclip", tiny_index, "Cat; cat"),
                                       ("segment maskclip", photo, "a = cat, lynx; b = Lynx, CAT")):
        done = run(*command.split(), input_path, *clip, "--words", words, "-o", tmp_path / "out")
        check_error(done, 2, "--words", "same words", "NAME = WORD")
    assert not (tmp_path / "out").exists()
    done = run("segment", "naclip", photo, *clip, "--words", "cat, cats", "-o", tmp_path / "out")
    assert done.code == 0
    assert "cat and cats have nearly the same word" in done.err
    words = "cat = cat, Cat; feline = cat, lynx; sky; background = sky, wall"
    done = run("segment", "naclip", photo, *clip, "--words", words, "-o", tmp_path / "warned")
    assert done.code == 0
    assert all(told in done.err for told in ("cat has the same word twice", "share the word 'cat'", "of classes: sky"))


def test_index_without_classes_needs_words(tiny_dataset, clip, tmp_path):
    (tmp_path / "captions.csv").write_text("id,caption\npicture_000,A cat\n")
    run_ok("index", "table", tmp_path / "captions.csv", "--images", tiny_dataset.root / "JPEGImages", "-o",
           tmp_path / "index.h5")
    command = (tmp_path / "index.h5", *clip, "-o", tmp_path / "out")
    check_error(run("segment", "naclip", *command), 2, "index.h5 has no classes", "--words")
    run_ok("segment", "naclip", *command, *WORDS)


def test_warns_of_doubtful_words(clip, photo, tmp_path):
    done = run("segment", "naclip", photo, *clip, "--words", "猫が草の上にいる; dog; qzxvbrk", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "The text tower of seeded was trained on English, so expect poor masks for 猫が草の上にいる." in done.err
    assert "The tokenizer of seeded does not know qzxvbrk" in done.err


def test_rejects_clip_without_a_vit(photo, tmp_path):
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}
    (tmp_path / "resnet.json").write_text(json.dumps(config))
    check_error(run("segment", "naclip", photo, "--clip", tmp_path / "resnet.json", "--weights", "random", *WORDS, "-o",
                    tmp_path / "out"), 69, "is not an ordinary ViT", "ViT-B-16")


def test_very_small_and_large_images(clip, tmp_path):
    files = []
    for name, size in {"dot": (1, 1), "line": (3, 700), "large": (1100, 1000)}.items():
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        files.append(tmp_path / f"{name}.png")
    run_ok("segment", "naclip", *files, *clip, *WORDS, "--pamr", "-o", tmp_path / "out", "--scores",
           tmp_path / "scores")
    shapes = {name: mask.shape for name, mask in read_items(tmp_path / "out", "masks", "mask").items()}
    assert shapes == {"dot": (1, 1), "line": (3, 700), "large": (1100, 1000)}
    assert read_items(tmp_path / "scores", "cams", "cam")["large"].shape == (4, 550, 500)


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return CAMs of a small network."""
    path = tmp_path_factory.mktemp("cams") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "--device", "cpu", "--scales", "1", "-o", path)
    return path


def test_refine_pamr(wsss, cams, tmp_path):
    done = wsss("refine", "pamr", cams, "--device", "cpu", "-o", tmp_path / "out")
    assert (done.code, done.out) == (0, f"{tmp_path / 'out' / 'cams-00000-of-00001.h5'}\n"), done.err
    assert Run([tmp_path / "out"], "cams").first.attribute("background") == "none"
    before = read_items(cams, "cams", "class_ids")
    for name, cam in read_items(tmp_path / "out", "cams", "cam").items():
        assert cam.shape == (len(before[name]), 48, 64) and cam.dtype == np.uint8
        assert not len(cam) or cam.max() == 255
    run_ok("pseudo", tmp_path / "out", "-o", tmp_path / "masks")
    assert "mIoU" in "\n".join(run_ok("eval", tmp_path / "out"))


def test_refine_pamr_on_a_coarser_grid_with_a_background(cams, tmp_path):
    run_ok("refine", "pamr", cams, "--device", "cpu", "--grid-stride", "5", "--background", "power:4", "--dilations",
           "1,2", "-o", tmp_path / "out")
    written = Run([tmp_path / "out"], "cams")
    assert written.first.attribute("background") == "included"
    item = written.item(next(iter(written.ids)))
    assert item.datasets["class_ids"][0] == 0
    assert item.datasets["cam"].shape[1:] == (10, 13) and item.datasets["cam"].dtype == np.float16
    assert tuple(item.attrs["covers"]) == (50, 65)
    run_ok("pseudo", tmp_path / "out", "-o", tmp_path / "masks")
    run_ok("refine", "pamr", tmp_path / "out", "--device", "cpu", "-o", tmp_path / "again")
    assert Run([tmp_path / "again"], "cams").first.attribute("background") == "included"
    check_error(run("refine", "pamr", tmp_path / "out", "--background", "power:4", "-o", tmp_path / "x"), 2,
                "already include a background")


def test_refine_pamr_rejects_invalid_options(cams, tmp_path):
    out = ("-o", tmp_path / "out")
    check_error(run("refine", "pamr", cams, "--dilations", "", *out), 2, "--dilations")
    check_error(run("refine", "pamr", cams, "--dilations", "0", *out), 2, "--dilations 0")
    check_error(run("refine", "pamr", cams, "--background", "two-thresholds:0.1,0.3", *out), 2, "two-thresholds")
