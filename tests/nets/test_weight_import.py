"""Reading and importing weights: published checkpoints, pickles that run code, and pretrained tags."""

from __future__ import annotations

import os
import pickle
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nets.reference_keys import build_checkpoint, read_shapes
from stages.errors import BadData, MissingInput, Unavailable, UsageError
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter
from stages.nets.weights import fetch_weights, import_weights, read_state_dict


class RunsCode:
    """An object whose pickle creates the file `marker` when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def test_irn_checkpoint_loads_without_its_duplicates():
    table = read_shapes("irn_resnet50_cam")
    net = Classifier(build_backbone("resnet50_irn"), table["classifier.weight"][0])
    state = build_checkpoint("irn_resnet50_cam")
    report = import_weights(net, state)
    assert set(report.loaded) == set(net.state_dict())
    assert report.dropped_head == () and len(report.loaded) + len(report.unused) == len(table)
    for key, tensor in net.state_dict().items():
        name = key.replace("backbone.", "resnet50.")
        assert tensor.flatten()[0] == state[name].flatten()[0], key


@pytest.mark.parametrize("prefix", ["", "base.", "scale."])
def test_deeplab_v2_checkpoints_load_with_and_without_a_prefix(prefix):
    state = {prefix + key: tensor for key, tensor in build_checkpoint("deeplabv2_resnet101").items()}
    n_outputs = read_shapes("deeplabv2_resnet101")["aspp.c0.weight"][0]
    with torch.device("meta"):
        same, other = (build_segmenter("deeplabv2_resnet101", n) for n in (n_outputs, n_outputs + 1))
    report = import_weights(same, state)
    assert len(report.loaded) == len(state) and not report.dropped_head and not report.unused
    assert len(report.renamed) == (len(state) if prefix else 0)
    assert len(import_weights(other, state).dropped_head) == sum("aspp" in key for key in state)


@pytest.mark.parametrize("head", ["fc8", "fc8_20"])
def test_loads_psa_and_sc_cam_checkpoints_of_resnet38(head):
    state = {key.replace("fc8", head): tensor for key, tensor in build_checkpoint("resnet38_cls").items()}
    if head == "fc8_20":
        state["fc8_200.weight"] = torch.zeros(1).expand(200, 4096, 1, 1)
    num_classes = read_shapes("resnet38_cls")["fc8.weight"][0]
    with torch.device("meta"):
        net, segmenter = Classifier(build_backbone("resnet38"), num_classes), build_segmenter("resnet38", 21)
    report = import_weights(net, state)
    assert "classifier.weight" in report.loaded and set(report.loaded) == set(net.state_dict())
    assert report.dropped_head == (("fc8_200.weight",) if head == "fc8_20" else ())
    assert f"{head}.weight" in import_weights(segmenter, state).dropped_head


@pytest.mark.parametrize(("ours", "theirs", "dropped"), [
    ("mobilenet_v2", "mobilenet_v2", ["classifier.1.weight", "classifier.1.bias"]),
    ("torchvision:resnet18", "resnet18", ["fc.weight", "fc.bias"]),
])  # fmt: skip
def test_only_the_head_of_torchvision_checkpoints_is_dropped(ours, theirs, dropped):
    from torchvision import models

    state = models.get_model(theirs).state_dict()
    net = Classifier(build_backbone(ours, stride=16), 5)
    head = net.classifier.weight.clone()
    report = import_weights(net, state)
    assert list(report.dropped_head) == dropped and not report.unused
    assert f"{len(state) - 2} tensors loaded, 2 of the head dropped" in str(report)
    for key, tensor in state.items():
        if key not in dropped:
            assert torch.equal(net.state_dict()[f"backbone.{key}"], tensor)
    assert torch.equal(net.classifier.weight, head)


def test_irn_backbone_loads_torchvision_resnet50():
    from torchvision import models

    with torch.device("meta"):
        state = models.resnet50().state_dict()
        assert import_weights(build_backbone("resnet50_irn"), state).dropped_head == ("fc.weight", "fc.bias")


def test_loads_timm_checkpoints_and_old_densenet_names():
    import timm
    from torchvision import models

    state = timm.create_model("resnet18", num_classes=10).state_dict()
    report = import_weights(build_backbone("timm:resnet18"), state)
    assert report.dropped_head == ("fc.weight", "fc.bias")
    new_state = models.densenet121().state_dict()
    old_state = {key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value for key, value in new_state.items()}
    assert set(old_state) != set(new_state)
    report = import_weights(build_backbone("densenet121"), old_state)
    assert len(report.loaded) == len(new_state) - 2 and report.dropped_head == ("classifier.weight", "classifier.bias")


def test_segmenter_loads_its_backbone_from_a_classifier():
    classifier = Classifier(build_backbone("tiny"), 4)
    for head in ("deeplab-light", "deeplab-v2"):
        segmenter = build_segmenter("tiny", 5, head=head)
        report = import_weights(segmenter, classifier.state_dict())
        assert report.dropped_head == ("classifier.weight",)
        for key, tensor in classifier.backbone.state_dict().items():
            assert torch.equal(segmenter.backbone.state_dict()[key], tensor)
    report = import_weights(Classifier(build_backbone("tiny"), 3), classifier.state_dict())
    assert report.dropped_head == ("classifier.weight",)


def test_error_for_weights_of_another_network_names_both_shapes():
    net = build_backbone("tiny")
    state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    state["layer1.0.conv1.weight"] = torch.zeros(48, 24, 5, 5)
    with pytest.raises(BadData, match=r"w\.pth: .*layer1\.0\.conv1\.weight.*48, 24, 5, 5.*48, 24, 3, 3"):
        import_weights(net, state, where="w.pth")
    del state["layer1.0.conv1.weight"]
    with pytest.raises(BadData, match=r"layer1\.0\.conv1\.weight is missing in the file.*48, 24, 3, 3"):
        import_weights(net, state)
    with pytest.raises(BadData, match=r"layer3\.9\.conv1\.weight.*no such weight"):
        import_weights(net, before | {"layer3.9.conv1.weight": torch.zeros(3)})
    assert import_weights(net, before | {"queue": torch.zeros(3)}).unused == ("queue",)
    assert all(torch.equal(net.state_dict()[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
])  # fmt: skip
def test_reads_pickled_weights(tmp_path, wrap):
    torch.save(wrap({"a.weight": torch.ones(2), "b": torch.zeros(())}), tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    assert list(state) == ["a.weight", "b"] and torch.equal(state["a.weight"], torch.ones(2))


def test_reads_safetensors_and_rejects_other_files(tmp_path):
    save_file({"module.a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert list(read_state_dict(tmp_path / "w.safetensors")) == ["a"]
    with pytest.raises(MissingInput, match=r"absent\.pth"):
        read_state_dict(tmp_path / "absent.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pt").write_text("<html>404</html>")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[:-3])
    for name in ("list.pth", "empty.pth", "text.pt", "short.safetensors"):
        with pytest.raises(BadData, match=name) as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_pickle_that_runs_code_is_an_error_and_not_run(tmp_path, save):
    save({"a": torch.ones(1), "b": RunsCode(tmp_path / "ran")}, tmp_path / "code.pth")
    with pytest.raises(BadData, match=r"code\.pth"):
        read_state_dict(tmp_path / "code.pth")
    assert not (tmp_path / "ran").exists()


def test_error_names_what_the_pickle_would_call(tmp_path):
    torch.save({"a": torch.ones(1), "b": RunsCode(tmp_path / "ran")}, tmp_path / "code.pth")
    with pytest.raises(BadData, match=r"not read, because it holds \w+\.system"):
        read_state_dict(tmp_path / "code.pth")


@pytest.mark.parametrize(("name", "tag", "file"), [
    ("mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-b0353104.pth"),
    ("timm:resnet18", "a1_in1k", "timm/resnet18.a1_in1k/model.safetensors"),
    ("resnet50_irn", "IMAGENET1K_V1", "resnet50-0676ba61.pth"),
])  # fmt: skip
def test_offline_error_names_the_file_to_copy(name, tag, file, monkeypatch, tmp_path):
    def fail(*_):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(Unavailable, match=file) as caught:
        fetch_weights(name, tag)
    assert "--weights FILE" in str(caught.value) and caught.value.code == 69


def test_error_for_an_unknown_tag_lists_the_tags():
    with pytest.raises(UsageError, match="IMAGENET1K_V1"):
        fetch_weights("mobilenet_v2", "imagenet")
    with pytest.raises(UsageError, match="a1_in1k"):
        fetch_weights("timm:resnet18", "imagenet")
    with pytest.raises(UsageError, match="Use --weights FILE"):
        fetch_weights("tiny", "imagenet")
