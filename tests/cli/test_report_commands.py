"""The commands that a report prints are accepted by the program, and make the same files again."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import pytest
import typer

from cli.every_command import COMMANDS
from cli.runner import run_ok
from markdown_blocks import check_command
from stages.nets.net_description import read_verified_description
from stages.report.provenance import Chain, Step, list_steps
from stages.shards import Run
from wsss_cli.app import app

INPUTS = ("train.h5", "captions.h5", "bank", "parts-of-images", "cooc.h5", "net.safetensors", "cams", "masks",
          "features", "clusters.h5", "parts",
          "tcl.safetensors", "code.safetensors", "mctformer.safetensors", "seg.safetensors", "psa.safetensors",
          "irn.safetensors")
INDEXES = tuple(name for name in COMMANDS if name.startswith("index") and name != "index split")
# Commands that share all of their code with another one here are left out.
REPEATED = tuple(name for name in COMMANDS if name not in (
    *INDEXES, "train-cls mixup", "train-cls fmix", "train-cls manifold-mixup", "segment sclip", "segment clearclip",
    "segment maskclip", "segment tcl") and name.split()[0] not in (
    "eval", "explain", "export", "init", "log", "report", "setup", "show"))
FOLDERS = {"import masks": "set/SegmentationClass", "import cams": "irn", "import regions": "regions"}


def read_chain(path: Path, **files: str) -> Chain:
    if path.suffix == ".safetensors":
        description = read_verified_description(path)
        return Chain(path.name, description["sha256"], description["provenance"], files)
    run = Run([str(path)])
    return Chain(path.name, run.digest, run.first.provenance, files, run.kind, run.classes)


def list_steps_to(folder: Path, name: str, *outputs: str) -> list[Step]:
    """Return the steps to outputs of a command, given the names of all files that a command reads."""
    chains = [read_chain(folder / output) for output in outputs]
    inputs = chains[0].provenance[-1]["inputs"]
    files = {hashlib.sha256((folder / "seeded.pt").read_bytes()).hexdigest(): "seeded.pt",
             inputs.get("clip", ""): "seeded.json", inputs.get("folder", ""): FOLDERS.get(name, "")}
    return list_steps([*(read_chain(folder / path) for path in INPUTS), *chains,
                       Chain("seeded", "0" * 64, [], files)])


def make_outputs(folder: Path, name: str) -> list[str]:
    """Run a command and return the runs and networks that it writes."""
    words = COMMANDS[name].replace("OUT", f"made-{name.replace(' ', '-')}").split()
    run_ok(*name.split(), *words, "-q", "--force", cwd=folder)
    return [word for word in words if word.startswith("made-") and not word.endswith(".png")]


def repeat_step(folder: Path, step: Step) -> None:
    """Run the command of a step, whose outputs get other names."""
    words = [word.replace("made-", "again-") for word in shlex.split(step.command)[1:]]
    run_ok(*words, "-q", "--force", cwd=folder)


@pytest.mark.parametrize("name", REPEATED)
def test_a_command_makes_the_same_again(every_input, name):
    if name in ("train-aff irn", "train-aff psa", "refine crf"):
        pytest.importorskip("pydensecrf")
    outputs = make_outputs(every_input, name)
    # What --save-raw writes equals the maps of --affinity none but for the last bits of their scores.
    outputs = [output for output in outputs if not output.endswith("-raw")]
    steps = list_steps_to(every_input, name, *outputs)
    [step] = [step for step in steps if step.output == outputs[0]]
    assert check_command(shlex.split(step.command)[1:], typer.main.get_command(app)) == ""
    repeat_step(every_input, step)
    for output in outputs:
        again = read_chain(every_input / output.replace("made-", "again-"))
        assert again.digest == read_chain(every_input / output).digest, step.command


@pytest.mark.parametrize("name", INDEXES)
def test_the_command_of_an_index_is_accepted(every_input, name):
    [output] = make_outputs(every_input, name)
    [step] = [step for step in list_steps_to(every_input, name, output) if step.output == output]
    assert check_command(shlex.split(step.command)[1:], typer.main.get_command(app)) == ""
    assert "is not recorded" in step.notes[0]


def test_scores_alone_are_written_besides_masks(every_input):
    _, scores = make_outputs(every_input, "segment net")
    step = list_steps_to(every_input, "segment net", scores)[-1]
    assert shlex.split(step.command)[-4:] == ["-o", "predictions", "--scores", scores]
    repeat_step(every_input, step)
    again = read_chain(every_input / scores.replace("made-", "again-"))
    assert again.digest == read_chain(every_input / scores).digest


def test_masks_of_photographs_and_of_typed_words(every_input):
    words = ("images", "--clip", "seeded.json", "--weights", "seeded.pt", "--device", "cpu", "--short-side", "48",
             "--window", "32", "--stride", "16", "--words", "cat; wet grass = grass, lawn; background = sky")
    run_ok("segment", "naclip", *words, "--template", "templates.txt", "-o", "made-words", "-q", cwd=every_input)
    masks = "made-words/masks-00000-of-00001.h5"
    [*_, step] = list_steps_to(every_input, "segment naclip", masks)
    command = shlex.split(step.command)
    assert command[:4] == ["wsss", "segment", "naclip", "photographs"]
    assert command[command.index("--words") + 1] == "cat; wet grass = grass, lawn; background = sky"
    assert command[command.index("--template") + 1] == "templates.txt"
    assert any("a {} | a photo of a {}" in note for note in step.notes)
    run_ok(*command[1:3], "images", *command[4:command.index("-o")], "-o", "again-words", "-q", cwd=every_input)
    assert read_chain(every_input / masks.replace("made", "again")).digest == read_chain(every_input / masks).digest
