"""The figures of the examples: every target can be planned and is made once, with the numbers of its runs."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from tiny_datasets import save_mask
from wsss_cli.app import app

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FOLDERS = ("csd", "clip-es", "mixing")
COLUMN = (1020, 750)  # 3.4 x 2.5 inches of 300 pixels
COCO = ("COCO_TRAIN=instances.json", "COCO_IMAGES_TRAIN=train2014", "COCO_MASKS_TRAIN=masks")
# Replaces `wsss`: it answers with the mIoU and sharpness of answers.json, and exports the masks in `pictures`.
STAND_IN = """#!{python} -S
import json, pathlib, shutil, sys
arguments = sys.argv[1:]
root = pathlib.Path({root!r})
with open(root / "calls", "a") as log:
    print(*arguments, file=log)
out = pathlib.Path(arguments[arguments.index("-o") + 1]) if "-o" in arguments else None
answers = json.loads((root / "answers.json").read_text())
if arguments[0] == "prompts":
    templates = arguments[arguments.index("--templates") + 1]
    rows = [dict(template=name, sharpness=value) for name, value in answers["sharpness"].items()]
    rows = rows if templates == "imagenet" else [dict(template=templates, sharpness=0.001)]
    print(json.dumps(dict(templates=rows)))
elif arguments[:2] == ["export", "png"]:
    shutil.copytree(root / "pictures" / out.name, out, dirs_exist_ok=True)
elif arguments[:2] == ["export", "voc"]:
    path = out / "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"
    path.parent.mkdir(parents=True)
    path.touch()
elif out is not None and out.suffix == ".json":
    name = "/".join(out.parts[-2:])
    result = dict(miou=answers["miou"].get(name, 0.5), images=2)
    background = answers.get("background", dict(rule="constant", value=0.3, chosen_on="given"))
    out.write_text(json.dumps(dict(result, background=background), indent=1))
elif out is not None and out.suffix in (".h5", ".png", ".safetensors"):
    out.touch()
elif out is not None:
    out.mkdir(exist_ok=True)
else:
    print("class\\tIoU")
"""


@dataclass(frozen=True)
class Example:
    """A folder of examples whose output goes to `root`/out, with a replacement of wsss."""

    root: Path

    def make(self, folder: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run make, which must succeed, and record only its calls."""
        (self.root / "calls").write_text("")
        return run_make("-C", str(EXAMPLES / folder), f"OUT={self.get_output(folder)}", f"WSSS={self.root / 'wsss'}",
                        f"PYTHON={sys.executable}", f"DATA={self.root / 'voc'}", "SETTINGS=small", *words)

    def get_output(self, folder: str) -> Path:
        """Return the output folder of an example."""
        return self.root / "out" / folder

    def read_calls(self) -> list[str]:
        """Return the wsss calls of the last make."""
        return (self.root / "calls").read_text().splitlines()


def run_make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make, which must succeed without warnings."""
    done = subprocess.run(["make", *words], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stderr, done.stderr
    return done


@pytest.fixture
def example(tmp_path: Path) -> Example:
    """Return an example with two images, their ground truth, and the masks to export."""
    (tmp_path / "wsss").write_text(STAND_IN.format(python=sys.executable, root=str(tmp_path)))
    (tmp_path / "wsss").chmod(0o755)
    write_answers(tmp_path)
    whole, wrong, unsure = [[0, 1], [1, 0]], [[0, 0], [1, 0]], [[0, 255], [1, 255]]
    for folder, a, b in (("voc/SegmentationClass", *2 * [[[0, 1], [1, 255]]]), ("pictures/sure-0-png", wrong, whole),
                         ("pictures/sure-0.5-png", wrong, whole), ("pictures/sure-0.8-png", wrong, whole),
                         ("pictures/sure-0.95-png", unsure, [[0, 1], [1, 255]]),
                         ("pictures/walked-png", whole, whole), ("pictures/prediction-png", whole, wrong)):
        (tmp_path / folder).mkdir(parents=True)
        for name, mask in (("a", a), ("b", b)):
            save_mask(np.array(mask, np.uint8), tmp_path / folder / f"{name}.png")
    return Example(tmp_path)


def write_answers(root: Path, **extra: Any) -> None:
    """Set the answers of the replaced wsss: mIoU by the end of the path, sharpness by template."""
    (root / "answers.json").write_text(json.dumps({"miou": {},
                                                   "sharpness": {f"a {{}} {n}.": n / 100 for n in range(30)}, **extra}))


def find_targets(folder: str) -> dict[str, str]:
    """Return the documented targets of figures.mk, with an example of each pattern."""
    lines = (EXAMPLES / folder / "figures.mk").read_text(encoding="utf-8").splitlines()
    named = dict(line.split(":", 1) for line in lines if re.match(r"[a-zS0-9.%-]+:.*## ", line))
    return {name: name.replace("%", "cam-csd") for name in named}


def parse_calls(plan: str) -> list[list[str]]:
    """Return the arguments of every wsss call in the output of `make -n`."""
    calls, call = [], None
    lines = [line for line in plan.replace("\\\n", " ").splitlines() if '"wsss"' in line]
    lexer = shlex.shlex(";".join(lines), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    for word in lexer:
        if word == "wsss":
            call = []
            calls.append(call)
        elif set(word) <= set("();<>|&"):
            call = None
        elif call is not None:
            call.append(word)
    return calls


WSSS: Any = typer.main.get_command(app)


def check_options(words: list[str]) -> None:
    """Check that a command has all options in `words`."""
    command = WSSS
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    assert {word for word in words if re.match("--?[a-z]", word)} <= options, words


def plan_target(folder: str, root: Path, target: str, settings: str) -> list[list[str]]:
    """Return the wsss calls of a target, after checking their options."""
    row = target.replace("cam-csd", "mctformer-csd") if settings == "published" else target
    done = run_make("-n", "-C", str(EXAMPLES / folder), f"OUT={root / 'out'}", "WSSS=wsss", f"SETTINGS={settings}",
                    "WEIGHTS=w.pth", *COCO, row)
    calls = parse_calls(done.stdout)
    for call in calls:
        check_options(call)
    return calls


# The last wsss command of each target, and some of its arguments.
LAST_CALLS = {
    ("csd", "figure3"): ("show", "--truth", "multi.h5"), ("csd", "figure4"): ("show", "multi.h5"),
    ("csd", "figure5"): ("show", "--truth", "val.h5"), ("csd", "test-cam-csd"): ("export voc", "--submission"),
    ("csd", "test"): ("export voc", "--submission"), ("mixing", "figure6"): ("show", "train.h5"),
    ("mixing", "figure7"): ("show", "--truth", "walked-masks"), ("mixing", "figure8"): ("show", "--truth", "val.h5"),
    ("clip-es", "figure3"): ("prompts", "a clean origami {}."), ("clip-es", "figure4"): ("show", "--truth", "--ids"),
    ("clip-es", "figure5"): ("show", "initial,MHSA,CAA"), ("clip-es", "figureS2"): ("eval", "coco-first"),
    ("clip-es", "tableS3-frequency"): ("export png", "sure-0.95"),
    ("clip-es", "table4-test"): ("export voc", "seg-test"),
    ("clip-es", "table4-test-coco-weights"): ("export voc", "seg-coco-test")}


def test_every_figure_is_tested():
    assert {(folder, target) for folder in FOLDERS for target in find_targets(folder).values()} == set(LAST_CALLS)


@pytest.mark.parametrize(("folder", "target", "settings"), [
    (*key, settings) for settings in ("published", "small") for key in LAST_CALLS
    if (key[0], settings) != ("clip-es", "small")])
def test_figures_can_be_planned(tmp_path, folder, target, settings):
    command, *words = LAST_CALLS[folder, target]
    calls = plan_target(folder, tmp_path, target, settings)
    matching = [call for call in calls if " ".join(call[:len(command.split())]) == command]
    assert matching and all(any(word in " ".join(call) for call in matching) for word in words), (words, matching)


@pytest.mark.parametrize(("folder", "target", "runs"), [
    ("csd", "figure3", ["mctformer/refined-train", "mctformer-csd/refined-train"]),
    ("csd", "figure4", ["mctformer-grid-0.01-0.0/cams-train", "mctformer-grid-0.01-0.1/cams-train"]),
    ("csd", "figure5", ["mctformer/prediction", "mctformer-csd/prediction"]),
    *(("mixing", target, [f"{method}/{run}" for method in (
        "cam", "exploration", "teaching", "mixup", "manifold-mixup", "fmix")])
      for target, run in (("figure6", "cams"), ("figure7", "walked-masks"), ("figure8", "prediction"))),
    ("clip-es", "figure4", ["caa-crf", "sure-0.95"]), ("clip-es", "figure5", ["initial", "mhsa", "caa"])])
def test_figures_show_the_runs_of_the_paper(tmp_path, folder, target, runs):
    """The columns and their titles, in the published settings."""
    show_calls = [call for call in plan_target(folder, tmp_path, target, "published") if call[0] == "show"][-1]
    columns = [word for word in show_calls[2:show_calls.index("-o")] if word.startswith(str(tmp_path))]
    assert [column.endswith(run) for column, run in zip(columns, runs, strict=True)] == [True] * len(runs), columns
    titles = show_calls[show_calls.index("--titles") + 1].split(",")
    assert len(titles) == len(runs) == len(set(titles))


@pytest.mark.parametrize("settings", ["published", "small"])
def test_submission_of_csd_is_segmented_like_val(tmp_path, settings):
    """The test images have the settings of val, and no ground truth is used."""
    calls = plan_target("csd", tmp_path, "test-cam-csd", settings)
    val, test = (next(call for call in calls if call[0] == "segment" and call[2].endswith(f"/{split}.h5"))
                 for split in ("val", "test"))
    matching = [word.replace("-test", "") for word in test[3:]]
    assert matching == val[3:]
    index = next(call for call in calls if call[0] == "index" and "test" in call)
    assert index[index.index("--split") + 1] == "test" and "--masks" not in index
    exported = next(call for call in calls if call[:2] == ["export", "voc"])
    assert exported[2].endswith("prediction-test")


@pytest.mark.parametrize("folder", FOLDERS)
def test_figures_are_documented(folder):
    help_text = run_make("-s", "-C", str(EXAMPLES / folder), "help").stdout
    readme = (EXAMPLES / folder / "README.md").read_text(encoding="utf-8")
    for target in find_targets(folder):
        assert re.search(rf"^ *{re.escape(target)} ", help_text, flags=re.MULTILINE), target
        assert f"`{target.replace('%', 'BASE')}`" in readme, target


@pytest.mark.parametrize(("folder", "targets"), [
    (folder, [target for name, target in LAST_CALLS if name == folder]) for folder in FOLDERS])
def test_figures_are_made_once(example, folder, targets):
    words = [f"{name}={example.root / 'voc'}" for name in ("COCO_IMAGES_TRAIN", "COCO_MASKS_TRAIN")]
    coco = example.root / "coco.json"
    coco.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1}]}))
    words = [*words, f"COCO_TRAIN={coco}", "COCO_COUNT=1", "LAMBDAS=0 0.4", "PROMPTS=2", "METHODS=cam teaching",
             *targets]
    example.make(folder, *words)
    assert len(example.read_calls()) > 10
    example.make(folder, *words)
    assert example.read_calls() == []
    example.make(folder, *words, "IDS=b")
    assert example.read_calls() and {call.split()[0] for call in example.read_calls()} == {"show"}
    assert all("--ids b " in call for call in example.read_calls())


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def check_plot(path: Path) -> None:
    """Check the size of a plot, and that the first two colours appear in it."""
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", COLUMN)
        colours = {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours


def test_figure_s2_has_a_curve_of_each_data_set(example):
    lambdas = [f"{value / 10:g}" for value in range(9)]
    write_answers(example.root,
                  miou={**{f"clip-es/lambda-{value}.json": 0.6 + n / 1000 for n, value in enumerate(lambdas)},
                        **{f"coco-first/lambda-{value}.json": 0.3 - n / 1000 for n, value in enumerate(lambdas)}})
    coco = example.root / "coco.json"
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (9, 4, 5, 2)]
    coco.write_text(json.dumps({"images": images, "categories": [], "annotations": [
        {"image_id": number, "category_id": 1} for number in (9, 5, 2)]}))
    words = (f"COCO_TRAIN={coco}", "COCO_IMAGES_TRAIN=photos", "COCO_MASKS_TRAIN=truth", "COCO_COUNT=2", "figureS2")
    example.make("clip-es", *words)
    out = example.get_output("clip-es")
    voc = [["VOC 2012 train", value, f"{60 + n / 10:.4f}", "0.0000", "1"] for n, value in enumerate(lambdas)]
    of_coco = [["first 2 of COCO 2014", value, f"{30 - n / 10:.4f}", "0.0000", "1"] for n, value in enumerate(lambdas)]
    assert read_rows(out / "figureS2.csv") == [["curve", "x", "miou_percent", "deviation", "results"], *voc, *of_coco]
    check_plot(out / "figureS2.png")
    first = json.loads((out / "coco-first" / "first.json").read_text())
    assert [image["id"] for image in first["images"]] == [2, 5], "sorted by id, without images without a class"
    assert [row["image_id"] for row in first["annotations"]] == [5, 2]
    calls = example.read_calls()
    thresholds = [call.split("--box-threshold ")[1].split()[0] for call in calls if "--box-threshold" in call]
    assert sorted(thresholds) == sorted(2 * lambdas)
    (index,) = (call for call in calls if call.startswith("index coco"))
    assert "--images photos --masks truth" in index


def test_figure_s2_without_coco_warns(example):
    done = example.make("clip-es", "LAMBDAS=0 0.4", "figureS2")
    assert "lacks the curve of COCO" in done.stderr and "COCO_TRAIN" in done.stderr
    assert {row[0] for row in read_rows(example.get_output("clip-es") / "figureS2.csv")[1:]} == {"VOC 2012 train"}
    failed = subprocess.run(["make", "-C", EXAMPLES / "clip-es", f"OUT={example.root / 'x'}", "COCO_TRAIN=a.json",
                             f"WSSS={example.root / 'wsss'}", f"DATA={example.root / 'voc'}", "-o",
                             example.root / "x/coco-first/first.json", "figureS2"], capture_output=True, text=True,
                            check=False, timeout=300)
    assert failed.returncode == 2 and "give COCO_MASKS_TRAIN=FOLDER" in failed.stderr


def test_figure_3_of_clip_es_has_sharpness_and_miou_of_all_prompts(example):
    write_answers(example.root, miou={f"clip-es/prompt-{n}.json": 0.7 - n / 100 for n in range(5)})
    example.make("clip-es", "figure3", "PROMPTS=4", "PROMPTS_MAPS=initial")
    out = example.get_output("clip-es")
    templates = (out / "templates.txt").read_text().splitlines()
    assert templates[0] == "a clean origami {}." and len(set(templates)) == 5
    sharpness = [0.001, *(int(template.split()[-1][:-1]) / 100 for template in templates[1:])]
    assert read_rows(out / "figure3.csv") == [["template", "sharpness", "miou_percent"], *(
        [template, f"{value:.6g}", f"{70 - n:.4f}"] for n, (template, value) in enumerate(
            zip(templates, sharpness, strict=True)))]
    check_plot(out / "figure3.png")
    cams_calls = [call for call in example.read_calls() if call.startswith("cams")]
    assert [call.split("--template ")[1].split(" -o ")[0] for call in cams_calls] == templates
    assert all("--affinity none" in call for call in cams_calls), "PROMPTS_MAPS chooses the CAMs"


def test_figure_4_of_clip_es_shows_the_worst_images(example):
    """In image a one of three counted pixels is wrong; image b is right."""
    example.make("clip-es", "figure4", "WORST=1")
    out = example.get_output("clip-es")
    assert read_rows(out / "figure4.csv") == [["id", "pseudo mask"], ["a", "50.0000"], ["b", "100.0000"]]
    show_calls = {call.split(" -o ")[1]: call for call in example.read_calls() if call.startswith("show")}
    assert "--ids a " in show_calls[str(out / "figure4-bad.png")]
    assert "--count 6 " in show_calls[str(out / "figure4.png")]


def test_the_frequency_row_of_table_s3(example):
    """Two images of four pixels: at 0.95 two pixels of a and one of b are below the threshold."""
    example.make("clip-es", "tableS3-frequency")
    assert read_rows(example.get_output("clip-es") / "tableS3-frequency.csv") == [
        ["confidence", "pixels", "frequency_percent"], ["0-0.5", "0", "0.0000"], ["0.5-0.8", "0", "0.0000"],
        ["0.8-0.95", "3", "37.5000"], ["0.95-1", "5", "62.5000"]]


def test_figures_7_and_8_of_mixing_score_each_image(example):
    example.make("mixing", "METHODS=cam fmix", "figure7", "figure8")
    methods = ["cam", "fmix"]
    for name, b in (("figure7.csv", "100.0000"), ("figure8.csv", "50.0000")):
        assert read_rows(example.get_output("mixing") / "seed0" / name) == [
            ["id", *methods], ["a", "100.0000", "100.0000"], ["b", b, b]]
    masks = [call for call in example.read_calls() if call.startswith("pseudo") and "walked-masks" in call]
    for method, call in zip(methods, masks, strict=True):
        folder = example.get_output("mixing") / "seed0" / method
        assert f"pseudo {folder}/walked --background from:{folder}/walked.json -o" in call


def test_figure_7_needs_no_background_if_the_cams_have_one(example):
    write_answers(example.root, background=None)
    example.make("mixing", "METHODS=cam", "figure7")
    (masks,) = (call for call in example.read_calls() if call.startswith("pseudo"))
    assert "--background" not in masks


@pytest.mark.parametrize(("folder", "target", "archive"), [
    ("csd", "test-cam", "seed0/cam/submission.tgz"), ("clip-es", "table4-test", "seg-test.tgz")])
def test_submission_archive_has_the_required_folders(example, folder, target, archive):
    example.make(folder, target)
    with tarfile.open(example.get_output(folder) / archive) as archive_file:
        files = [member.name for member in archive_file.getmembers() if member.isfile()]
    assert files == ["results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"]
    split = next(call for call in example.read_calls() if call.startswith("index voc") and "--split test" in call)
    assert split.startswith(f"index voc {example.root / 'voc'}")
