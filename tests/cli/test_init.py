"""`wsss init`: a Makefile that runs, for every method, with odd paths, and that never replaces what is there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.runner import check_error, run, run_ok
from conftest import ROOT
from stages.init.chosen_settings import choose_settings
from stages.init.config import METHODS
from stages.init.estimate import estimate_minutes
from tiny_datasets import TinyDataset


def plan(folder: Path, *words: str) -> list[list[str]]:
    """Return the wsss commands that make would run, as words."""
    done = subprocess.run(["make", "-n", *words], cwd=folder, capture_output=True, text=True, check=True)
    text = done.stdout.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("wsss ")]


def list_stages(commands: list[list[str]]) -> list[str]:
    return [" ".join(word for word in command[:2] if "." not in word and word not in ("maps", "refined", "walked"))
            for command in commands]


@pytest.fixture
def photos(tiny_dataset: TinyDataset, tmp_path: Path) -> Path:
    """Return a folder whose name needs quotes, with photographs and a table of tags."""
    folder = tmp_path / "my photo's $HOME #1"
    shutil.copytree(tiny_dataset.root / "JPEGImages", folder)
    shutil.copy(tiny_dataset.root / "labels.csv", folder / "tags 1.csv")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_the_plan_of_every_method(method, photos, tmp_path):
    done = run("init", tmp_path / "pets", "--images", photos, "--tags", photos / "tags 1.csv", "--method", method)
    assert done.code == 0, done.err
    assert "on this machine (" in done.err and "Now run: make -C" in done.err
    commands = plan(tmp_path / "pets")
    learnt = {"cam": ["train-cls cam", "cams cnn"], "clip-es": ["cams clip-es"],
              "affinity": ["train-cls cam", "cams cnn", "train-aff psa", "refine psa"]}[method]
    assert list_stages(commands) == ["index table", "index split", *learnt, "refine crf", "pseudo", "train-seg",
                                     "segment net", "report", "explain"]
    assert commands[0][2:5] == ["../my photo's $HOME #1/tags 1.csv", "--images", "../my photo's $HOME #1"]
    weights = {"clip-es": "openai"}.get(method, "IMAGENET1K_V1")
    assert any(weights in command for command in commands)
    for command in commands:
        checked = run(*command[:1 + (len(command) > 1 and command[1] in ("table", "split", "cam", "cnn", "psa", "crf",
                                                                        "net", "clip-es"))], "--help")
        unknown = [word for word in command if word.startswith("--") and word not in checked.out]
        assert not unknown, unknown


def test_truth_scores_and_no_holdout(tiny_dataset, tmp_path):
    root = tiny_dataset.root
    more = ("--images", root / "JPEGImages", "--tags", root / "labels.csv")
    run_ok("init", tmp_path / "a", *more, "--masks", root / "SegmentationClass")
    assert "eval predictions" in list_stages(plan(tmp_path / "a"))
    run_ok("init", tmp_path / "b", *more, "--holdout", 0)
    stages = list_stages(plan(tmp_path / "b"))
    assert "index split" not in stages and "segment net" not in stages and "train-seg" in stages


def test_the_whole_chain_runs_and_resumes(tmp_path, tiny_dataset):
    folder, root = tmp_path / "pets", tiny_dataset.root
    run_ok("init", folder, "--images", root / "JPEGImages", "--tags", root / "labels.csv", "--holdout", 0.3,
           "--weights", "random")
    small = ["NET=--net wsss:tiny --crop-size 32 --device cpu --threads 1 --batch-size 4", "EPOCHS=1", "SEG_EPOCHS=1",
             f"WSSS={sys.executable} -m wsss_cli", "--no-print-directory"]
    text = (folder / "Makefile").read_text().replace("--weights $(WEIGHTS) ", "--keep-going ").replace("-o maps", (
        "--scales 1 -j 1 -o maps"))
    (folder / "Makefile").write_text(text.replace("refine crf maps --preset irn --background $(BACKGROUND)",
                                                  "refine pamr maps -j 1"))
    done = subprocess.run(["make", *small, "steps/predictions", "explain"], cwd=folder, capture_output=True, text=True,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "photographs: cat" in done.stdout and "predictions:" in done.stdout
    assert plan(folder, *small[:-2], "steps/predictions") == []
    subprocess.run(["make", "clean-refined"], cwd=folder, check=True, capture_output=True)
    assert not (folder / "masks").exists() and not (folder / "network.safetensors").exists()
    assert (folder / "maps").exists()
    assert list_stages(plan(folder, "steps/masks")) == ["refine pamr", "pseudo"]
    unknown = subprocess.run(["make", "clean-nothing"], cwd=folder, capture_output=True, text=True, check=False)
    assert unknown.returncode and "no result is called nothing" in unknown.stderr


def test_nothing_is_replaced(photos, tmp_path):
    words = ("init", tmp_path / "pets", "--images", photos, "--tags", photos / "tags 1.csv")
    run_ok(*words)
    (tmp_path / "pets" / "Makefile").write_text("mine")
    check_error(run(*words), 73, "pets/Makefile", "already exists", "--force")
    assert (tmp_path / "pets" / "Makefile").read_text() == "mine"
    run_ok(*words, "--force")
    (tmp_path / "file").write_text("")
    check_error(run("init", tmp_path / "file", *words[2:]), 73, "is a file")


@pytest.mark.parametrize(("words", "code", "texts"), [
    (("pets",), 2, ("--images",)),
    (("pets", "--images", "none"), 66, ("none",)),
    (("pets", "--images", "photos"), 65, ("photos", "no photograph has a tag", "--tags")),
    (("pets", "--images", "photos", "--tags", "none.csv"), 66, ("none.csv",)),
    (("pets", "--images", "photos", "--masks", "photos"), 2, ("--masks needs a table of tags",)),
    (("pets", "more", "--images", "photos"), 2, ("one folder",)),
    (("pets", "--images", "photos", "--tags", "photos/tags 1.csv", "--mean", "0.5,0.5,0.5"), 2, ("--mean and --std",)),
    (("pets", "--images", "photos", "--tags", "photos/tags 1.csv", "--method", "psa"), 2, ("psa",))])
def test_what_can_not_be_begun(words, code, texts, photos, tmp_path):
    photos.rename(tmp_path / "photos")
    check_error(run("init", *words, cwd=tmp_path), code, *texts)
    assert not (tmp_path / "pets").exists()


def test_settings_that_suit_the_number_of_photographs():
    assert choose_settings(100).lr < choose_settings(1000).lr
    assert choose_settings(20).epochs == choose_settings(100).epochs >= choose_settings(471).epochs
    assert choose_settings(471).epochs > choose_settings(10_000).epochs
    assert choose_settings(1).shard_size == 1 and choose_settings(10**6).shard_size == 1000


def test_the_estimate_grows_with_the_work():
    one = estimate_minutes({"classifier": 100, "maps": 10}, 0.1e6, 0.04, 1)
    assert estimate_minutes({"classifier": 100, "maps": 10}, 0.4e6, 0.04, 1)["maps"] == pytest.approx(4 * one["maps"])
    assert estimate_minutes({"classifier": 200, "maps": 10}, 0.1e6, 0.04, 4)["classifier"] == pytest.approx(
        one["classifier"])
