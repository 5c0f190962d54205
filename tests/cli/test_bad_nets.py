"""Weights and nets that are not what they should be; devices and packages that are not there."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.runner import SMALL, TRAINING, copy_of, good, index_table, refused, run
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.nets.weights import read_state_dict

TRAIN = ("train-cls", "cam")


@pytest.fixture(scope="module")
def seg_net(tiny_index, tmp_path_factory) -> Path:
    """Return a segmentation network."""
    path = tmp_path_factory.mktemp("nets") / "seg.safetensors"
    good("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", path)
    return path


def training(index: Path, weights: object, output: Path, *more: object):
    return run(*TRAIN, index, "--weights", weights, *TRAINING, "--long-side", "32,48", "-o", output, *more)


class RunsCode:
    """A pickle of this would make a file when it is loaded."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.place),)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tiny_index, tmp_path):
    place = tmp_path / "it ran"
    for name, save in (("zip.pth", torch.save), ("plain.pt", lambda made, path: path.write_bytes(pickle.dumps(made)))):
        save({"state_dict": RunsCode(place)}, tmp_path / name)
        refused(training(tiny_index, tmp_path / name, tmp_path / "n.safetensors"), 65, name)
        assert not place.exists()
        assert not (tmp_path / "n.safetensors").exists()


def test_an_archive_that_would_run_code_is_refused_and_not_run(tiny_index, tmp_path):
    place = tmp_path / "it ran"
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(RunsCode(place), protocol=2))
        archive.writestr("archive/constants.pkl", b"")
    for clip in (("--clip", tmp_path / "archive.pt"), ("--clip", "ViT-B-16", "--weights", tmp_path / "archive.pt")):
        refused(run("cams", "clip-es", tiny_index, *clip, "--device", "cpu", "-o", tmp_path / "out"), 65, "archive.pt",
                "it holds posix mkdir")
        assert not place.exists()
        assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_more_than_tensors_names_what_it_holds(tiny_index, tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1), "state_dict": {}}, tmp_path / "args.pth")
    refused(training(tiny_index, tmp_path / "args.pth", tmp_path / "n.safetensors"), 65, "args.pth",
            "it holds argparse.Namespace, not only tensors", "state_dict")


@pytest.mark.parametrize(("kept", "named"), [
    (np.float64(0.5), "numpy"), (np.zeros(3), "numpy"), (Path("runs"), "pathlib"),
    (np.random.default_rng(0).bit_generator.state | {"args": argparse.Namespace()}, "argparse"),
    (np.random.default_rng(0), "numpy")], ids=["scalar", "array", "path", "state", "generator"])
def test_what_people_keep_in_checkpoints_is_named_and_refused(tiny_index, tmp_path, kept, named):
    torch.save({"kept": kept, "state_dict": {}}, tmp_path / "kept.pth")
    refused(training(tiny_index, tmp_path / "kept.pth", tmp_path / "n.safetensors"), 65, "kept.pth", named,
            "not only tensors")


def test_a_flipped_bit_in_the_weights_of_others_is_found(tiny_index, tmp_path):
    state = Classifier(build_backbone("wsss:tiny"), 2).state_dict()
    torch.save(state, tmp_path / "flipped.pth")
    data = bytearray((tmp_path / "flipped.pth").read_bytes())
    data[data.find(next(iter(state.values())).numpy().tobytes()) + 5] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    refused(training(tiny_index, tmp_path / "flipped.pth", tmp_path / "n.safetensors"), 65, "flipped.pth", "is damaged",
            "data/", "copy it again")


def test_weights_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.arange(3.), "nothing": torch.zeros(0)}, tmp_path / "plain.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_dict(tmp_path / "plain.pth")["weight"].tolist() == [0, 1, 2]


def test_weight_files_that_can_not_be_read(tiny_index, tmp_path):
    torch.save(Classifier(build_backbone("wsss:tiny"), 2).state_dict(), tmp_path / "good.pth")
    data = (tmp_path / "good.pth").read_bytes()
    for name, content in [("cut.pth", data[:len(data) // 2]), ("empty.pth", b""), ("page.pth", b"<html>404</html>"),
                          ("text.safetensors", b"no tensors"), ("empty.safetensors", b"")]:
        (tmp_path / name).write_bytes(content)
        refused(training(tiny_index, tmp_path / name, tmp_path / "n.safetensors"), 65, name)
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    refused(training(tiny_index, tmp_path / "none.pth", tmp_path / "n.safetensors"), 65, "none.pth", "no tensors")
    refused(training(tiny_index, tmp_path / "gone.pth", tmp_path / "n.safetensors"), 66, "gone.pth")
    assert training(tiny_index, tmp_path / "good.pth", tmp_path / "n.safetensors").code == 0


def test_weights_of_another_network(tiny_index, tmp_path):
    state = Classifier(build_backbone("wsss:tiny"), 2).state_dict()
    name = "backbone.stem.0.weight"
    torch.save({**state, name: torch.zeros(8, 3, 3, 3)}, tmp_path / "other.pth")
    refused(training(tiny_index, tmp_path / "other.pth", tmp_path / "n.safetensors"), 65, "weights of another network",
            "(8, 3, 3, 3)", "(24, 3, 3, 3)", "other.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "else.pth")
    refused(training(tiny_index, tmp_path / "else.pth", tmp_path / "n.safetensors"), 65, "else.pth")


def test_a_head_of_another_size_is_dropped_and_counted(tiny_index, tmp_path):
    torch.save(Classifier(build_backbone("wsss:tiny"), 7).state_dict(), tmp_path / "seven.pth")
    done = training(tiny_index, tmp_path / "seven.pth", tmp_path / "n.safetensors")
    assert done.code == 0
    assert "1 of the head dropped" in done.err


def test_networks_and_tags_that_do_not_exist(tiny_index, tmp_path):
    output = tmp_path / "n.safetensors"
    for net, told in [("wsss:tinny", "tiny"), ("foo:bar", "foo"), ("mobilenet_v22", "mobilenet_v2")]:
        refused(run(*TRAIN, tiny_index, "--net", net, "--device", "cpu", "-o", output), 2, net, told)
    refused(run(*TRAIN, tiny_index, "--net", "torchvision:mobilenet_v2", "--weights", "nosuch", "--device", "cpu", "-o",
                output), 2, "nosuch", "IMAGENET1K_V1")
    refused(training(tiny_index, "IMAGENET1K_V1", output), 2, "--weights", "file")
    refused(run(*TRAIN, tiny_index, *TRAINING, "--stride", "16", "-o", output), 2, "--stride 16")
    refused(run(*TRAIN, tiny_index, *TRAINING, "--freeze", "nosuch", "-o", output), 2, "--freeze nosuch")


OFFLINE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


@pytest.mark.parametrize(("net", "tag", "file"), [
    ("timm:resnet18", "a1_in1k", "model.safetensors"), ("torchvision:mobilenet_v2", "IMAGENET1K_V1", ".pth")])
def test_a_tag_without_a_network_names_the_file_to_bring(tiny_index, tmp_path, monkeypatch, net, tag, file):
    for name, value in {**OFFLINE, "TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    done = run(*TRAIN, tiny_index, "--net", net, "--weights", tag, "--device", "cpu", "-o", tmp_path / "n.safetensors")
    refused(done, 69, "can't be fetched", file, "--weights FILE")
    assert sum(pauses) < 15, "libraries try again and again, with pauses between, unless they are kept from it"


def test_nets_that_can_not_be_used(tiny_index, tiny_net, seg_net, tmp_path):
    cams = ("cams", "cnn", tiny_index, *SMALL, "-o", tmp_path / "out")
    refused(run(*cams, "--net", seg_net), 65, str(seg_net), "segmentation", "train-cls")
    refused(run("segment", "net", tiny_index, "--net", tiny_net, "-o", tmp_path / "out"), 65, str(tiny_net),
            "classification", "train-seg")
    refused(run(*cams, "--net", tmp_path / "none.safetensors"), 66, "none.safetensors")
    refused(run(*cams, "--net", tiny_index), 65, str(tiny_index))
    data = bytearray(tiny_net.read_bytes())
    data[-5] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(bytes(data))
    refused(run(*cams, "--net", tmp_path / "flipped.safetensors"), 65, "flipped.safetensors", "damaged")
    refused(run("info", tmp_path / "flipped.safetensors"), 65, "flipped.safetensors", "damaged")
    assert run("check", tmp_path / "flipped.safetensors").code == 65
    (tmp_path / "cut.safetensors").write_bytes(bytes(data[:1000]))
    refused(run(*cams, "--net", tmp_path / "cut.safetensors"), 65, "cut.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_net_for_other_classes(tiny_folder, tiny_net, seg_net, tmp_path):
    root = copy_of(tiny_folder, tmp_path / "set")
    (root / "classes.txt").write_text("background\ncat\ncow\n")
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("dog", "cow"))
    assert index_table(root, tmp_path / "i.h5").code == 0
    told = (str(tmp_path / "i.h5"), "'dog'", "'cow'")
    refused(run("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, *SMALL, "-o", tmp_path / "c"), 65, *told)
    refused(run("segment", "net", tmp_path / "i.h5", "--net", seg_net, "-o", tmp_path / "s"), 65, *told)
    assert not list(tmp_path.glob("[cs]/*.h5"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none(tiny_index, tiny_net, seg_net, tmp_path):
    for words in [("cams", "cnn", tiny_index, "--net", tiny_net), ("segment", "net", tiny_index, "--net", seg_net),
                  (*TRAIN, tiny_index, "--net", "wsss:tiny"), ("train-seg", tiny_index, "--masks", "truth")]:
        for device in ("cuda", "cuda:1"):
            refused(run(*words, "--device", device, "-o", tmp_path / "out"), 69, "CUDA", "--device cpu")
        refused(run(*words, "--device", "gpu", "-o", tmp_path / "out"), 2, "--device gpu")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return maps of the whole tiny set."""
    folder = tmp_path_factory.mktemp("maps") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(params=["not installed", "broken"])
def no_pydensecrf(request, monkeypatch, tmp_path) -> str:
    """Hide pydensecrf, or put one in its place that can't be imported."""
    import sys
    if request.param == "not installed":
        monkeypatch.setitem(sys.modules, "pydensecrf", None)
    else:
        (tmp_path / "pydensecrf").mkdir()
        (tmp_path / "pydensecrf" / "__init__.py").write_text("raise ImportError('undefined symbol: x')")
        for name in [name for name in sys.modules if name.split(".")[0] == "pydensecrf"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(tmp_path))
    return request.param


def test_without_pydensecrf_the_way_to_it_is_told(no_pydensecrf, cams, tiny_index, seg_net, tmp_path):
    told = ("pydensecrf2", "C++ compiler", "pip install")
    refused(run("refine", "crf", cams, "-o", tmp_path / "crf"), 69, *told)
    segment = ("segment", "net", tiny_index, "--net", seg_net, "--device", "cpu")
    refused(run(*segment, "--crf", "deeplab", "-o", tmp_path / "seg"), 69, *told)
    good(*segment, "-o", tmp_path / "plain")
    assert not (tmp_path / "crf").exists()
    assert not (tmp_path / "seg").exists()


def test_as_users_run_it(wsss, cams, tmp_path):
    (tmp_path / "shadow" / "pydensecrf").mkdir(parents=True)
    (tmp_path / "shadow" / "pydensecrf" / "__init__.py").write_text("raise ImportError('undefined symbol')")
    root = wsss._environment(None)["PYTHONPATH"]
    done = wsss("refine", "crf", cams, "-o", "crf", env={"PYTHONPATH": f"{tmp_path / 'shadow'}:{root}"})
    refused(done, 69, "pydensecrf2", "undefined symbol")
