"""The scripts that plot and tabulate the figures of the examples: their numbers, their pictures, and their errors."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import good, index_table
from pictures import Folder, make_folder, save_mask
from stages.shards import Contents, Item, Run, Shard, write_shard
from test_figures import check_plot, rows_of

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Folder:
    """Return a data set of six images."""
    return make_folder(tmp_path / "set")


@pytest.fixture
def tiny_index(tiny_folder: Folder, tmp_path: Path) -> Path:
    """Return its index."""
    assert index_table(tiny_folder.root, tmp_path / "index.h5").code == 0
    return tmp_path / "index.h5"


@pytest.fixture
def script(monkeypatch, capsys, tmp_path) -> Script:
    """Return what runs a script of the examples in this process, in `tmp_path`: its code, output and errors."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)

    def run_script(name: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        capsys.readouterr()
        try:
            code = importlib.import_module(name).main()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run_script


def write_results(folder: Path, **miou: float) -> None:
    for name, value in miou.items():
        (folder / f"{name}.json").write_text(json.dumps({"miou": value}))


def test_seeds_of_a_curve_are_a_mean_with_its_deviation(script, tmp_path):
    write_results(tmp_path, a=0.40, b=0.44, c=0.5, d=0.3)
    code, out, err = script("plot_curves", "x@10=c.json", "x@2=a.json", "x@2=b.json", "y@2=d.json", "-o", "f.png",
                            "--title", "t", "--x-label", "l")
    assert (code, out.split(), err) == (0, ["f.png", "f.csv"], "")
    assert rows_of(tmp_path / "f.csv")[1:] == [
        ["x", "2", "42.0000", "2.8284", "2"], ["x", "10", "50.0000", "0.0000", "1"],
        ["y", "2", "30.0000", "0.0000", "1"]]
    check_plot(tmp_path / "f.png")
    before = (tmp_path / "f.png").read_bytes()
    script("plot_curves", "x@10=c.json", "x@2=a.json", "x@2=b.json", "y@2=d.json", "-o", "f.png", "--title", "t",
           "--x-label", "l")
    assert (tmp_path / "f.png").read_bytes() == before, "equal numbers give equal bytes"


@pytest.mark.parametrize(("words", "code", "told"), [
    (("x@1=none.json", "-o", "f.png"), 66, "none.json"), (("x=a.json", "-o", "f.png"), 65, "CURVE@X=FILE"),
    (("x@high=a.json", "-o", "f.png"), 65, "high"), (("x@1=a.json", "-o", "f.pdf"), 65, ".png"),
    (("x@1=empty.json", "-o", "f.png"), 65, "empty.json is no result of wsss eval")])
def test_a_curve_that_cannot_be_plotted(script, tmp_path, words, code, told):
    write_results(tmp_path, a=0.4)
    (tmp_path / "empty.json").write_text("{}")
    found, out, err = script("plot_curves", *words)
    assert (found, out) == (code, "") and err.startswith("plot_curves.py: ") and told in err
    assert not (tmp_path / "f.png").exists()


def test_without_matplotlib_one_sentence_says_how_to_get_it(script, tmp_path, monkeypatch):
    write_results(tmp_path, a=0.4)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = script("plot_curves", "x@1=a.json", "-o", "f.png")
    assert (code, out) == (69, "")
    assert err == ("plot_curves.py: plotting needs matplotlib, which is not installed; run: pip install "
                   "'matplotlib>=3.8'\n")
    assert not (tmp_path / "f.csv").exists()


def test_the_correlation_of_ranks(script):
    """By hand: ranks 0, 1.5, 1.5, 3 against 3, 2, 1, 0 have covariance -4.5 and variances 4.5 and 5."""
    script("plot_prompts", "--help")
    rank_correlation = importlib.import_module("plot_prompts").rank_correlation
    assert rank_correlation([0.1, 0.2, 0.2, 9.0], [4.0, 3.0, 2.0, 1.0]) == pytest.approx(-4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation([1.0, 2.0, 30.0], [5.0, 6.0, 70.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 1.0], [5.0, 6.0]) is None and rank_correlation([1.0], [5.0]) is None


def test_prompts_need_a_sharpness_and_a_result_each(script, tmp_path):
    write_results(tmp_path, a=0.4, b=0.5)
    (tmp_path / "s.json").write_text(json.dumps({"templates": [{"template": "a {}", "sharpness": 0.1}]}))
    (tmp_path / "t.txt").write_text("a {}\nthe {}\n")
    words = ("--sharpness", "s.json", "--templates", "t.txt", "-o", "f.png", "--results")
    assert script("plot_prompts", *words, "a.json")[::2] == (
        65, "plot_prompts.py: there are 2 templates and 1 results; give a result for each\n")
    code, _, err = script("plot_prompts", *words, "a.json", "b.json")
    assert code == 65 and "no sharpness is known of 'the {}'" in err
    assert script("plot_prompts", *words, "a.json", "none.json")[0] == 65


def test_templates_are_picked_by_the_seed_alone(script, tmp_path):
    def picked(order: list[int], seed: int, count: int = 5) -> list[str]:
        rows = [{"template": f"a {{}} {n}", "sharpness": 0.1} for n in order]
        (tmp_path / "p.json").write_text(json.dumps({"templates": rows}))
        code, _, err = script("pick_templates", "p.json", "--count", count, "--seed", seed, "--first", "a {} 3", "-o",
                              "t.txt")
        assert code == 0, err
        return (tmp_path / "t.txt").read_text().splitlines()

    first = picked(list(range(20)), 0)
    assert first == picked(list(range(20))[::-1], 0), "the order of the result, which is by sharpness, does not matter"
    assert first != picked(list(range(20)), 1)
    assert first[0] == "a {} 3" and len(set(first)) == 6
    assert len(set(picked(list(range(20)), 0, 19))) == 20
    code, _, err = script("pick_templates", "p.json", "--count", 20, "--first", "a {} 3", "-o", "t.txt")
    assert code == 65 and "19 templates besides" in err


def test_images_of_coco_that_are_too_few(script, tmp_path):
    (tmp_path / "i.json").write_text(json.dumps({"images": [{"id": 1}, {"id": 2}], "annotations": [{"image_id": 1}]}))
    code, _, err = script("first_images", "i.json", "--count", 2, "-o", "f.json")
    assert code == 65 and "i.json: has 1 images with annotations" in err and not (tmp_path / "f.json").exists()
    (tmp_path / "c.json").write_text("[]")
    assert script("first_images", "c.json", "-o", "f.json")[0] == 65
    assert script("first_images", "none.json", "-o", "f.json")[0] == 66


def test_the_score_of_an_image_is_that_of_eval_on_it_alone(script, tiny_folder, tiny_index, tmp_path):
    """Random masks with ignored pixels, and classes that the truth lacks."""
    random = np.random.default_rng(5)
    ids = tiny_folder.ids[:3]
    masks = [random.choice(np.array([0, 1, 2, 255], np.uint8), (48, 64), p=(0.6, 0.2, 0.1, 0.1)) for _ in ids]
    wanted = {}
    for name, mask in zip(ids, masks, strict=True):
        (tmp_path / "one.txt").write_text(name)
        index = tmp_path / f"{name}.h5"
        good("index", "voc", tiny_folder.root, "--list", tmp_path / "one.txt", "-o", index)
        shard = Shard(index)
        write_shard(tmp_path / "one-masks.h5", Contents("masks", shard.classes, [Item(name, {"mask": mask})],
                                                        index_digest=shard.digest, index_path=index.name))
        good("eval", tmp_path / "one-masks.h5", "-o", tmp_path / "one.json")
        good("export", "png", tmp_path / "one-masks.h5", "--index", index, "-o", tmp_path / "png")
        wanted[name] = json.loads((tmp_path / "one.json").read_text())["miou"]
    code, out, err = script("image_scores", "m=png", "--truth", tiny_folder.root / "SegmentationClass", "--worst", 2,
                            "-o", "s.csv")
    assert (code, err) == (0, "")
    assert rows_of(tmp_path / "s.csv") == [["id", "m"], *([name, f"{100 * wanted[name]:.4f}"] for name in ids)]
    assert out.strip().split(",") == sorted(ids, key=lambda name: wanted[name])[:2]


def test_image_scores_that_cannot_be(script, tmp_path):
    for folder in ("png", "small", "empty", "truth", "colour"):
        (tmp_path / folder).mkdir()
    for folder in ("png", "truth"):
        save_mask(np.zeros((2, 3), np.uint8), tmp_path / folder / "a.png")
    save_mask(np.zeros((2, 2), np.uint8), tmp_path / "small" / "a.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "colour" / "a.png")
    for words, code, told in ((("m=empty", "--truth", "truth"), 65, "holds no PNG"),
                              (("m=small", "--truth", "truth"), 65, "a: the mask of m is (2, 2), the truth (2, 3)"),
                              (("m=png", "--truth", "empty"), 66, "a.png"),
                              (("m=png", "--truth", "colour"), 65, "mode RGB"), (("png", "--truth", "x"), 65, "NAME=")):
        found, _, err = script("image_scores", *words, "-o", "s.csv")
        assert found == code and told in err, err


def test_the_share_of_sure_pixels_is_that_of_the_posteriors(script, tiny_folder, tiny_index, tmp_path):
    """From posteriors through `pseudo` and `export png` to the table; levels are exact in 8 bits."""
    random, shard = np.random.default_rng(2), Shard(tiny_index)
    items, best = [], []
    for name in tiny_folder.ids:
        top = random.integers(100, 256, (48, 64))
        rows = np.stack([top, 255 - top]).astype(np.uint8)
        items.append(Item(name, {"class_ids": np.array([0, 2], "<u2"), "cam": rows},
                          {"height": 48, "width": 64, "covers": np.array([48, 64])}))
        best.append(np.maximum(top, 255 - top) / 255)
    write_shard(tmp_path / "crf.h5", Contents(
        "cams", shard.classes, items, root_attrs={"background": "included"}, index_digest=shard.digest,
        index_path=str(tiny_index)))
    for level in ("0.6", "0.9"):
        good("pseudo", tmp_path / "crf.h5", "--min-confidence", level, "-o", tmp_path / level)
        good("export", "png", tmp_path / level, "-o", tmp_path / f"png-{level}")
    code, out, err = script("confidence_bins", "0.9=png-0.9", "0.6=png-0.6", "-o", "c.csv")
    assert (code, err) == (0, "")
    values = np.concatenate(best)
    counts = [(values < 0.6).sum(), ((values >= 0.6) & (values < 0.9)).sum(), (values >= 0.9).sum()]
    assert min(counts) > 0
    wanted = [[name, str(count), f"{100 * count / values.size:.4f}"]
              for name, count in zip(("0-0.6", "0.6-0.9", "0.9-1"), counts, strict=True)]
    assert rows_of(tmp_path / "c.csv")[1:] == wanted
    assert out.splitlines()[1].split("\t")[1] == str(counts[0])
    next((tmp_path / "png-0.9").iterdir()).unlink()
    code, _, err = script("confidence_bins", "0.9=png-0.9", "0.6=png-0.6", "-o", "c.csv")
    assert code == 65 and "differ in their images" in err


def test_the_titles_of_the_runs_stand_in_a_real_sheet(tiny_index, tmp_path):
    """What figures.mk calls, once for real: the images of an index, runs with titles, and the truth."""
    shard = Shard(tiny_index)
    items = [Item(name, {"mask": np.ones((48, 64), np.uint8)}) for name in Run([tiny_index]).ids]
    for name in ("base", "ours"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "masks-00000-of-00001.h5", Contents(
            "masks", shard.classes, items, index_digest=shard.digest, index_path=str(tiny_index)))
    good("index", "split", tiny_index, "--multi", "-o", tmp_path / "multi.h5")
    good("show", tmp_path / "multi.h5", tmp_path / "base", tmp_path / "ours", "--truth", "--titles", "base,base-csd",
         "--count", "2", "-o", tmp_path / "figure3.png")
    with Image.open(tmp_path / "figure3.png") as picture:
        assert picture.size[0] == 2 * 16 + 4 * 240 + 3 * 8, "an image, two runs and the truth"
