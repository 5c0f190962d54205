"""Command-line tests of `cams clip-es`, `cams gradcam` and `prompts` on a seeded CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, run, run_ok
from seeded_clip import ClipRecipe
from stages.shards import Run

RECIPE = ClipRecipe(seed=11, width=32, layers=3, heads=4, embed=12, text_width=32, text_layers=1, text_heads=2,
                    scale=10.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[object, ...]:
    """Write a seeded CLIP and return the options that select it."""
    config, weights = RECIPE.write(tmp_path_factory.mktemp("clip"))
    return "--clip", config, "--weights", weights, "--device", "cpu"


def read_cams(path: Path) -> dict[str, np.ndarray]:
    """Read all CAMs of a run."""
    cams = Run([path], "cams")
    return {name: cams.item(name).datasets["cam"] for name in cams.ids if name in cams}


def write_index(folder: Path, images: dict[str, np.ndarray | Image.Image], tags: dict[str, str],
                classes: str = "cat\ndog\n") -> Path:
    """Write images and their tags to `folder`, and return the path of their index."""
    (folder / "images").mkdir(parents=True)
    for name, image in images.items():
        image_file = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image_file.save(folder / "images" / f"{name}.png")
    rows = [f"{name},{tags[name]}" for name in images if name in tags]
    untagged = [f"{name}.png," for name in images if name not in tags]
    (folder / "tags.csv").write_text("\n".join(["id,tags", *rows]) + "\n")
    (folder / "classes.txt").write_text(classes)
    if untagged:
        # A JSONL row without the key is an image whose tags are unknown.
        lines = [{"id": name, **({"tags": tags[name]} if name in tags else {})} for name in images]
        (folder / "tags.csv").unlink()
        (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    table = next(folder.glob("tags.*"))
    run_ok("index", "table", table, "--images", folder / "images", "--class-names", folder / "classes.txt", "-o",
           folder / "index.h5", *([] if any(tags.values()) else ["--no-tags"]))
    return folder / "index.h5"


def draw_noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a random image."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_save_raw_writes_unrefined_cams(tiny_index, tiny_dataset, clip, tmp_path):
    out, raw = tmp_path / "out", tmp_path / "raw"
    printed = run_ok("cams", "clip-es", tiny_index, *clip, "-o", out, "--save-raw", raw)
    assert printed == [str(out / "cams-00000-of-00001.h5")]
    refined, raw_cams = read_cams(out), read_cams(raw)
    assert tuple(refined) == tuple(raw_cams) == tiny_dataset.ids
    assert any(not np.array_equal(refined[name], raw_cams[name]) for name in refined)
    run_ok("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "alone", "--affinity", "none")
    for name, cam in read_cams(tmp_path / "alone").items():
        np.testing.assert_allclose(cam.astype(float), raw_cams[name].astype(float), atol=1e-3)
        assert cam.shape[1:] == (3, 4)
    # The raw run is what --affinity none writes, so that command finds it up to date.
    assert "is up to date" in run("cams", "clip-es", tiny_index, *clip, "-o", raw, "--affinity", "none").err
    before = (out / "cams-00000-of-00001.h5").read_bytes()
    next(raw.glob("*.h5")).unlink()
    run_ok("cams", "clip-es", tiny_index, *clip, "-o", out, "--save-raw", raw)
    assert read_cams(raw).keys() == raw_cams.keys()
    assert (out / "cams-00000-of-00001.h5").read_bytes() == before
    check_error(run("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "third", "--save-raw", out), 73, "affinity")


def test_cams_feed_later_stages(tiny_index, clip, tmp_path):
    run_ok("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "cams")
    for options in ((), ("--as-released",)):
        run_ok("refine", "crf", tmp_path / "cams", "--preset", "clip-es", *options, "-f", "-o", tmp_path / "crf")
        run_ok("pseudo", tmp_path / "crf", "--min-confidence", "0.95", "-f", "-o", tmp_path / "masks")
        assert "mIoU" in "\n".join(run_ok("eval", tmp_path / "masks"))


def test_provenance_records_words_and_weights(tiny_index, clip, tmp_path):
    messages = run("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "out").err
    assert "Words for the classes: preset voc" in messages
    entry = Run([tmp_path / "out"], "cams").first.provenance[-1]
    assert entry["config"]["words"]["source"] == "voc"
    assert entry["config"]["box_threshold"] == 0.4
    assert entry["config"]["batch_size"] == 1
    assert len(entry["inputs"]["clip_weights"]) == 64


OPTIONS = [("--target", "probability"), ("--target", "logit"), ("--pooling", "class"), ("--affinity", "mhsa"),
           ("--no-background-words",), ("--compete", "all"), ("--fuse", "cam"), ("--fuse", "feature"),
           ("--box-threshold", "0.9"), ("--box-mask", "source"), ("--as-released",), ("--scales", "0.5,1"),
           ("--flip",), ("--template", "imagenet"), ("--names", "none"), ("--precision", "bf16"), ("--steps", "1")]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> tuple[object, ...]:
    """Return the option that gives synonyms to the two classes."""
    path = tmp_path_factory.mktemp("names") / "names.toml"
    path.write_text('[classes]\ncat = ["cat", "kitten"]\ndog = ["dog", "puppy", "hound"]\n')
    return "--names", path


@pytest.fixture(scope="module")
def default_cams(tiny_index, clip, names, tmp_path_factory) -> dict[str, np.ndarray]:
    """Return the CAMs with default options."""
    path = tmp_path_factory.mktemp("plain") / "out"
    run_ok("cams", "clip-es", tiny_index, *clip, *names, "-o", path)
    return read_cams(path)


@pytest.mark.parametrize("option", OPTIONS, ids=" ".join)
def test_options_change_cams(tiny_index, clip, names, default_cams, tmp_path, option):
    run_ok("cams", "clip-es", tiny_index, *clip, *names, *option, "-o", tmp_path / "out")
    difference = max(np.abs(cam.astype(float) - default_cams[name].astype(float)).max()
                     for name, cam in read_cams(tmp_path / "out").items())
    if option == ("--target", "probability"):
        assert difference < 5e-3  # equal up to the rounding of float16
    else:
        assert difference > 1e-3


def test_tags_rules(clip, tmp_path):
    index = write_index(tmp_path, {"none": draw_noise(40, 40), "one": draw_noise(40, 50), "two": draw_noise(33, 40),
                                   "unknown": draw_noise(40, 40)}, {"none": "", "one": "cat", "two": "cat;dog"})
    done = run("cams", "clip-es", index, *clip, "-o", tmp_path / "out")
    assert done.code == 65
    assert "unknown: the index has no tags for this image" in done.err
    assert {name: cam.shape for name, cam in read_cams(tmp_path / "out").items()} == {
        "none": (0, 3, 3), "one": (1, 3, 4), "two": (2, 3, 3)}
    run_ok("cams", "clip-es", index, *clip, "--tags", "all", "-o", tmp_path / "all")
    assert {cam.shape[0] for cam in read_cams(tmp_path / "all").values()} == {2}
    run_ok("cams", "clip-es", index, *clip, "--tags", "predicted:0.03", "-o", tmp_path / "predicted")


def test_twenty_tags_and_batch_sizes(clip, tmp_path):
    from stages.data.class_vocabulary import load_words_without_index

    names = load_words_without_index("voc").names
    images = {f"p{number}": draw_noise(40, 40, number) for number in range(3)}
    index = write_index(tmp_path, images, {"p0": ";".join(names), "p1": "cat", "p2": ""}, "\n".join(names) + "\n")
    run_ok("cams", "clip-es", index, *clip, "-o", tmp_path / "one", "--batch-size", "1")
    run_ok("cams", "clip-es", index, *clip, "-o", tmp_path / "three", "--batch-size", "3")
    one_by_one, in_one_batch = read_cams(tmp_path / "one"), read_cams(tmp_path / "three")
    assert one_by_one["p0"].shape[0] == 20
    for name, cam in one_by_one.items():
        np.testing.assert_allclose(cam.astype(float), in_one_batch[name].astype(float), atol=2e-3)


def test_sizes_and_modes_of_images(clip, tmp_path):
    photo = Image.fromarray(draw_noise(40, 60))
    images = {"dot": draw_noise(16, 16), "long": draw_noise(4000, 300), "grey": photo.convert("L"),
              "pixel": draw_noise(1, 1), "patches_76": draw_noise(64, 304), "palette": photo.convert("P")}
    index = write_index(tmp_path, images, dict.fromkeys(images, "dog"))
    run_ok("cams", "clip-es", index, *clip, "--max-side", "0", "-o", tmp_path / "out")
    cams = read_cams(tmp_path / "out")
    assert {name: cam.shape for name, cam in cams.items()} == {
        "dot": (1, 1, 1), "long": (1, 250, 19), "grey": (1, 3, 4), "patches_76": (1, 4, 19), "palette": (1, 3, 4),
        "pixel": (1, 1, 1)}
    assert cams["dot"].item() in (0, 1)
    assert all(np.isfinite(cam).all() for cam in cams.values())


def test_too_long_class_name(clip, tmp_path):
    index = write_index(tmp_path, {"a": draw_noise(40, 40)}, {"a": "dog"}, f"dog\n{'very ' * 90}long\n")
    done = run("cams", "clip-es", index, *clip, "-o", tmp_path / "out")
    check_error(done, 65, "very very", "reads at most 77", "--names")


def test_image_files(clip, tmp_path):
    Image.fromarray(draw_noise(40, 60)).save(tmp_path / "photo.png")
    photo = tmp_path / "photo.png"
    check_error(run("cams", "clip-es", photo, *clip, "-o", tmp_path / "out"), 2, "image files have no classes",
                '--words "cat; dog; grass"', "--names voc")
    run_ok("cams", "clip-es", photo, *clip, "--tags", "all", "--names", "voc", "-o", tmp_path / "out")
    assert read_cams(tmp_path / "out")["photo"].shape == (20, 3, 4)
    with Image.open(tmp_path / "out" / "photo.png") as overlay:
        assert overlay.width > 2 * 480 and overlay.height > 480 * 40 / 60


def test_offline_without_weights(tiny_index, tmp_path):
    done = run("cams", "clip-es", tiny_index, "--clip", "ViT-B-16", "--weights", "openai", "-o", tmp_path / "out")
    check_error(done, 69, "ViT-B-16 openai", "copy it here")


def test_resnet_is_not_refined(tiny_index, tmp_path):
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}
    (tmp_path / "resnet.json").write_text(json.dumps(config))
    done = run("cams", "clip-es", tiny_index, "--clip", tmp_path / "resnet.json", "--weights", "random", "-o",
               tmp_path / "out")
    assert done.code == 0, done.err
    assert "not refined" in done.err
    pooling = Run([tmp_path / "out"]).first.provenance[-1]["config"]["pooling"]
    assert pooling == "attention", "a ResNet has its own pooling"
    assert {cam.shape[1:] for cam in read_cams(tmp_path / "out").values()} == {(2, 2)}


def test_prompts(tiny_index, clip, tmp_path):
    (tmp_path / "list.txt").write_text("a {}.\nthe {}.\n")
    images = {"a": draw_noise(40, 40), "b": draw_noise(40, 50, 1), "c": draw_noise(40, 40, 2)}
    index = write_index(tmp_path / "set", images, {"a": "cat;dog", "b": "dog", "c": "dog;cat"})
    rows = run_ok("prompts", index, *clip, "--templates", tmp_path / "list.txt")
    assert rows[0] == "template\tsharpness\tmean score"
    assert len(rows) == 3
    result = json.loads("\n".join(run_ok("prompts", index, *clip, "--templates", tmp_path / "list.txt", "--json")))
    assert (result["images"], result["refused"]) == (3, 0), "also the image with one class (eq. 5: k >= 1)"
    assert result["templates"][0]["sharpness"] <= result["templates"][1]["sharpness"]
    assert [row["template"] for row in result["templates"]] == [row.split("\t")[0] for row in rows[1:]]
    single = write_index(tmp_path / "single", {"a": draw_noise(40, 40)}, {"a": "cat"})
    options = (*clip, "--templates", tmp_path / "list.txt", "--images", "multi-label", "--json")
    restricted = json.loads("\n".join(run_ok("prompts", index, *options)))
    assert restricted["images"] == 2
    # Images with one class change the mean.
    assert restricted["templates"][0]["sharpness"] > result["templates"][0]["sharpness"]
    check_error(run("prompts", single, *options), 66, "two tags or more", "--images all")
    assert json.loads("\n".join(run_ok("prompts", single, *options[:-3], "--json")))["templates"][0]["sharpness"] == 0


def test_classes_with_same_words(tiny_index, clip, tmp_path):
    (tmp_path / "words.toml").write_text('[classes]\ncat = "cat"\ndog = ["Cat"]\n')
    for command in (("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "out"), ("prompts", tiny_index, *clip)):
        check_error(run(*command, "--names", tmp_path / "words.toml"), 2, "words.toml", "same words")
    (tmp_path / "words.toml").write_text('[classes]\ncat = ["cat", "kitten"]\ndog = ["dog", "kittens"]\n')
    done = run("cams", "clip-es", tiny_index, *clip, "--names", tmp_path / "words.toml", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "cat and dog have nearly the same word (kitten, kittens)" in done.err


def test_prompts_skips_images_without_tags(clip, tmp_path):
    images = {"a": draw_noise(40, 40), "b": draw_noise(40, 50, 1)}
    index = write_index(tmp_path / "set", images, {"a": "cat;dog", "b": ""})
    done = run("prompts", index, *clip, "--json", "--templates", "a {}.")
    assert done.code == 0, done.err
    assert "Skipped 1 of 2 images because they have no tag." in done.err
    assert json.loads(done.out)["images"] == 1
    untagged = write_index(tmp_path / "none", {"b": draw_noise(40, 50, 1)}, {"b": ""})
    check_error(run("prompts", untagged, *clip), 66, "tag")


def test_prompts_with_unreadable_image(clip, tmp_path):
    images = {"a": draw_noise(40, 40), "b": draw_noise(40, 50, 1)}
    index = write_index(tmp_path, images, {"a": "cat;dog", "b": "dog;cat"})
    (tmp_path / "images" / "b.png").write_bytes(b"")
    done = run("prompts", index, *clip, "--json")
    check_error(done, 65, "1 images could not be read")
    assert json.loads(done.out)["refused"] == 1


def test_provenance_records_effective_box_mask(tiny_index, clip, tmp_path):
    run_ok("cams", "clip-es", tiny_index, *clip, "--as-released", "--box-mask", "result", "-o", tmp_path / "out")
    assert Run([tmp_path / "out"]).first.provenance[-1]["config"]["box_mask"] == "source"


def test_gradcam_of_wsss_network(tiny_index, tiny_net, tmp_path):
    run_ok("cams", "gradcam", tiny_index, "--net", tiny_net, "-o", tmp_path / "grad", "--device", "cpu")
    assert len(read_cams(tmp_path / "grad")) == 12
    done = run("cams", "gradcam", tiny_index, "--net", tiny_net, "--layer", "layer9", "-o", tmp_path / "x")
    check_error(done, 2, "layer9")


def test_gradcam_of_library_network(tiny_index, tmp_path):
    import torch
    from torchvision import models

    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=2).state_dict(), tmp_path / "mine.pth")
    options = ("--net", "torchvision:resnet18", "--weights", tmp_path / "mine.pth", "--device", "cpu")
    run_ok("cams", "gradcam", tiny_index, *options, "--layer", "layer4", "-o", tmp_path / "grad")
    assert {cam.shape[1:] for cam in read_cams(tmp_path / "grad").values()} == {(2, 2)}
    check_error(run("cams", "gradcam", tiny_index, *options, "-o", tmp_path / "x"), 2, "--layer is missing")
    check_error(run("cams", "gradcam", tiny_index, "--net", tmp_path / "mine.pth", "-o", tmp_path / "x"), 65,
                "not a network trained by wsss", "--weights")
    check_error(run("cams", "gradcam", tiny_index, *options, "--layer", "layr4", "-o", tmp_path / "x"), 2, "layer4")
