"""`--reuse RUN`: unchanged images are taken over, the rest is computed, and the result is that of a fresh run."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from cli.runner import SMALL, TRAINING, check_error, run, run_ok
from conftest import TESTS
from stages.flow import make_part
from stages.shards import Run, Shard
from tiny_datasets import create_dataset

ALONE = (*SMALL, "--batch-size", "1")
CAMS = "cams-00000-of-00001.h5"


@pytest.fixture(scope="module")
def growing(tiny_net, tmp_path_factory) -> Path:
    """Return a folder with old.h5 of 8 images, new.h5 of these and two more, and CAMs of both (old, fresh)."""
    folder = tmp_path_factory.mktemp("reuse")
    root = create_dataset(folder / "set", n=10).root
    lines = (root / "labels.csv").read_text().splitlines()
    # The new images are not the last ones, so that every image has another position.
    index_lines(root, [lines[0], *lines[3:]], folder / "old.h5")
    index_lines(root, lines, folder / "new.h5")
    run_ok("cams", "cnn", folder / "old.h5", "--net", tiny_net, "-o", folder / "old", *ALONE)
    run_ok("cams", "cnn", folder / "new.h5", "--net", tiny_net, "-o", folder / "fresh", *ALONE)
    return folder


def index_lines(root: Path, lines: list[str], output: Path, *more: object) -> Path:
    """Index the images of some lines of a table."""
    output.with_suffix(".csv").write_text("\n".join(lines) + "\n")
    run_ok("index", "table", output.with_suffix(".csv"), "--images", root / "JPEGImages", "--class-names",
           root / "classes.txt", "-o", output, *more)
    return output


@pytest.fixture
def computed(monkeypatch) -> list[list[str]]:
    """Return a list to which the ids of each computed batch are added."""
    batches: list[list[str]] = []
    original = make_part.compute_batch

    def compute_batch(loaded, part_work):
        batches.append([item_id for item_id, _ in loaded])
        return original(loaded, part_work)
    monkeypatch.setattr(make_part, "compute_batch", compute_batch)
    return batches


def make_cams(index: Path, net: Path, output: Path, *more: object) -> str:
    """Make CAMs, which must succeed, and return stderr."""
    done = run("cams", "cnn", index, "--net", net, "-o", output, *(more or ALONE), "-j", "1")
    assert done.code == 0, done.err
    return done.err


def read_cams(path: Path) -> dict[str, np.ndarray]:
    """Return the CAMs of a run by id."""
    cams = Run([path])
    return {item_id: cams.item(item_id).datasets["cam"] for item_id in cams.ids if item_id in cams}


def test_a_grown_index_computes_only_the_new_images(growing, tiny_net, tmp_path, computed):
    messages = make_cams(growing / "new.h5", tiny_net, tmp_path / "out", *ALONE, "--reuse", growing / "old")
    assert computed == [["picture_000"], ["picture_001"]]
    assert f"8 taken over from {growing / 'old'}, 2 computed" in messages
    assert (tmp_path / "out" / CAMS).read_bytes() != (growing / "old" / CAMS).read_bytes()
    log = json.loads((tmp_path / "out/log.jsonl").read_text().splitlines()[-1])
    assert (log["reused"], log["reused_from"]) == (8, str(growing / "old"))


def test_a_dry_run_counts_what_is_taken_over(growing, tiny_net, tmp_path):
    """Shards of 3 images: both new images are in the first, and one shard is finished already."""
    reuse = ("--reuse", growing / "old")
    messages = make_cams(growing / "new.h5", tiny_net, tmp_path / "out", *ALONE, *reuse, "--dry-run")
    assert f"Would take over 8 from {growing / 'old'} and compute 2." in messages
    assert not (tmp_path / "out").exists()
    parts = (*ALONE, "--shard-size", "3")
    make_cams(growing / "new.h5", tiny_net, tmp_path / "parts", *parts, "--task", "1/4")
    messages = make_cams(growing / "new.h5", tiny_net, tmp_path / "parts", *parts, *reuse, "--dry-run")
    assert f"Would take over 5 from {growing / 'old'} and compute 2." in messages


def test_without_batches_the_bytes_are_those_of_a_fresh_run(growing, tiny_net):
    make_cams(growing / "new.h5", tiny_net, growing / "reusing", *ALONE, "--reuse", growing / "old")
    assert (growing / "reusing" / CAMS).read_bytes() == (growing / "fresh" / CAMS).read_bytes()
    assert "up to date" in make_cams(growing / "new.h5", tiny_net, growing / "reusing")


def test_batches_are_recorded_because_they_can_change_the_last_bits(growing, tiny_net, tmp_path, computed):
    batches = (*SMALL, "--batch-size", "4")
    make_cams(growing / "old.h5", tiny_net, tmp_path / "old", *batches)
    del computed[:]
    make_cams(growing / "new.h5", tiny_net, tmp_path / "out", *batches, "--reuse", tmp_path / "old")
    assert computed == [["picture_000", "picture_001"]]
    entry = Shard(tmp_path / "out" / CAMS).provenance[-1]
    assert entry["inputs"]["reused"] == Shard(tmp_path / "old" / CAMS).digest
    fresh = read_cams(growing / "fresh")
    assert all(np.allclose(cam, fresh[name], atol=1e-3) for name, cam in read_cams(tmp_path / "out").items())
    # A run that reused another can be reused itself.
    del computed[:]
    make_cams(growing / "new.h5", tiny_net, tmp_path / "again", *batches, "--reuse", tmp_path / "out")
    assert computed == []


def test_shards_are_numbered_differently(growing, tiny_net, tmp_path, computed):
    make_cams(growing / "new.h5", tiny_net, tmp_path / "out", *ALONE, "--shard-size", "3", "--reuse", growing / "old")
    assert list(chain(*computed)) == ["picture_000", "picture_001"]
    assert read_cams(tmp_path / "out").keys() == read_cams(growing / "fresh").keys()
    del computed[:]
    make_cams(growing / "new.h5", tiny_net, growing / "whole", *ALONE, "--reuse", tmp_path / "out")
    assert computed == []
    assert (growing / "whole" / CAMS).read_bytes() == (growing / "fresh" / CAMS).read_bytes()


def test_in_several_processes(growing, tiny_net, tmp_path):
    done = run("cams", "cnn", growing / "new.h5", "--net", tiny_net, "-o", tmp_path / "out", *ALONE, "--shard-size",
               "5", "-j", "2", "--reuse", growing / "old")
    assert done.code == 0 and "8 taken over" in done.err and "2 computed" in done.err


def test_changed_images_and_tags_are_computed_again(growing, tiny_net, tmp_path, computed):
    root = Path(shutil.copytree(growing / "set", tmp_path / "set"))
    lines = (root / "labels.csv").read_text().splitlines()
    lines[5] = lines[5].split(",")[0] + ("," + "dog" if lines[5].endswith("cat") else ",cat")
    image = root / "JPEGImages/picture_007.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    index = index_lines(root, lines, tmp_path / "i.h5")
    make_cams(index, tiny_net, tmp_path / "out", *ALONE, "--reuse", growing / "fresh")
    assert list(chain(*computed)) == ["picture_004", "picture_007"]
    make_cams(index, tiny_net, tmp_path / "fresh")
    assert (tmp_path / "out" / CAMS).read_bytes() == (tmp_path / "fresh" / CAMS).read_bytes()


def test_failed_images_are_tried_again(growing, tiny_net, tmp_path, computed):
    root = Path(shutil.copytree(growing / "set", tmp_path / "set"))
    index = index_lines(root, (root / "labels.csv").read_text().splitlines(), tmp_path / "i.h5")
    image = root / "JPEGImages/picture_003.jpg"
    image.rename(tmp_path / "away.jpg")
    assert run("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "old", *ALONE).code == 65
    (tmp_path / "away.jpg").rename(image)
    del computed[:]
    make_cams(index, tiny_net, tmp_path / "out", *ALONE, "--reuse", tmp_path / "old")
    assert computed == [["picture_003"]]
    assert read_cams(tmp_path / "out").keys() == read_cams(growing / "fresh").keys()


def test_every_map_stage(growing, tiny_net, tmp_path, computed):
    """What is made from reused CAMs reuses what was made from the old ones."""
    make_cams(growing / "new.h5", tiny_net, tmp_path / "cams", *ALONE, "--reuse", growing / "old")
    net = tmp_path / "seg.safetensors"
    run_ok("index", "table", growing / "set/labels.csv", "--images", growing / "set/JPEGImages", "--masks",
           growing / "set/SegmentationClass", "--class-names", growing / "set/classes.txt", "-o", tmp_path / "t.h5")
    run_ok("train-seg", tmp_path / "t.h5", "--masks", "truth", *TRAINING, "-o", net)
    commands = {"pseudo": ("pseudo", "CAMS"), "pamr": ("refine", "pamr", "CAMS", "--iterations", "1"),
                "features": ("features", "INDEX", "--net", tiny_net, "--batch-size", "1", "--device", "cpu"),
                "segment": ("segment", "net", "INDEX", "--net", net, "--batch-size", "1", *SMALL)}
    inputs = {"old": {"CAMS": growing / "old", "INDEX": growing / "old.h5"},
              "new": {"CAMS": tmp_path / "cams", "INDEX": growing / "new.h5"}}
    for name, command in commands.items():
        for age, paths in inputs.items():
            args = [paths.get(word, word) for word in command]
            run_ok(*args, "-o", tmp_path / f"{age}-{name}", "-j", "1")
        del computed[:]
        done = run(*args, "-o", tmp_path / f"out-{name}", "-j", "1", "--reuse", tmp_path / f"old-{name}")
        assert done.code == 0, done.err
        assert "8 taken over" in done.err and list(chain(*computed)) == ["picture_000", "picture_001"], name
        [made], [fresh] = ([*(tmp_path / folder).glob("*.h5")] for folder in (f"out-{name}", f"new-{name}"))
        assert made.read_bytes() == fresh.read_bytes(), name


@pytest.mark.parametrize(("options", "texts"), [
    (("--scales", "1,2"), ("scales: [1.0] -> [1.0, 2.0]",)), (("--batch-size", "2"), ("batch_size: 1 -> 2",)),
])
def test_other_settings_are_named(growing, tiny_net, tmp_path, options, texts):
    done = run("cams", "cnn", growing / "new.h5", "--net", tiny_net, "-o", tmp_path / "out", *ALONE, *options,
               "--reuse", growing / "old")
    check_error(done, 65, str(growing / "old"), "different settings", "--reuse", *texts)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.h5"))


def test_another_network_is_named(growing, tmp_path):
    run_ok("train-cls", "cam", growing / "new.h5", *TRAINING, "--seed", "9", "-o", tmp_path / "n.safetensors")
    done = run("cams", "cnn", growing / "new.h5", "--net", tmp_path / "n.safetensors", "-o", tmp_path / "out", *ALONE,
               "--reuse", growing / "old")
    check_error(done, 65, "different settings", "net: ")


def test_other_classes_are_named(growing, tiny_net, tmp_path):
    """The features of an image do not depend on the classes, but their labels do."""
    root = Path(shutil.copytree(growing / "set", tmp_path / "set"))
    (root / "classes.txt").write_text("background\ndog\ncat\n")
    index = index_lines(root, (root / "labels.csv").read_text().splitlines(), tmp_path / "i.h5")
    features = ("--net", tiny_net, "--batch-size", "1", "--device", "cpu", "-j", "1")
    run_ok("features", growing / "old.h5", *features, "-o", tmp_path / "old")
    done = run("features", index, *features, "-o", tmp_path / "out", "--reuse", tmp_path / "old")
    check_error(done, 65, f"--reuse {tmp_path / 'old'}", "classes", "'cat'/'dog'")


def test_invalid_uses(growing, tiny_net, tmp_path):
    command = ("cams", "cnn", growing / "new.h5", "--net", tiny_net, *ALONE)
    check_error(run(*command, "-o", tmp_path / "out", "--reuse", tmp_path / "none"), 66, "none")
    check_error(run(*command, "-o", tmp_path / "out", "--reuse", growing / "new.h5"), 65, "holds index, not cams")
    check_error(run(*command, "-o", growing / "old", "--force", "--reuse", growing / "old"), 2, "also the output")


def test_a_run_of_format_1_0(tmp_path):
    folder = Path(shutil.copytree(TESTS / "format_1_0", tmp_path / "old"))
    run_ok("pseudo", folder / "cams", "-o", tmp_path / "pseudo")
    done = run("pseudo", folder / "cams", "-o", tmp_path / "again", "--reuse", tmp_path / "pseudo")
    assert done.code == 0 and "3 taken over" in done.err
    names = [next((tmp_path / name).glob("*.h5")) for name in ("pseudo", "again")]
    assert names[0].read_bytes() == names[1].read_bytes()
