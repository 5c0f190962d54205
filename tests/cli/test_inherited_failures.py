"""Images that failed in the input: the message names the input, because --retry of the same command changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.runner import SMALL, copy_dataset, index_table, run, run_ok
from stages.shards import Run


@pytest.fixture
def index(tiny_dataset, tmp_path) -> Path:
    """Return an index of which one image is damaged."""
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    next(iter(sorted((root / "JPEGImages").iterdir()))).write_bytes(b"not an image")
    assert index_table(root, tmp_path / "i.h5", "--allow-errors", "1").code == 0
    return tmp_path / "i.h5"


def test_inherited_failures_name_the_input(index, tiny_net, tmp_path):
    command = ("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    for _ in range(2):  # the second time, the run is up to date
        done = run(*command)
        last = done.err.splitlines()[-1]
        assert done.code == 65
        assert f"1 of 12 images failed, all of them in the input {index} already." in last
        assert "run the command that made the input again with --retry and this one with --force" in last
    assert run(*command, "--allow-errors", "1").code == 0
    done = run("pseudo", tmp_path / "cams", "-o", tmp_path / "masks")
    assert done.code == 65
    assert f"in the input {tmp_path / 'cams' / 'cams-00000-of-00001.h5'} already" in done.err.splitlines()[-1]


@pytest.mark.parametrize("command", ["cooc", "merge"])
def test_commands_that_compute_no_images_name_the_input(command, index, tmp_path):
    done = run(command, index, "-o", tmp_path / "out.h5")
    assert done.code == 65 and f"all of them in the input {index} already" in done.err.splitlines()[-1]


def test_the_remedy_works(index, tiny_dataset, tiny_net, tmp_path):
    command = ("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    assert run(*command).code == 65
    image = next(iter(sorted((tmp_path / "set" / "JPEGImages").iterdir())))
    image.write_bytes((tiny_dataset.root / "JPEGImages" / image.name).read_bytes())
    assert index_table(tmp_path / "set", index, "--retry").code == 0
    run_ok(*command, "--force")
    assert not Run([tmp_path / "cams"]).first.errors


def test_new_failures_are_told_apart(index, tiny_net, tmp_path):
    images = sorted((tmp_path / "set" / "JPEGImages").iterdir())
    images[1].write_bytes(b"damaged after it was indexed")
    command = ("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    last = run(*command).err.splitlines()[-1]
    assert f"2 of 12 images failed, 1 of them in the input {index} already." in last
    assert "run the same command with --retry" in last


def test_own_failures_are_repaired_with_retry(tiny_dataset, tiny_net, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    assert index_table(root, tmp_path / "i.h5").code == 0
    next(iter(sorted((root / "JPEGImages").iterdir()))).write_bytes(b"damaged")
    done = run("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    last = done.err.splitlines()[-1]
    assert "1 of 12 images failed. " in last and "run the same command with --retry" in last
