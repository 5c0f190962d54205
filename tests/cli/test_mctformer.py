"""`wsss train-cls mctformer` and `wsss cams mctformer` from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cli.runner import check_error, run, run_ok
from small_vit import small_vit
from stages.nets.net_files import build_net_from_description, read_net, serialise_net
from stages.shards import Run, extract_request
from stages.training.checkpoint import Checkpoint

NET = small_vit(side=224)  # 48 channels and 4 layers: takes a tenth of the time of timm's smallest
SMALL = ("--net", NET, "--crop-size", "32", "--long-side", "32,48", "--batch-size", "4",
         "--epochs", "1", "--lr", "1e-3", "--threads", "1", "--device", "cpu")


def train_net(index: Path, output: Path, *options: object) -> Path:
    run_ok("train-cls", "mctformer", index, *SMALL, *options, "-o", output)
    return output


@pytest.fixture(scope="module")
def v2_net(tiny_index, tmp_path_factory) -> Path:
    """Return a trained network of V2. Read only."""
    return train_net(tiny_index, tmp_path_factory.mktemp("v2") / "v2.safetensors")


def read_items(path: Path) -> list:
    shard = Run([path], "cams").first
    return [shard.item(item_id) for item_id in shard.ids]


def test_cams_mctformer_with_default_settings(tiny_index, v2_net, tmp_path):
    assert run_ok("cams", "mctformer", tiny_index, "--net", v2_net, "-o", tmp_path / "cams") == [
        str(tmp_path / "cams" / "cams-00000-of-00001.h5")]
    shard = Run([tmp_path / "cams"], "cams").first
    assert shard.attribute("background") == "none"
    entry = shard.provenance[-1]
    assert (entry["stage"], entry["method"], entry["config"]["scales"]) == ("cams", "mctformer", [1.0])
    assert entry["inputs"]["net"] == read_net(v2_net)[1]["sha256"]
    for item in read_items(tmp_path / "cams"):
        cam, size = item.datasets["cam"], (int(item.attrs["height"]), int(item.attrs["width"]))
        assert cam.shape == (len(item.datasets["class_ids"]), size[0] // 16, size[1] // 16)
        assert tuple(item.attrs["covers"]) == size
        assert cam.dtype == np.float16 and cam.min(initial=0) >= 0 and cam.max(initial=0) <= 1
        assert len(item.datasets["scores"]) == len(cam)
    assert "up to date" in run("cams", "mctformer", tiny_index, "--net", v2_net, "-o", tmp_path / "cams").err
    run_ok("eval", tmp_path / "cams", "--json")
    run_ok("refine", "crf", tmp_path / "cams", "-o", tmp_path / "crf")


@pytest.mark.parametrize("version", ["v1", "plus"])
def test_versions_v1_and_plus(tiny_index, tmp_path, version):
    net = train_net(tiny_index, tmp_path / "net.safetensors", "--version", version)
    description = read_net(net)[1]
    assert description["architecture"]["head"] == f"mctformer-{version}"
    assert ("patch_head.weight" in read_net(net)[0]) == (version == "plus")
    run_ok("cams", "mctformer", tiny_index, "--net", net, "--tags", "all", "-o", tmp_path / "cams")
    shard = Run([tmp_path / "cams"], "cams").first
    assert shard.provenance[-1]["config"]["scales"] == ([1.0] if version == "v1" else [1.0, 0.75, 1.25])
    assert all(len(item.datasets["cam"]) == 2 for item in read_items(tmp_path / "cams"))
    if version == "v1":
        check_error(run("cams", "mctformer", tiny_index, "--net", net, "--map", "patch", "-o", tmp_path / "x"), 2,
                "--map patch needs a patch classifier")


def test_network_is_reproducible_and_options_change_it(tiny_index, v2_net, tmp_path):
    again = train_net(tiny_index, tmp_path / "again.safetensors")
    assert again.read_bytes() == v2_net.read_bytes()
    for option in (("--drop-path", "0"), ("--decay", "all"), ("--schedule", "poly"), ("--rand-augment", "0"),
                   ("--erase", "1"), ("--crop-area", ""), ("--position-size", "32"), ("--as-released",)):
        other = train_net(tiny_index, tmp_path / f"{option[0][2:]}.safetensors", *option)
        assert read_net(other)[1]["sha256"] != read_net(v2_net)[1]["sha256"], option
    config = read_net(v2_net)[1]["provenance"][-1]["config"]
    assert (config["optimizer"], config["schedule"], config["weight_decay"]) == ("adamw", "cosine", 0.05)


@pytest.mark.parametrize("option", [("--map", "attention"), ("--map", "patch"), ("--layers", "1"), ("--no-flip",),
                                    ("--no-affinity",), ("--scales", "1,1.5"), ("--as-released",),
                                    ("--precision", "bf16")], ids=" ".join)
def test_every_option_changes_the_cams(tiny_index, v2_net, tmp_path, option):
    for name, options in (("plain", ()), ("other", option)):
        run_ok("cams", "mctformer", tiny_index, "--net", v2_net, *options, "-o", tmp_path / name)
    pairs = zip(read_items(tmp_path / "plain"), read_items(tmp_path / "other"), strict=True)
    cams = [(plain.datasets["cam"], other.datasets["cam"]) for plain, other in pairs]
    assert not all(plain.shape == other.shape and np.array_equal(plain, other)
                   for plain, other in cams if len(plain))


def test_initial_weights_of_a_vit_and_of_a_network(tiny_index, tmp_path):
    torch.manual_seed(5)
    source = timm.create_model(NET.removeprefix("timm:"), num_classes=7).state_dict()
    save_file({name: tensor + 0.01 for name, tensor in source.items()}, tmp_path / "vit.safetensors")
    net = tmp_path / "net.safetensors"
    done = run("train-cls", "mctformer", tiny_index, *SMALL, "--lr", "0", "--lr-floor", "0", "--weights",
               tmp_path / "vit.safetensors", "-o", net)
    assert done.code == 0
    assert (f"{len(source) - 4} tensors loaded, 2 of the head dropped (head.bias, head.weight), 2 not used "
            "(norm.bias, norm.weight)") in done.err
    tensors = read_net(net)[0]
    assert torch.equal(tensors["backbone.cls_token"], (source["cls_token"] + 0.01).expand(1, 2, -1))
    again = run("train-cls", "mctformer", tiny_index, *SMALL, "--weights", net, "-o", tmp_path / "more.safetensors")
    assert again.code == 0 and "0 of the head dropped" in again.err


def test_other_commands_read_the_network(tiny_index, v2_net, tmp_path):
    run_ok("features", tiny_index, "--net", v2_net, "--device", "cpu", "-o", tmp_path / "features")
    assert Run([tmp_path / "features"]).first.read_root("features").shape == (12, 48)
    assert any("mctformer-v2" in line for line in run_ok("info", v2_net))
    run_ok("cams", "gradcam", tiny_index, "--net", v2_net, "--device", "cpu", "-o", tmp_path / "gradcam")
    maps = [item.datasets["cam"] for item in read_items(tmp_path / "gradcam")]
    assert all(cam.shape[1:] == (3, 4) for cam in maps) and any(cam.any() for cam in maps)
    check_error(run("cams", "cnn", tiny_index, "--net", v2_net, "-o", tmp_path / "cnn"), 65, "MCTformer",
                "cams mctformer")


@pytest.fixture(scope="module")
def old_net(v2_net, tmp_path_factory) -> Path:
    """Return a network as older versions with a final norm wrote it: two more tensors, no entry in the description."""
    tensors, description = read_net(v2_net)
    del description["architecture"]["final_norm"], description["provenance"][-1]["config"]["final_norm"]
    norm = {f"backbone.norm.{name}": torch.full((48,), value) for name, value in (("weight", 1.0), ("bias", 0.0))}
    path = tmp_path_factory.mktemp("old") / "old.safetensors"
    path.write_bytes(serialise_net({**tensors, **norm}, description))
    return path


REASON = ("old.safetensors", "trained with a final LayerNorm", "the published network does not have", "could not learn",
          "Train it again with `wsss train-cls`")


@pytest.mark.parametrize("command", [("cams", "mctformer"), ("cams", "gradcam"), ("features",)], ids=" ".join)
def test_network_with_a_final_norm_is_rejected(tiny_index, old_net, tmp_path, command):
    check_error(run(*command, tiny_index, "--net", old_net, "--device", "cpu", "-o", tmp_path / "x"), 65, *REASON)
    assert run_ok("info", old_net)


def test_old_network_is_not_up_to_date_and_no_initial_weights(tiny_index, old_net, v2_net, tmp_path):
    run_ok("cams", "mctformer", tiny_index, "--net", v2_net, "-o", tmp_path / "cams")
    check_error(run("cams", "mctformer", tiny_index, "--net", old_net, "-o", tmp_path / "cams"), 65, *REASON)
    check_error(run("train-cls", "mctformer", tiny_index, *SMALL, "--weights", old_net, "-o",
                    tmp_path / "x.safetensors"), 65,
            *REASON)
    existing = tmp_path / "there.safetensors"
    existing.write_bytes(old_net.read_bytes())
    check_error(run("train-cls", "mctformer", tiny_index, *SMALL, "-o", existing), 73, "final_norm: null -> false")


def test_checkpoint_with_a_final_norm_is_not_resumed(tiny_index, v2_net, tmp_path):
    description = read_net(v2_net)[1]
    request = extract_request(description["provenance"][-1])
    request["config"] = {name: value for name, value in request["config"].items() if name != "final_norm"}
    net, output = build_net_from_description(description), tmp_path / "net.safetensors"
    checkpoint = Checkpoint(output, request)
    checkpoint.save(1, net, torch.optim.SGD(net.parameters()), {}, {}, {}, [])
    checkpoint.release(finished=False)
    check_error(run("train-cls", "mctformer", tiny_index, *SMALL, "-o", output), 73, "unfinished training",
            "final_norm: null -> false", "--force")
    done = run("train-cls", "mctformer", tiny_index, *SMALL, "--force", "-o", output)
    assert done.code == 0 and "Resuming" not in done.err
    assert output.read_bytes() == v2_net.read_bytes()


def test_position_embeddings_of_another_size(tiny_index, tmp_path):
    """Released checkpoints of plus have position embeddings for 448 pixels; here 64, where the network has 224."""
    net = train_net(tiny_index, tmp_path / "net.safetensors", "--version", "plus", "--position-size", "64")
    description = read_net(net)[1]
    assert description["architecture"]["position_size"] == 64
    tensors = read_net(net)[0]
    assert tensors["backbone.pos_embed"].shape == (1, 2 + 16, 48)
    run_ok("cams", "mctformer", tiny_index, "--net", net, "-o", tmp_path / "cams")
    released = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    positions = released.pop("backbone.pos_embed", released.pop("pos_embed", None))
    released |= {"pos_embed_cls": positions[:, :2], "pos_embed_pat": positions[:, 2:],
                 "norm.weight": torch.ones(48), "norm.bias": torch.zeros(48)}
    released |= {f"head.{name}": released.pop(f"patch_head.{name}") for name in ("weight", "bias")}
    torch.save({"model": released}, tmp_path / "released.pth")
    train = ("train-cls", "mctformer", tiny_index, *SMALL, "--version", "plus", "--weights", tmp_path / "released.pth",
             "--lr", "0", "--lr-floor", "0", "-o", tmp_path / "again.safetensors")
    check_error(run(*train), 65, "released.pth", "position embeddings for 4 x 4 patches but the network for 14 x 14",
            "--position-size 64")
    done = run(*train, "--position-size", "64")
    assert done.code == 0 and "2 not used (norm.bias, norm.weight)" in done.err
    again = read_net(tmp_path / "again.safetensors")[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_invalid_networks_and_settings(tiny_index, tiny_net, v2_net, tmp_path):
    check_error(run("cams", "mctformer", tiny_index, "--net", tiny_net, "-o", tmp_path / "x"), 65, "not an MCTformer",
            "train-cls mctformer")
    check_error(run("cams", "mctformer", tiny_index, "--net", v2_net, "--layers", "5", "-o", tmp_path / "x"), 2, "5",
                "4")
    check_error(run("train-cls", "mctformer", tiny_index, "--net", "timm:resnet18", "-o", tmp_path / "x.safetensors"),
                2,
            "vision transformer", "deit_small")
    check_error(run("train-cls", "mctformer", tiny_index, *SMALL, "--stride", "8", "-o", tmp_path / "x.safetensors"), 2,
            "supports only stride 16")
    check_error(run("train-cls", "mctformer", tiny_index, *SMALL, "--position-size", "40", "-o",
                tmp_path / "x.safetensors"), 2, "--position-size 40", "16 pixels", "--position-size 32")
    check_error(run("train-cls", "mctformer", tiny_index, *SMALL, "--version", "plus", "--as-released", "-o",
                tmp_path / "x.safetensors"), 2, "14 x 14", "2 x 2", "--position-size 32")
    check_error(run("train-cls", "mctformer", tiny_index, *SMALL, "--crop-area", "0.5", "-o",
                    tmp_path / "x.safetensors"),
            2, "--crop-area")
