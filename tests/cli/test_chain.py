"""From tags to masks and a trained network: each stage reads the output of the previous one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.runner import SMALL, TRAINING, check_error, copy_dataset, run, run_ok
from stages.flow.item_arrays import resize_to_image
from stages.kernels.background import Background, cams_to_mask
from stages.shards import Run, Shard


@pytest.fixture(scope="module")
def cams(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return the CAMs of the tiny data set."""
    folder = tmp_path_factory.mktemp("chain") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


@pytest.fixture(scope="module")
def crf(cams) -> Path:
    """Return the CAMs after the CRF, which include the background."""
    run_ok("refine", "crf", cams, "-o", cams.parent / "crf", "--background", "constant:0.4")
    return cams.parent / "crf"


@pytest.fixture
def untagged(tiny_dataset, tmp_path) -> Path:
    """Return an index in which the tags of the first image are unknown and the second has no tags."""
    root = copy_dataset(tiny_dataset, tmp_path / "untagged")
    lines = (root / "labels.csv").read_text().splitlines()
    lines[2] = "picture_001,"
    (root / "labels.csv").write_text("\n".join([lines[0], *lines[2:]]))
    (root / "list.txt").write_text("\n".join(tiny_dataset.ids))
    run_ok("index", "voc", root, "--list", root / "list.txt", "--labels", root / "labels.csv", "-o", tmp_path / "u.h5")
    return tmp_path / "u.h5"


def list_shard_lines(folder: Path, kind: str, parts: int = 1) -> str:
    return "".join(f"{folder / f'{kind}-{part:05d}-of-{parts:05d}.h5'}\n" for part in range(parts))


@pytest.mark.slow
def test_whole_pipeline(wsss, tiny_index, tiny_dataset, tmp_path):
    """Every command exits with 0, and stdout has only the paths of finished files."""
    small = ("--long-side", "32,48", *TRAINING)
    steps = [
        (("train-cls", "cam", tiny_index, *small, "-o", "cam.safetensors"), "cam.safetensors\n"),
        (("cams", "cnn", tiny_index, "--net", "cam.safetensors", "-o", "cams", "--shard-size", "5", "-j", "1",
          *SMALL), list_shard_lines(Path("cams"), "cams", 3)),
        (("refine", "crf", "cams", "-o", "crf", "-j", "1"), list_shard_lines(Path("crf"), "cams", 3)),
        (("pseudo", "crf", "-o", "masks.h5"), None),
        (("pseudo", "crf", "-o", "masks", "-j", "1"), list_shard_lines(Path("masks"), "masks", 3)),
        (("train-seg", tiny_index, "--masks", "masks", *TRAINING, "-o", "seg.safetensors"), "seg.safetensors\n"),
        (("segment", "net", tiny_index, "--net", "seg.safetensors", "-o", "out"),
         list_shard_lines(Path("out"), "masks")),
    ]
    for args, printed in steps:
        done = wsss(*args)
        if printed is None:
            assert (done.code, done.out) == (2, ""), "three parts don't fit into one file"
            continue
        assert done.code == 0, done.err
        assert done.out == printed
    table = wsss("eval", "out")
    assert table.code == 0
    assert [line.split("\t")[0] for line in table.out.splitlines()] == [
        "class", *tiny_dataset.classes, "mIoU", "images", "rule"]


def test_finished_run_is_up_to_date(cams, tiny_index, tiny_net):
    before = {path: path.read_bytes() for path in cams.rglob("*")}
    done = run("cams", "cnn", tiny_index, "--net", tiny_net, "-o", cams, *SMALL)
    assert (done.code, done.out) == (0, list_shard_lines(cams, "cams"))
    assert before == {path: path.read_bytes() for path in cams.rglob("*")}


def test_cams_have_tagged_classes_and_grid(cams, tiny_dataset):
    cams_run = Run([cams], "cams")
    assert cams_run.first.attribute("background") == "none"
    for name, ids in zip(tiny_dataset.ids, tiny_dataset.labels, strict=True):
        item = cams_run.item(name)
        assert item.datasets["class_ids"].tolist() == list(ids)
        assert item.datasets["cam"].shape == (len(ids), 12, 16)
        assert item.datasets["scores"].shape == (len(ids),)
        assert item.attrs["covers"].tolist() == [48, 64]


def test_cams_of_images_without_tags(untagged, tiny_net, tmp_path):
    """`--tags index` fails for images with unknown tags; `predicted:T` and `all` need no tags."""
    runs = {}
    for rule, code in (("index", 65), ("predicted:0.5", 0), ("all", 0)):
        output = tmp_path / rule.split(":")[0]
        done = run("cams", "cnn", untagged, "--net", tiny_net, "--tags", rule, "-o", output, *SMALL)
        assert done.code == code, done.err
        assert done.out == list_shard_lines(output, "cams"), "the shard is complete, including its failed image"
        runs[rule] = Run([output], "cams")
    assert list(runs["index"].first.errors) == ["picture_000"]
    assert "no tags" in runs["index"].first.errors["picture_000"]
    assert runs["index"].item("picture_001").datasets["cam"].shape == (0, 12, 16)
    for name in runs["all"].ids:
        all_classes, predicted = runs["all"].item(name).datasets, runs["predicted:0.5"].item(name).datasets
        assert all_classes["class_ids"].tolist() == [1, 2]
        is_predicted = all_classes["scores"] >= 0.5
        assert predicted["class_ids"].tolist() == all_classes["class_ids"][is_predicted].tolist()
        np.testing.assert_array_equal(predicted["cam"], all_classes["cam"][is_predicted])


def test_crf_posteriors_include_background(crf, tiny_dataset):
    crf_run = Run([crf], "cams")
    assert crf_run.first.attribute("background") == "included"
    for name, ids in zip(tiny_dataset.ids, tiny_dataset.labels, strict=True):
        item = crf_run.item(name)
        assert item.datasets["class_ids"].tolist() == [0, *ids]
        assert item.datasets["cam"].shape == (len(ids) + 1, 48, 64)
        np.testing.assert_allclose(item.datasets["cam"].astype(int).sum(axis=0), 255, atol=2)


def test_refine_cams_that_include_background(crf, tmp_path):
    run_ok("refine", "crf", crf, "--preset", "deeplab", "-o", tmp_path / "twice")
    once, twice = Run([crf], "cams"), Run([tmp_path / "twice"], "cams")
    for name in once.ids:
        np.testing.assert_array_equal(once.item(name).datasets["class_ids"], twice.item(name).datasets["class_ids"])
    check_error(run("refine", "crf", crf, "--background", "constant:0.3", "-o", tmp_path / "o"), 2, "--background",
                "already include a background")
    check_error(run("pseudo", crf, "--background", "constant:0.3", "-o", tmp_path / "o"), 2, "--background")
    check_error(run("refine", "crf", crf, "--background", "two-thresholds:0.1,0.3", "-o", tmp_path / "o"), 2,
                "two-thresholds")


@pytest.mark.parametrize("text", ["constant:0.4", "power:2", "two-thresholds:0.2,0.6", ""])
def test_pseudo_masks_follow_background_rule(cams, tmp_path, text):
    run_ok("pseudo", cams, *(("--background", text) if text else ()), "-o", tmp_path / "masks")
    rule, _, values = (text or "constant:0.3").partition(":")
    background = Background(rule, tuple(map(float, values.split(","))))
    masks, maps = Run([tmp_path / "masks"], "masks"), Run([cams], "cams")
    for name in maps.ids:
        rows, ids = resize_to_image(maps.item(name))
        np.testing.assert_array_equal(masks.item(name).datasets["mask"], cams_to_mask(rows, ids, background, 255))


def test_background_from_eval(cams, tiny_index, tmp_path):
    eval_path = tmp_path / "eval.json"
    eval_path.write_text("\n".join(run_ok("eval", cams, "--json")))
    value = json.loads(eval_path.read_text())["background"]["value"]
    run_ok("pseudo", cams, "--background", f"from:{eval_path}", "-o", tmp_path / "masks")
    recorded = Run([tmp_path / "masks"], "masks").first.provenance[-1]["config"]["background"]
    assert recorded == {"rule": f"constant:{value:g}", "chosen_on": "ground-truth",
                        "index": Shard(tiny_index).digest}
    run_ok("pseudo", cams, "--background", f"constant:{value}", "-o", tmp_path / "given")
    from_eval, from_value = Run([tmp_path / "masks"], "masks"), Run([tmp_path / "given"], "masks")
    assert from_value.first.provenance[-1]["config"]["background"]["chosen_on"] == "given"
    for name in from_eval.ids:
        np.testing.assert_array_equal(from_eval.item(name).datasets["mask"], from_value.item(name).datasets["mask"])
    run_ok("eval", cams, "--json", "-o", tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(eval_path.read_text())


def test_uncertain_pixels_are_ignored(crf, tmp_path):
    run_ok("pseudo", crf, "--min-confidence", "1", "-o", tmp_path / "masks")
    masks, maps = Run([tmp_path / "masks"], "masks"), Run([crf], "cams")
    num_ignored = 0
    for name in maps.ids:
        item, strongest = masks.item(name), maps.item(name).datasets["cam"].max(axis=0)
        is_uncertain = strongest.astype(np.float32) / 255 < 1
        np.testing.assert_array_equal(item.datasets["mask"] == 255, is_uncertain)
        np.testing.assert_array_equal(item.datasets["confidence"], strongest)
        num_ignored += is_uncertain.sum()
    assert num_ignored > 0


def test_paths_from_stdin(wsss, cams):
    lines = "".join(f"{path}\n" for path in sorted(cams.glob("*.h5")))
    done = wsss("pseudo", "-o", "masks", input=lines)
    assert (done.code, done.out) == (0, list_shard_lines(Path("masks"), "masks"))
    for words, text in ((("-",), lines), (("-", "-0"), lines.replace("\n", "\0"))):
        again = wsss("pseudo", *words, "-o", "masks", input=text)
        assert (again.code, again.out) == (0, list_shard_lines(Path("masks"), "masks"))
        assert "up to date" in again.err
    check_error(wsss("pseudo", "-", "-o", "masks", input=""), 66, "no input")


@pytest.fixture(scope="module")
def run_with_missing_part(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return CAMs in three parts, the second of which is missing."""
    folder = tmp_path_factory.mktemp("hole") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, "--shard-size", "5", "-j", "1", *SMALL)
    (folder / "cams-00001-of-00003.h5").unlink()
    return folder


def test_missing_part_is_skipped_and_reported(run_with_missing_part, tmp_path):
    done = run("pseudo", run_with_missing_part, "-o", tmp_path / "masks", "-j", "1")
    assert done.code == 66
    assert "part 1" in done.err
    assert [Path(line).name for line in done.out.split()] == ["masks-00000-of-00003.h5", "masks-00002-of-00003.h5"]
    check_error(run("eval", run_with_missing_part), 66, "part 1")


@pytest.mark.parametrize(("task", "parts"), [("0/2", [0, 2]), ("1/2", []), ("2/3", [2]), ("3/4", [])])
def test_task_makes_its_own_parts(run_with_missing_part, tmp_path, task, parts):
    printed = run_ok("pseudo", run_with_missing_part, "--task", task, "-o", tmp_path / "masks", "-j", "1")
    assert [int(Path(line).name[6:11]) for line in printed] == parts


def test_two_processes_give_same_shards(tiny_index, tiny_net, run_with_missing_part, tmp_path):
    printed = run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "cams", "--shard-size", "5", "-j",
                     "2", *SMALL)
    assert sorted(printed) == [str(tmp_path / "cams" / f"cams-{part:05d}-of-00003.h5") for part in range(3)]
    for path in run_with_missing_part.glob("*.h5"):
        assert path.read_bytes() == (tmp_path / "cams" / path.name).read_bytes()


def test_ground_truth_is_recorded_as_full_supervision(tiny_index, tmp_path):
    run_ok("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", tmp_path / "seg.safetensors")
    description = json.loads("\n".join(run_ok("info", tmp_path / "seg.safetensors", "--json")))[0]
    assert "full supervision" in description["supervision"]


def test_ground_truth_has_no_confidence(tiny_index, tmp_path):
    for loss in ("confidence", "balanced-confidence"):
        check_error(run("train-seg", tiny_index, "--masks", "truth", "--loss", loss, *TRAINING, "-o",
                        tmp_path / "seg.safetensors"), 2, f"--loss {loss}", "needs masks with a confidence")


def test_log_path(cams, tmp_path):
    log = tmp_path / "new" / "log" / "mine.jsonl"
    run_ok("pseudo", cams, "-o", tmp_path / "masks", "--log", log)
    assert json.loads(log.read_text().splitlines()[-1])["path"].startswith("masks-")
    assert not list((tmp_path / "masks").glob("*.jsonl"))
    (tmp_path / "file").touch()
    done = run("pseudo", cams, "-o", tmp_path / "masks", "-f", "--log", tmp_path / "file" / "log")
    assert done.code == 73 and "can't be written by --log (its folder is a file)" in done.err


@pytest.mark.parametrize("loss", ["balanced", "confidence", "balanced-confidence"])
def test_losses_train_on_pseudo_masks(tiny_index, crf, tmp_path, loss):
    run_ok("pseudo", crf, "-o", tmp_path / "masks")
    run_ok("train-seg", tiny_index, "--masks", tmp_path / "masks", "--loss", loss, "--mu", "0.5", *TRAINING, "-o",
           tmp_path / "seg.safetensors")
    description = json.loads("\n".join(run_ok("info", tmp_path / "seg.safetensors", "--json")))[0]
    assert description["supervision"] == "pseudo masks (tags)"
    assert [entry["stage"] for entry in description["provenance"]] == ["index", "cams", "refine", "pseudo", "train-seg"]


