"""CAMs and masks of one image are those that the commands write for an image file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import wsss
from cli.runner import run_ok
from cli.test_mctformer import SMALL as MCTFORMER
from cli.test_segment_text import QUICK
from cli.test_train_text import SHORT
from seeded_clip import ClipRecipe
from tiny_datasets import create_dataset

RECIPE = ClipRecipe(seed=11, width=32, layers=3, heads=4, embed=12, text_width=32, text_layers=1, text_heads=2,
                    scale=10.0)


def run_on_photo(photo: Path, output: Path, *args: object) -> Any:
    """Run a command on the photograph, and return the only item that it wrote."""
    run_ok(*args[:2], photo, *args[2:], "--device", "cpu", "-o", output, "-q")
    (item,) = wsss.open_run(output)
    return item


def assert_same_cams(item: Any, expected: Any) -> None:
    for name in ("cam", "class_ids", "scores"):
        np.testing.assert_array_equal(getattr(item, name), getattr(expected, name), strict=True)
    assert (item.id, item.size, item.covers, item.classes) == (expected.id, expected.size, expected.covers,
                                                               expected.classes)


def assert_same_masks(item: Any, expected: Any) -> None:
    np.testing.assert_array_equal(item.mask, expected.mask, strict=True)
    np.testing.assert_array_equal(item.confidence, expected.confidence, strict=True)
    assert (item.id, item.size, item.classes) == (expected.id, expected.size, expected.classes)


@pytest.fixture(scope="module")
def net(folder) -> wsss.Net:
    return wsss.load_net(folder / "cam.safetensors", device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[Path, Path]:
    """Return the config and the weights of a seeded CLIP."""
    return RECIPE.write(tmp_path_factory.mktemp("clip"))


def test_a_net_has_classes_and_a_task(net):
    assert net.classes == ("background", "cat", "dog") and net.task == "classification"
    assert repr(net).endswith("cam.safetensors: classification, 2 classes>")


@pytest.mark.parametrize(("settings", "options"), [
    ({}, ()),
    ({"scales": (1, 0.5), "flip": False, "max_side": 48}, ("--scales", "1,0.5", "--no-flip", "--max-side", 48)),
    ({"tags": "all", "grid_stride": 8}, ("--tags", "all", "--grid-stride", 8)),
    ({"classes": ["dog"]}, ("--classes", "dog"))], ids=["defaults", "settings", "all", "classes"])
def test_cams_of_cnn(net, photo, folder, tmp_path, settings, options):
    expected = run_on_photo(photo, tmp_path / "out", "cams", "cnn", "--net", folder / "cam.safetensors", *options)
    item = net.cams(photo, **settings)
    assert_same_cams(item, expected)
    assert item.size == (80, 60), "the EXIF orientation is applied"
    assert item.resize_to_image().shape == (len(item.class_ids), 80, 60)


def test_classes_of_each_image_share_the_network(net, photo):
    both = net.cams(photo, tags="all", scales=1)
    worker = net._cached_workers["cnn"][1]
    for number, name in enumerate(("cat", "dog")):
        np.testing.assert_array_equal(net.cams(photo, [name], scales=1).cam, both.cam[number:number + 1])
        assert net.cams(photo, name, scales=1).class_names == (name,)
    assert net._cached_workers["cnn"][1] is worker
    assert net.cams(photo, tags="all", scales=1).class_names == ("cat", "dog"), "the selection leaves no trace"


def test_an_image_in_any_form(net, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    expected = net.cams(str(tmp_path / "photo.png"), scales=1, max_side=32)
    assert expected.id == "photo" and expected.size == (40, 50)
    with Image.open(tmp_path / "photo.png") as opened:
        for image in (pixels, opened, torch.from_numpy(pixels).permute(2, 0, 1), np.asfortranarray(pixels)):
            item = net.cams(image, scales=1, max_side=32)
            np.testing.assert_array_equal(item.cam, expected.cam)
            assert (item.id, item.size, item.covers) == ("image", (40, 50), expected.covers)


def test_an_image_of_pil_is_turned_like_its_file(net, photo):
    with Image.open(photo) as opened:
        turned = np.array(ImageOps.exif_transpose(opened).convert("RGB"))
        np.testing.assert_array_equal(net.cams(opened, scales=1).cam, net.cams(photo, scales=1).cam)
    np.testing.assert_array_equal(net.cams(turned, scales=1).cam, net.cams(photo, scales=1).cam)


@pytest.mark.parametrize(("image", "message"), [
    (np.zeros((3, 8, 9), np.uint8), "Pass image.transpose(1, 2, 0)"), (np.zeros((8, 9, 3)), "float64"),
    (np.zeros((8, 9), np.uint8), "shape (8, 9)"), (torch.zeros(8, 9, 3, dtype=torch.uint8), "image.permute(2, 0, 1)"),
    (torch.zeros(3, 8, 9), "torch.float32"), (5, "can't be a int"), (Image.new("I", (9, 8)), "more than 8 bits"),
    ("gone.jpg", "gone.jpg: does not exist")])
def test_what_is_not_an_image(net, image, message):
    with pytest.raises(wsss.Error) as raised:
        net.cams(image)
    assert message in str(raised.value)


def test_a_damaged_file_is_named(net, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(wsss.BadData, match=r"broken\.jpg: this is not an image"):
        net.cams(tmp_path / "broken.jpg")


def test_errors_name_the_setting(net, photo, folder):
    for message, settings in (("no setting 'scale'. Did you mean 'scales'?", {"scale": 1}),
                              ("has no class 'cow'", {"classes": ["cow"]}),
                              ("--scales is empty", {"scales": ()}),
                              ("method='cm' is not one of cnn", {"method": "cm"}),
                              ("both select the classes", {"classes": ["dog"], "tags": "all"}),
                              ("is not an MCTformer", {"method": "mctformer"})):
        with pytest.raises(wsss.Error) as raised:
            net.cams(photo, **settings)
        assert message in str(raised.value)
    with pytest.raises(wsss.BadData, match="not for segmentation"):
        net.segment(photo)
    with pytest.raises(wsss.BadData, match="not for classification"):
        wsss.load_net(folder / "seg.safetensors").cams(photo)
    with pytest.raises(wsss.MissingInput):
        wsss.load_net(folder / "gone.safetensors")
    with pytest.raises(wsss.UsageError, match="--device gpu"):
        wsss.load_net(folder / "cam.safetensors", device="gpu")


def test_grad_cams(net, photo, folder, tmp_path):
    expected = run_on_photo(photo, tmp_path / "out", "cams", "gradcam", "--net", folder / "cam.safetensors", "--layer",
                            "backbone.layer2")
    assert_same_cams(net.cams(photo, method="gradcam", layer="backbone.layer2"), expected)


@pytest.mark.parametrize("version", ["v2", "plus"])
def test_cams_of_an_mctformer(photo, tmp_path, version):
    path = tmp_path / "mct.safetensors"
    create_dataset(tmp_path / "set", n=4)
    run_ok("index", "table", tmp_path / "set" / "labels.csv", "--images", tmp_path / "set" / "JPEGImages", "-o",
           tmp_path / "train.h5", "-q")
    run_ok("train-cls", "mctformer", tmp_path / "train.h5", *MCTFORMER, "--version", version, "-o", path, "-q")
    expected = run_on_photo(photo, tmp_path / "out", "cams", "mctformer", "--net", path, "--tags", "all")
    net = wsss.load_net(path, device="cpu")
    assert_same_cams(net.cams(photo, tags="all"), expected)
    assert net.cams(photo, classes=["dog"], map="attention").class_names == ("dog",)


@pytest.mark.parametrize(("settings", "options"), [
    ({}, ()), ({"scales": [0.5, 1], "fusion": "max", "max_side": 48, "flip": False},
               ("--scales", "0.5,1", "--fusion", "max", "--max-side", 48, "--no-flip"))], ids=["defaults", "settings"])
def test_segment(folder, photo, tmp_path, settings, options):
    path = folder / "seg.safetensors"
    expected = run_on_photo(photo, tmp_path / "out", "segment", "net", "--net", path, *options)
    net = wsss.load_net(path, device="cpu")
    assert_same_masks(net.segment(photo, **settings), expected)
    with pytest.raises(wsss.UsageError, match="words can't be chosen"):
        net.segment(photo, words=["cat"])


def test_segment_words_with_a_network_of_captions(folder, photo, clip, tmp_path):
    config, weights = clip
    (tmp_path / "captions.csv").write_text("id,caption\npicture_000,a red cat\npicture_001,a blue dog\n")
    run_ok("index", "table", tmp_path / "captions.csv", "--images", folder / "set" / "JPEGImages", "-o",
           tmp_path / "captions.h5", "-q")
    path = tmp_path / "tcl.safetensors"
    run_ok("train-text", "tcl", tmp_path / "captions.h5", "--clip", config, "--weights", weights, *SHORT, "-o", path,
           "-q")
    settings = ("--template", "{}", "--iterations", 1, *QUICK[2:])
    expected = run_on_photo(photo, tmp_path / "out", "segment", "tcl", "--net", path, "--words", "cat; wet grass",
                            *settings)
    net = wsss.load_net(path, device="cpu")
    names = {name[2:].replace("-", "_"): value for name, value in zip(settings[::2], settings[1::2], strict=True)}
    numbers = {name: int(value) if str(value).isdecimal() else value for name, value in names.items()}
    item = net.segment(photo, ["cat", "wet grass"], **numbers)
    assert item.classes == ("background", "cat", "wet grass")
    assert_same_masks(item, expected)


@pytest.mark.parametrize(("settings", "options"), [
    ({}, ()), ({"scales": (1, 0.5), "affinity": "none", "classes": ["wet grass"]},
               ("--scales", "1,0.5", "--affinity", "none", "--classes", "wet grass"))], ids=["defaults", "settings"])
def test_clip_es(photo, clip, tmp_path, settings, options):
    config, weights = clip
    expected = run_on_photo(photo, tmp_path / "out", "cams", "clip-es", "--words", "cat; wet grass = grass, lawn",
                            "--clip", config, "--weights", weights, *options)
    item = wsss.clip_es(photo, ["cat", "wet grass = grass, lawn"], clip=config, weights=weights, device="cpu",
                        **settings)
    assert_same_cams(item, expected)


def test_clip_es_keeps_the_model_until_a_file_changes(photo, clip, tmp_path):
    from wsss_api import clip_es
    config, weights = (Path(shutil.copy(path, tmp_path)) for path in clip)
    options = {"clip": config, "weights": weights, "device": "cpu"}
    messages: list[str] = []
    first = wsss.clip_es(photo, ["cat", "dog"], **options, report=messages.append)
    assert any("Found 2 classes" in message for message in messages)
    (worker,) = clip_es._cached_workers.values()
    assert wsss.clip_es(photo, ["cat", "dog"], classes=["dog"], **options).class_names == ("dog",)
    assert list(clip_es._cached_workers.values()) == [worker]
    ClipRecipe(12, *(getattr(RECIPE, name) for name in ("width", "layers", "heads", "embed", "text_width",
                                                         "text_layers", "text_heads", "scale"))).write(tmp_path)
    assert not np.array_equal(wsss.clip_es(photo, ["cat", "dog"], **options).cam, first.cam)
    with pytest.raises(wsss.UnknownSetting, match="Did you mean 'template'"):
        wsss.clip_es(photo, ["cat"], **options, templates="a {}")


def test_a_word_is_never_read_as_a_file(photo, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat").write_text("dog\n")
    options = {"clip": clip[0], "weights": clip[1], "device": "cpu"}
    assert wsss.clip_es(photo, ["cat"], **options).class_names == ("cat",)
    assert wsss.clip_es(photo, "cat", **options).class_names == ("dog",), "text is what --words takes"


def test_a_net_that_is_replaced_meanwhile(folder, photo, tmp_path):
    path = Path(shutil.copy(folder / "cam.safetensors", tmp_path / "net.safetensors"))
    net = wsss.load_net(path, device="cpu")
    shutil.copy(folder / "seg.safetensors", path)
    with pytest.raises(wsss.BadData, match="has changed since it was loaded"):
        net.cams(photo)
