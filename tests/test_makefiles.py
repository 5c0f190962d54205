"""The Makefiles of the examples: `make -j` runs everything once, a second `make` nothing, a change what depends on it.

A replacement of `wsss` writes the outputs, and fails like `wsss` if two processes write the same output.
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
    """A folder of examples whose output goes to `root`/out."""

    name: str
    root: Path

    def make(self, *words: str) -> list[str]:
        """Run `make -j`, which must succeed, and return the wsss calls."""
        log = self.root / "calls"
        log.write_text("")
        instances = self.root / "coco.json"
        instances.write_text(json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1}]}))
        extra = {"image-text": [f"TRAIN={self.root / 'wsss'}"], "clip-es": [
            f"COCO_TRAIN={instances}", f"COCO_VAL={instances}", "COCO_TRAIN_COUNT=1", "COCO_VAL_COUNT=1"]}
        done = subprocess.run(
            ["make", "-j", "4", "-C", EXAMPLES / self.name, f"OUT={self.root / 'out'}", f"WSSS={self.root / 'wsss'}",
             f"PYTHON={sys.executable}", f"DATA={self.root / 'out' / 'pictures'}", "WEIGHTS=w.pth", "SETTINGS=small",
             *extra.get(self.name, []), *words], capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr and "jobserver" not in done.stderr, done.stderr
        return log.read_text().splitlines()


@pytest.fixture
def example(request: pytest.FixtureRequest, tmp_path: Path) -> Example:
    """Return the example of that name, with a replacement of wsss."""
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    program = tmp_path / "wsss"
    program.write_text(STAND_IN.format(log=tmp_path / "calls", result=tmp_path / "result.json"))
    program.chmod(0o755)
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    (tmp_path / "out" / "pictures" / "classes.txt").touch()
    return Example(request.param, tmp_path)


def parse_outputs(calls: list[str]) -> list[str]:
    """Return the outputs of calls."""
    return [call.split(" -o ")[1].split()[0] for call in calls if " -o " in call]


@pytest.mark.parametrize("example", TARGETS, indirect=True)
def test_second_make_does_nothing(example: Example) -> None:
    first = example.make(*TARGETS[example.name])
    assert len(first) >= 10
    # A folder of shards may be requested twice; the second time it is up to date.
    files = [output for output in parse_outputs(first) if Path(output).suffix]
    assert sorted(set(files)) == sorted(files), "no output is made twice"
    assert example.make(*TARGETS[example.name]) == []


@pytest.mark.parametrize("example", ["clip-es"], indirect=True)
def test_shared_masks_are_made_once_and_again_after_a_kill(example: Example) -> None:
    def count_pseudo_calls(calls: list[str]) -> int:
        return sum(call.startswith("pseudo") for call in calls)

    assert count_pseudo_calls(example.make("table4", "table7-cross-entropy", "table1-dcrf")) == 1
    assert count_pseudo_calls(example.make("table4", "tableS3")) == 0
    for name in ("masks.made", "seg.tsv"):
        (example.root / "out" / name).unlink()  # as after a kill; the folder exists
    assert count_pseudo_calls(example.make("table4")) == 1


@pytest.mark.parametrize("example", ["demo"], indirect=True)
def test_changed_flags_rerun_their_step_and_later_ones(example: Example) -> None:
    example.make("all")
    calls = example.make("all", "PSEUDO_FLAGS=--min-confidence 0.2")
    commands = [call.split()[0] for call in calls]
    assert commands[:5] == ["pseudo", "eval", "train-seg", "segment", "eval"]
    assert sorted(commands[5:8]) == ["cams", "pseudo",
                                     "refine"] and commands[8:] == ["show"], "a pipe, and then its contact sheet"


@pytest.mark.parametrize(("example", "target", "changed", "expected"), [
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
def test_changed_variables_rerun_what_depends_on_them(example: Example, target: str, changed: str,
                                                      expected: list[str]) -> None:
    example.make(target)
    calls = example.make(target, changed)
    assert [" ".join(call.split()[:len(expected_prefix.split())]) for call,
            expected_prefix in zip(calls, expected, strict=True)] == expected
    assert example.make(target, changed) == []
