"""Outputs that can't be made or are there already, and options that can't be meant so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.runner import SMALL, TRAINING, good, refused, run
from stages.shards import Contents, Item, Run, Shard, write_shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return maps of the whole tiny set."""
    folder = tmp_path_factory.mktemp("outputs") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def masks(cams) -> Path:
    """Return pseudo masks of the maps."""
    good("pseudo", cams, "-o", cams.parent / "masks")
    return cams.parent / "masks"


def commands(tiny_folder, tiny_index, tiny_net, cams, masks) -> dict[str, tuple]:
    """Return, by name, a command of each kind without its output."""
    root = tiny_folder.root
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
def test_an_output_below_a_file_can_not_be_created(name, tmp_path, tiny_folder, tiny_index, tiny_net, cams, masks):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / "file" / f"out{SUFFIX.get(name, '')}"
    words = commands(tiny_folder, tiny_index, tiny_net, cams, masks)[name]
    refused(run(*words, "-o", output), 73, str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("name", list(SUFFIX))
def test_a_folder_where_a_file_is_wanted(name, tmp_path, tiny_folder, tiny_index, tiny_net, cams, masks):
    output = tmp_path / f"out{SUFFIX[name]}"
    output.mkdir()
    words = commands(tiny_folder, tiny_index, tiny_net, cams, masks)[name]
    for more in ((), ("--force",)) if name not in ("eval", "show") else ((),):
        refused(run(*words, "-o", output, *more), 73, str(output))
    assert not list(output.iterdir())


@pytest.mark.parametrize("name", ["cams", "pseudo", "index", "export"])
def test_a_file_where_a_folder_is_wanted(name, tmp_path, tiny_folder, tiny_index, tiny_net, cams, masks):
    (tmp_path / "out").write_text("in the way")
    words = commands(tiny_folder, tiny_index, tiny_net, cams, masks)[name]
    refused(run(*words, "-o", tmp_path / "out"), 73, str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "in the way"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
@pytest.mark.parametrize("name", ["index", "pseudo", "train-cls", "export"])
def test_a_place_where_nothing_can_be_made(name, tmp_path, tiny_folder, tiny_index, tiny_net, cams, masks):
    words = commands(tiny_folder, tiny_index, tiny_net, cams, masks)[name]
    refused(run(*words, "-o", f"/proc/nosuch/out{SUFFIX.get(name, '')}"), 73, "/proc/nosuch")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(cams, tmp_path):
    tmp_path.chmod(0o500)
    refused(run("pseudo", cams, "-o", tmp_path / "out"), 73, str(tmp_path))


@pytest.mark.parametrize("name", ["index", "cams", "pseudo", "train-cls"])
def test_something_else_in_the_place_of_the_output_is_not_overwritten(name, tmp_path, tiny_folder, tiny_index,
                                                                      tiny_net, cams, masks):
    output = tmp_path / f"out{SUFFIX[name]}"
    output.write_text("precious")
    words = commands(tiny_folder, tiny_index, tiny_net, cams, masks)[name]
    done = run(*words, "-o", output)
    assert done.code in (65, 73)
    refused(done, done.code, str(output))
    assert output.read_text() == "precious"
    assert good(*words, "-o", output, "--force") == [str(output)]


def test_other_settings_are_told_by_name_and_nothing_is_replaced(tiny_index, tiny_net, cams, masks, tmp_path):
    before = {path: path.read_bytes() for folder in (cams, masks) for path in folder.glob("*.h5")}
    again = ("cams", "cnn", tiny_index, "--net", tiny_net, "--device", "cpu", "-o", cams)
    refused(run(*again, "--scales", "1,0.5", "--no-flip"), 73, "scales: [1.0] -> [1.0, 0.5]", "flip: true -> false",
            "--force")
    refused(run("pseudo", cams, "--min-confidence", "0.5", "-o", masks), 73, "min_confidence: 0.0 -> 0.5")
    refused(run("pseudo", cams, "--background", "power:3", "-o", masks), 73, "background")
    net = tmp_path / "n.safetensors"
    good("train-cls", "cam", tiny_index, *TRAINING, "-o", net)
    data = net.read_bytes()
    refused(run("train-cls", "cam", tiny_index, *TRAINING, "--lr", "0.5", "-o", net), 73, "lr: 0.03 -> 0.5")
    assert good("train-cls", "cam", tiny_index, *TRAINING, "-o", net) == [str(net)]
    assert net.read_bytes() == data
    assert before == {path: path.read_bytes() for path in before}


def test_force_replaces(cams, tmp_path):
    good("pseudo", cams, "-o", tmp_path / "masks")
    good("pseudo", cams, "--background", "power:3", "-o", tmp_path / "masks", "--force")
    assert Run([tmp_path / "masks"]).first.provenance[-1]["config"]["background"]["rule"] == "power:3"


def test_dry_runs_do_nothing(tiny_folder, tiny_index, tiny_net, cams, masks, tmp_path):
    for name in ("index", "cams", "pseudo", "train-cls", "train-seg", "export"):
        done = run(*commands(tiny_folder, tiny_index, tiny_net, cams, masks)[name], "-o", tmp_path / "out", "-n")
        assert (done.code, done.out) == (0, ""), done.err
        assert "would" in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "told"), [
    (("--task", "3/3"), "--task 3/3"), (("--task", "1"), "--task 1"), (("--task", "-1/2"), "--task -1/2"),
    (("--task", "a/b"), "--task a/b"), (("--task", "\u00b9/3"), "--task \u00b9/3"),
    (("--allow-errors", "few"), "--allow-errors"),
    (("--allow-errors", "x%"), "--allow-errors"), (("--background", "0.3"), "--background '0.3'"),
    (("--background", "constant:2"), "--background 'constant:2"), (("--background", "otsu:1"), "--background 'otsu"),
    (("--background", "two-thresholds:0.5,0.2"), "LOW is above HIGH"),
    (("--min-confidence", "1.1"), "--min-confidence 1.1"),
    (("--min-confidence", "nan"), "--min-confidence nan"), (("--threads", "0"), "--threads 0")], ids=" ".join)
def test_options_of_pseudo_that_can_not_be_meant_so(cams, tmp_path, words, told):
    refused(run("pseudo", cams, "-o", tmp_path / "out", *words), 2, told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "told"), [
    (("--scales", "0"), "--scales 0"), (("--scales", "1,x"), "--scales 1,x"), (("--scales", ""), "--scales"),
    (("--tags", "some"), "--tags some"), (("--tags", "predicted:2"), "--tags predicted:2"),
    (("--batch-size", "0"), "--batch-size 0"), (("--shard-size", "0"), "--shard-size 0"),
    (("--grid-stride", "0"), "--grid-stride 0"), (("--precision", "int8"), "--precision 'int8'"),
    (("--alignment", "left"), "--alignment 'left'"), (("--device", "cpu:1x"), "--device"),
    (("--device", "cuda:\u00b2"), "--device cuda:\u00b2")], ids=" ".join)
def test_options_of_cams_that_can_not_be_meant_so(tiny_index, tiny_net, tmp_path, words, told):
    refused(run("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "out", *words), 2, told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("words", "told"), [
    (("--epochs", "0"), "--epochs 0"), (("--lr", "-1"), "--lr -1"), (("--lr", "inf"), "--lr inf"),
    (("--crop-size", "4"), "--crop-size 4"), (("--long-side", "32"), "--long-side"),
    (("--colour-jitter", "1"), "--colour-jitter"), (("--mean", "0.5"), "--mean"), (("--optimizer", "lion"), "'lion'"),
    (("--freeze-bn", "some"), "'some'"), (("--momentum", "2"), "--momentum 2"), (("--seed", "-1"), "--seed -1")],
    ids=" ".join)
def test_options_of_training_that_can_not_be_meant_so(tiny_index, tmp_path, words, told):
    refused(run("train-cls", "cam", tiny_index, *TRAINING, "-o", tmp_path / "n.safetensors", *words), 2, told)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("--batch-size", "x"), ("--flip", "yes", "no"), ("-j", "-1"), ("--lr", "fast")],
                         ids=" ".join)
def test_values_that_the_parser_refuses(tiny_index, tmp_path, words):
    done = run("train-cls", "cam", tiny_index, *TRAINING, "-o", tmp_path / "n.safetensors", *words)
    assert done.code in (2, 66)
    assert done.out == ""


def test_backgrounds_from_files_that_hold_none(cams, tmp_path):
    (tmp_path / "e.json").write_text('{"background": null}')
    out = ("-o", tmp_path / "out")
    refused(run("pseudo", cams, "--background", f"from:{tmp_path / 'e.json'}", *out), 65, "e.json", "wsss eval")
    refused(run("pseudo", cams, "--background", f"from:{tmp_path / 'f.json'}", *out), 66, "f.json")
    refused(run("eval", cams, "--background", "two-thresholds:0.1"), 2, "--background")


def test_a_path_that_leads_out_of_the_root(tiny_index, tiny_net, tmp_path):
    """An index that someone else made names a file outside of the folder of images."""
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    items = [Item("a", {}, {"path": path, "height": 8, "width": 8}) for path in ("../secret.jpg",)]
    items.append(Item("b", {}, {"path": str(tmp_path / "secret.jpg"), "height": 8, "width": 8}))
    write_shard(tmp_path / "i.h5", Contents("index", Shard(tiny_index).classes, items, root_attrs={"root": "set"},
                                            provenance=Shard(tiny_index).provenance))
    done = run("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "--tags", "all", "-o", tmp_path / "out", *SMALL)
    assert done.code == 65
    errors = Run([tmp_path / "out"]).first.errors
    assert list(errors) == ["a", "b"]
    assert all("outside the root" in error for error in errors.values())


def test_an_image_of_the_index_that_no_mask_belongs_to_is_left_out(tiny_folder, tiny_index, cams, tmp_path):
    good("pseudo", cams, "-o", tmp_path / "masks")
    root = tiny_folder.root
    (tmp_path / "more.csv").write_text("id,labels\npicture_000,cat\npicture_001,dog\n")
    good("index", "table", tmp_path / "more.csv", "--images", root / "JPEGImages", "--class-names",
         root / "classes.txt", "-o", tmp_path / "few.h5")
    done = run("train-seg", tmp_path / "few.h5", "--masks", "truth", *TRAINING, "-o", tmp_path / "n.safetensors")
    refused(done, 65, "no image has a mask", "few.h5")


def test_as_users_run_it(wsss, cams):
    refused(wsss("pseudo", cams, "-o", "/proc/nosuch/out"), 73, "/proc/nosuch")
