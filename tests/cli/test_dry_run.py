"""`-n` of every command that writes: it tells what would be done and what is up to date, and touches nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from cli.conftest import TRAINING
from cli.runner import SMALL, good, run
from cli.test_mctformer import SMALL as MCTFORMER
from cli.test_segment_text import QUICK
from cli.test_train_text import CAPTIONS, SHORT, archive_of
from conftest import Result
from data.test_benchmarks import PLACES, save
from data.test_webdataset import archive, picture
from seeded_clip import Recipe
from wsss_cli.app import app

TINY = " ".join(TRAINING)
SEEDED = "--clip seeded.json --weights seeded.pt --device cpu"
CLIP = f"{SEEDED} --template {{}} {' '.join(QUICK[2:])}"
# The words of each command, in the folder of `place`.
COMMANDS = {
    "index voc": "set --split train --labels set/labels.csv --class-names set/classes.txt -o OUT.h5",
    "index table": "set/labels.csv --images set/JPEGImages -o OUT.h5",
    "index coco": "coco.json --images set/JPEGImages -o OUT.h5",
    "index folder": "folders -o OUT",
    "index webdataset": "captions.tar -o OUT.h5",
    **{f"index {name}": f"{name} -o OUT.h5" for name in PLACES},
    "index split": "train.h5 --single -o OUT.h5",
    "cooc": "train.h5 -o OUT.h5 --plot OUT.png",
    "features": "train.h5 --net net.safetensors --device cpu -o OUT",
    "cluster finch": "features -o OUT.h5 --sheet OUT.png",
    "cluster kmeans": "features --clusters 2 -o OUT.h5",
    **{f"train-cls {name}": f"train.h5 {TINY} -o OUT.safetensors" for name in ("cam", "mixup", "fmix")},
    "train-cls manifold-mixup": f"train.h5 --mix-at input {TINY} -o OUT.safetensors",
    "train-cls subcategory": f"train.h5 --clusters clusters.h5 {TINY} -o OUT.safetensors",
    "train-cls mctformer": f"train.h5 {' '.join(MCTFORMER)} -o OUT.safetensors",
    "train-cls csd": f"train.h5 --base cam --cooc cooc.h5 --masks masks {TINY} -o OUT.safetensors",
    "cams cnn": "train.h5 --net net.safetensors --device cpu --shard-size 5 -j 1 -o OUT",
    "cams clip-es": f"train.h5 {SEEDED} -o OUT --save-raw OUT-raw",
    "cams mctformer": "train.h5 --net mctformer.safetensors --device cpu -o OUT",
    "cams gradcam": "train.h5 --net net.safetensors --layer features.2 --device cpu -o OUT",
    "train-aff psa": f"train.h5 --cams cams --radius 2 {TINY.replace('--long-side 32,48', '')} -o OUT.safetensors",
    "train-aff irn": f"train.h5 --cams cams --radius 4 {TINY.replace('--long-side 32,48', '')} -o OUT.safetensors",
    "refine crf": "cams -o OUT",
    "refine psa": "cams --net psa.safetensors --device cpu -o OUT",
    "refine irn": "cams --net irn.safetensors --device cpu -o OUT",
    "refine pamr": "cams --device cpu -o OUT",
    "pseudo": "cams -o OUT",
    "train-seg": f"train.h5 --masks masks {TINY.replace('--long-side 32,48', '')} -o OUT.safetensors",
    **{f"train-text {name}": f"captions.h5 --clip seeded.json --weights seeded.pt {' '.join(SHORT)} -o OUT.safetensors"
       for name in ("tcl", "code")},
    "segment net": "train.h5 --net seg.safetensors --device cpu -o OUT --scores OUT-scores",
    **{f"segment {name}": f"train.h5 {CLIP} -o OUT --scores OUT-scores"
       for name in ("naclip", "sclip", "clearclip", "maskclip")},
    **{f"segment {name}": f"train.h5 --net {name}.safetensors --device cpu {' '.join(QUICK[2:])} -o OUT"
       for name in ("tcl", "code")},
    "merge": "parts -o OUT.h5",
    "segment proxyclip": f"train.h5 {CLIP} --proxy wsss:tiny --proxy-weights random -o OUT",
    "eval": "cams -o OUT.json",
    "show": "cams masks -o OUT.png",
    "export png": "masks -o OUT",
    "export voc": "masks -o OUT",
    "setup nltk": "--from tagger.zip -o OUT",
}
READERS = {"prompts", "info"}  # and have no -n
WRITERS_TRIED_ELSEWHERE = {"check"}  # with --repair, in test_repair.py: it ends with 65
# One of each way in which a command finds that its output is up to date. `eval` and `show` never do.
MADE = ("index voc", "index folder", "index split", "cooc", "features", "cluster finch", "train-cls cam", "cams cnn",
        "cams clip-es", "segment net", "merge", "export png", "export voc", "setup nltk")


@pytest.fixture(scope="module")
def place(tiny_folder, tmp_path_factory) -> Path:
    """Return a folder with everything that COMMANDS name. Not to be changed but below what OUT becomes."""
    folder = tmp_path_factory.mktemp("dry")
    shutil.copytree(tiny_folder.root, folder / "set")
    shutil.copytree(tiny_folder.root / "JPEGImages", folder / "folders" / "cat")
    for name, (image, mask, values, _) in PLACES.items():
        save(folder / name / image.format("bonn/bonn_0"), np.array([values], np.uint8), image=True)
        save(folder / name / mask.format("bonn/bonn_0"), np.array([values], np.uint8))
    (folder / "coco.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": f"{tiny_folder.ids[0]}.jpg"}], "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1}]}))
    archive(folder / "captions.tar", k1__png=picture(10), k1__txt=b"A red cat")
    archive_of(folder)
    Recipe(99, 64, 3, 1, 64, 64, 2, 1).write(folder)
    (folder / "captions.csv").write_text("\n".join(("id,caption", *CAPTIONS)))
    for number in range(6):
        save(folder / f"images/p{number}.png", np.zeros((40, 50)), image=True)
    for words in (
            "index table set/labels.csv --images set/JPEGImages --masks set/SegmentationClass -o train.h5",
            "index table captions.csv --images images -o captions.h5", "cooc train.h5 -o cooc.h5",
            f"train-cls cam train.h5 {TINY} -o net.safetensors",
            f"cams cnn train.h5 --net net.safetensors {' '.join(SMALL)} -o cams", "pseudo cams -o masks",
            "features train.h5 --net net.safetensors --device cpu -o features",
            "cluster finch features -o clusters.h5",
            f"cams cnn train.h5 --net net.safetensors {' '.join(SMALL)} --shard-size 4 -j 1 -o parts",
            *(f"train-text {name} {COMMANDS[f'train-text {name}'].replace('OUT', name)}" for name in ("tcl", "code")),
            f"train-cls mctformer {COMMANDS['train-cls mctformer'].replace('OUT', 'mctformer')}",
            f"train-seg {COMMANDS['train-seg'].replace('OUT', 'seg')}",
            *(f"train-aff {name} {COMMANDS[f'train-aff {name}'].replace('OUT', name)}" for name in ("psa", "irn"))):
        good(*words.split(), "-q", cwd=folder)
    return folder


def commands_of(command: Any, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every command by its words."""
    if not hasattr(command, "commands"):
        return {" ".join(words): command}
    return {name: one for word, below in command.commands.items() for name, one in
            commands_of(below, (*words, word)).items()}


def state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return what any change to a folder would change: times, sizes and numbers of files and folders."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        told = path.stat()
        found[path] = (told.st_mtime_ns, told.st_size if path.is_file() else 0, told.st_ino)
    return found


def dry(name: str, words: str, folder: Path) -> Result:
    """Run a command with -n, and check that it changed nothing."""
    before = state(folder)
    done = run(*name.split(), *words.split(), "-n", cwd=folder)
    assert done.code == 0, done.err
    changed = [str(path) for path, told in state(folder).items() if before.get(path) != told]
    assert state(folder) == before, changed
    return done


def test_every_command_that_writes_has_it_and_is_tried_here():
    commands = commands_of(typer.main.get_command(app))
    assert {name for name, one in commands.items() if any("-n" in param.opts for param in one.params)} == {
        *COMMANDS, *WRITERS_TRIED_ELSEWHERE}
    assert set(commands) - set(COMMANDS) - WRITERS_TRIED_ELSEWHERE == READERS
    assert not [name for name in READERS if any("-o" in param.opts for param in commands[name].params)]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_would_be_done_is_told_and_not_done(place, name):
    if name in ("train-aff irn", "train-aff psa", "refine crf"):
        pytest.importorskip("pydensecrf")
    done = dry(name, COMMANDS[name].replace("OUT", "new"), place)
    assert "would " in done.err
    assert done.out == ""


@pytest.mark.parametrize("name", MADE)
def test_what_is_up_to_date_is_told_and_not_touched(place, name):
    words = COMMANDS[name].replace("OUT", f"made-{name.replace(' ', '-')}")
    made = good(*name.split(), *words.split(), "-q", cwd=place)
    done = dry(name, words, place)
    assert "up to date" in done.err and "would " not in done.err
    assert done.out.splitlines() == ([] if name == "cooc" else made)


def test_of_a_run_that_is_there_in_part_the_rest_is_told(place):
    for name in ("cams cnn", "segment net"):
        words = COMMANDS[name].replace("OUT", f"part-{name.replace(' ', '-')}")
        more = "" if "--shard-size" in words else " --shard-size 5"
        good(*name.split(), *words.split(), *more.split(), "--task", "1/3", "-q", cwd=place)
        done = dry(name, words + more, place)
        assert "-00001-of-00003.h5 is up to date" in done.err
        assert [f"would make part-{name.replace(' ', '-')}" in line for line in done.err.splitlines()].count(True) >= 2
        assert len(done.out.splitlines()) == 1


def test_image_files(place):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(place / "photo.png")
    for name, words in (("segment net", "photo.png --net seg.safetensors --device cpu -o pictures"),
                        ("cams clip-es", f"photo.png {SEEDED} --names voc --tags all -o maps")):
        assert "would " in dry(name, words, place).err
        made = good(*name.split(), *words.split(), "-q", cwd=place)
        done = dry(name, words, place)
        assert done.out.splitlines() == made
        assert "up to date" in done.err


def test_another_output_in_the_way_is_told_as_it_would_be(place):
    for name in ("cams cnn", "index split", "cooc", "export png"):
        output = f"other-{name.replace(' ', '-')}"
        words = COMMANDS[name].replace("OUT", output)
        good(*name.split(), *words.split(), "-q", cwd=place)
        changed = {"cams cnn": "--no-flip", "index split": "--multi", "cooc": "--diagonal zero", "export png": ""}[name]
        words = words.replace("--single", "") + " " + changed
        if name == "export png":
            next((place / output).glob("*.png")).write_bytes(b"other")
        before = state(place)
        done = run(*name.split(), *words.split(), "-n", cwd=place)
        assert done.code == 73, (name, done.err)
        assert state(place) == before
