"""The scripts that plot and tabulate the figures of the examples: their numbers, plots and errors."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import index_table, run_ok
from stages.shards import Item, Run, Shard, ShardContents, write_shard
from test_figures import check_plot, read_rows
from tiny_datasets import TinyDataset, create_dataset, save_mask

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> TinyDataset:
    """Return a data set of six images."""
    return create_dataset(tmp_path / "set")


@pytest.fixture
def tiny_index(tiny_dataset: TinyDataset, tmp_path: Path) -> Path:
    """Return the index of `tiny_dataset`."""
    assert index_table(tiny_dataset.root, tmp_path / "index.h5").code == 0
    return tmp_path / "index.h5"


@pytest.fixture
def script(monkeypatch, capsys, tmp_path) -> Script:
    """Return a function that runs an example script in `tmp_path` and returns its exit code, stdout and stderr."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)

    def run_script(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        try:
            code = importlib.import_module(name).main()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run_script


def write_results(folder: Path, **miou: float) -> None:
    """Write results of `wsss eval --json` by name."""
    for name, value in miou.items():
        (folder / f"{name}.json").write_text(json.dumps({"miou": value}))


def test_seeds_of_a_curve_give_mean_and_deviation(script, tmp_path):
    write_results(tmp_path, a=0.40, b=0.44, c=0.5, d=0.3)
    code, out, err = script("plot_curves", "x@10=c.json", "x@2=a.json", "x@2=b.json", "y@2=d.json", "-o", "f.png",
                            "--title", "t", "--x-label", "l")
    assert (code, out.split(), err) == (0, ["f.png", "f.csv"], "")
    assert read_rows(tmp_path / "f.csv")[1:] == [
        ["x", "2", "42.0000", "2.8284", "2"], ["x", "10", "50.0000", "0.0000", "1"],
        ["y", "2", "30.0000", "0.0000", "1"]]
    check_plot(tmp_path / "f.png")
    before = (tmp_path / "f.png").read_bytes()
    script("plot_curves", "x@10=c.json", "x@2=a.json", "x@2=b.json", "y@2=d.json", "-o", "f.png", "--title", "t",
           "--x-label", "l")
    assert (tmp_path / "f.png").read_bytes() == before, "equal numbers must give equal bytes"


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (("x@1=none.json", "-o", "f.png"), 66, "none.json"), (("x=a.json", "-o", "f.png"), 65, "CURVE@X=FILE"),
    (("x@high=a.json", "-o", "f.png"), 65, "high"), (("x@1=a.json", "-o", "f.pdf"), 65, ".png"),
    (("x@1=empty.json", "-o", "f.png"), 65, "empty.json is not a result of `wsss eval --json`")])
def test_plot_curves_rejects_invalid_points(script, tmp_path, arguments, code, message):
    write_results(tmp_path, a=0.4)
    (tmp_path / "empty.json").write_text("{}")
    exit_code, out, err = script("plot_curves", *arguments)
    assert (exit_code, out) == (code, "") and err.startswith("plot_curves.py: ") and message in err
    assert not (tmp_path / "f.png").exists()


def test_missing_matplotlib_message_says_how_to_install_it(script, tmp_path, monkeypatch):
    write_results(tmp_path, a=0.4)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = script("plot_curves", "x@1=a.json", "-o", "f.png")
    assert (code, out) == (69, "")
    assert err == ("plot_curves.py: plotting needs matplotlib, which is not installed. Run `pip install "
                   "'matplotlib>=3.8'`.\n")
    assert not (tmp_path / "f.csv").exists()


def test_rank_correlation(script):
    """The ranks 0, 1.5, 1.5, 3 and 3, 2, 1, 0 have the covariance -4.5 and the variances 4.5 and 5."""
    script("plot_prompts", "--help")
    compute_rank_correlation = importlib.import_module("plot_prompts").compute_rank_correlation
    assert compute_rank_correlation([0.1, 0.2, 0.2, 9.0],
                                    [4.0, 3.0, 2.0, 1.0]) == pytest.approx(-4.5 / (4.5 * 5) ** 0.5)
    assert compute_rank_correlation([1.0, 2.0, 30.0], [5.0, 6.0, 70.0]) == pytest.approx(1)
    assert compute_rank_correlation([1.0, 1.0], [5.0, 6.0]) is None and compute_rank_correlation([1.0], [5.0]) is None


def test_plot_prompts_needs_a_sharpness_and_a_result_per_template(script, tmp_path):
    write_results(tmp_path, a=0.4, b=0.5)
    (tmp_path / "s.json").write_text(json.dumps({"templates": [{"template": "a {}", "sharpness": 0.1}]}))
    (tmp_path / "t.txt").write_text("a {}\nthe {}\n")
    arguments = ("--sharpness", "s.json", "--templates", "t.txt", "-o", "f.png", "--results")
    assert script("plot_prompts", *arguments, "a.json")[::2] == (
        65, "plot_prompts.py: there are 2 templates and 1 results. Pass one result for each template with --results.\n")
    code, _, err = script("plot_prompts", *arguments, "a.json", "b.json")
    assert code == 65 and "no value for the template 'the {}'" in err
    assert script("plot_prompts", *arguments, "a.json", "none.json")[0] == 65


def test_chosen_templates_depend_only_on_the_seed(script, tmp_path):
    def pick_templates(order: list[int], seed: int, count: int = 5) -> list[str]:
        rows = [{"template": f"a {{}} {n}", "sharpness": 0.1} for n in order]
        (tmp_path / "p.json").write_text(json.dumps({"templates": rows}))
        code, _, err = script("pick_templates", "p.json", "--count", count, "--seed", seed, "--first", "a {} 3", "-o",
                              "t.txt")
        assert code == 0, err
        return (tmp_path / "t.txt").read_text().splitlines()

    first = pick_templates(list(range(20)), 0)
    again = pick_templates(list(range(20))[::-1], 0)
    assert again == first, "the order of the result, which is by sharpness, must not matter"
    assert first != pick_templates(list(range(20)), 1)
    assert first[0] == "a {} 3" and len(set(first)) == 6
    assert len(set(pick_templates(list(range(20)), 0, 19))) == 20
    code, _, err = script("pick_templates", "p.json", "--count", 20, "--first", "a {} 3", "-o", "t.txt")
    assert code == 65 and "19 templates besides" in err


def test_first_images_rejects_too_few_images(script, tmp_path):
    (tmp_path / "i.json").write_text(json.dumps({"images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 1}]}))
    code, _, err = script("first_images", "i.json", "--count", 2, "-o", "f.json")
    assert code == 65 and "i.json: has 1 images with annotations" in err and not (tmp_path / "f.json").exists()
    (tmp_path / "c.json").write_text("[]")
    assert script("first_images", "c.json", "-o", "f.json")[0] == 65
    assert script("first_images", "none.json", "-o", "f.json")[0] == 66


def test_image_score_is_that_of_eval_on_one_image(script, tiny_dataset, tiny_index, tmp_path):
    """Random masks with ignored pixels, and with classes that are not in the ground truth."""
    random = np.random.default_rng(5)
    ids = tiny_dataset.ids[:3]
    masks = [random.choice(np.array([0, 1, 2, 255], np.uint8), (48, 64), p=(0.6, 0.2, 0.1, 0.1)) for _ in ids]
    expected = {}
    for name, mask in zip(ids, masks, strict=True):
        (tmp_path / "one.txt").write_text(name)
        index = tmp_path / f"{name}.h5"
        run_ok("index", "voc", tiny_dataset.root, "--list", tmp_path / "one.txt", "-o", index)
        shard = Shard(index)
        write_shard(tmp_path / "one-masks.h5", ShardContents("masks", shard.classes, [Item(name, {"mask": mask})],
                                                             index_digest=shard.digest, index_path=index.name))
        run_ok("eval", tmp_path / "one-masks.h5", "-o", tmp_path / "one.json")
        run_ok("export", "png", tmp_path / "one-masks.h5", "--index", index, "-o", tmp_path / "png")
        expected[name] = json.loads((tmp_path / "one.json").read_text())["miou"]
    code, out, err = script("image_scores", "m=png", "--truth", tiny_dataset.root / "SegmentationClass", "--worst", 2,
                            "-o", "s.csv")
    assert (code, err) == (0, "")
    assert read_rows(tmp_path / "s.csv") == [["id", "m"], *([name, f"{100 * expected[name]:.4f}"] for name in ids)]
    assert out.strip().split(",") == sorted(ids, key=lambda name: expected[name])[:2]


def test_image_scores_rejects_invalid_masks(script, tmp_path):
    for folder in ("png", "small", "empty", "truth", "colour"):
        (tmp_path / folder).mkdir()
    for folder in ("png", "truth"):
        save_mask(np.zeros((2, 3), np.uint8), tmp_path / folder / "a.png")
    save_mask(np.zeros((2, 2), np.uint8), tmp_path / "small" / "a.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "colour" / "a.png")
    for arguments, code, message in ((("m=empty", "--truth", "truth"), 65, "has no PNG files"),
                                     (("m=small", "--truth", "truth"), 65,
                                      "a: the mask of m has the size (2, 2), but the ground truth has (2, 3)"),
                                     (("m=png", "--truth", "empty"), 66, "a.png"),
                                     (("m=png", "--truth", "colour"), 65, "mode RGB"),
                                     (("png", "--truth", "x"), 65, "NAME=")):
        exit_code, _, err = script("image_scores", *arguments, "-o", "s.csv")
        assert exit_code == code and message in err, err


def test_confidence_bins_agree_with_the_posteriors(script, tiny_dataset, tiny_index, tmp_path):
    """From posteriors via `pseudo` and `export png` to the table; the levels are exact in 8 bits."""
    random, shard = np.random.default_rng(2), Shard(tiny_index)
    items, confidences = [], []
    for name in tiny_dataset.ids:
        top = random.integers(100, 256, (48, 64))
        rows = np.stack([top, 255 - top]).astype(np.uint8)
        items.append(Item(name, {"class_ids": np.array([0, 2], "<u2"), "cam": rows},
                          {"height": 48, "width": 64, "covers": np.array([48, 64])}))
        confidences.append(np.maximum(top, 255 - top) / 255)
    write_shard(tmp_path / "crf.h5", ShardContents(
        "cams", shard.classes, items, root_attrs={"background": "included"}, index_digest=shard.digest,
        index_path=str(tiny_index)))
    for level in ("0.6", "0.9"):
        run_ok("pseudo", tmp_path / "crf.h5", "--min-confidence", level, "-o", tmp_path / level)
        run_ok("export", "png", tmp_path / level, "-o", tmp_path / f"png-{level}")
    code, out, err = script("confidence_bins", "0.9=png-0.9", "0.6=png-0.6", "-o", "c.csv")
    assert (code, err) == (0, "")
    values = np.concatenate(confidences)
    counts = [(values < 0.6).sum(), ((values >= 0.6) & (values < 0.9)).sum(), (values >= 0.9).sum()]
    assert min(counts) > 0
    expected = [[name, str(count), f"{100 * count / values.size:.4f}"]
                for name, count in zip(("0-0.6", "0.6-0.9", "0.9-1"), counts, strict=True)]
    assert read_rows(tmp_path / "c.csv")[1:] == expected
    assert out.splitlines()[1].split("\t")[1] == str(counts[0])
    next((tmp_path / "png-0.9").glob("*.png")).unlink()
    code, _, err = script("confidence_bins", "0.9=png-0.9", "0.6=png-0.6", "-o", "c.csv")
    assert code == 65 and "have different images" in err


def test_show_command_of_the_figures(tiny_index, tmp_path):
    """The command that figures.mk runs: the images of an index, runs with titles, and the ground truth."""
    shard = Shard(tiny_index)
    items = [Item(name, {"mask": np.ones((48, 64), np.uint8)}) for name in Run([tiny_index]).ids]
    for name in ("base", "ours"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "masks-00000-of-00001.h5", ShardContents(
            "masks", shard.classes, items, index_digest=shard.digest, index_path=str(tiny_index)))
    run_ok("index", "split", tiny_index, "--multi", "-o", tmp_path / "multi.h5")
    run_ok("show", tmp_path / "multi.h5", tmp_path / "base", tmp_path / "ours", "--truth", "--titles", "base,base-csd",
           "--count", "2", "-o", tmp_path / "figure3.png")
    with Image.open(tmp_path / "figure3.png") as image:
        assert image.size[0] == 2 * 16 + 4 * 240 + 3 * 8, "an image, two runs and the truth"
