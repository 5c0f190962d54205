"""LargeFOV from masks to masks with MCTformer's settings, and nets and checkpoints of others with this head."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.runner import TRAINING, good, of_items, refused, run
from stages.nets.files import load_net, net_bytes, read_net
from stages.nets.segmenter import build_segmenter

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "recipes" / "resnet38-largefov.toml"
# What a small network needs in the place of the recipe's.
TINY = ("--config", RECIPE, *TRAINING, "--freeze", "stem", "--crop-size", "64", "--freeze-bn", "no")


@pytest.fixture(scope="module")
def net(tiny_index, tmp_path_factory) -> Path:
    """Return a small network trained as the recipe says."""
    path = tmp_path_factory.mktemp("fov") / "fov.safetensors"
    good("train-seg", tiny_index, "--masks", "truth", *TINY, "-o", path)
    return path


def test_the_recipe_trains_and_segments(tiny_index, tiny_folder, net, tmp_path):
    trained, description = load_net(net)
    config = description["provenance"][-1]["config"]
    assert (trained.head, config["lr"], config["momentum"], config["weight_decay"]) == ("large-fov", 7e-4, 1e-5, 0.0)
    assert [config[name] for name in ("scale_per", "resize", "pad_place", "pad_label")] == [
        "batch", "bilinear", "corner", "background"]
    more = ("--crf", "") if not has_pydensecrf() else ()
    good("segment", "net", tiny_index, "--net", net, "--config", RECIPE, "--device", "cpu", *more, "-o",
         tmp_path / "out", "--scores", tmp_path / "scores")
    assert {mask.shape for mask in of_items(tmp_path / "out", "masks", "mask").values()} == {(48, 64)}
    for scores in of_items(tmp_path / "scores", "cams", "cam").values():
        assert scores.shape == (3, 48, 64)
        assert (scores.astype(np.float32).sum(axis=0) >= 1 - 3e-3).all(), "maxima of probabilities sum to 1 or more"


def has_pydensecrf() -> bool:
    """Say whether the CRF can run here."""
    try:
        import pydensecrf  # noqa: F401
    except ImportError:
        return False
    return True


def test_padding_counts_as_background_or_not_at_all(tiny_index, tmp_path):
    """Of a crop of 64 x 64 an image of 48 x 64 leaves a quarter when it is not resized."""
    shares = []
    for label in ("background", "ignore"):
        done = run("train-seg", tiny_index, "--masks", "truth", *TINY, "--scale-range", "1,1", "--pad-label", label,
                   "-o", tmp_path / f"{label}.safetensors")
        assert done.code == 0, done.err
        shares.append(float(re.search(r"(\d+\.\d)% of the pixels seen had a loss", done.err)[1]))
    assert shares[0] - shares[1] == pytest.approx(25, abs=0.11)


@pytest.mark.parametrize("setting", [("--scale-per", "image"), ("--resize", "bicubic"), ("--pad-place", "random"),
                                     ("--pad-label", "ignore")], ids=lambda setting: setting[0])
def test_every_setting_changes_what_is_learnt(tiny_index, net, tmp_path, setting):
    good("train-seg", tiny_index, "--masks", "truth", *TINY, *setting, "-o", tmp_path / "n.safetensors")
    assert read_net(tmp_path / "n.safetensors")[1]["sha256"] != read_net(net)[1]["sha256"]


def test_views_by_corners_change_the_scores(tiny_index, net, tmp_path):
    segment = ("segment", "net", tiny_index, "--net", net, "--device", "cpu", "--scales", "0.7", "--no-flip")
    for resize in ("corners", "bicubic"):
        good(*segment, "--resize", resize, "-o", tmp_path / resize, "--scores", tmp_path / f"{resize}-scores")
    scores = [of_items(tmp_path / f"{resize}-scores", "cams", "cam") for resize in ("corners", "bicubic")]
    assert any((first != second).any() for first, second in zip(*(one.values() for one in scores), strict=True))


def test_a_net_of_an_earlier_version_is_rejected(tiny_index, net, tmp_path):
    """Its head ended in a 1x1 convolution, which now is another network under the same name."""
    tensors, description = read_net(net)
    tensors["decoder.2.weight"] = tensors["decoder.2.weight"][:, :, 1:2, 1:2].clone()
    (tmp_path / "old.safetensors").write_bytes(net_bytes(tensors, description))
    done = run("segment", "net", tiny_index, "--net", tmp_path / "old.safetensors", "--device", "cpu", "-o",
               tmp_path / "out")
    refused(done, 65, "old.safetensors", "its LargeFOV head ends in a 1x1 convolution", "an earlier version",
            "train it again with wsss train-seg")
    assert not (tmp_path / "out").exists()


def test_released_names_of_the_head_are_known_and_told(tiny_index, tmp_path):
    """A checkpoint with the head's released names goes in whole; one of a classifier leaves its fc8."""
    torch.manual_seed(1)
    trained = build_segmenter("wsss:tiny", 3, head="large-fov").state_dict()
    names = {"decoder.0.": "fc8_seg_conv1.", "decoder.2.": "fc8_seg_conv2."}
    released = {re.sub(r"^decoder\.\d\.", lambda match: names[match[0]], key.removeprefix("backbone.")): tensor
                for key, tensor in trained.items()}
    torch.save(released, tmp_path / "seg.pth")
    train = ("train-seg", tiny_index, "--masks", "truth", *TINY, "--lr", "0", "--freeze-bn", "all")
    done = run(*train, "--weights", tmp_path / "seg.pth", "-o", tmp_path / "seg.safetensors")
    assert done.code == 0, done.err
    assert f"{len(trained)} tensors loaded, 0 of the head dropped, 4 go by other names here" in done.err
    tensors, _ = read_net(tmp_path / "seg.safetensors")
    assert all(torch.equal(tensors[key], tensor) for key, tensor in trained.items())
    classifier = {key: tensor for key, tensor in released.items() if not key.startswith("fc8")}
    torch.save({**classifier, "fc8.weight": torch.ones(20, 192, 1, 1)}, tmp_path / "cls.pth")
    done = run(*train, "--weights", tmp_path / "cls.pth", "-o", tmp_path / "cls.safetensors")
    assert done.code == 0, done.err
    assert f"{len(classifier)} tensors loaded, 1 of the head dropped (fc8.weight)" in done.err
