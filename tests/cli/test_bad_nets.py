"""Errors for invalid weights and network files, and for missing devices and packages."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.runner import SMALL, TRAINING, check_error, copy_dataset, index_table, run, run_ok
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.nets.weights import read_state_dict

TRAIN = ("train-cls", "cam")


@pytest.fixture(scope="module")
def seg_net(tiny_index, tmp_path_factory) -> Path:
    """Return a segmentation network."""
    path = tmp_path_factory.mktemp("nets") / "seg.safetensors"
    run_ok("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", path)
    return path


def train(index: Path, weights: object, output: Path, *options: object):
    """Train a classifier from `weights`; return what the command returned."""
    return run(*TRAIN, index, "--weights", weights, *TRAINING, "--long-side", "32,48", "-o", output, *options)


class RunsCode:
    """An object whose pickle creates the folder `marker` when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def test_pickle_that_runs_code_is_an_error_and_not_run(tiny_index, tmp_path):
    marker = tmp_path / "it ran"
    for name, save in (("zip.pth", torch.save),
                       ("plain.pt", lambda content, path: path.write_bytes(pickle.dumps(content)))):
        save({"state_dict": RunsCode(marker)}, tmp_path / name)
        check_error(train(tiny_index, tmp_path / name, tmp_path / "n.safetensors"), 65, name)
        assert not marker.exists()
        assert not (tmp_path / "n.safetensors").exists()


def test_archive_that_runs_code_is_an_error_and_not_run(tiny_index, tmp_path):
    marker = tmp_path / "it ran"
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(RunsCode(marker), protocol=2))
        archive.writestr("archive/constants.pkl", b"")
    for clip in (("--clip", tmp_path / "archive.pt"), ("--clip", "ViT-B-16", "--weights", tmp_path / "archive.pt")):
        done = run("cams", "clip-es", tiny_index, *clip, "--device", "cpu", "-o", tmp_path / "out")
        check_error(done, 65, "archive.pt", "it holds posix mkdir")
        assert not marker.exists()
        assert not (tmp_path / "out").exists()


def test_error_names_what_a_checkpoint_holds_besides_tensors(tiny_index, tmp_path):
    torch.save({"args": argparse.Namespace(lr=0.1), "state_dict": {}}, tmp_path / "args.pth")
    check_error(train(tiny_index, tmp_path / "args.pth", tmp_path / "n.safetensors"), 65, "args.pth",
                "it holds argparse.Namespace, not only tensors", "state_dict")


@pytest.mark.parametrize(("content", "package"), [
    (np.float64(0.5), "numpy"), (np.zeros(3), "numpy"), (Path("runs"), "pathlib"),
    (np.random.default_rng(0).bit_generator.state | {"args": argparse.Namespace()}, "argparse"),
    (np.random.default_rng(0), "numpy")], ids=["scalar", "array", "path", "state", "generator"])
def test_other_common_checkpoint_contents_are_named_in_the_error(tiny_index, tmp_path, content, package):
    torch.save({"content": content, "state_dict": {}}, tmp_path / "content.pth")
    done = train(tiny_index, tmp_path / "content.pth", tmp_path / "n.safetensors")
    check_error(done, 65, "content.pth", package, "not only tensors")


def test_flipped_bit_in_a_checkpoint_is_an_error(tiny_index, tmp_path):
    state = Classifier(build_backbone("wsss:tiny"), 2).state_dict()
    torch.save(state, tmp_path / "flipped.pth")
    data = bytearray((tmp_path / "flipped.pth").read_bytes())
    data[data.find(next(iter(state.values())).numpy().tobytes()) + 5] ^= 1
    (tmp_path / "flipped.pth").write_bytes(data)
    done = train(tiny_index, tmp_path / "flipped.pth", tmp_path / "n.safetensors")
    check_error(done, 65, "flipped.pth", "is damaged", "data/", "copy it again")


def test_reads_weights_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.arange(3.), "nothing": torch.zeros(0)}, tmp_path / "plain.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_state_dict(tmp_path / "plain.pth")["weight"].tolist() == [0, 1, 2]


def test_unreadable_weight_files_are_an_error(tiny_index, tmp_path):
    torch.save(Classifier(build_backbone("wsss:tiny"), 2).state_dict(), tmp_path / "good.pth")
    data = (tmp_path / "good.pth").read_bytes()
    for name, content in [("cut.pth", data[:len(data) // 2]), ("empty.pth", b""), ("page.pth", b"<html>404</html>"),
                          ("text.safetensors", b"no tensors"), ("empty.safetensors", b"")]:
        (tmp_path / name).write_bytes(content)
        check_error(train(tiny_index, tmp_path / name, tmp_path / "n.safetensors"), 65, name)
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    check_error(train(tiny_index, tmp_path / "none.pth", tmp_path / "n.safetensors"), 65, "none.pth", "no tensors")
    check_error(train(tiny_index, tmp_path / "gone.pth", tmp_path / "n.safetensors"), 66, "gone.pth")
    assert train(tiny_index, tmp_path / "good.pth", tmp_path / "n.safetensors").code == 0


def test_weights_of_another_network_are_an_error(tiny_index, tmp_path):
    state = Classifier(build_backbone("wsss:tiny"), 2).state_dict()
    name = "backbone.stem.0.weight"
    torch.save({**state, name: torch.zeros(8, 3, 3, 3)}, tmp_path / "other.pth")
    done = train(tiny_index, tmp_path / "other.pth", tmp_path / "n.safetensors")
    check_error(done, 65, "weights are of another network", "(8, 3, 3, 3)", "(24, 3, 3, 3)", "other.pth")
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "else.pth")
    check_error(train(tiny_index, tmp_path / "else.pth", tmp_path / "n.safetensors"), 65, "else.pth")


def test_head_of_another_size_is_dropped_and_counted(tiny_index, tmp_path):
    torch.save(Classifier(build_backbone("wsss:tiny"), 7).state_dict(), tmp_path / "seven.pth")
    done = train(tiny_index, tmp_path / "seven.pth", tmp_path / "n.safetensors")
    assert done.code == 0
    assert "1 of the head dropped" in done.err


def test_unknown_networks_and_tags_are_an_error(tiny_index, tmp_path):
    output = tmp_path / "n.safetensors"
    for net, suggestion in [("wsss:tinny", "tiny"), ("foo:bar", "foo"), ("mobilenet_v22", "mobilenet_v2")]:
        check_error(run(*TRAIN, tiny_index, "--net", net, "--device", "cpu", "-o", output), 2, net, suggestion)
    done = run(*TRAIN, tiny_index, "--net", "torchvision:mobilenet_v2", "--weights", "nosuch", "--device", "cpu", "-o",
               output)
    check_error(done, 2, "nosuch", "IMAGENET1K_V1")
    check_error(train(tiny_index, "IMAGENET1K_V1", output), 2, "--weights", "file")
    check_error(run(*TRAIN, tiny_index, *TRAINING, "--stride", "16", "-o", output), 2, "--stride 16")
    check_error(run(*TRAIN, tiny_index, *TRAINING, "--freeze", "nosuch", "-o", output), 2, "--freeze nosuch")


OFFLINE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


@pytest.mark.parametrize(("net", "tag", "file"), [
    ("timm:resnet18", "a1_in1k", "model.safetensors"), ("torchvision:mobilenet_v2", "IMAGENET1K_V1", ".pth")])
def test_offline_error_names_the_file_to_copy(tiny_index, tmp_path, monkeypatch, net, tag, file):
    for name, value in {**OFFLINE, "TORCH_HOME": str(tmp_path), "HF_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    done = run(*TRAIN, tiny_index, "--net", net, "--weights", tag, "--device", "cpu", "-o", tmp_path / "n.safetensors")
    check_error(done, 69, "cannot be downloaded", file, "--weights FILE")
    assert sum(pauses) < 15, "the libraries retry with long pauses unless the connection is checked first"


def test_unusable_network_files_are_an_error(tiny_index, tiny_net, seg_net, tmp_path):
    cams = ("cams", "cnn", tiny_index, *SMALL, "-o", tmp_path / "out")
    check_error(run(*cams, "--net", seg_net), 65, str(seg_net), "segmentation", "train-cls")
    check_error(run("segment", "net", tiny_index, "--net", tiny_net, "-o", tmp_path / "out"), 65, str(tiny_net),
                "classification", "train-seg")
    check_error(run(*cams, "--net", tmp_path / "none.safetensors"), 66, "none.safetensors")
    check_error(run(*cams, "--net", tiny_index), 65, str(tiny_index))
    data = bytearray(tiny_net.read_bytes())
    data[-5] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(bytes(data))
    check_error(run(*cams, "--net", tmp_path / "flipped.safetensors"), 65, "flipped.safetensors", "damaged")
    check_error(run("info", tmp_path / "flipped.safetensors"), 65, "flipped.safetensors", "damaged")
    assert run("check", tmp_path / "flipped.safetensors").code == 65
    (tmp_path / "cut.safetensors").write_bytes(bytes(data[:1000]))
    check_error(run(*cams, "--net", tmp_path / "cut.safetensors"), 65, "cut.safetensors")
    assert not (tmp_path / "out").exists()


def test_network_for_other_classes_is_an_error(tiny_dataset, tiny_net, seg_net, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    (root / "classes.txt").write_text("background\ncat\ncow\n")
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("dog", "cow"))
    assert index_table(root, tmp_path / "i.h5").code == 0
    expected = (str(tmp_path / "i.h5"), "'dog'", "'cow'")
    check_error(run("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, *SMALL, "-o", tmp_path / "c"), 65, *expected)
    check_error(run("segment", "net", tmp_path / "i.h5", "--net", seg_net, "-o", tmp_path / "s"), 65, *expected)
    assert not list(tmp_path.glob("[cs]/*.h5"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error(tiny_index, tiny_net, seg_net, tmp_path):
    for words in [("cams", "cnn", tiny_index, "--net", tiny_net), ("segment", "net", tiny_index, "--net", seg_net),
                  (*TRAIN, tiny_index, "--net", "wsss:tiny"), ("train-seg", tiny_index, "--masks", "truth")]:
        for device in ("cuda", "cuda:1"):
            check_error(run(*words, "--device", device, "-o", tmp_path / "out"), 69, "CUDA", "--device cpu")
        check_error(run(*words, "--device", "gpu", "-o", tmp_path / "out"), 2, "--device gpu")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return the CAMs of the whole tiny data set."""
    folder = tmp_path_factory.mktemp("maps") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(params=["not installed", "broken"])
def no_pydensecrf(request, monkeypatch, tmp_path) -> str:
    """Hide pydensecrf, or replace it by a package that cannot be imported."""
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


def test_error_without_pydensecrf_says_how_to_install_it(no_pydensecrf, cams, tiny_index, seg_net, tmp_path):
    expected = ("pydensecrf2", "C++ compiler", "pip install")
    check_error(run("refine", "crf", cams, "--engine", "pydensecrf", "-o", tmp_path / "crf"), 69, *expected)
    assert not (tmp_path / "crf").exists()
    run_ok("refine", "crf", cams, "-o", tmp_path / "crf")
    segment = ("segment", "net", tiny_index, "--net", seg_net, "--device", "cpu")
    run_ok(*segment, "--crf", "deeplab", "-o", tmp_path / "seg")


def test_broken_pydensecrf_is_an_error_in_the_installed_command(wsss, cams, tmp_path):
    (tmp_path / "shadow" / "pydensecrf").mkdir(parents=True)
    (tmp_path / "shadow" / "pydensecrf" / "__init__.py").write_text("raise ImportError('undefined symbol')")
    root = wsss._environment(None)["PYTHONPATH"]
    done = wsss("refine", "crf", cams, "--engine", "pydensecrf", "-o", "crf",
                env={"PYTHONPATH": f"{tmp_path / 'shadow'}:{root}"})
    check_error(done, 69, "pydensecrf2", "undefined symbol")
