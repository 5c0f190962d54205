from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stages.errors import BadData, MissingInput
from stages.nets import files
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter

CLASSES = ["background", "boat", "tree", "ünïcode"]


def described(net, **more):
    return files.describe_net(
        net, classes=CLASSES, supervision="image tags", provenance=[{"stage": "train-cls"}],
        initial_weights={"name": "none", "sha256": ""}, **more,
    )  # fmt: skip


@pytest.fixture
def small(tmp_path):
    """A net file of a few hundred bytes of weights, with a true description."""
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / "small.safetensors"
    path.write_bytes(files.net_bytes(tensors, described(Classifier(build_backbone("tiny"), 3))))
    return path


@pytest.mark.parametrize("make", [
    lambda: Classifier(build_backbone("mobilenet_v2", stride=16), 3, dropout=0.5),
    lambda: build_segmenter("tiny", 4), lambda: build_segmenter("tiny", 4, head="deeplab-v2"),
    lambda: build_segmenter("timm:resnet18", 4, head="large-fov", stride=16),
])  # fmt: skip
@torch.no_grad()
def test_a_net_comes_back_as_it_was(make, tmp_path):
    net = make().eval()
    net.mean = (0.1, 0.2, 0.3)
    path = tmp_path / "net.safetensors"
    path.write_bytes(files.net_bytes(net.state_dict(), described(net)))
    again, description = files.load_net(path)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images), net(images)) and not again.training
    assert (again.mean, again.std, again.stride) == (net.mean, net.std, net.stride)
    assert files.architecture_of(again) == files.architecture_of(net) == description["architecture"]
    assert description["classes"] == CLASSES and description["task"] == net.task
    assert description["sha256"] == files.tensors_sha256(net.state_dict())


def test_equal_nets_give_equal_bytes_whatever_the_order_and_memory_layout(small):
    tensors, description = files.read_net(small)
    turned = dict(reversed(tensors.items())) | {"a": tensors["a"].t().contiguous().t()}
    shuffled = dict(reversed(description.items()))
    assert files.net_bytes(turned, shuffled) == small.read_bytes()
    with safe_open(small, framework="pt") as file:
        assert list(file.metadata()) == ["wsss"]
        assert json.loads(file.metadata()["wsss"])["format"] == "wsss-net"


def test_the_checksum_sees_names_types_shapes_and_values():
    base = {"a": torch.zeros(4), "b": torch.zeros(2)}
    others = [
        {"a": torch.zeros(4), "c": torch.zeros(2)}, {"a": torch.zeros(2, 2), "b": torch.zeros(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.zeros(2)}, {"a": -torch.zeros(4), "b": torch.zeros(2)},
    ]  # fmt: skip
    assert len({files.tensors_sha256(each) for each in [base, *others]}) == 5


def test_every_flipped_byte_and_every_truncation_is_refused(small, tmp_path):
    whole = small.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    # One bit of each byte; of letters the one that turns A to a, which JSON takes as the same in \u00fc.
    flips = [(position, 0x20 if byte in b"abcdef" else 1) for position, byte in enumerate(whole)]
    for position, bit in flips:
        damaged.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        with pytest.raises(BadData, match=r"damaged\.safetensors") as caught:
            files.read_net(damaged)
        assert "\n" not in str(caught.value)
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        with pytest.raises(BadData, match="cut short"):
            files.read_net(damaged)


def test_files_that_are_no_nets_of_ours(tmp_path, small, monkeypatch):
    with pytest.raises(MissingInput):
        files.read_net(tmp_path / "absent.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(BadData, match="no net of wsss"):
        files.read_net(tmp_path / "plain.safetensors")
    tensors, description = files.read_net(small)
    with pytest.raises(BadData, match="don't fit its architecture"):
        files.load_net(small)
    monkeypatch.setattr(files, "FORMAT_VERSION", "2.0")
    newer = files.net_bytes(tensors, description)
    monkeypatch.undo()
    small.write_bytes(newer)
    with pytest.raises(BadData, match=r"version 2\.0, this program reads 1\.0"):
        files.read_net(small)


@pytest.mark.parametrize("change", [{"task": "detection"}, {"architecture": {}}, {"architecture": None},
    {"architecture": {"backbone": "nowhere", "stride": 8, "n_outputs": 3, "head": "cam"}}])  # fmt: skip
def test_descriptions_that_cant_be_built(change):
    description = described(Classifier(build_backbone("tiny"), 3))
    with pytest.raises(BadData):
        files.build_from_description(description | change)
