"""Help, quickly; what is asked for wrongly, told with what there is."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from cli.runner import run
from stages import STAGES

COMMANDS = [
    ("index", "voc"), ("index", "table"), ("index", "coco"), ("index", "folder"), ("index", "webdataset"),
    ("index", "context"), ("index", "coco-stuff"), ("index", "coco-object"), ("index", "cityscapes"),
    ("index", "ade20k"), ("index", "split"), ("cooc",), ("train-cls", "cam"), ("train-cls", "mixup"),
    ("train-cls", "fmix"), ("train-cls", "manifold-mixup"), ("train-cls", "subcategory"), ("train-cls", "mctformer"),
    ("train-cls", "csd"), ("features",), ("cluster", "finch"), ("cluster", "kmeans"), ("prompts",), ("cams", "cnn"),
    ("cams", "clip-es"), ("cams", "mctformer"), ("cams", "gradcam"), ("train-aff", "psa"), ("train-aff", "irn"),
    ("refine", "crf"), ("refine", "psa"), ("refine", "irn"), ("refine", "pamr"), ("pseudo",), ("train-seg",),
    ("train-text", "tcl"), ("train-text", "code"), ("segment", "net"), ("segment", "tcl"), ("segment", "code"),
    ("segment", "naclip"), ("segment", "sclip"), ("segment", "clearclip"), ("segment", "maskclip"),
    ("segment", "proxyclip"), ("eval",), ("info",), ("check",), ("merge",), ("show",), ("export", "png"),
    ("export", "voc"), ("setup", "nltk")]
WITH_METHODS = {"index": ("voc", "table", "coco", "folder", "webdataset", "context", "coco-stuff", "coco-object",
                          "cityscapes", "ade20k", "split"), "cluster": ("finch", "kmeans"),
                "train-cls": ("cam", "mixup", "fmix", "manifold-mixup", "subcategory", "mctformer", "csd"),
                "cams": ("cnn", "clip-es", "mctformer", "gradcam"), "refine": ("crf", "psa", "irn", "pamr"),
                "train-aff": ("psa", "irn"), "train-text": ("tcl", "code"), "setup": ("nltk",),
                "segment": ("net", "tcl", "code", "naclip", "sclip", "clearclip", "maskclip", "proxyclip"),
                "export": ("png", "voc")}
HEAVY = ("torch", "torchvision", "timm", "h5py", "numpy", "scipy", "PIL", "safetensors", "sklearn")


def test_every_stage_is_tried_here():
    assert {command[0] for command in COMMANDS} == {stage.name for stage in STAGES}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_leads_with_an_example_and_names_what_is_read_and_written(command, flag):
    done = run(*command, flag)
    assert done.code == 0
    assert done.err == ""
    lines = [line.strip() for line in done.out.splitlines()]
    example = lines.index("Example:")
    assert lines[example + 1].startswith(f"wsss {' '.join(command)} ")
    assert example < lines.index("Options:")
    text = f" {' '.join(done.out.split())} "
    assert " Reads " in text
    assert " Writes " in text or " Prints " in text


@pytest.mark.parametrize("command", [(), *((name,) for name in WITH_METHODS)], ids=" ".join)
def test_help_of_a_group_lists_what_is_in_it(command):
    done = run(*command, "-h")
    assert done.code == 0
    for name in WITH_METHODS[command[0]] if command else [stage.name for stage in STAGES]:
        assert f"  {name} " in done.out


def test_the_stages_are_listed_in_the_order_of_the_work():
    listed = run("--help").out.split("Commands:")[1].splitlines()
    names = [line.split()[0] for line in listed if line[2:3].strip()]
    assert names == [stage.name for stage in STAGES]


def test_the_version(wsss):
    done = wsss("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("wsss ")


@pytest.mark.parametrize("stage", list(WITH_METHODS))
def test_a_missing_method_is_answered_with_the_methods(stage):
    done = run(stage)
    assert done.code == 2
    for method in WITH_METHODS[stage]:
        assert f"  {method} " in done.out + done.err


@pytest.mark.parametrize("words", [
    ("nosuch",), ("cams", "nosuch"), ("index", "nosuch", "."), ("--nosuch",), ("pseudo", "x", "-o", "y", "--nosuch"),
    ("cams", "cnn", "--nosuch"), ("pseudo", "x"), ("cams", "cnn", "x", "-o", "y"), ("pseudo", "x", "-o")], ids=" ".join)
def test_an_unknown_command_or_option_or_a_missing_one(words):
    done = run(*words)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert re.fullmatch(r"wsss( \w+)*: .*(nosuch|missing|requires).*; see wsss( \w+)* --help", line)


def test_as_users_type_it(wsss):
    done = wsss("cams", "cnn", "--nosuch")
    assert done.code == 2
    assert done.err.startswith("wsss cams cnn: no such option: --nosuch")


LOADED = "import sys; sys.argv = ['wsss', {words}]\nfrom wsss_cli.__main__ import main\n" \
         "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"


@pytest.mark.parametrize("words", [("--help",), ("cams", "cnn", "--help"), ("train-seg", "-h")], ids=" ".join)
def test_help_imports_nothing_heavy(words, wsss):
    code = LOADED.format(words=", ".join(map(repr, words)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=wsss._environment(None))
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & {name.split(".")[0] for name in done.stderr.split()}
