"""From tags to masks and a network, each stage on what the one before wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.runner import SMALL, TRAINING, copy_of, good, refused, run
from stages.flow.maps import full_size
from stages.kernels.background import Background, mask_of_maps
from stages.shards import Run, Shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return maps of the whole tiny set."""
    folder = tmp_path_factory.mktemp("chain") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def crf(cams) -> Path:
    """Return the maps after the CRF: background included."""
    pytest.importorskip("pydensecrf")
    good("refine", "crf", cams, "-o", cams.parent / "crf", "--background", "constant:0.4")
    return cams.parent / "crf"


@pytest.fixture
def untagged(tiny_folder, tmp_path) -> Path:
    """Return an index whose first image has unknown tags and whose second is known to have none."""
    root = copy_of(tiny_folder, tmp_path / "untagged")
    lines = (root / "labels.csv").read_text().splitlines()
    lines[2] = "picture_001,"
    (root / "labels.csv").write_text("\n".join([lines[0], *lines[2:]]))
    (root / "list.txt").write_text("\n".join(tiny_folder.ids))
    good("index", "voc", root, "--list", root / "list.txt", "--labels", root / "labels.csv", "-o", tmp_path / "u.h5")
    return tmp_path / "u.h5"


def shards(folder: Path, kind: str, parts: int = 1) -> str:
    return "".join(f"{folder / f'{kind}-{part:05d}-of-{parts:05d}.h5'}\n" for part in range(parts))


@pytest.mark.slow
def test_the_whole_chain_as_users_run_it(wsss, tiny_index, tiny_folder, tmp_path):
    """Every command ends with 0, and standard output has the paths of finished files and nothing else."""
    small = ("--long-side", "32,48", *TRAINING)
    steps = [
        (("train-cls", "cam", tiny_index, *small, "-o", "cam.safetensors"), "cam.safetensors\n"),
        (("cams", "cnn", tiny_index, "--net", "cam.safetensors", "-o", "cams", "--shard-size", "5", "-j", "1",
          *SMALL), shards(Path("cams"), "cams", 3)),
        (("refine", "crf", "cams", "-o", "crf", "-j", "1"), shards(Path("crf"), "cams", 3)),
        (("pseudo", "crf", "-o", "masks.h5"), None),
        (("pseudo", "crf", "-o", "masks", "-j", "1"), shards(Path("masks"), "masks", 3)),
        (("train-seg", tiny_index, "--masks", "masks", *TRAINING, "-o", "seg.safetensors"), "seg.safetensors\n"),
        (("segment", "net", tiny_index, "--net", "seg.safetensors", "-o", "out"), shards(Path("out"), "masks")),
    ]
    for args, printed in steps:
        done = wsss(*args)
        if printed is None:
            assert (done.code, done.out) == (2, ""), "three parts are not one file"
            continue
        assert done.code == 0, done.err
        assert done.out == printed
    table = wsss("eval", "out")
    assert table.code == 0
    assert [line.split("\t")[0] for line in table.out.splitlines()] == [
        "class", *tiny_folder.classes, "mIoU", "images", "rule"]


def test_what_is_there_is_up_to_date(cams, tiny_index, tiny_net):
    before = {path: path.read_bytes() for path in cams.rglob("*")}
    done = run("cams", "cnn", tiny_index, "--net", tiny_net, "-o", cams, *SMALL)
    assert (done.code, done.out) == (0, shards(cams, "cams"))
    assert before == {path: path.read_bytes() for path in cams.rglob("*")}


def test_maps_are_of_the_tags_at_the_grid(cams, tiny_folder):
    run_of = Run([cams], "cams")
    assert run_of.first.attribute("background") == "none"
    for name, ids in zip(tiny_folder.ids, tiny_folder.labels, strict=True):
        item = run_of.item(name)
        assert item.datasets["class_ids"].tolist() == list(ids)
        assert item.datasets["cam"].shape == (len(ids), 12, 16)
        assert item.datasets["scores"].shape == (len(ids),)
        assert item.attrs["covers"].tolist() == [48, 64]


def test_maps_of_images_without_tags(untagged, tiny_net, tmp_path):
    """`--tags index` refuses what is unknown; `predicted:T` and `all` need no tags."""
    maps = {}
    for rule, code in (("index", 65), ("predicted:0.5", 0), ("all", 0)):
        output = tmp_path / rule.split(":")[0]
        done = run("cams", "cnn", untagged, "--net", tiny_net, "--tags", rule, "-o", output, *SMALL)
        assert done.code == code, done.err
        assert done.out == shards(output, "cams"), "the shard is finished, with its refused image"
        maps[rule] = Run([output], "cams")
    assert list(maps["index"].first.errors) == ["picture_000"]
    assert "no tags" in maps["index"].first.errors["picture_000"]
    assert maps["index"].item("picture_001").datasets["cam"].shape == (0, 12, 16)
    for name in maps["all"].ids:
        every, predicted = maps["all"].item(name).datasets, maps["predicted:0.5"].item(name).datasets
        assert every["class_ids"].tolist() == [1, 2]
        chosen = every["scores"] >= 0.5
        assert predicted["class_ids"].tolist() == every["class_ids"][chosen].tolist()
        np.testing.assert_array_equal(predicted["cam"], every["cam"][chosen])


def test_refine_writes_posteriors_with_background_at_full_size(crf, tiny_folder):
    run_of = Run([crf], "cams")
    assert run_of.first.attribute("background") == "included"
    for name, ids in zip(tiny_folder.ids, tiny_folder.labels, strict=True):
        item = run_of.item(name)
        assert item.datasets["class_ids"].tolist() == [0, *ids]
        assert item.datasets["cam"].shape == (len(ids) + 1, 48, 64)
        np.testing.assert_allclose(item.datasets["cam"].astype(int).sum(axis=0), 255, atol=2)


def test_refine_of_maps_that_include_the_background(crf, tmp_path):
    good("refine", "crf", crf, "--preset", "deeplab", "-o", tmp_path / "twice")
    once, twice = Run([crf], "cams"), Run([tmp_path / "twice"], "cams")
    for name in once.ids:
        np.testing.assert_array_equal(once.item(name).datasets["class_ids"], twice.item(name).datasets["class_ids"])
    refused(run("refine", "crf", crf, "--background", "constant:0.3", "-o", tmp_path / "o"), 2, "--background",
            "includes the background")
    refused(run("pseudo", crf, "--background", "constant:0.3", "-o", tmp_path / "o"), 2, "--background")
    refused(run("refine", "crf", crf, "--background", "two-thresholds:0.1,0.3", "-o", tmp_path / "o"), 2,
            "two-thresholds")


@pytest.mark.parametrize("text", ["constant:0.4", "power:2", "two-thresholds:0.2,0.6", ""])
def test_pseudo_masks_follow_their_rule(cams, tmp_path, text):
    good("pseudo", cams, *(("--background", text) if text else ()), "-o", tmp_path / "masks")
    rule, _, values = (text or "constant:0.3").partition(":")
    background = Background(rule, tuple(map(float, values.split(","))))
    masks, maps = Run([tmp_path / "masks"], "masks"), Run([cams], "cams")
    for name in maps.ids:
        rows, ids = full_size(maps.item(name))
        np.testing.assert_array_equal(masks.item(name).datasets["mask"], mask_of_maps(rows, ids, background, 255))


def test_a_background_that_eval_chose_and_what_is_recorded_of_it(cams, tiny_index, tmp_path):
    chosen = tmp_path / "eval.json"
    chosen.write_text("\n".join(good("eval", cams, "--json")))
    value = json.loads(chosen.read_text())["background"]["value"]
    good("pseudo", cams, "--background", f"from:{chosen}", "-o", tmp_path / "masks")
    recorded = Run([tmp_path / "masks"], "masks").first.provenance[-1]["config"]["background"]
    assert recorded == {"rule": f"constant:{value:g}", "chosen_on": "ground-truth",
                        "index": Shard(tiny_index).digest}
    good("pseudo", cams, "--background", f"constant:{value}", "-o", tmp_path / "given")
    told, given = Run([tmp_path / "masks"], "masks"), Run([tmp_path / "given"], "masks")
    assert given.first.provenance[-1]["config"]["background"]["chosen_on"] == "given"
    for name in told.ids:
        np.testing.assert_array_equal(told.item(name).datasets["mask"], given.item(name).datasets["mask"])
    good("eval", cams, "--json", "-o", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(chosen.read_text())


def test_unsure_pixels_are_ignored(crf, tmp_path):
    good("pseudo", crf, "--min-confidence", "1", "-o", tmp_path / "masks")
    masks, maps = Run([tmp_path / "masks"], "masks"), Run([crf], "cams")
    ignored = 0
    for name in maps.ids:
        item, strongest = masks.item(name), maps.item(name).datasets["cam"].max(axis=0)
        unsure = strongest.astype(np.float32) / 255 < 1
        np.testing.assert_array_equal(item.datasets["mask"] == 255, unsure)
        np.testing.assert_array_equal(item.datasets["confidence"], strongest)
        ignored += unsure.sum()
    assert ignored > 0


def test_shards_come_on_standard_input(wsss, cams):
    listed = "".join(f"{path}\n" for path in sorted(cams.glob("*.h5")))
    done = wsss("pseudo", "-o", "masks", input=listed)
    assert (done.code, done.out) == (0, shards(Path("masks"), "masks"))
    for words, text in ((("-",), listed), (("-", "-0"), listed.replace("\n", "\0"))):
        again = wsss("pseudo", *words, "-o", "masks", input=text)
        assert (again.code, again.out) == (0, shards(Path("masks"), "masks"))
        assert "up to date" in again.err
    refused(wsss("pseudo", "-", "-o", "masks", input=""), 66, "no input")


@pytest.fixture(scope="module")
def two_parts(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return maps in three parts, the second of which is missing."""
    folder = tmp_path_factory.mktemp("hole") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, "--shard-size", "5", "-j", "1", *SMALL)
    (folder / "cams-00001-of-00003.h5").unlink()
    return folder


def test_a_hole_in_a_run_is_worked_around_and_told(two_parts, tmp_path):
    done = run("pseudo", two_parts, "-o", tmp_path / "masks", "-j", "1")
    assert done.code == 66
    assert "part 1" in done.err
    assert [Path(line).name for line in done.out.split()] == ["masks-00000-of-00003.h5", "masks-00002-of-00003.h5"]
    refused(run("eval", two_parts), 66, "part 1")


@pytest.mark.parametrize(("task", "parts"), [("0/2", [0, 2]), ("1/2", []), ("2/3", [2]), ("3/4", [])])
def test_a_task_makes_its_own_parts(two_parts, tmp_path, task, parts):
    printed = good("pseudo", two_parts, "--task", task, "-o", tmp_path / "masks", "-j", "1")
    assert [int(Path(line).name[6:11]) for line in printed] == parts


def test_two_processes_make_what_one_makes(tiny_index, tiny_net, two_parts, tmp_path):
    printed = good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "cams", "--shard-size", "5", "-j",
                   "2", *SMALL)
    assert sorted(printed) == [str(tmp_path / "cams" / f"cams-{part:05d}-of-00003.h5") for part in range(3)]
    for path in two_parts.glob("*.h5"):
        assert path.read_bytes() == (tmp_path / "cams" / path.name).read_bytes()


def test_the_truth_as_masks_is_recorded_as_full_supervision(tiny_index, tmp_path):
    good("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", tmp_path / "seg.safetensors")
    described = json.loads("\n".join(good("info", tmp_path / "seg.safetensors", "--json")))[0]
    assert "full supervision" in described["supervision"]


def test_the_truth_has_no_confidence(tiny_index, tmp_path):
    for loss in ("confidence", "balanced-confidence"):
        refused(run("train-seg", tiny_index, "--masks", "truth", "--loss", loss, *TRAINING, "-o",
                    tmp_path / "seg.safetensors"), 2, f"--loss {loss}", "the truth lacks")


def test_the_log_is_where_it_is_wanted(cams, tmp_path):
    log = tmp_path / "new" / "log" / "mine.jsonl"
    good("pseudo", cams, "-o", tmp_path / "masks", "--log", log)
    assert json.loads(log.read_text().splitlines()[-1])["path"].startswith("masks-")
    assert not list((tmp_path / "masks").glob("*.jsonl"))
    (tmp_path / "file").touch()
    good("pseudo", cams, "-o", tmp_path / "masks", "-f", "--log", tmp_path / "file" / "log")  # stops nothing


@pytest.mark.parametrize("loss", ["balanced", "confidence", "balanced-confidence"])
def test_every_loss_trains_on_pseudo_masks(tiny_index, crf, tmp_path, loss):
    good("pseudo", crf, "-o", tmp_path / "masks")
    good("train-seg", tiny_index, "--masks", tmp_path / "masks", "--loss", loss, "--mu", "0.5", *TRAINING, "-o",
         tmp_path / "seg.safetensors")
    described = json.loads("\n".join(good("info", tmp_path / "seg.safetensors", "--json")))[0]
    assert described["supervision"] == "pseudo masks (tags)"
    assert [entry["stage"] for entry in described["provenance"]] == ["index", "cams", "refine", "pseudo", "train-seg"]


