"""`wsss train-aff psa` and `wsss refine psa`, as users run them."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest

from cli.runner import good, refused, run
from stages.nets.files import read_net
from stages.shards import Run
from waiting import PATIENCE, wait_until

pytest.importorskip("pydensecrf")
# At stride 8 the pictures have 6 x 8 cells, a crop 5 x 5: just as many as a pair closer than 3 needs across.
AFFINITY = ("--net", "wsss:tiny", "--crop-size", "40", "--radius", "3", "--epochs", "1", "--batch-size", "4",
            "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def affinity(tiny_index, maps):
    """Return a net of affinities trained on `maps`. Not to be changed."""
    net = maps.parent / "affinity.safetensors"
    assert good("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "-o", net) == [str(net)]
    return net


def test_the_net_is_the_same_twice_and_leaves_nothing_beside(tiny_index, maps, affinity, tmp_path):
    again = tmp_path / "again.safetensors"
    good("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "-o", again)
    assert again.read_bytes() == affinity.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.log.jsonl", "again.safetensors"]
    _, described = read_net(affinity)
    assert json.loads(affinity.with_suffix(".log.jsonl").read_text())["loss"] > 0
    assert (described["task"], described["supervision"]) == ("affinity", "tags")
    assert set(described["provenance"][-1]["inputs"]) == {"index", "cams"}
    assert "up to date" in run("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "-o", again).err
    refused(run("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "--radius", "4", "-o", again), 73, "radius")


def test_walked_maps_with_and_without_a_background(maps, affinity, tmp_path):
    good("refine", "psa", maps, "--net", affinity, "--device", "cpu", "-o", tmp_path / "walked")
    good("refine", "psa", maps, "--net", affinity, "--device", "cpu", "--background", "none", "--batch-size", "4",
         "-o", tmp_path / "alone")
    walked, alone, given = Run([tmp_path / "walked"]), Run([tmp_path / "alone"]), Run([maps])
    assert (walked.first.attribute("background"), alone.first.attribute("background")) == ("included", "none")
    for item_id in given.ids:
        with_row, without, before = walked.item(item_id), alone.item(item_id), given.item(item_id)
        assert with_row.datasets["cam"].shape == (1 + len(before.datasets["class_ids"]), 6, 8)
        assert with_row.datasets["cam"].max() == without.datasets["cam"].max() == 1
        assert list(with_row.attrs["covers"]) == [48, 64]
        # The classes walk the same way with a background beside them; only the common divisor differs.
        ratio = with_row.datasets["cam"][1:].astype(float).max() / without.datasets["cam"].astype(float).max()
        np.testing.assert_allclose(with_row.datasets["cam"][1:], without.datasets["cam"] * ratio, atol=2e-3)
    good("pseudo", tmp_path / "walked", "-o", tmp_path / "masks")
    good("refine", "crf", tmp_path / "alone", "--background", "constant:0.4", "-o", tmp_path / "crf")
    good("eval", tmp_path / "alone")


def test_a_crop_and_images_too_small_for_a_pair(tiny_index, maps, affinity, tmp_path):
    command = ("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "-o", tmp_path / "x.safetensors")
    refused(run(*command, "--radius", "5", "--crop-size", "64"), 2, "--crop-size 64", "--radius 5", "stride 8",
            "give 72 or more")
    refused(run(*command, "--radius", "4"), 2, "give 56 or more")
    assert not (tmp_path / "x.safetensors").exists()
    good(*command, "--radius", "5", "--crop-size", "72")
    assert json.loads((tmp_path / "x.log.jsonl").read_text())["loss"] > 0
    done = run("refine", "psa", maps, "--net", tmp_path / "x.safetensors", "--device", "cpu", "-o", tmp_path / "walked")
    assert "12 of 12 images have less than 5 x 9 cells of 8 pixels, so their maps did not walk" in done.err
    done = run("refine", "psa", maps, "--net", affinity, "--device", "cpu", "-o", tmp_path / "other")
    assert done.code == 0 and "did not walk" not in done.err


def test_images_without_maps_are_told(tiny_index, tiny_folder, tiny_net, maps, tmp_path):
    rows = (tiny_folder.root / "labels.csv").read_text().splitlines(keepends=True)
    (tmp_path / "half.csv").write_text("".join(rows[:9]))
    good("index", "table", tmp_path / "half.csv", "--images", tiny_folder.root / "JPEGImages", "--class-names",
         tiny_folder.root / "classes.txt", "-o", tmp_path / "half.h5")
    good("cams", "cnn", tmp_path / "half.h5", "--net", tiny_net, "--scales", "1", "--device", "cpu", "-o",
         tmp_path / "cams")
    done = run("train-aff", "psa", tiny_index, "--cams", tmp_path / "cams", *AFFINITY, "-o", tmp_path / "x.safetensors")
    assert (done.code, done.out) == (0, f"{tmp_path / 'x.safetensors'}\n")
    assert f"4 images of the index have no maps in {tmp_path / 'cams'} and are left out" in done.err
    done = run("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "-o", tmp_path / "y.safetensors")
    assert done.code == 0 and "left out" not in done.err


def test_stopped_while_labels_are_made_it_goes_on(tiny_index, maps, affinity, wsss):
    command = ("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "-o", "affinity.safetensors")
    kept = wsss.cwd / "affinity.safetensors.labels.part"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        before = kept.stat().st_size if kept.exists() else 0
        process = wsss.start(*command)
        wait_until(lambda before=before: kept.exists() and kept.stat().st_size > before + 400, process)
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, told
    done = wsss(*command)
    assert done.code == 0, done.err
    assert (wsss.cwd / "affinity.safetensors").read_bytes() == affinity.read_bytes()
    assert not kept.exists()


def test_labels_by_two_processes_make_the_same_net(tiny_index, maps, wsss):
    more = [*AFFINITY[:AFFINITY.index("--threads")], "--threads", "2", "--device", "cpu", "--epochs", "1"]
    for name in ("one", "two"):
        assert wsss("train-aff", "psa", tiny_index, "--cams", maps, *more, "-o", f"{name}.safetensors").code == 0
    assert (wsss.cwd / "one.safetensors").read_bytes() == (wsss.cwd / "two.safetensors").read_bytes()


def test_wrong_input(tiny_index, tiny_net, maps, affinity, tmp_path):
    out = ("-o", tmp_path / "x.safetensors")
    missing = run("train-aff", "psa", tiny_index, *AFFINITY, *out)
    assert (missing.code, "--cams" in missing.err) == (2, True)
    refused(run("train-aff", "psa", tiny_index, "--cams", tiny_index, *AFFINITY, *out), 65, "index")
    refused(run("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "--crop-size", "33", *out), 2, "33")
    refused(run("train-aff", "psa", tiny_index, "--cams", maps, *AFFINITY, "--low-alpha", "32", "--high-alpha", "4",
                *out), 2, "--low-alpha 32 is above --high-alpha 4")
    good("refine", "psa", maps, "--net", affinity, "--device", "cpu", "-o", tmp_path / "walked")
    refused(run("train-aff", "psa", tiny_index, "--cams", tmp_path / "walked", *AFFINITY, *out), 65, "background")
    refused(run("refine", "psa", maps, "--net", tiny_net, "-o", tmp_path / "y"), 65, "classification")
    refused(run("refine", "psa", maps, "--net", affinity, "--background", "two-thresholds:.1,.2", "-o",
                tmp_path / "y"), 2, "two-thresholds")
    refused(run("cams", "cnn", tiny_index, "--net", affinity, "-o", tmp_path / "y"), 65, "affinity")
