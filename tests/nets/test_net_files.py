"""Network files: they restore the network exactly, and damaged or foreign files are an error."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from stages.errors import BadData, MissingInput
from stages.nets import net_files
from stages.nets.classifier import Classifier
from stages.nets.net_description import read_verified_description
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter

CLASSES = ["background", "boat", "tree", "ünïcode"]


def describe(net, **entries):
    """Return a description of `net` with fixed classes, supervision and provenance."""
    return net_files.describe_net(
        net, classes=CLASSES, supervision="image tags", provenance=[{"stage": "train-cls"}],
        initial_weights={"name": "none", "sha256": ""}, **entries,
    )  # fmt: skip


@pytest.fixture
def small_file(tmp_path):
    """Return a network file with little weight data and a valid description, which do not fit each other."""
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.ones(2, dtype=torch.bfloat16)}
    path = tmp_path / "small.safetensors"
    path.write_bytes(net_files.serialise_net(tensors, describe(Classifier(build_backbone("tiny"), 3))))
    return path


@pytest.mark.parametrize("build", [
    lambda: Classifier(build_backbone("mobilenet_v2", stride=16), 3, dropout=0.5),
    lambda: build_segmenter("tiny", 4), lambda: build_segmenter("tiny", 4, head="deeplab-v2"),
    lambda: build_segmenter("timm:resnet18", 4, head="large-fov", stride=16),
])  # fmt: skip
@torch.no_grad()
def test_network_file_restores_the_network(build, tmp_path):
    net = build().eval()
    net.mean = (0.1, 0.2, 0.3)
    path = tmp_path / "net.safetensors"
    path.write_bytes(net_files.serialise_net(net.state_dict(), describe(net)))
    loaded, description = net_files.load_net(path)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(images), net(images)) and not loaded.training
    assert (loaded.mean, loaded.std, loaded.stride) == (net.mean, net.std, net.stride)
    architecture = description["architecture"]
    assert net_files.describe_architecture(loaded) == net_files.describe_architecture(net) == architecture
    assert description["classes"] == CLASSES and description["task"] == net.task
    assert description["sha256"] == net_files.hash_tensors(net.state_dict())


def test_bytes_do_not_depend_on_order_and_memory_layout(small_file):
    tensors, description = net_files.read_net(small_file)
    transposed = dict(reversed(tensors.items())) | {"a": tensors["a"].t().contiguous().t()}
    shuffled = dict(reversed(description.items()))
    assert net_files.serialise_net(transposed, shuffled) == small_file.read_bytes()
    with safe_open(small_file, framework="pt") as file:
        assert list(file.metadata()) == ["wsss"]
        assert json.loads(file.metadata()["wsss"])["format"] == "wsss-net"


def test_hash_depends_on_names_types_shapes_and_values():
    base = {"a": torch.zeros(4), "b": torch.zeros(2)}
    others = [
        {"a": torch.zeros(4), "c": torch.zeros(2)}, {"a": torch.zeros(2, 2), "b": torch.zeros(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.zeros(2)}, {"a": -torch.zeros(4), "b": torch.zeros(2)},
    ]  # fmt: skip
    assert len({net_files.hash_tensors(tensors) for tensors in [base, *others]}) == 5


def test_every_flipped_byte_and_truncation_is_an_error(small_file, tmp_path):
    whole = small_file.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    # One bit of each byte; for letters the bit between A and a, which JSON does not distinguish in \u00fc.
    flips = [(position, 0x20 if byte in b"abcdef" else 1) for position, byte in enumerate(whole)]
    for position, bit in flips:
        damaged.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        with pytest.raises(BadData, match=r"damaged\.safetensors") as caught:
            net_files.read_net(damaged)
        assert "\n" not in str(caught.value)
        with pytest.raises(BadData, match=r"damaged\.safetensors"):
            read_verified_description(damaged)
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        for read in (net_files.read_net, read_verified_description):
            with pytest.raises(BadData, match="truncated"):
                read(damaged)


def test_files_that_are_not_network_files_are_an_error(tmp_path, small_file, monkeypatch):
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors")
    for read in (net_files.read_net, read_verified_description):
        with pytest.raises(MissingInput):
            read(tmp_path / "absent.safetensors")
        with pytest.raises(BadData, match="not a network of wsss"):
            read(tmp_path / "plain.safetensors")
    tensors, description = net_files.read_net(small_file)
    with pytest.raises(BadData, match="weights do not fit the architecture"):
        net_files.load_net(small_file)
    monkeypatch.setattr(net_files, "FORMAT_VERSION", "2.0")
    newer = net_files.serialise_net(tensors, description)
    monkeypatch.undo()
    small_file.write_bytes(newer)
    with pytest.raises(BadData, match=r"version 2\.0 but this wsss reads version 1\.1"):
        net_files.read_net(small_file)


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
OTHERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn)


def test_description_is_verified_without_torch(tmp_path):
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in (*FLOATS, *OTHERS)}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "mask": torch.full((2,), -torch.inf)}
    path = tmp_path / "net.safetensors"
    path.write_bytes(net_files.serialise_net(tensors, describe(Classifier(build_backbone("tiny"), 3))))
    assert read_verified_description(path) == net_files.read_net(path)[1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_that_are_not_finite_have_the_same_message(dtype, tmp_path):
    values = torch.tensor([[1, torch.inf, torch.nan], [-torch.inf, 0, 1]]).to(dtype)
    tensors = {"layer": values, "attention_mask": values, "large": torch.tensor([1e300], dtype=torch.float64)}
    path = tmp_path / "net.safetensors"
    path.write_bytes(net_files.serialise_net(tensors, describe(Classifier(build_backbone("tiny"), 3))))
    messages = []
    for read in (net_files.read_net, read_verified_description):
        with pytest.raises(BadData) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "2 of the 6 values of attention_mask are not finite (NaN or infinite), and 2 more" in messages[0]


@pytest.mark.parametrize("change", [{"task": "detection"}, {"architecture": {}}, {"architecture": None},
    {"architecture": {"backbone": "nowhere", "stride": 8, "n_outputs": 3, "head": "cam"}}])  # fmt: skip
def test_description_that_cannot_be_built_is_an_error(change):
    description = describe(Classifier(build_backbone("tiny"), 3))
    with pytest.raises(BadData):
        net_files.build_net_from_description(description | change)
