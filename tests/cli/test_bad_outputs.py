"""Outputs that cannot be created or already exist, and invalid options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.runner import SMALL, TRAINING, check_error, run, run_ok
from stages.shards import Item, Run, Shard, ShardContents, write_shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return the CAMs of the whole tiny data set."""
    folder = tmp_path_factory.mktemp("outputs") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def masks(cams) -> Path:
    """Return pseudo masks of the CAMs."""
    run_ok("pseudo", cams, "-o", cams.parent / "masks")
    return cams.parent / "masks"


def build_commands(tiny_dataset, tiny_index, tiny_net, cams, masks) -> dict[str, tuple]:
    """Return the arguments of one command of each kind by name, without its output."""
    root = tiny_dataset.root
    return {
        "index": ("index", "table", root / "labels.csv", "--images", root / "JPEGImages"),
        "cams": ("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL),
        "pseudo": ("pseudo", cams),
        "train-cls": ("train-cls", "cam", tiny_index, *TRAINING),
        "train-seg": ("train-seg", tiny_index, "--masks", "truth", *TRAINING),
        "export": ("export", "png", masks),
        "eval": ("eval", masks),
        "show": ("show", masks),
    }


ALL = ["index", "cams", "pseudo", "train-cls", "train-seg", "export", "eval", "show"]
SUFFIX = {"index": ".h5", "cams": ".h5", "pseudo": ".h5", "train-cls": ".safetensors", "train-seg": ".safetensors",
          "eval": ".json", "show": ".png"}


@pytest.mark.parametrize("name", ALL)
def test_rejects_an_output_below_a_file(name, tmp_path, tiny_dataset, tiny_index, tiny_net, cams, masks):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / "file" / f"out{SUFFIX.get(name, '')}"
    words = build_commands(tiny_dataset, tiny_index, tiny_net, cams, masks)[name]
    check_error(run(*words, "-o", output), 73, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("name", list(SUFFIX))
def test_rejects_a_folder_as_output_file(name, tmp_path, tiny_dataset, tiny_index, tiny_net, cams, masks):
    output = tmp_path / f"out{SUFFIX[name]}"
    output.mkdir()
    words = build_commands(tiny_dataset, tiny_index, tiny_net, cams, masks)[name]
    for more in ((), ("--force",)) if name not in ("eval", "show") else ((),):
        check_error(run(*words, "-o", output, *more), 73, str(output))
    assert not list(output.iterdir())


@pytest.mark.parametrize("name", ["cams", "pseudo", "index", "export"])
def test_rejects_a_file_as_output_folder(name, tmp_path, tiny_dataset, tiny_index, tiny_net, cams, masks):
    (tmp_path / "out").write_text("in the way")
    words = build_commands(tiny_dataset, tiny_index, tiny_net, cams, masks)[name]
    check_error(run(*words, "-o", tmp_path / "out"), 73, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "in the way"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
@pytest.mark.parametrize("name", ["index", "pseudo", "train-cls", "export"])
def test_rejects_an_output_that_cannot_be_created(name, tmp_path, tiny_dataset, tiny_index, tiny_net, cams, masks):
    words = build_commands(tiny_dataset, tiny_index, tiny_net, cams, masks)[name]
    check_error(run(*words, "-o", f"/proc/nosuch/out{SUFFIX.get(name, '')}"), 73, "/proc/nosuch")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_rejects_an_output_folder_without_permission(cams, tmp_path):
    tmp_path.chmod(0o500)
    check_error(run("pseudo", cams, "-o", tmp_path / "out"), 73, str(tmp_path))


@pytest.mark.parametrize("name", ["index", "cams", "pseudo", "train-cls"])
def test_another_file_at_the_output_is_replaced_only_with_force(name, tmp_path, tiny_dataset, tiny_index, tiny_net,
                                                                cams, masks):
    output = tmp_path / f"out{SUFFIX[name]}"
    output.write_text("precious")
    words = build_commands(tiny_dataset, tiny_index, tiny_net, cams, masks)[name]
    done = run(*words, "-o", output)
    assert done.code in (65, 73)
    check_error(done, done.code, str(output))
    assert output.read_text() == "precious"
    assert run_ok(*words, "-o", output, "--force") == [str(output)]


def test_lists_different_settings_and_replaces_nothing(tiny_index, tiny_net, cams, masks, tmp_path):
    before = {path: path.read_bytes() for folder in (cams, masks) for path in folder.glob("*.h5")}
    again = ("cams", "cnn", tiny_index, "--net", tiny_net, "--device", "cpu", "-o", cams)
    check_error(run(*again, "--scales", "1,0.5", "--no-flip"), 73, "scales: [1.0] -> [1.0, 0.5]", "flip: true -> false",
            "--force")
    check_error(run("pseudo", cams, "--min-confidence", "0.5", "-o", masks), 73, "min_confidence: 0.0 -> 0.5")
    check_error(run("pseudo", cams, "--background", "power:3", "-o", masks), 73, "background")
    net = tmp_path / "n.safetensors"
    run_ok("train-cls", "cam", tiny_index, *TRAINING, "-o", net)
    data = net.read_bytes()
    check_error(run("train-cls", "cam", tiny_index, *TRAINING, "--lr", "0.5", "-o", net), 73, "lr: 0.03 -> 0.5")
    assert run_ok("train-cls", "cam", tiny_index, *TRAINING, "-o", net) == [str(net)]
    assert net.read_bytes() == data
    assert before == {path: path.read_bytes() for path in before}


def test_force_replaces_a_run(cams, tmp_path):
    run_ok("pseudo", cams, "-o", tmp_path / "masks")
    run_ok("pseudo", cams, "--background", "power:3", "-o", tmp_path / "masks", "--force")
    assert Run([tmp_path / "masks"]).first.provenance[-1]["config"]["background"]["rule"] == "power:3"


def test_dry_runs_write_nothing(tiny_dataset, tiny_index, tiny_net, cams, masks, tmp_path):
    for name in ("index", "cams", "pseudo", "train-cls", "train-seg", "export"):
        done = run(*build_commands(tiny_dataset, tiny_index, tiny_net, cams, masks)[name], "-o", tmp_path / "out", "-n")
        assert (done.code, done.out) == (0, ""), done.err
        assert "would" in done.err.lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "message"), [
    (("--task", "3/3"), "--task 3/3"), (("--task", "1"), "--task 1"), (("--task", "-1/2"), "--task -1/2"),
    (("--task", "a/b"), "--task a/b"), (("--task", "\u00b9/3"), "--task \u00b9/3"),
    (("--allow-errors", "few"), "--allow-errors"),
    (("--allow-errors", "x%"), "--allow-errors"), (("--background", "0.3"), "--background '0.3'"),
    (("--background", "constant:2"), "--background 'constant:2"), (("--background", "otsu:1"), "--background 'otsu"),
    (("--background", "two-thresholds:0.5,0.2"), "LOW must not be greater than HIGH"),
    (("--min-confidence", "1.1"), "--min-confidence 1.1"),
    (("--min-confidence", "nan"), "--min-confidence nan"), (("--threads", "0"), "--threads 0")], ids=" ".join)
def test_rejects_invalid_options_of_pseudo(cams, tmp_path, words, message):
    check_error(run("pseudo", cams, "-o", tmp_path / "out", *words), 2, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "message"), [
    (("--scales", "0"), "--scales 0"), (("--scales", "1,x"), "--scales 1,x"), (("--scales", ""), "--scales"),
    (("--tags", "some"), "--tags some"), (("--tags", "predicted:2"), "--tags predicted:2"),
    (("--batch-size", "0"), "--batch-size 0"), (("--shard-size", "0"), "--shard-size 0"),
    (("--grid-stride", "0"), "--grid-stride 0"), (("--precision", "int8"), "--precision 'int8'"),
    (("--alignment", "left"), "--alignment 'left'"), (("--device", "cpu:1x"), "--device"),
    (("--device", "cuda:\u00b2"), "--device cuda:\u00b2")], ids=" ".join)
def test_rejects_invalid_options_of_cams(tiny_index, tiny_net, tmp_path, words, message):
    check_error(run("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "out", *words), 2, message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "message"), [
    (("--epochs", "0"), "--epochs 0"), (("--lr", "-1"), "--lr -1"), (("--lr", "inf"), "--lr inf"),
    (("--crop-size", "4"), "--crop-size 4"), (("--long-side", "32"), "--long-side"),
    (("--colour-jitter", "1"), "--colour-jitter"), (("--mean", "0.5"), "--mean"), (("--optimizer", "lion"), "'lion'"),
    (("--freeze-bn", "some"), "'some'"), (("--momentum", "2"), "--momentum 2"), (("--seed", "-1"), "--seed -1")],
    ids=" ".join)
def test_rejects_invalid_options_of_training(tiny_index, tmp_path, words, message):
    check_error(run("train-cls", "cam", tiny_index, *TRAINING, "-o", tmp_path / "n.safetensors", *words), 2, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("--batch-size", "x"), ("--flip", "yes", "no"), ("-j", "-1"), ("--lr", "fast")],
                         ids=" ".join)
def test_rejects_values_that_cannot_be_parsed(tiny_index, tmp_path, words):
    done = run("train-cls", "cam", tiny_index, *TRAINING, "-o", tmp_path / "n.safetensors", *words)
    assert done.code in (2, 66)
    assert done.out == ""


def test_rejects_a_background_file_without_a_background(cams, tmp_path):
    (tmp_path / "e.json").write_text('{"background": null}')
    out = ("-o", tmp_path / "out")
    check_error(run("pseudo", cams, "--background", f"from:{tmp_path / 'e.json'}", *out), 65, "e.json", "wsss eval")
    check_error(run("pseudo", cams, "--background", f"from:{tmp_path / 'f.json'}", *out), 66, "f.json")
    check_error(run("eval", cams, "--background", "two-thresholds:0.1"), 2, "--background")


def test_images_outside_the_root_fail(tiny_index, tiny_net, tmp_path):
    """An index from elsewhere contains paths outside of the folder of images."""
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    items = [Item("a", {}, {"path": path, "height": 8, "width": 8}) for path in ("../secret.jpg",)]
    items.append(Item("b", {}, {"path": str(tmp_path / "secret.jpg"), "height": 8, "width": 8}))
    write_shard(tmp_path / "i.h5", ShardContents("index", Shard(tiny_index).classes, items, root_attrs={"root": "set"},
                                                 provenance=Shard(tiny_index).provenance))
    done = run("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "--tags", "all", "-o", tmp_path / "out", *SMALL)
    assert done.code == 65
    errors = Run([tmp_path / "out"]).first.errors
    assert list(errors) == ["a", "b"]
    assert all("outside the folder of the images" in error for error in errors.values())


def test_training_needs_an_image_with_a_mask(tiny_dataset, tiny_index, cams, tmp_path):
    run_ok("pseudo", cams, "-o", tmp_path / "masks")
    root = tiny_dataset.root
    (tmp_path / "more.csv").write_text("id,labels\npicture_000,cat\npicture_001,dog\n")
    run_ok("index", "table", tmp_path / "more.csv", "--images", root / "JPEGImages", "--class-names",
         root / "classes.txt", "-o", tmp_path / "few.h5")
    done = run("train-seg", tmp_path / "few.h5", "--masks", "truth", *TRAINING, "-o", tmp_path / "n.safetensors")
    check_error(done, 65, "no image of the index has a mask", "few.h5")


def test_reports_an_invalid_output_from_the_command_line(wsss, cams):
    check_error(wsss("pseudo", cams, "-o", "/proc/nosuch/out"), 73, "/proc/nosuch")
