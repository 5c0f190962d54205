"""Pictures and tables never replace a shard, a network or a user's photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from cli.runner import SMALL, TRAINING, check_error, run, run_ok
from tiny_datasets import TinyDataset


@pytest.mark.parametrize("command", ["eval", "eval -n", "show", "show -n", "cluster finch"])
def test_shards_and_networks_are_not_replaced_by_pictures_or_tables(command: str, tiny_index: Path, tiny_net: Path,
                                                                    tmp_path: Path) -> None:
    for original in (tiny_index, tiny_net):
        path = Path(shutil.copy(original, tmp_path))
        before = path.read_bytes()
        option = ("-o", tmp_path / "c.h5", "--sheet") if "cluster" in command else ("-o",)
        done = run(*command.split(), tiny_index, *option, path)
        message = "is the name of a shard or a network" if command.startswith("eval") else "does not end in .png"
        check_error(done, 2, f"{option[-1]} {path} {message}")
        assert path.read_bytes() == before


@pytest.mark.parametrize("option", ["--log", "--profile"])
def test_logs_are_not_appended_to_other_files(option: str, tiny_index: Path, tiny_net: Path, tmp_path: Path) -> None:
    table = tmp_path / "tags.csv"
    table.write_text("id,labels\na,cat\n")
    others = [table, *(Path(shutil.copy(path, tmp_path)) for path in (tiny_index, tiny_net))]
    before = {path: path.read_bytes() for path in others}
    command = ("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    for path, message in ((table, "does not hold lines of JSON"), (others[1], "is the name of a shard or a network"),
                          (others[2], "is the name of a shard or a network"), (tmp_path, "is a folder"),
                          (table / "log.jsonl", "can't be written"), (Path("/proc/none/log"), "can't be written")):
        check_error(run(*command, option, path), 73, str(path), message, option)
    assert before == {path: path.read_bytes() for path in others}
    assert not (tmp_path / "cams").exists()
    log = tmp_path / "new" / "log.jsonl"
    run_ok(*command, option, log, "-n")
    assert not log.parent.exists()
    run_ok(*command, option, log)
    run_ok(*command, option, log, "--force")
    assert log.read_text().count("cams-00000-of-00001.h5") == 2


def test_summaries_replace_only_summaries(tiny_dataset: TinyDataset, tmp_path: Path) -> None:
    table, summary = tmp_path / "tags.csv", tmp_path / "summary.json"
    table.write_text("id,labels\na,cat\n")
    command = ("index", "voc", tiny_dataset.root, "--split", "train", "-o", tmp_path / "index.h5", "--summary-json")
    check_error(run(*command, table), 73, str(table), "does not hold JSON")
    assert table.read_text().startswith("id,labels")
    for _ in range(2):
        run_ok(*command, summary, "--force")
    assert summary.read_text().startswith("{")


def test_photographs_are_not_replaced_by_their_overlays(tiny_dataset: TinyDataset, tiny_index: Path,
                                                        tmp_path: Path) -> None:
    net, photos = tmp_path / "seg.safetensors", tmp_path / "photos"
    run_ok("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", net)
    photos.mkdir()
    for name in tiny_dataset.ids[:2]:
        Image.open(tiny_dataset.root / "JPEGImages" / f"{name}.jpg").save(photos / f"{name}.png", compress_level=1)
    before = {path: path.read_bytes() for path in photos.iterdir()}
    words = ("segment", "net", *sorted(before), "--net", net, *SMALL, "-o")
    for more in ((), ("-n",), ("--force",)):
        check_error(run(*words, photos, *more), 2, "is an input image that its overlay would replace")
    jpeg = tiny_dataset.root / "JPEGImages" / f"{tiny_dataset.ids[0]}.jpg"
    other = ("segment", "net", jpeg, "--net", net, *SMALL, "-o", photos)
    check_error(run(*other), 73, f"{tiny_dataset.ids[0]}.png: already exists")
    assert before == {path: path.read_bytes() for path in photos.iterdir()}
    run_ok(*other, "--force")
    run_ok(*other)
    assert (photos / f"{tiny_dataset.ids[0]}.png").read_bytes() != before[photos / f"{tiny_dataset.ids[0]}.png"]
    run_ok(*words, tmp_path / "masks")


@pytest.mark.parametrize("words", [("cooc",), ("merge",), ("index", "split", "--single"), ("cams", "cnn"),
                                   ("train-cls", "cam")])
def test_an_input_is_not_replaced_by_the_output(words, tiny_index, tiny_net, tmp_path):
    index, net = (Path(shutil.copy(path, tmp_path)) for path in (tiny_index, tiny_net))
    before = {path: path.read_bytes() for path in (index, net)}
    more = {"cams": ("--net", net, *SMALL), "train-cls": ("--weights", net, *TRAINING)}.get(words[0], ())
    output = net if words[0] == "train-cls" else index
    line = check_error(run(*words, index, *more, "--force", "-o", output), 2, f"-o {output} is also an input")
    assert line.endswith("Choose another --output.")
    assert before == {path: path.read_bytes() for path in before}


def test_an_input_run_is_not_replaced_by_the_output(tiny_index, tiny_net, tmp_path):
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    before = (tmp_path / "cams" / "cams-00000-of-00001.h5").read_bytes()
    words = ("refine", "pamr", tmp_path / "cams", "-o", tmp_path / "cams")
    check_error(run(*words), 73, "exists with different settings")
    check_error(run(*words, "--force"), 2, "is both the input and the output")
    assert (tmp_path / "cams" / "cams-00000-of-00001.h5").read_bytes() == before
