"""`--engine` of the commands with a dense CRF: equal results, what is recorded, and devices that do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cli.runner import TRAINING, check_error, read_items, run, run_ok
from gpu_stand_in import simulate_gpu
from stages.nets.net_files import read_net
from stages.shards import Run


@pytest.fixture(scope="module")
def seg_net(tiny_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a segmentation network."""
    path = tmp_path_factory.mktemp("nets") / "seg.safetensors"
    run_ok("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", path)
    return path


def read_settings(path: Path) -> dict[str, object]:
    """Return the recorded settings of the command that made a run."""
    return Run([path]).first.provenance[-1]["config"]


def check_same_maps(first: Path, second: Path, kind: str, dataset: str) -> None:
    """Check that 8-bit values differ by one step at most, and rarely: rounding, at a tie between two steps."""
    values, others = read_items(first, kind, dataset), read_items(second, kind, dataset)
    assert values.keys() == others.keys() and values
    for item_id, value in values.items():
        difference = np.abs(value.astype(int) - others[item_id])
        assert difference.max() <= 1 and difference.mean() < 1e-3


def test_refine_crf_gives_the_same_posteriors(maps, tmp_path):
    run_ok("refine", "crf", maps, "--engine", "numba", "-o", tmp_path / "numba")
    run_ok("refine", "crf", maps, "--engine", "torch", "--device", "cpu", "--batch-size", "5", "-o", tmp_path / "torch")
    check_same_maps(tmp_path / "torch", tmp_path / "numba", "cams", "cam")
    settings = read_settings(tmp_path / "torch")
    assert (settings["engine"], settings["device"], settings["batch_size"]) == ("torch", "cpu", 5)


def test_default_on_a_cpu_is_recorded_as_before_there_was_a_choice(maps, seg_net, tiny_index, tmp_path):
    run_ok("refine", "crf", maps, "--device", "cpu", "-o", tmp_path / "crf")
    settings = read_settings(tmp_path / "crf")
    assert settings["engine"] == "numba" and not settings.keys() & {"device", "batch_size"}
    assert "up to date" in run("refine", "crf", maps, "--engine", "numba", "--batch-size", "3", "-o",
                               tmp_path / "crf").err
    check_error(run("refine", "crf", maps, "--engine", "torch", "--device", "cpu", "-o", tmp_path / "crf"), 73,
                "engine: numba -> torch")
    run_ok("segment", "net", tiny_index, "--net", seg_net, "--device", "cpu", "--crf", "irn", "-o", tmp_path / "masks")
    assert "engine" not in read_settings(tmp_path / "masks")


def test_default_on_a_gpu_is_torch(maps, seg_net, tiny_index, tmp_path):
    segment = ("segment", "net", tiny_index, "--net", seg_net, "--device", "cuda", "-o")
    with simulate_gpu():
        run_ok("refine", "crf", maps, "-o", tmp_path / "crf")
        run_ok(*segment, tmp_path / "masks", "--crf", "irn")
        run_ok(*segment, tmp_path / "plain", "--engine", "torch")
        run_ok(*segment, tmp_path / "numba", "--crf", "irn", "--engine", "numba")
    settings = read_settings(tmp_path / "crf")
    assert (settings["engine"], settings["device"], settings["batch_size"]) == ("torch", "cuda", 16)
    assert read_settings(tmp_path / "masks")["engine"] == "torch"
    assert "engine" not in read_settings(tmp_path / "plain")  # without a CRF it has no effect
    assert "engine" not in read_settings(tmp_path / "numba")
    check_same_maps(tmp_path / "masks", tmp_path / "numba", "masks", "confidence")
    run_ok("refine", "crf", maps, "--engine", "numba", "-o", tmp_path / "crf-numba")
    check_same_maps(tmp_path / "crf", tmp_path / "crf-numba", "cams", "cam")


def test_segment_net_gives_the_same_masks(seg_net, tiny_index, tmp_path):
    segment = ("segment", "net", tiny_index, "--net", seg_net, "--device", "cpu", "--crf", "deeplab")
    for engine in ("numba", "torch"):
        run_ok(*segment, "--engine", engine, "-o", tmp_path / engine)
    check_same_maps(tmp_path / "torch", tmp_path / "numba", "masks", "confidence")
    masks, others = (read_items(tmp_path / engine, "masks", "mask") for engine in ("torch", "numba"))
    assert all((mask == others[item_id]).all() for item_id, mask in masks.items())


@pytest.mark.parametrize("method", ["psa", "irn"])
def test_trainings_learn_from_the_same_labels(method, maps, tiny_index, tmp_path):
    train = ("train-aff", method, tiny_index, "--cams", maps, "--net", "wsss:tiny", "--crop-size", "40", "--radius",
             "3", "--epochs", "1", "--batch-size", "4", "--threads", "1", "--device", "cpu")
    paths = {engine: tmp_path / f"{engine}.safetensors" for engine in ("numba", "torch")}
    for engine, path in paths.items():
        run_ok(*train, "--engine", engine, "-o", path)
    recorded = {engine: read_net(path)[1]["provenance"][-1]["config"] for engine, path in paths.items()}
    assert "engine" not in recorded["numba"] and recorded["torch"].pop("engine") == "torch"
    assert json.dumps(recorded["torch"]) == json.dumps(recorded["numba"])
    weights, others = (load_file(path) for path in paths.values())
    assert all((value == others[name]).all() for name, value in weights.items())


@pytest.mark.parametrize("engine", ["numba", "pydensecrf"])
def test_engine_of_the_cpu_on_a_gpu(engine, maps, tmp_path):
    done = run("refine", "crf", maps, "--engine", engine, "--device", "cuda:1", "-o", tmp_path / "crf")
    check_error(done, 2, f"--engine {engine} computes on the CPU", "--device cuda:1", "--engine torch")
    check_error(run("refine", "crf", maps, "--engine", engine, "--device", "gpu", "-o", tmp_path / "crf"), 2,
                "--device gpu is not auto, cpu, cuda or cuda:N")
    assert not (tmp_path / "crf").exists()


def test_engine_torch_needs_no_numba(maps, tmp_path, wsss):
    (tmp_path / "shadow" / "numba").mkdir(parents=True)
    (tmp_path / "shadow" / "numba" / "__init__.py").write_text("raise ImportError('no binary')")
    environment = {"PYTHONPATH": f"{tmp_path / 'shadow'}:{wsss._environment(None)['PYTHONPATH']}"}
    crf = ("refine", "crf", maps, "-j", "1")
    check_error(wsss(*crf, "-o", "numba", env=environment), 69, "numba, which can't be loaded (no binary)",
                "--engine torch")
    done = wsss(*crf, "--engine", "torch", "--device", "cpu", "-o", "torch", env=environment)
    assert done.code == 0, done.err
