"""`--pool class-token`: train the teacher of sub-categories, extract its features, and compute its CAMs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from cli.runner import check_error, read_items, run, run_ok
from cli.test_mctformer import NET, SMALL
from stages.data.image_source import ImageSource
from stages.data.inference_views import build_squashed_view
from stages.nets.net_files import read_net
from stages.shards import Run, Shard

VIT = NET.removeprefix("timm:")
SQUASHED_OPTIONS = ("--size", "64", "--device", "cpu")


@pytest.fixture(scope="module")
def teacher(tiny_index, tmp_path_factory) -> Path:
    """Return a trained classifier on the class token. Tests must not change it."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    run_ok("train-cls", "cam", tiny_index, *SMALL, "--pool", "class-token", "-o", path)
    return path


@pytest.fixture(scope="module")
def model(teacher):
    """Return timm's network with the teacher's weights."""
    tensors, _ = read_net(teacher)
    vit = timm.create_model(VIT, num_classes=0, dynamic_img_size=True).eval()
    vit.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in tensors.items()
                         if name.startswith("backbone.")})
    return vit


def load_views(index: Path, model: torch.nn.Module) -> torch.Tensor:
    """Return the images of an index, squashed and normalised for the network."""
    images = ImageSource(Shard(index, "index"))
    config = model.pretrained_cfg
    return torch.from_numpy(np.stack([
        build_squashed_view(images.read_image(item_id), 64, config["mean"], config["std"])
        for item_id in images.index.ids]))


def read_features(path: Path) -> np.ndarray:
    """Return the features (N, D) of a run."""
    return Run([path], "features").first.read_root("features")


@torch.inference_mode()
def test_features_of_the_teacher_match_timm(tiny_index, teacher, model, tmp_path):
    images = load_views(tiny_index, model)
    token = model.forward_head(model.forward_features(images), pre_logits=True)
    patches = model.forward_features(images)[:, 1:].mean(1)
    assert not torch.allclose(token, patches, atol=0.1)
    for pool, expected in (("auto", token), ("class-token", token), ("mean", patches)):
        run_ok("features", tiny_index, "--net", teacher, "--pool", pool, *SQUASHED_OPTIONS, "-o", tmp_path / pool)
        # After the norm values are of order 1; sums of 48 terms in another order differ by about 1e-6.
        np.testing.assert_allclose(read_features(tmp_path / pool), expected, atol=1e-4, err_msg=pool)


@torch.inference_mode()
def test_features_of_a_network_given_by_name_match_timm(tiny_index, model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    network = ("--net", f"timm:{VIT}", "--weights", tmp_path / "vit.pth", *SQUASHED_OPTIONS)
    images = load_views(tiny_index, model)
    for pool, expected in (("auto", model(images)), ("class-token", model(images)),
                           ("mean", model.forward_features(images)[:, 1:].mean(1))):
        run_ok("features", tiny_index, *network, "--pool", pool, "-o", tmp_path / pool)
        np.testing.assert_allclose(read_features(tmp_path / pool), expected, atol=1e-4, err_msg=pool)
    run_ok("features", tiny_index, *network, "--layer", "blocks.1", "--pool", "class-token", "-o", tmp_path / "inner")
    tokens = model.forward_intermediates(images, indices=[1], return_prefix_tokens=True, intermediates_only=True)
    np.testing.assert_allclose(read_features(tmp_path / "inner"), tokens[0][1][:, 0], atol=1e-4)


def test_head_on_the_class_token_is_trained(tiny_index, teacher, tmp_path):
    run_ok("train-cls", "cam", tiny_index, *SMALL, "-o", tmp_path / "mean.safetensors")
    token_tensors, description = read_net(teacher)
    mean_tensors, mean_description = read_net(tmp_path / "mean.safetensors")
    assert (description["architecture"]["head"], mean_description["architecture"]["head"]) == ("class-token", "cam")
    assert description["provenance"][-1]["config"]["pool"] == "class-token"
    assert token_tensors["classifier.weight"].shape == (2, 48)
    assert mean_tensors["classifier.weight"].shape == (2, 48, 1, 1)
    assert token_tensors["classifier.weight"].any()


def test_teacher_has_cams_by_gradcam_only(tiny_index, teacher, tmp_path):
    done = run("cams", "cnn", tiny_index, "--net", teacher, "-o", tmp_path / "cnn")
    check_error(done, 65, "class token", "cams gradcam")
    gradcam = ("cams", "gradcam", tiny_index, "--net", teacher, "--device", "cpu")
    run_ok(*gradcam, "-o", tmp_path / "grad")
    maps = read_items(tmp_path / "grad", "cams", "cam")
    assert {cam.shape[1:] for cam in maps.values()} == {(3, 4)}
    assert any(cam.any() for cam in maps.values())
    for layer in ("blocks.3", "norm", "backbone.model.blocks.3", "blocks.3.norm2", "blocks"):
        done = run(*gradcam, "--layer", layer, "-o", tmp_path / "zero")
        check_error(done, 2, "no gradient", "--layer blocks.3.norm1")
    run_ok(*gradcam, "--layer", "patch_embed", "-o", tmp_path / "patch")
    assert {cam.shape[1:] for cam in read_items(tmp_path / "patch", "cams", "cam").values()} == {(3, 4)}


@pytest.mark.parametrize("name", ["seg", "irn", "psa", "tcl"])
def test_gradcam_of_a_network_that_is_not_a_classifier_is_an_error(name, tiny_index, every_input, tmp_path):
    done = run("cams", "gradcam", tiny_index, "--net", every_input / f"{name}.safetensors", "-o", tmp_path / "out")
    check_error(done, 65, "not for classification", "train-cls")


def test_pool_class_token_without_a_class_token_is_an_error(tiny_index, tiny_net, every_input, tmp_path):
    features = ("features", tiny_index, "--pool", "class-token", "-o", tmp_path / "out")
    check_error(run(*features, "--net", tiny_net), 2, "no class token", "--pool mean")
    check_error(run(*features, "--net", every_input / "mctformer.safetensors"), 2, "no class token")
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "r.pth")
    check_error(run(*features, "--net", "timm:resnet18", "--weights", tmp_path / "r.pth"), 2, "no class token")
    check_error(run(*features, "--net", tiny_net, "--layer", "layer2"), 2, "no class token")
    done = run("features", tiny_index, "--net", every_input / "tcl.safetensors", "--pool", "mean", "-o",
               tmp_path / "out")
    check_error(done, 2, "--pool mean")
    train = ("train-cls", "cam", tiny_index, "--net", "wsss:tiny", "--crop-size", "32", "--epochs", "1", "--device",
             "cpu", "-o", tmp_path / "net.safetensors", "--pool")
    check_error(run(*train, "class-token"), 2, "no class token")
    check_error(run(*train, "token"), 2, "--pool")
