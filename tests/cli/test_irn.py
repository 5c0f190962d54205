"""Command-line tests of `train-aff irn` and `refine irn`."""

from __future__ import annotations

import numpy as np
import pytest

from cli.runner import check_error, run, run_ok
from stages.nets.net_files import read_net
from stages.shards import Run

OPTIONS = ("--net", "wsss:tiny", "--crop-size", "48", "--epochs", "1", "--batch-size", "4", "--threads", "1",
           "--radius", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def irn_net(tiny_index, tiny_net, maps):
    """Return a boundary network trained on `maps` with the backbone of `tiny_net`. Tests must not modify it."""
    net = maps.parent / "irn.safetensors"
    done = run("train-aff", "irn", tiny_index, "--cams", maps, *OPTIONS, "--weights", tiny_net, "-o", net)
    assert (done.code, done.out.splitlines()) == (0, [str(net)]), done.err
    assert "head dropped" in done.err
    return net


def test_backbone_is_kept_and_mean_displacement_measured(tiny_net, irn_net):
    initial, (tensors, description) = read_net(tiny_net)[0], read_net(irn_net)
    assert all(np.array_equal(tensors[key], value) for key, value in initial.items() if key.startswith("backbone."))
    assert tensors["mean_displacement"].abs().min() > 0
    assert (description["task"], description["architecture"]["head"], description["architecture"]["radius"]) == (
        "affinity", "irn", 4)
    assert (description["stride"], description["supervision"]) == (4, "tags")
    assert set(description["provenance"][-1]["inputs"]) == {"index", "cams", "weights"}
    log = irn_net.with_suffix(".log.jsonl").read_text()
    assert '"affinity"' in log and '"displacement"' in log


def test_training_is_reproducible_and_leaves_no_files(tiny_index, tiny_net, maps, irn_net, tmp_path):
    again, command = tmp_path / "again.safetensors", ("train-aff", "irn", tiny_index, "--cams", maps, *OPTIONS)
    run_ok(*command, "--weights", tiny_net, "-o", again)
    assert again.read_bytes() == irn_net.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.log.jsonl", "again.safetensors"]
    assert "up to date" in run(*command, "--weights", tiny_net, "-o", again).err
    check_error(run(*command, "--weights", tiny_net, "--class-threshold", "0.4", "-o", again), 73, "class_threshold")


def test_random_walk(maps, irn_net, tmp_path):
    run_ok("refine", "irn", maps, "--net", irn_net, "--device", "cpu", "-o", tmp_path / "walked")
    run_ok("refine", "irn", maps, "--net", irn_net, "--device", "cpu", "--batch-size", "4", "-o", tmp_path / "four")
    walked, batches_of_four, cams = Run([tmp_path / "walked"]), Run([tmp_path / "four"]), Run([maps])
    assert walked.first.attribute("background") == "none"
    for item_id in cams.ids:
        item, cam_item = walked.item(item_id), cams.item(item_id)
        assert item.datasets["cam"].shape == (len(cam_item.datasets["class_ids"]), 12, 16)
        np.testing.assert_array_equal(item.datasets["class_ids"], cam_item.datasets["class_ids"])
        assert item.datasets["cam"].max() == 1 and item.datasets["cam"].min() >= 0
        assert list(item.attrs["covers"]) == [48, 64]
        np.testing.assert_allclose(batches_of_four.item(item_id).datasets["cam"].astype(float),
                                   item.datasets["cam"].astype(float), atol=2e-3)
    run_ok("pseudo", tmp_path / "walked", "--background", "constant:0.25", "-o", tmp_path / "masks")
    run_ok("refine", "crf", tmp_path / "walked", "--background", "constant:0.4", "-o", tmp_path / "crf")
    run_ok("eval", tmp_path / "walked")


def test_options_change_cams(maps, irn_net, tmp_path):
    results = set()
    for number, options in enumerate(((), ("--no-flip",), ("--steps", "16"), ("--radius", "3"), ("--beta", "5"))):
        out = tmp_path / f"{number}.h5"
        run_ok("refine", "irn", maps, "--net", irn_net, "--device", "cpu", *options, "-o", out)
        cams = Run([out])
        results.add(b"".join(cams.item(item_id).datasets["cam"].tobytes() for item_id in cams.ids))
    assert len(results) == 5


def test_invalid_input(tiny_index, tiny_net, maps, irn_net, tmp_path):
    command, out = ("train-aff", "irn", tiny_index, "--cams", maps, *OPTIONS), ("-o", tmp_path / "x.safetensors")
    check_error(run(*command, "--crop-size", "50", *out), 2, "50", "multiple of 4")
    check_error(run(*command, "--radius", "10", "--crop-size", "72", *out), 2, "--crop-size 72",
                "Use --crop-size 76 or more")
    check_error(run(*command, "--background-threshold", "0.5", *out), 2, "--background-threshold 0.5", "0.3")
    check_error(run(*command, "--scale-range", "1", *out), 2, "--scale-range")
    check_error(run(*command, "--freeze", "stem", *out), 2, "--freeze")
    check_error(run(*command, "--freeze-bn", "no", *out), 2, "--freeze-bn")
    walk = ("refine", "irn", maps, "--device", "cpu")
    run_ok("train-aff", "psa", tiny_index, "--cams", maps, "--net", "wsss:tiny", "--crop-size", "40", "--radius", "3",
           "--epochs", "1", "--threads", "1", "--device", "cpu", "-o", tmp_path / "psa.safetensors")
    check_error(run(*walk, "--net", tmp_path / "psa.safetensors", "-o", tmp_path / "y"), 65, "psa", "train-aff irn")
    check_error(run("refine", "psa", maps, "--net", irn_net, "-o", tmp_path / "y"), 65, "irn", "train-aff psa")
    check_error(run(*walk, "--net", tiny_net, "-o", tmp_path / "y"), 65, "classification", "train-aff irn")
    check_error(run(*walk, "--net", tmp_path / "gone.safetensors", "-o", tmp_path / "y"), 66, "gone.safetensors")
    run_ok("refine", "crf", maps, "-o", tmp_path / "crf")
    check_error(run("refine", "irn", tmp_path / "crf", "--net", irn_net, "-o", tmp_path / "y"), 65, "background")
    check_error(run("train-aff", "irn", tiny_index, "--cams", tmp_path / "crf", *OPTIONS, *out), 65, "background")
    check_error(run("cams", "cnn", tiny_index, "--net", irn_net, "-o", tmp_path / "y"), 65, "affinity")
    assert not (tmp_path / "x.safetensors").exists()
