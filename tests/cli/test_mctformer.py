"""`wsss train-cls mctformer` and `wsss cams mctformer`, as users run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cli.runner import good, refused, run
from small_vit import small_vit
from stages.nets.files import build_from_description, net_bytes, read_net
from stages.shards import Run, request_of
from stages.training.checkpoint import Checkpoint

NET = small_vit(side=224)  # 48 channels and 4 layers: a tenth of the time of timm's smallest
SMALL = ("--net", NET, "--crop-size", "32", "--long-side", "32,48", "--batch-size", "4",
         "--epochs", "1", "--lr", "1e-3", "--threads", "1", "--device", "cpu")


def trained(index: Path, output: Path, *more: object) -> Path:
    good("train-cls", "mctformer", index, *SMALL, *more, "-o", output)
    return output


@pytest.fixture(scope="module")
def v2(tiny_index, tmp_path_factory) -> Path:
    """Return a net of V2. Not to be changed."""
    return trained(tiny_index, tmp_path_factory.mktemp("v2") / "v2.safetensors")


def items_of(run_: Path) -> list:
    shard = Run([run_], "cams").first
    return [shard.item(item_id) for item_id in shard.ids]


def test_a_net_that_needs_nothing_else_told(tiny_index, v2, tmp_path):
    assert good("cams", "mctformer", tiny_index, "--net", v2, "-o", tmp_path / "cams") == [
        str(tmp_path / "cams" / "cams-00000-of-00001.h5")]
    shard = Run([tmp_path / "cams"], "cams").first
    assert shard.attribute("background") == "none"
    told = shard.provenance[-1]
    assert (told["stage"], told["method"], told["config"]["scales"]) == ("cams", "mctformer", [1.0])
    assert told["inputs"]["net"] == read_net(v2)[1]["sha256"]
    for item in items_of(tmp_path / "cams"):
        cam, size = item.datasets["cam"], (int(item.attrs["height"]), int(item.attrs["width"]))
        assert cam.shape == (len(item.datasets["class_ids"]), size[0] // 16, size[1] // 16)
        assert tuple(item.attrs["covers"]) == size
        assert cam.dtype == np.float16 and cam.min(initial=0) >= 0 and cam.max(initial=0) <= 1
        assert len(item.datasets["scores"]) == len(cam)
    assert "up to date" in run("cams", "mctformer", tiny_index, "--net", v2, "-o", tmp_path / "cams").err
    good("eval", tmp_path / "cams", "--json")
    good("refine", "crf", tmp_path / "cams", "-o", tmp_path / "crf")


@pytest.mark.parametrize("version", ["v1", "plus"])
def test_the_other_versions(tiny_index, tmp_path, version):
    net = trained(tiny_index, tmp_path / "net.safetensors", "--version", version)
    described = read_net(net)[1]
    assert described["architecture"]["head"] == f"mctformer-{version}"
    assert ("patch_head.weight" in read_net(net)[0]) == (version == "plus")
    good("cams", "mctformer", tiny_index, "--net", net, "--tags", "all", "-o", tmp_path / "cams")
    shard = Run([tmp_path / "cams"], "cams").first
    assert shard.provenance[-1]["config"]["scales"] == ([1.0] if version == "v1" else [1.0, 0.75, 1.25])
    assert all(len(item.datasets["cam"]) == 2 for item in items_of(tmp_path / "cams"))
    if version == "v1":
        refused(run("cams", "mctformer", tiny_index, "--net", net, "--map", "patch", "-o", tmp_path / "x"), 2,
                "no patch classifier")


def test_a_net_is_the_same_twice_and_its_options_change_it(tiny_index, v2, tmp_path):
    again = trained(tiny_index, tmp_path / "again.safetensors")
    assert again.read_bytes() == v2.read_bytes()
    for option in (("--drop-path", "0"), ("--decay", "all"), ("--schedule", "poly"), ("--rand-augment", "0"),
                   ("--erase", "1"), ("--crop-area", ""), ("--position-size", "32"), ("--as-released",)):
        other = trained(tiny_index, tmp_path / f"{option[0][2:]}.safetensors", *option)
        assert read_net(other)[1]["sha256"] != read_net(v2)[1]["sha256"], option
    given = read_net(v2)[1]["provenance"][-1]["config"]
    assert (given["optimizer"], given["schedule"], given["weight_decay"]) == ("adamw", "cosine", 0.05)


@pytest.mark.parametrize("option", [("--map", "attention"), ("--map", "patch"), ("--layers", "1"), ("--no-flip",),
                                    ("--no-affinity",), ("--scales", "1,1.5"), ("--as-released",),
                                    ("--precision", "bf16")], ids=" ".join)
def test_every_option_changes_the_maps(tiny_index, v2, tmp_path, option):
    for name, more in (("plain", ()), ("other", option)):
        good("cams", "mctformer", tiny_index, "--net", v2, *more, "-o", tmp_path / name)
    pairs = zip(items_of(tmp_path / "plain"), items_of(tmp_path / "other"), strict=True)
    first, second = zip(*((one.datasets["cam"], other.datasets["cam"]) for one, other in pairs), strict=True)
    assert not all(one.shape == other.shape and np.array_equal(one, other)
                   for one, other in zip(first, second, strict=True) if len(one))


def test_weights_of_a_vit_and_of_a_net(tiny_index, tmp_path):
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
    more = run("train-cls", "mctformer", tiny_index, *SMALL, "--weights", net, "-o", tmp_path / "more.safetensors")
    assert more.code == 0 and "0 of the head dropped" in more.err


def test_other_commands_take_the_net(tiny_index, v2, tmp_path):
    good("features", tiny_index, "--net", v2, "--device", "cpu", "-o", tmp_path / "features")
    assert Run([tmp_path / "features"]).first.root("features").shape == (12, 48)
    assert any("mctformer-v2" in line for line in good("info", v2))
    good("cams", "gradcam", tiny_index, "--net", v2, "--device", "cpu", "-o", tmp_path / "gradcam")
    maps = [item.datasets["cam"] for item in items_of(tmp_path / "gradcam")]
    assert all(cam.shape[1:] == (3, 4) for cam in maps) and any(cam.any() for cam in maps)
    refused(run("cams", "cnn", tiny_index, "--net", v2, "-o", tmp_path / "cnn"), 65, "MCTformer", "cams mctformer")


@pytest.fixture(scope="module")
def old(v2, tmp_path_factory) -> Path:
    """Return a net as versions with a final norm wrote it: two more tensors, and no word of it in the description."""
    tensors, description = read_net(v2)
    del description["architecture"]["final_norm"], description["provenance"][-1]["config"]["final_norm"]
    norm = {f"backbone.norm.{name}": torch.full((48,), value) for name, value in (("weight", 1.0), ("bias", 0.0))}
    path = tmp_path_factory.mktemp("old") / "old.safetensors"
    path.write_bytes(net_bytes({**tensors, **norm}, description))
    return path


WHY = ("old.safetensors", "trained with a final LayerNorm", "the published network does not have", "could not learn",
       "train it again with wsss train-cls")


@pytest.mark.parametrize("command", [("cams", "mctformer"), ("cams", "gradcam"), ("features",)], ids=" ".join)
def test_a_net_that_was_trained_behind_a_final_norm(tiny_index, old, tmp_path, command):
    refused(run(*command, tiny_index, "--net", old, "--device", "cpu", "-o", tmp_path / "x"), 65, *WHY)
    assert good("info", old)


def test_old_maps_are_not_up_to_date_and_old_nets_are_no_start(tiny_index, old, v2, tmp_path):
    good("cams", "mctformer", tiny_index, "--net", v2, "-o", tmp_path / "cams")
    refused(run("cams", "mctformer", tiny_index, "--net", old, "-o", tmp_path / "cams"), 65, *WHY)
    refused(run("train-cls", "mctformer", tiny_index, *SMALL, "--weights", old, "-o", tmp_path / "x.safetensors"), 65,
            *WHY)
    there = tmp_path / "there.safetensors"
    there.write_bytes(old.read_bytes())
    refused(run("train-cls", "mctformer", tiny_index, *SMALL, "-o", there), 73, "final_norm: null -> false")


def test_an_unfinished_training_behind_a_final_norm_does_not_go_on(tiny_index, v2, tmp_path):
    description = read_net(v2)[1]
    request = request_of(description["provenance"][-1])
    request["config"] = {name: value for name, value in request["config"].items() if name != "final_norm"}
    net, output = build_from_description(description), tmp_path / "net.safetensors"
    checkpoint = Checkpoint(output, request)
    checkpoint.save(1, net, torch.optim.SGD(net.parameters()), {}, {}, {}, [])
    checkpoint.release(finished=False)
    refused(run("train-cls", "mctformer", tiny_index, *SMALL, "-o", output), 73, "unfinished training",
            "final_norm: null -> false", "--force")
    done = run("train-cls", "mctformer", tiny_index, *SMALL, "--force", "-o", output)
    assert done.code == 0 and "goes on" not in done.err
    assert output.read_bytes() == v2.read_bytes()


def test_positions_of_another_size(tiny_index, tmp_path):
    """A released checkpoint of plus has positions for 448 pixels; here it is 64, and the network's own 224."""
    net = trained(tiny_index, tmp_path / "net.safetensors", "--version", "plus", "--position-size", "64")
    described = read_net(net)[1]
    assert described["architecture"]["position_size"] == 64
    tensors = read_net(net)[0]
    assert tensors["backbone.pos_embed"].shape == (1, 2 + 16, 48)
    good("cams", "mctformer", tiny_index, "--net", net, "-o", tmp_path / "cams")
    released = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    positions = released.pop("backbone.pos_embed", released.pop("pos_embed", None))
    released |= {"pos_embed_cls": positions[:, :2], "pos_embed_pat": positions[:, 2:],
                 "norm.weight": torch.ones(48), "norm.bias": torch.zeros(48)}
    released |= {f"head.{name}": released.pop(f"patch_head.{name}") for name in ("weight", "bias")}
    torch.save({"model": released}, tmp_path / "released.pth")
    train = ("train-cls", "mctformer", tiny_index, *SMALL, "--version", "plus", "--weights", tmp_path / "released.pth",
             "--lr", "0", "--lr-floor", "0", "-o", tmp_path / "again.safetensors")
    refused(run(*train), 65, "released.pth", "positions for 4 x 4 patches, the network for 14 x 14",
            "--position-size 64")
    done = run(*train, "--position-size", "64")
    assert done.code == 0 and "2 not used (norm.bias, norm.weight)" in done.err
    again = read_net(tmp_path / "again.safetensors")[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())


def test_what_does_not_fit(tiny_index, tiny_net, v2, tmp_path):
    refused(run("cams", "mctformer", tiny_index, "--net", tiny_net, "-o", tmp_path / "x"), 65, "no MCTformer",
            "train-cls mctformer")
    refused(run("cams", "mctformer", tiny_index, "--net", v2, "--layers", "5", "-o", tmp_path / "x"), 2, "5", "4")
    refused(run("train-cls", "mctformer", tiny_index, "--net", "timm:resnet18", "-o", tmp_path / "x.safetensors"), 2,
            "vision transformer", "deit_small")
    refused(run("train-cls", "mctformer", tiny_index, *SMALL, "--stride", "8", "-o", tmp_path / "x.safetensors"), 2,
            "stride 16 only")
    refused(run("train-cls", "mctformer", tiny_index, *SMALL, "--position-size", "40", "-o",
                tmp_path / "x.safetensors"), 2, "--position-size 40", "16 pixels", "give 32")
    refused(run("train-cls", "mctformer", tiny_index, *SMALL, "--version", "plus", "--as-released", "-o",
                tmp_path / "x.safetensors"), 2, "14 x 14", "2 x 2", "--position-size 32")
    refused(run("train-cls", "mctformer", tiny_index, *SMALL, "--crop-area", "0.5", "-o", tmp_path / "x.safetensors"),
            2, "--crop-area")
