"""`wsss cams clip-es`, `cams gradcam` and `prompts` as users run them, on a seeded CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import good, refused, run
from seeded_clip import Recipe
from stages.shards import Run

RECIPE = Recipe(seed=11, width=32, layers=3, heads=4, embed=12, text_width=32, text_layers=1, text_heads=2,
                scale=10.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[object, ...]:
    """Return the options that name a seeded CLIP."""
    config, weights = RECIPE.write(tmp_path_factory.mktemp("clip"))
    return "--clip", config, "--weights", weights, "--device", "cpu"


def maps(path: Path) -> dict[str, np.ndarray]:
    """Return every map of a run."""
    run_of = Run([path], "cams")
    return {name: run_of.item(name).datasets["cam"] for name in run_of.ids if name in run_of}


def index_of(folder: Path, pictures: dict[str, np.ndarray | Image.Image], tags: dict[str, str],
             classes: str = "cat\ndog\n") -> Path:
    """Write pictures with their tags, and return their index."""
    (folder / "images").mkdir(parents=True)
    for name, picture in pictures.items():
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image.save(folder / "images" / f"{name}.png")
    rows = [f"{name},{tags[name]}" for name in pictures if name in tags]
    listed = [f"{name}.png," for name in pictures if name not in tags]
    (folder / "tags.csv").write_text("\n".join(["id,tags", *rows]) + "\n")
    (folder / "classes.txt").write_text(classes)
    if listed:
        # A JSONL row without the key is an image whose tags are unknown.
        lines = [{"id": name, **({"tags": tags[name]} if name in tags else {})} for name in pictures]
        (folder / "tags.csv").unlink()
        (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    table = next(folder.glob("tags.*"))
    good("index", "table", table, "--images", folder / "images", "--class-names", folder / "classes.txt", "-o",
         folder / "index.h5")
    return folder / "index.h5"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_refined_and_raw_maps_in_one_pass(tiny_index, tiny_folder, clip, tmp_path):
    out, raw = tmp_path / "out", tmp_path / "raw"
    printed = good("cams", "clip-es", tiny_index, *clip, "-o", out, "--save-raw", raw)
    assert printed == [str(out / "cams-00000-of-00001.h5")]
    refined, plain = maps(out), maps(raw)
    assert tuple(refined) == tuple(plain) == tiny_folder.ids
    assert any(not np.array_equal(refined[name], plain[name]) for name in refined)
    good("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "alone", "--affinity", "none")
    for name, cam in maps(tmp_path / "alone").items():
        np.testing.assert_allclose(cam.astype(float), plain[name].astype(float), atol=1e-3)
        assert cam.shape[1:] == (3, 4)
    # The raw run is what --affinity none writes, so it is up to date for that.
    assert "is up to date" in run("cams", "clip-es", tiny_index, *clip, "-o", raw, "--affinity", "none").err
    before = (out / "cams-00000-of-00001.h5").read_bytes()
    next(raw.glob("*.h5")).unlink()
    good("cams", "clip-es", tiny_index, *clip, "-o", out, "--save-raw", raw)
    assert maps(raw).keys() == plain.keys()
    assert (out / "cams-00000-of-00001.h5").read_bytes() == before
    refused(run("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "third", "--save-raw", out), 73, "affinity")


def test_the_chain_goes_on(tiny_index, clip, tmp_path):
    pytest.importorskip("pydensecrf")
    good("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "cams")
    for more in ((), ("--as-released",)):
        good("refine", "crf", tmp_path / "cams", "--preset", "clip-es", *more, "-f", "-o", tmp_path / "crf")
        good("pseudo", tmp_path / "crf", "--min-confidence", "0.95", "-f", "-o", tmp_path / "masks")
        assert "mIoU" in "\n".join(good("eval", tmp_path / "masks"))


def test_provenance_says_which_words_and_weights(tiny_index, clip, tmp_path):
    told = run("cams", "clip-es", tiny_index, *clip, "-o", tmp_path / "out").err
    assert "class names: preset voc" in told
    config = Run([tmp_path / "out"], "cams").first.provenance[-1]
    assert config["config"]["words"]["source"] == "voc"
    assert config["config"]["box_threshold"] == 0.4
    assert config["config"]["batch_size"] == 1
    assert len(config["inputs"]["clip_weights"]) == 64


SWITCHES = [("--target", "probability"), ("--target", "logit"), ("--pooling", "class"), ("--affinity", "mhsa"),
            ("--no-background-words",), ("--compete", "all"), ("--fuse", "cam"), ("--fuse", "feature"),
            ("--box-threshold", "0.9"), ("--box-mask", "source"), ("--as-released",), ("--scales", "0.5,1"),
            ("--flip",), ("--template", "imagenet"), ("--names", "none"), ("--precision", "bf16"), ("--steps", "1")]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> tuple[object, ...]:
    """Return the option that gives the two classes synonyms."""
    path = tmp_path_factory.mktemp("names") / "names.toml"
    path.write_text('[classes]\ncat = ["cat", "kitten"]\ndog = ["dog", "puppy", "hound"]\n')
    return "--names", path


@pytest.fixture(scope="module")
def plain(tiny_index, clip, names, tmp_path_factory) -> dict[str, np.ndarray]:
    """Return the maps without any switch."""
    path = tmp_path_factory.mktemp("plain") / "out"
    good("cams", "clip-es", tiny_index, *clip, *names, "-o", path)
    return maps(path)


@pytest.mark.parametrize("switch", SWITCHES, ids=" ".join)
def test_switches_change_the_maps(tiny_index, clip, names, plain, tmp_path, switch):
    good("cams", "clip-es", tiny_index, *clip, *names, *switch, "-o", tmp_path / "out")
    largest = max(np.abs(cam.astype(float) - plain[name].astype(float)).max()
                  for name, cam in maps(tmp_path / "out").items())
    if switch == ("--target", "probability"):
        assert largest < 5e-3  # the same maps, to float16
    else:
        assert largest > 1e-3


def test_tags_of_every_kind(clip, tmp_path):
    index = index_of(tmp_path, {"none": noise(40, 40), "one": noise(40, 50), "two": noise(33, 40),
                                "unknown": noise(40, 40)}, {"none": "", "one": "cat", "two": "cat;dog"})
    done = run("cams", "clip-es", index, *clip, "-o", tmp_path / "out")
    assert done.code == 65
    assert "unknown: has no tags in the index" in done.err
    assert {name: cam.shape for name, cam in maps(tmp_path / "out").items()} == {
        "none": (0, 3, 3), "one": (1, 3, 4), "two": (2, 3, 3)}
    good("cams", "clip-es", index, *clip, "--tags", "all", "-o", tmp_path / "all")
    assert {cam.shape[0] for cam in maps(tmp_path / "all").values()} == {2}
    good("cams", "clip-es", index, *clip, "--tags", "predicted:0.03", "-o", tmp_path / "predicted")


def test_twenty_tags_and_batches(clip, tmp_path):
    from stages.data.class_words import words_alone

    names = words_alone("voc").names
    pictures = {f"p{place}": noise(40, 40, place) for place in range(3)}
    index = index_of(tmp_path, pictures, {"p0": ";".join(names), "p1": "cat", "p2": ""}, "\n".join(names) + "\n")
    good("cams", "clip-es", index, *clip, "-o", tmp_path / "one", "--batch-size", "1")
    good("cams", "clip-es", index, *clip, "-o", tmp_path / "three", "--batch-size", "3")
    one, three = maps(tmp_path / "one"), maps(tmp_path / "three")
    assert one["p0"].shape[0] == 20
    for name, cam in one.items():
        np.testing.assert_allclose(cam.astype(float), three[name].astype(float), atol=2e-3)


def test_sizes_and_modes_of_images(clip, tmp_path):
    photo = Image.fromarray(noise(40, 60))
    pictures = {"dot": noise(16, 16), "long": noise(4000, 300), "grey": photo.convert("L"), "pixel": noise(1, 1),
                "patches_76": noise(64, 304), "palette": photo.convert("P")}
    index = index_of(tmp_path, pictures, dict.fromkeys(pictures, "dog"))
    good("cams", "clip-es", index, *clip, "-o", tmp_path / "out")
    found = maps(tmp_path / "out")
    assert {name: cam.shape for name, cam in found.items()} == {
        "dot": (1, 1, 1), "long": (1, 250, 19), "grey": (1, 3, 4), "patches_76": (1, 4, 19), "palette": (1, 3, 4),
        "pixel": (1, 1, 1)}
    assert found["dot"].item() in (0, 1)
    assert all(np.isfinite(cam).all() for cam in found.values())


def test_a_class_name_beyond_the_tokenizer(clip, tmp_path):
    index = index_of(tmp_path, {"a": noise(40, 40)}, {"a": "dog"}, f"dog\n{'very ' * 90}long\n")
    refused(run("cams", "clip-es", index, *clip, "-o", tmp_path / "out"), 65, "very very", "reads 77", "--names")


def test_image_files(clip, tmp_path):
    Image.fromarray(noise(40, 60)).save(tmp_path / "photo.png")
    photo = tmp_path / "photo.png"
    refused(run("cams", "clip-es", photo, *clip, "-o", tmp_path / "out"), 2, "image files have no tags", "--tags")
    refused(run("cams", "clip-es", photo, *clip, "--tags", "all", "-o", tmp_path / "out"), 2, "--names")
    good("cams", "clip-es", photo, *clip, "--tags", "all", "--names", "voc", "-o", tmp_path / "out")
    assert maps(tmp_path / "out")["photo"].shape == (20, 3, 4)
    with Image.open(tmp_path / "out" / "photo.png") as picture:
        assert picture.size == (60, 40)


def test_offline_without_weights(tiny_index, tmp_path):
    refused(run("cams", "clip-es", tiny_index, "--clip", "ViT-B-16", "--weights", "openai", "-o", tmp_path / "out"), 69,
            "ViT-B-16 openai", "bring the file")


def test_a_resnet_is_not_refined_and_says_so(tiny_index, tmp_path):
    config = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
              "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}
    (tmp_path / "resnet.json").write_text(json.dumps(config))
    done = run("cams", "clip-es", tiny_index, "--clip", tmp_path / "resnet.json", "--weights", "random", "-o",
               tmp_path / "out")
    assert done.code == 0, done.err
    assert "not refined" in done.err
    assert Run([tmp_path / "out"]).first.provenance[-1]["config"]["pooling"] == "attention", "its own"
    assert {cam.shape[1:] for cam in maps(tmp_path / "out").values()} == {(2, 2)}


def test_prompts(tiny_index, clip, tmp_path):
    (tmp_path / "list.txt").write_text("a {}.\nthe {}.\n")
    index = index_of(tmp_path / "set", {"a": noise(40, 40), "b": noise(40, 50, 1), "c": noise(40, 40, 2)},
                     {"a": "cat;dog", "b": "dog", "c": "dog;cat"})
    rows = good("prompts", index, *clip, "--templates", tmp_path / "list.txt")
    assert rows[0] == "template\tsharpness\tmean score"
    assert len(rows) == 3
    told = json.loads("\n".join(good("prompts", index, *clip, "--templates", tmp_path / "list.txt", "--json")))
    assert (told["images"], told["refused"]) == (3, 0), "also the image with one class (eq. 5: k >= 1)"
    assert told["templates"][0]["sharpness"] <= told["templates"][1]["sharpness"]
    assert [row["template"] for row in told["templates"]] == [row.split("\t")[0] for row in rows[1:]]
    single = index_of(tmp_path / "single", {"a": noise(40, 40)}, {"a": "cat"})
    several = (*clip, "--templates", tmp_path / "list.txt", "--images", "multi-label", "--json")
    restricted = json.loads("\n".join(good("prompts", index, *several)))
    assert restricted["images"] == 2
    assert restricted["templates"][0]["sharpness"] > told["templates"][0]["sharpness"], "one class adds to the mean"
    refused(run("prompts", single, *several), 66, "two tags or more", "--images all")
    assert json.loads("\n".join(good("prompts", single, *several[:-3], "--json")))["templates"][0]["sharpness"] == 0


def test_images_without_a_tag_do_not_count_in_prompts(clip, tmp_path):
    index = index_of(tmp_path / "set", {"a": noise(40, 40), "b": noise(40, 50, 1)}, {"a": "cat;dog", "b": ""})
    done = run("prompts", index, *clip, "--json", "--templates", "a {}.")
    assert done.code == 0, done.err
    assert "1 images have no tag" in done.err
    assert json.loads(done.out)["images"] == 1
    refused(run("prompts", index_of(tmp_path / "none", {"b": noise(40, 50, 1)}, {"b": ""}), *clip), 66, "tag")


def test_an_image_that_prompts_can_not_read(clip, tmp_path):
    index = index_of(tmp_path, {"a": noise(40, 40), "b": noise(40, 50, 1)}, {"a": "cat;dog", "b": "dog;cat"})
    (tmp_path / "images" / "b.png").write_bytes(b"")
    done = run("prompts", index, *clip, "--json")
    refused(done, 65, "1 images could not be read")
    assert json.loads(done.out)["refused"] == 1


def test_what_ran_is_recorded(tiny_index, clip, tmp_path):
    good("cams", "clip-es", tiny_index, *clip, "--as-released", "--box-mask", "result", "-o", tmp_path / "out")
    assert Run([tmp_path / "out"]).first.provenance[-1]["config"]["box_mask"] == "source"


def test_gradcam_of_a_net_of_ours(tiny_index, tiny_net, tmp_path):
    good("cams", "gradcam", tiny_index, "--net", tiny_net, "-o", tmp_path / "grad", "--device", "cpu")
    assert len(maps(tmp_path / "grad")) == 12
    done = run("cams", "gradcam", tiny_index, "--net", tiny_net, "--layer", "layer9", "-o", tmp_path / "x")
    refused(done, 2, "layer9")


def test_gradcam_of_any_classifier(tiny_index, tmp_path):
    import torch
    from torchvision import models

    torch.manual_seed(0)
    torch.save(models.resnet18(num_classes=2).state_dict(), tmp_path / "mine.pth")
    named = ("--net", "torchvision:resnet18", "--weights", tmp_path / "mine.pth", "--device", "cpu")
    good("cams", "gradcam", tiny_index, *named, "--layer", "layer4", "-o", tmp_path / "grad")
    assert {cam.shape[1:] for cam in maps(tmp_path / "grad").values()} == {(2, 2)}
    refused(run("cams", "gradcam", tiny_index, *named, "-o", tmp_path / "x"), 2, "--layer is missing")
    refused(run("cams", "gradcam", tiny_index, "--net", tmp_path / "mine.pth", "-o", tmp_path / "x"), 65,
            "no net of wsss", "--weights")
    refused(run("cams", "gradcam", tiny_index, *named, "--layer", "layr4", "-o", tmp_path / "x"), 2, "layer4")
