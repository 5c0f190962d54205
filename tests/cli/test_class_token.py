"""`--pool class-token`: the teacher of sub-categories, trained, asked for its features, and mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from cli.runner import good, of_items, refused, run
from cli.test_mctformer import NET, SMALL
from stages.data.source import ImageSource
from stages.data.views import squashed_view
from stages.nets.files import read_net
from stages.shards import Run, Shard

VIT = NET.removeprefix("timm:")
SQUASHED = ("--size", "64", "--device", "cpu")


@pytest.fixture(scope="module")
def teacher(tiny_index, tmp_path_factory) -> Path:
    """Return a classifier that reads the class token. Not to be changed."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    good("train-cls", "cam", tiny_index, *SMALL, "--pool", "class-token", "-o", path)
    return path


@pytest.fixture(scope="module")
def model(teacher):
    """Return timm's own network with the teacher's weights."""
    tensors, _ = read_net(teacher)
    found = timm.create_model(VIT, num_classes=0, dynamic_img_size=True).eval()
    found.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in tensors.items()
                           if name.startswith("backbone.")})
    return found


def views(index: Path, model: torch.nn.Module) -> torch.Tensor:
    """Return the squashed images of an index as the network takes them."""
    images = ImageSource(Shard(index, "index"))
    cfg = model.pretrained_cfg
    return torch.from_numpy(np.stack([squashed_view(images.image(item_id), 64, cfg["mean"], cfg["std"])
                                      for item_id in images.index.ids]))


def features(path: Path) -> np.ndarray:
    """Return the features (N, D) of a run."""
    return Run([path], "features").first.root("features")


@torch.inference_mode()
def test_features_of_the_teacher_are_timms(tiny_index, teacher, model, tmp_path):
    images = views(tiny_index, model)
    token = model.forward_head(model.forward_features(images), pre_logits=True)
    patches = model.forward_features(images)[:, 1:].mean(1)
    assert not torch.allclose(token, patches, atol=0.1)
    for pool, expected in (("auto", token), ("class-token", token), ("mean", patches)):
        good("features", tiny_index, "--net", teacher, "--pool", pool, *SQUASHED, "-o", tmp_path / pool)
        # The norm leaves values of order 1; sums of 48 in another order differ by some 1e-6.
        np.testing.assert_allclose(features(tmp_path / pool), expected, atol=1e-4, err_msg=pool)


@torch.inference_mode()
def test_features_of_a_network_by_name(tiny_index, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    named = ("--net", f"timm:{VIT}", "--weights", tmp_path / "vit.pth", *SQUASHED)
    images = views(tiny_index, model)
    for pool, expected in (("auto", model(images)), ("class-token", model(images)),
                           ("mean", model.forward_features(images)[:, 1:].mean(1))):
        good("features", tiny_index, *named, "--pool", pool, "-o", tmp_path / pool)
        np.testing.assert_allclose(features(tmp_path / pool), expected, atol=1e-4, err_msg=pool)
    good("features", tiny_index, *named, "--layer", "blocks.1", "--pool", "class-token", "-o", tmp_path / "inner")
    tokens = model.forward_intermediates(images, indices=[1], return_prefix_tokens=True, intermediates_only=True)
    np.testing.assert_allclose(features(tmp_path / "inner"), tokens[0][1][:, 0], atol=1e-4)


def test_the_token_that_the_loss_reads_is_trained(tiny_index, teacher, tmp_path):
    good("train-cls", "cam", tiny_index, *SMALL, "-o", tmp_path / "mean.safetensors")
    (tokens, described), (means, other) = read_net(teacher), read_net(tmp_path / "mean.safetensors")
    assert (described["architecture"]["head"], other["architecture"]["head"]) == ("class-token", "cam")
    assert described["provenance"][-1]["config"]["pool"] == "class-token"
    assert tokens["classifier.weight"].shape == (2, 48) and means["classifier.weight"].shape == (2, 48, 1, 1)
    assert tokens["classifier.weight"].any()


def test_no_maps_without_gradients(tiny_index, teacher, tmp_path):
    refused(run("cams", "cnn", tiny_index, "--net", teacher, "-o", tmp_path / "cnn"), 65, "class token", "cams gradcam")
    good("cams", "gradcam", tiny_index, "--net", teacher, "--device", "cpu", "-o", tmp_path / "grad")
    maps = of_items(tmp_path / "grad", "cams", "cam")
    assert {cam.shape[1:] for cam in maps.values()} == {(3, 4)}
    assert any(cam.any() for cam in maps.values())
    for layer in ("blocks.3", "norm", "backbone.model.blocks.3", "blocks.3.norm2", "blocks"):
        done = run("cams", "gradcam", tiny_index, "--net", teacher, "--device", "cpu", "--layer", layer, "-o",
                   tmp_path / "zero")
        refused(done, 2, "no gradient", "--layer blocks.3.norm1")
    good("cams", "gradcam", tiny_index, "--net", teacher, "--device", "cpu", "--layer", "patch_embed", "-o",
         tmp_path / "patch")
    assert {cam.shape[1:] for cam in of_items(tmp_path / "patch", "cams", "cam").values()} == {(3, 4)}


@pytest.mark.parametrize("name", ["seg", "irn", "psa", "tcl"])
def test_gradcam_of_a_net_that_is_no_classifier(name, tiny_index, every_input, tmp_path):
    done = run("cams", "gradcam", tiny_index, "--net", every_input / f"{name}.safetensors", "-o", tmp_path / "out")
    refused(done, 65, "not a classifier", "train-cls")


def test_networks_without_a_class_token(tiny_index, tiny_net, every_input, tmp_path):
    pooled = ("--pool", "class-token", "-o", tmp_path / "out")
    refused(run("features", tiny_index, "--net", tiny_net, *pooled), 2, "no class token", "--pool mean")
    refused(run("features", tiny_index, "--net", every_input / "mctformer.safetensors", *pooled), 2, "no class token")
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "r.pth")
    refused(run("features", tiny_index, "--net", "timm:resnet18", "--weights", tmp_path / "r.pth", *pooled), 2,
            "no class token")
    refused(run("features", tiny_index, "--net", tiny_net, "--layer", "layer2", *pooled), 2, "no class token")
    refused(run("features", tiny_index, "--net", every_input / "tcl.safetensors", "--pool", "mean", "-o",
                tmp_path / "out"), 2, "--pool mean")
    small = ("--net", "wsss:tiny", "--crop-size", "32", "--epochs", "1", "--device", "cpu", "--pool", "class-token")
    refused(run("train-cls", "cam", tiny_index, *small, "-o", tmp_path / "net.safetensors"), 2, "no class token")
    refused(run("train-cls", "cam", tiny_index, *small[:-1], "token", "-o", tmp_path / "net.safetensors"), 2, "--pool")
