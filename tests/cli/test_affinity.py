"""Command-line tests of `train-aff psa` and `refine psa`."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from cli.runner import check_error, run, run_ok
from stages.nets.net_files import read_net
from stages.shards import Run
from waiting import PATIENCE, wait_until

# At stride 8 the images have 6 x 8 cells and a crop 5 x 5: just the width that pairs closer than 3 need.
OPTIONS = ("--net", "wsss:tiny", "--crop-size", "40", "--radius", "3", "--epochs", "1", "--batch-size", "4",
           "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def affinity_net(tiny_index, maps):
    """Return an affinity network trained on `maps`. Tests must not modify it."""
    net = maps.parent / "affinity.safetensors"
    assert run_ok("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "-o", net) == [str(net)]
    return net


def test_training_is_reproducible_and_leaves_no_files(tiny_index, maps, affinity_net, tmp_path):
    again = tmp_path / "again.safetensors"
    run_ok("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "-o", again)
    assert again.read_bytes() == affinity_net.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.log.jsonl", "again.safetensors"]
    _, description = read_net(affinity_net)
    assert json.loads(affinity_net.with_suffix(".log.jsonl").read_text())["loss"] > 0
    assert (description["task"], description["supervision"]) == ("affinity", "tags")
    assert set(description["provenance"][-1]["inputs"]) == {"index", "cams"}
    assert "up to date" in run("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "-o", again).err
    done = run("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "--radius", "4", "-o", again)
    check_error(done, 73, "radius")


def test_random_walk_with_and_without_background(maps, affinity_net, tmp_path):
    run_ok("refine", "psa", maps, "--net", affinity_net, "--device", "cpu", "-o", tmp_path / "walked")
    run_ok("refine", "psa", maps, "--net", affinity_net, "--device", "cpu", "--background", "none", "--batch-size", "4",
           "-o", tmp_path / "alone")
    with_background, without_background, cams = Run([tmp_path / "walked"]), Run([tmp_path / "alone"]), Run([maps])
    assert with_background.first.attribute("background") == "included"
    assert without_background.first.attribute("background") == "none"
    for item_id in cams.ids:
        walked_item, classes_item = with_background.item(item_id), without_background.item(item_id)
        cam_item = cams.item(item_id)
        assert walked_item.datasets["cam"].shape == (1 + len(cam_item.datasets["class_ids"]), 6, 8)
        assert walked_item.datasets["cam"].max() == classes_item.datasets["cam"].max() == 1
        assert list(walked_item.attrs["covers"]) == [48, 64]
        # A background does not change the walk of the classes; only the common divisor differs.
        ratio = walked_item.datasets["cam"][1:].astype(float).max() / classes_item.datasets["cam"].astype(float).max()
        np.testing.assert_allclose(walked_item.datasets["cam"][1:], classes_item.datasets["cam"] * ratio, atol=2e-3)
    run_ok("pseudo", tmp_path / "walked", "-o", tmp_path / "masks")
    run_ok("refine", "crf", tmp_path / "alone", "--background", "constant:0.4", "-o", tmp_path / "crf")
    run_ok("eval", tmp_path / "alone")


def test_crops_and_images_too_small_for_a_pair(tiny_index, maps, affinity_net, tmp_path):
    command = ("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "-o", tmp_path / "x.safetensors")
    check_error(run(*command, "--radius", "5", "--crop-size", "64"), 2, "--crop-size 64", "--radius 5", "stride of 8",
                "Use --crop-size 72 or more")
    check_error(run(*command, "--radius", "4"), 2, "Use --crop-size 56 or more")
    assert not (tmp_path / "x.safetensors").exists()
    run_ok(*command, "--radius", "5", "--crop-size", "72")
    assert json.loads((tmp_path / "x.log.jsonl").read_text())["loss"] > 0
    done = run("refine", "psa", maps, "--net", tmp_path / "x.safetensors", "--device", "cpu", "-o", tmp_path / "walked")
    assert "The random walk did not change 12 of 12 images, which are smaller than 5 x 9 cells of 8 pixels." in done.err
    done = run("refine", "psa", maps, "--net", affinity_net, "--device", "cpu", "-o", tmp_path / "other")
    assert done.code == 0 and "did not change" not in done.err


def test_images_without_cams_are_reported(tiny_index, tiny_dataset, tiny_net, maps, tmp_path):
    rows = (tiny_dataset.root / "labels.csv").read_text().splitlines(keepends=True)
    (tmp_path / "half.csv").write_text("".join(rows[:9]))
    run_ok("index", "table", tmp_path / "half.csv", "--images", tiny_dataset.root / "JPEGImages", "--class-names",
           tiny_dataset.root / "classes.txt", "-o", tmp_path / "half.h5")
    run_ok("cams", "cnn", tmp_path / "half.h5", "--net", tiny_net, "--scales", "1", "--device", "cpu", "-o",
           tmp_path / "cams")
    done = run("train-aff", "psa", tiny_index, "--cams", tmp_path / "cams", *OPTIONS, "-o", tmp_path / "x.safetensors")
    assert (done.code, done.out) == (0, f"{tmp_path / 'x.safetensors'}\n")
    assert f"Skipping 4 images of the index, which have no CAMs in {tmp_path / 'cams'}." in done.err
    done = run("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "-o", tmp_path / "y.safetensors")
    assert done.code == 0 and "Skipping" not in done.err


def test_resumes_after_kill_while_computing_labels(tiny_index, maps, affinity_net, wsss):
    command = ("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "-o", "affinity.safetensors")
    label_cache = wsss.cwd / "affinity.safetensors.labels.part"
    for signal_number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        size = label_cache.stat().st_size if label_cache.exists() else 0
        process = wsss.start(*command)
        wait_until(lambda size=size: label_cache.exists() and label_cache.stat().st_size > size + 400, process)
        os.kill(process.pid, signal_number)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, stderr
    done = wsss(*command)
    assert done.code == 0, done.err
    assert (wsss.cwd / "affinity.safetensors").read_bytes() == affinity_net.read_bytes()
    assert not label_cache.exists()


def test_label_processes_do_not_change_network(tiny_index, maps, wsss):
    options = [*OPTIONS[:OPTIONS.index("--threads")], "--threads", "2", "--device", "cpu", "--epochs", "1"]
    for name in ("one", "two"):
        assert wsss("train-aff", "psa", tiny_index, "--cams", maps, *options, "-o", f"{name}.safetensors").code == 0
    assert (wsss.cwd / "one.safetensors").read_bytes() == (wsss.cwd / "two.safetensors").read_bytes()


def test_invalid_input(tiny_index, tiny_net, maps, affinity_net, tmp_path):
    out = ("-o", tmp_path / "x.safetensors")
    missing = run("train-aff", "psa", tiny_index, *OPTIONS, *out)
    assert (missing.code, "--cams" in missing.err) == (2, True)
    check_error(run("train-aff", "psa", tiny_index, "--cams", tiny_index, *OPTIONS, *out), 65, "index")
    check_error(run("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "--crop-size", "33", *out), 2, "33")
    check_error(run("train-aff", "psa", tiny_index, "--cams", maps, *OPTIONS, "--low-alpha", "32", "--high-alpha", "4",
                    *out), 2, "--low-alpha 32 is greater than --high-alpha 4")
    run_ok("refine", "psa", maps, "--net", affinity_net, "--device", "cpu", "-o", tmp_path / "walked")
    check_error(run("train-aff", "psa", tiny_index, "--cams", tmp_path / "walked", *OPTIONS, *out), 65, "background")
    check_error(run("refine", "psa", maps, "--net", tiny_net, "-o", tmp_path / "y"), 65, "classification")
    check_error(run("refine", "psa", maps, "--net", affinity_net, "--background", "two-thresholds:.1,.2", "-o",
                    tmp_path / "y"), 2, "two-thresholds")
    check_error(run("cams", "cnn", tiny_index, "--net", affinity_net, "-o", tmp_path / "y"), 65, "affinity")
