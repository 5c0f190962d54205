"""`wsss log`: trainings and runs, finished, in the making and interrupted; tables, curves, and --follow."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from cli.conftest import TRAINING
from cli.runner import check_error, run, run_ok
from conftest import CommandLine
from stages.shards import Journal
from stages.shards.disk import is_locked_on_this_machine
from stages.shards.journal import encode_frame
from waiting import wait_until

EPOCHS = [{"epoch": epoch, "step": 3 * epoch, "seconds": 60.0, "lr": 0.1 / epoch, "loss": 1 / epoch, "map": 0.5}
          for epoch in (1, 2, 3)]


def write_log(path: Path, *lines: dict) -> Path:
    """Write lines of JSON to a log."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def describe(*paths: Path) -> list[dict]:
    """Return what --format json prints."""
    return json.loads("\n".join(run_ok("log", *paths, "--format", "json")))


def test_a_network_shows_its_settings_epochs_and_curves(tiny_net):
    lines = run_ok("log", tiny_net)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= max(80, len(str(tiny_net)))
    assert "wsss train-cls cam" in text and "finished" in text and "crop_size=32" in text
    assert "1 logged of 1 epochs" in text and "map: mean average precision" in text
    description, = describe(tiny_net)
    logged = [json.loads(line) for line in tiny_net.with_suffix(".log.jsonl").read_text().splitlines()]
    assert description["lines"] == logged
    assert (description["state"], description["settings"]["epochs"]) == ("finished", 1)


def test_a_log_alone_is_shown_with_what_is_unknown(tmp_path):
    log = write_log(tmp_path / "a.log.jsonl", *EPOCHS)
    text = "\n".join(run_ok("log", log))
    assert "3 min 0 s" in text and "start" in text and "not recorded" in text
    assert "The log has no settings" in " ".join(text.split())
    assert describe(log)[0]["seconds"] == 180


def test_tables_have_one_row_per_epoch_of_each_network(tmp_path):
    first, second = (write_log(tmp_path / f"{name}.log.jsonl", *EPOCHS) for name in ("a", "b"))
    rows = list(csv.DictReader(run_ok("log", first, second, "--format", "csv")))
    assert [(row["path"], row["step"]) for row in rows] == [
        (str(log), str(line["step"])) for log in (first, second) for line in EPOCHS]
    assert [float(row["loss"]) for row in rows[:3]] == [line["loss"] for line in EPOCHS]
    header, *_ = run_ok("log", first, "--format", "tsv")
    assert header.split("\t") == ["path", "epoch", "step", "seconds", "loss", "map", "lr"]


def test_lines_that_older_versions_or_a_kill_left_are_understood(tmp_path):
    log = write_log(tmp_path / "a.log.jsonl", *EPOCHS, {"step": 3, "loss": 0.75}, {"step": 6, "loss": float("nan")})
    with log.open("a") as stream:
        stream.write('[1]\nnull\n{"epoch": 3, "st')
    description, = describe(log)
    assert [line["step"] for line in description["lines"]] == [3, 6] and description["num_trainings"] == 2
    assert description["seconds"] is None and "nan" in "\n".join(run_ok("log", log))


def test_curves_are_written_as_a_picture(tmp_path):
    logs = [write_log(tmp_path / f"{name}.log.jsonl", *EPOCHS) for name in ("a", "b")]
    assert run_ok("log", *logs, "-o", tmp_path / "curves.png") == [str(tmp_path / "curves.png")]
    run_ok("show", *logs, "-o", tmp_path / "show.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert "Would draw" in run("log", *logs, "-n", "-o", tmp_path / "x.png").err and not (tmp_path / "x.png").exists()
    check_error(run("log", logs[0], "-o", tmp_path / "x.txt"), 2, "x.txt", ".png")


def test_a_run_shows_its_parts_and_failed_images(maps):
    description, = describe(maps)
    assert (description["state"], description["images"], description["failed"]) == ("finished", 12, 0)
    assert description["stage"] == "cams cnn" and description["settings"]["scales"] == [1.0]
    assert description["seconds"] == sum(part["seconds"] for part in description["parts"])
    assert "1 of 1 parts done" in "\n".join(run_ok("log", maps))
    assert describe(maps / "log.jsonl")[0]["parts"] == description["parts"]
    check_error(run("log", maps, "-o", "x.png"), 2, "only runs were given")


def test_a_run_without_its_log_says_that_the_times_are_those_of_the_files(maps, tmp_path):
    shutil.copytree(maps, tmp_path / "cams")
    (tmp_path / "cams" / "log.jsonl").unlink()
    description, = describe(tmp_path / "cams")
    assert description["seconds"] is None and "does not exist, so the times" in description["notes"][0]


def test_an_unfinished_part_is_counted_by_its_journal(tmp_path):
    shard = tmp_path / "cams" / "cams-00001-of-00003.h5"
    shard.parent.mkdir()
    journal = Journal(Path(f"{shard}.part"), {"stage": "cams", "method": "cnn", "config": {"scales": [1.0]}})
    description, = describe(shard.parent)
    assert (description["state"], description["num_missing"]) == ("running", 2)
    assert description["settings"] == {"scales": [1.0]}
    journal.close()
    image = encode_frame(b"an image")
    for frames, num_images in ((b"", 0), (b"WSJ1 torn", 0), (image, 1), (image + image[:-1], 1), (2 * image, 2)):
        Path(f"{shard}.part").write_bytes(encode_frame(b'{"stage": "cams", "config": {}}') + frames)
        description, = describe(shard.parent)
        assert (description["state"], description["images"]) == ("unfinished", num_images)
        assert description["parts"][0]["failed"] is None
    assert not is_locked_on_this_machine(Path(f"{shard}.part"))


@pytest.mark.parametrize(("name", "code", "words"), [
    ("missing.safetensors", 66, "no training is writing it"), ("missing.jsonl", 66, "does not exist"),
    ("missing", 66, "does not exist"), ("folder", 65, "neither shards"), ("notes.txt", 65, "neither a run"),
    ("bad.safetensors", 65, "damaged"), ("bad.jsonl", 65, "no line of a training"), ("bad.h5", 65, "bad.h5")])
def test_other_inputs_are_named(name, code, words, tmp_path):
    (tmp_path / "folder").mkdir()
    for bad in ("notes.txt", "bad.safetensors", "bad.jsonl", "bad.h5"):
        (tmp_path / bad).write_text("hello\n")
    check_error(run("log", tmp_path / name), code, name, words)


def test_a_network_without_its_log_is_shown_but_has_no_curves(tiny_net, tmp_path):
    net = shutil.copy(tiny_net, tmp_path / "moved.safetensors")
    assert "If the training wrote its log elsewhere (--log)" in " ".join("\n".join(run_ok("log", net)).split())
    check_error(run("log", net, "-o", tmp_path / "curves.png"), 66, "moved.safetensors", "--log")


def test_contradicting_options_are_rejected(tiny_net, maps):
    check_error(run("log", tiny_net, maps, "--format", "tsv"), 2, "both were given")
    check_error(run("log", tiny_net, maps, "--follow"), 2, "one training or run")
    check_error(run("log", tiny_net, "-n"), 2, "-o is missing")


def test_following_something_finished_prints_all_of_it_and_ends(tiny_net, maps):
    assert len(run_ok("log", tiny_net, "--follow")) == 1
    assert run_ok("log", maps, "--follow")[0].startswith("cams-00000-of-00001.h5: done, 12 images, 0 failed")


def test_a_training_is_followed_until_it_is_stopped_and_after_it_was_resumed(tiny_index, wsss: CommandLine):
    command = ("train-cls", "cam", tiny_index, *TRAINING, "--epochs", "30", "-o", "net.safetensors", "-q")
    log = wsss.cwd / "net.log.jsonl"
    training = wsss.start(*command)
    assert wait_until(lambda: log.exists(), training)
    training.send_signal(signal.SIGTERM)
    assert training.wait() == 75
    interrupted, = describe(wsss.cwd / "net.safetensors")
    assert interrupted["state"] == "unfinished" and interrupted["settings"]["epochs"] == 30
    assert interrupted["step"] >= 3 * len(interrupted["lines"])
    follower = wsss.start("log", "net.safetensors", "--follow", "--interval", "0.05")
    assert wsss(*command).code == 0
    out, _ = follower.communicate()
    assert follower.returncode == 0
    lines = out.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", str(epoch)] for epoch in range(1, 31)]


def test_following_ends_at_a_signal(tmp_path, wsss: CommandLine):
    log = write_log(tmp_path / "a.log.jsonl", *EPOCHS)
    follower = wsss.start("log", log, "--follow", "--interval", "0.05")
    assert follower.stdout.readline().startswith("epoch 1")
    # Another file takes the place of the log.
    os.replace(write_log(tmp_path / "b", *EPOCHS, {"epoch": 4, "step": 12, "loss": 0.1}), log)
    assert [follower.stdout.readline().split()[1] for _ in range(3)] == ["2", "3", "4"]
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate()
    assert follower.returncode == 75 and "stopped by a signal" in err
