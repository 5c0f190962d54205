"""Help: its sections and sentences, `wsss help`, completion, and the answers to invalid command lines."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from cli.runner import run
from stages import STAGES

EXPORTS = ("png", "voc", "coco", "yolo", "cvat", "labelme", "labelstudio", "mmseg", "hf")
COMMANDS = [
    ("index", "voc"), ("index", "table"), ("index", "coco"), ("index", "folder"), ("index", "webdataset"),
    ("index", "yolo"), ("index", "cvat"), ("index", "labelme"), ("index", "labelstudio"), ("index", "fiftyone"),
    ("index", "context"), ("index", "coco-stuff"), ("index", "coco-object"), ("index", "cityscapes"),
    ("index", "ade20k"), ("index", "split"), ("cooc",), ("train-cls", "cam"), ("train-cls", "mixup"),
    ("train-cls", "fmix"), ("train-cls", "manifold-mixup"), ("train-cls", "subcategory"), ("train-cls", "mctformer"),
    ("train-cls", "csd"), ("features",), ("cluster", "finch"), ("cluster", "kmeans"), ("prompts",), ("cams", "cnn"),
    ("cams", "clip-es"), ("cams", "excel"), ("cams", "mctformer"), ("cams", "gradcam"), ("train-aff", "psa"),
    ("train-aff", "irn"), ("refine", "crf"), ("refine", "psa"), ("refine", "irn"), ("refine", "pamr"),
    ("refine", "par"), ("refine", "regions"), ("pseudo",), ("bank",), ("train-seg",),
    ("train-text", "tcl"), ("train-text", "code"), ("segment", "net"), ("segment", "tcl"), ("segment", "code"),
    ("segment", "naclip"), ("segment", "sclip"), ("segment", "clearclip"), ("segment", "maskclip"),
    ("segment", "proxyclip"), ("segment", "corrclip"), ("segment", "retrieve"), ("import", "masks"), ("import", "cams"),
    ("import", "coco"), ("import", "regions"),
    ("eval",), ("init",), ("explain",), ("info",), ("log",), ("check",), ("merge",), ("show",), ("report",),
    ("setup", "nltk"), ("regions", "superpixels"),
    *(("export", name) for name in EXPORTS)]
WITH_METHODS = {"index": ("voc", "table", "coco", "folder", "webdataset", "yolo", "cvat", "labelme", "labelstudio",
                          "fiftyone", "context", "coco-stuff", "coco-object", "cityscapes",
                          "ade20k", "split"), "cluster": ("finch", "kmeans"),
                "train-cls": ("cam", "mixup", "fmix", "manifold-mixup", "subcategory", "mctformer", "csd"),
                "cams": ("cnn", "clip-es", "excel", "mctformer", "gradcam"), "regions": ("superpixels",),
                "refine": ("crf", "psa", "irn", "pamr", "par", "regions"),
                "train-aff": ("psa", "irn"), "train-text": ("tcl", "code"), "setup": ("nltk",),
                "segment": ("net", "tcl", "code", "naclip", "sclip", "clearclip", "maskclip", "proxyclip",
                            "corrclip", "retrieve"),
                "import": ("masks", "cams", "coco", "regions"), "export": EXPORTS}
HEAVY = ("torch", "torchvision", "timm", "h5py", "numpy", "scipy", "PIL", "safetensors", "sklearn", "skimage")


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
    assert example < lines.index("General options:")
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
    assert names == [*(stage.name for stage in STAGES), "help"]


@pytest.mark.parametrize("command", [(), *((name,) for name in WITH_METHODS)], ids=" ".join)
def test_summaries_are_whole_sentences(command):
    listed = run(*command, "--help").out.split("Commands:")[1]
    summaries = [" ".join(text.split()) for text in re.split(r"^  [a-z][a-z0-9-]* +", listed, flags=re.MULTILINE)[1:]]
    assert summaries
    for summary in summaries:
        assert summary[0].isupper() and summary.endswith(".") and "..." not in summary
        assert summary.count("(") == summary.count(")"), "the sentence is not cut at an abbreviation"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_is_in_a_section_and_the_sections_are_in_order(command):
    text = run(*command, "--help").out
    sections = re.findall(r"^(\S.*) options:$", text, flags=re.MULTILINE)
    order = ["Input and output", "Method", "Image", "Training", "Execution", "General"]
    assert sections == [name for name in order if name in sections]
    assert "\nOptions:" not in text
    general = text.split("General options:")[1]
    assert set(re.findall(r"(--[a-z]+)", general)) == {"--config", "--quiet", "--verbose", "--debug", "--help"}
    if command[0].startswith("train-"):
        training = text.split("Training options:")[1].split("options:")[0]
        assert "--epochs" in training and "--lr " in training and "--batch-size" in training


def test_the_most_used_options_lead():
    text = run("cams", "cnn", "--help").out
    positions = [text.index(f"  {option} ") for option in ("--net", "-o, --output", "--root")]
    assert positions == sorted(positions)
    positions = [text.index(f"  {option} ") for option in ("--device", "-j, --jobs", "--batch-size", "--task")]
    assert positions == sorted(positions)


@pytest.mark.parametrize("command", [(), ("cams",), ("cams", "cnn"), ("eval",)], ids=" ".join)
def test_help_as_a_command_shows_the_same_page(command):
    done = run("help", *command)
    assert (done.code, done.err) == (0, "")
    assert done.out == run(*command, "--help").out


@pytest.mark.parametrize(("command", "message"), [
    (("nosuch",), "wsss: no such command 'nosuch'. See `wsss --help`."),
    (("cams", "nosuch"), "wsss cams: no such command 'nosuch'. See `wsss cams --help`."),
    (("train-clss",), "wsss: no such command 'train-clss'. Did you mean 'train-cls', 'train-seg', 'train-aff'? "
                      "See `wsss --help`."),
    (("eval", "x"), "wsss eval: no such command 'x': it has no commands of its own. See `wsss eval --help`.")])
def test_help_of_an_unknown_command(command, message):
    done = run("help", *command)
    assert (done.code, done.out) == (2, "")
    assert done.err.strip() == message


@pytest.mark.parametrize(("shell", "variables"), [
    ("bash", {"COMP_WORDS": "wsss cam", "COMP_CWORD": "1"}),
    ("zsh", {"_TYPER_COMPLETE_ARGS": "wsss cam"}),
    ("fish", {"_TYPER_COMPLETE_ARGS": "wsss cam", "_TYPER_COMPLETE_FISH_ACTION": "get-args"})])
def test_completion(shell, variables, wsss):
    source = wsss(env={"_WSSS_COMPLETE": f"source_{shell}"})
    assert source.code == 0 and "_WSSS_COMPLETE" in source.out
    done = wsss(env={"_WSSS_COMPLETE": f"complete_{shell}", **variables})
    assert (done.code, done.err) == (0, "")
    assert "cams" in done.out and "refine" not in done.out


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
def test_an_invalid_command_line_is_one_line_that_names_the_page_of_help(words):
    done = run(*words)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert re.fullmatch(r"wsss( \w+)*: .*(nosuch|missing|requires).*\. See `wsss( \w+)* --help`\.", line)


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
