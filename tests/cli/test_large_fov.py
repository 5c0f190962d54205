"""LargeFOV trained and applied with MCTformer's settings; networks and released checkpoints with this head."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.runner import TRAINING, check_error, read_items, run, run_ok
from stages.nets.net_files import load_net, read_net, serialise_net
from stages.nets.segmenter import build_segmenter

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "recipes" / "resnet38-largefov.toml"
# Options that replace the recipe's for a small network.
OPTIONS = ("--config", RECIPE, *TRAINING, "--freeze", "stem", "--crop-size", "64", "--freeze-bn", "no")


@pytest.fixture(scope="module")
def trained_net(tiny_index, tmp_path_factory) -> Path:
    """Train a small network with the recipe and return its path."""
    path = tmp_path_factory.mktemp("fov") / "fov.safetensors"
    run_ok("train-seg", tiny_index, "--masks", "truth", *OPTIONS, "-o", path)
    return path


def test_recipe_trains_and_segments(tiny_index, tiny_dataset, trained_net, tmp_path):
    trained, description = load_net(trained_net)
    config = description["provenance"][-1]["config"]
    assert (trained.head, config["lr"], config["momentum"], config["weight_decay"]) == ("large-fov", 7e-4, 1e-5, 0.0)
    assert [config[name] for name in ("scale_per", "resize", "pad_place", "pad_label")] == [
        "batch", "bilinear", "corner", "background"]
    crf_option = ("--crf", "") if not has_pydensecrf() else ()
    run_ok("segment", "net", tiny_index, "--net", trained_net, "--config", RECIPE, "--device", "cpu", *crf_option, "-o",
           tmp_path / "out", "--scores", tmp_path / "scores")
    assert {mask.shape for mask in read_items(tmp_path / "out", "masks", "mask").values()} == {(48, 64)}
    for scores in read_items(tmp_path / "scores", "cams", "cam").values():
        assert scores.shape == (3, 48, 64)
        assert (scores.astype(np.float32).sum(axis=0) >= 1 - 3e-3).all(), "maxima of probabilities sum to 1 or more"


def has_pydensecrf() -> bool:
    """Return whether pydensecrf is installed."""
    try:
        import pydensecrf  # noqa: F401
    except ImportError:
        return False
    return True


def test_padding_is_background_or_ignored(tiny_index, tmp_path):
    """An image of 48 x 64 that is not resized leaves a quarter of a 64 x 64 crop empty."""
    shares = []
    for label in ("background", "ignore"):
        done = run("train-seg", tiny_index, "--masks", "truth", *OPTIONS, "--scale-range", "1,1", "--pad-label", label,
                   "-o", tmp_path / f"{label}.safetensors")
        assert done.code == 0, done.err
        shares.append(float(re.search(r"(\d+\.\d)% of the pixels in training had a loss", done.err)[1]))
    assert shares[0] - shares[1] == pytest.approx(25, abs=0.11)


@pytest.mark.parametrize("setting", [("--scale-per", "image"), ("--resize", "bicubic"), ("--pad-place", "random"),
                                     ("--pad-label", "ignore")], ids=lambda setting: setting[0])
def test_settings_change_trained_network(tiny_index, trained_net, tmp_path, setting):
    run_ok("train-seg", tiny_index, "--masks", "truth", *OPTIONS, *setting, "-o", tmp_path / "n.safetensors")
    assert read_net(tmp_path / "n.safetensors")[1]["sha256"] != read_net(trained_net)[1]["sha256"]


def test_resize_by_corners_changes_scores(tiny_index, trained_net, tmp_path):
    segment = ("segment", "net", tiny_index, "--net", trained_net, "--device", "cpu", "--scales", "0.7", "--no-flip")
    for resize in ("corners", "bicubic"):
        run_ok(*segment, "--resize", resize, "-o", tmp_path / resize, "--scores", tmp_path / f"{resize}-scores")
    scores = [read_items(tmp_path / f"{resize}-scores", "cams", "cam") for resize in ("corners", "bicubic")]
    assert any((first != second).any() for first, second in zip(*(cams.values() for cams in scores), strict=True))


def test_network_of_earlier_version_is_rejected(tiny_index, trained_net, tmp_path):
    """The head then ended in a 1x1 convolution; now the same name means another network."""
    tensors, description = read_net(trained_net)
    tensors["decoder.2.weight"] = tensors["decoder.2.weight"][:, :, 1:2, 1:2].clone()
    (tmp_path / "old.safetensors").write_bytes(serialise_net(tensors, description))
    done = run("segment", "net", tiny_index, "--net", tmp_path / "old.safetensors", "--device", "cpu", "-o",
               tmp_path / "out")
    check_error(done, 65, "old.safetensors", "its LargeFOV head ends in a 1x1 convolution", "an earlier version",
                "Train it again with `wsss train-seg`")
    assert not (tmp_path / "out").exists()


def test_released_head_weights_are_loaded(tiny_index, tmp_path):
    """A checkpoint with the released names of the head loads completely; a classifier's fc8 is dropped."""
    torch.manual_seed(1)
    state = build_segmenter("wsss:tiny", 3, head="large-fov").state_dict()
    names = {"decoder.0.": "fc8_seg_conv1.", "decoder.2.": "fc8_seg_conv2."}
    released = {re.sub(r"^decoder\.\d\.", lambda match: names[match[0]], key.removeprefix("backbone.")): tensor
                for key, tensor in state.items()}
    torch.save(released, tmp_path / "seg.pth")
    train = ("train-seg", tiny_index, "--masks", "truth", *OPTIONS, "--lr", "0", "--freeze-bn", "all")
    done = run(*train, "--weights", tmp_path / "seg.pth", "-o", tmp_path / "seg.safetensors")
    assert done.code == 0, done.err
    assert f"{len(state)} tensors loaded, 0 of the head dropped, 4 renamed" in done.err
    tensors, _ = read_net(tmp_path / "seg.safetensors")
    assert all(torch.equal(tensors[key], tensor) for key, tensor in state.items())
    classifier = {key: tensor for key, tensor in released.items() if not key.startswith("fc8")}
    torch.save({**classifier, "fc8.weight": torch.ones(20, 192, 1, 1)}, tmp_path / "cls.pth")
    done = run(*train, "--weights", tmp_path / "cls.pth", "-o", tmp_path / "cls.safetensors")
    assert done.code == 0, done.err
    assert f"{len(classifier)} tensors loaded, 1 of the head dropped (fc8.weight)" in done.err
