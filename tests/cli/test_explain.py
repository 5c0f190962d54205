"""`wsss explain`: files in, sentences out."""

from __future__ import annotations

from cli.runner import TRAINING, check_error, run, run_ok


def test_index_network_and_masks(tiny_index, maps, tmp_path):
    net = tmp_path / "c.safetensors"
    run_ok("train-cls", "cam", tiny_index, *TRAINING, "--keep-going", "-o", net)
    run_ok("pseudo", maps, "-o", tmp_path / "masks", "-j", 1)
    done = run("explain", tiny_index, net, tmp_path / "masks")
    assert done.code == 0, done.err
    assert "photographs: cat" in done.out and "c.safetensors: 1 passes" in done.out
    assert "background covers" in done.out and "tagged classes" in done.out
    without_tags = run("explain", tmp_path / "masks")
    assert without_tags.code == 0 and "tagged classes" not in without_tags.out


def test_what_it_does_not_read(maps, tmp_path):
    check_error(run("explain", maps), 65, "shards of the kind cams", "Give an index, networks and masks")
    check_error(run("explain", tmp_path / "none.h5"), 66, "does not exist")
    check_error(run("explain", tmp_path / "none.safetensors"), 66, "does not exist")
    check_error(run("explain"), 2, "INPUT is missing")
