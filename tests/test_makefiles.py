"""The Makefiles of the examples: `make -j` makes everything once, a second `make` nothing, and a change what follows.

What stands for `wsss` here writes its output, and fails as it does where two are at work on one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from waiting import PATIENCE

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RESULT = {"miou": 0.5, "images": 2, "background": {"rule": "constant", "value": 0.3, "chosen_on": "given"}}
STAND_IN = """#!/bin/bash
echo "$*" >> "{log}"
command=$1
while [ "$#" -gt 0 ]; do [ "$1" != -o ] || out=$2; shift; done
[ -n "$out" ] || exit 0
mkdir -p "$(dirname "$out")"
mkdir "$out.busy" || exit 75
sleep 0.02
case $out in
  *.json) cp "{result}" "$out" ;;
  *.*) touch "$out" ;;
  *) mkdir -p "$out"; touch "$out/$command.h5" ;;
esac
rmdir "$out.busy"
echo "$out"
"""
TARGETS = {
    "demo": ["all"], "voc920": ["all", "ceiling", "seeds", "table"], "msrc": ["all", "seeds"],
    "mixing": ["table1", "table2-cam", "table"], "csd": ["table1", "table2", "val", "figure6", "table"],
    "clip-es": ["table1-dcrf", "table2-mhsa-multi", "table4", "tableS1-rn50", "tableS1-sharpness", "tableS3",
                "table5", "table7-cross-entropy-on-coco"],
    "image-text": ["table41-tcl", "table42-c", "table42-c-w-r", "training-free-sclip", "training-free-proxyclip"]}


@dataclass(frozen=True)
class Example:
    """A folder of examples, whose output goes to `root`/out."""

    name: str
    root: Path

    def make(self, *words: str) -> list[str]:
        """Run make with -j, which must end with 0, and return the calls of wsss."""
        log = self.root / "calls"
        log.write_text("")
        images = self.root / "coco.json"
        images.write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1}]}))
        own = {"image-text": [f"TRAIN={self.root / 'wsss'}"], "clip-es": [
            f"COCO_TRAIN={images}", f"COCO_VAL={images}", "COCO_TRAIN_COUNT=1", "COCO_VAL_COUNT=1"]}
        done = subprocess.run(
            ["make", "-j", "4", "-C", EXAMPLES / self.name, f"OUT={self.root / 'out'}", f"WSSS={self.root / 'wsss'}",
             f"PYTHON={sys.executable}", f"DATA={self.root / 'out' / 'pictures'}", "WEIGHTS=w.pth", "SETTINGS=small",
             *own.get(self.name, []), *words], capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr and "jobserver" not in done.stderr, done.stderr
        return log.read_text().splitlines()


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Example:
    """Return the example of that name, with the stand-in for wsss."""
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    program = tmp_path / "wsss"
    program.write_text(STAND_IN.format(log=tmp_path / "calls", result=tmp_path / "result.json"))
    program.chmod(0o755)
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    (tmp_path / "out" / "pictures" / "classes.txt").touch()
    return Example(request.param, tmp_path)


def outputs(calls: list[str]) -> list[str]:
    """Return what calls wrote to."""
    return [call.split(" -o ")[1].split()[0] for call in calls if " -o " in call]


@pytest.mark.parametrize("example", TARGETS, indirect=True)
def test_everything_is_made_once_and_a_second_make_does_nothing(example: Example) -> None:
    first = example.make(*TARGETS[example.name])
    assert len(first) >= 10
    # A folder of shards may be asked for twice, and is then up to date.
    files = [output for output in outputs(first) if Path(output).suffix]
    assert sorted(set(files)) == sorted(files), "nothing is made twice"
    assert example.make(*TARGETS[example.name]) == []


@pytest.mark.parametrize("example", ["clip-es"], indirect=True)
def test_masks_that_several_tables_need_are_made_once_and_made_again_where_they_were_cut(example: Example) -> None:
    def pseudo(calls: list[str]) -> int:
        return sum(call.startswith("pseudo") for call in calls)

    assert pseudo(example.make("table4", "table7-cross-entropy", "table1-dcrf")) == 1
    assert pseudo(example.make("table4", "tableS3")) == 0
    for name in ("masks.made", "seg.tsv"):
        (example.root / "out" / name).unlink()  # as if it had been killed; the folder is there
    assert pseudo(example.make("table4")) == 1


@pytest.mark.parametrize("example", ["demo"], indirect=True)
def test_changed_flags_run_their_step_and_those_after_it(example: Example) -> None:
    example.make("all")
    again = example.make("all", "PSEUDO_FLAGS=--min-confidence 0.2")
    commands = [call.split()[0] for call in again]
    assert commands[:5] == ["pseudo", "eval", "train-seg", "segment", "eval"]
    assert sorted(commands[5:8]) == ["cams", "pseudo", "refine"] and commands[8:] == ["show"], "a pipe, and its picture"


@pytest.mark.parametrize(("example", "target", "changed", "asked"), [
    ("clip-es", "table1-seed", "FLAGS=--precision bf16", ["cams clip-es", "eval"]),
    ("clip-es", "table1-dcrf", "CLIP=ViT-L-14", ["cams clip-es", "eval", "refine crf", "eval"]),
    ("clip-es", "tableS1-rn50", "RESNET=RN101", ["cams clip-es", "eval"]),
    ("clip-es", "table4", "SEG_FLAGS=--loss ce", ["train-seg", "segment net", "eval"]),
    ("image-text", "training-free-sclip", "SEGMENT_FLAGS=--protocol tcl", 6 * ["segment sclip", "eval"]),
    ("image-text", "training-free-naclip", "CITYSCAPES=elsewhere", ["index cityscapes", "segment naclip", "eval"]),
    ("image-text", "table41-code", "TRAIN_FLAGS=--nouns 'rules'", ["train-text code", *6 * ["segment code", "eval"]]),
    ("mixing", "table1-fmix", "WALK_FLAGS=--beta 8", [
        "index voc", "train-cls fmix", "cams cnn", "eval", "train-aff psa", "refine psa", "eval"]),
    ("csd", "table1-cam", "CAM_FLAGS.cam=--scales 1", [
        "index voc", "train-cls cam", "cams cnn", "eval", "cams cnn", "refine crf", "eval"])], indirect=["example"])
def test_what_another_value_makes_is_asked_for_again(example: Example, target: str, changed: str,
                                                     asked: list[str]) -> None:
    example.make(target)
    again = example.make(target, changed)
    assert [" ".join(call.split()[:len(one.split())]) for call, one in zip(again, asked, strict=True)] == asked
    assert example.make(target, changed) == []
