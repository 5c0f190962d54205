"""`show`: figures of one photograph, pages of many, curves, matrices, the terminal, and what it can't draw."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, run, run_ok
from data.test_terminal_graphics import decode_kitty
from stages.data import contact_sheets
from stages.data.class_colours import class_colours
from stages.shards import Item, Run, Shard, ShardContents, write_shard

SIZE = (48, 64)


@pytest.fixture(scope="module")
def cams(maps) -> Path:
    """Return CAMs of the whole tiny set. Tests must not change them."""
    return maps


@pytest.fixture(scope="module")
def masks(cams, tmp_path_factory) -> Path:
    """Return pseudo masks with some ignored pixels."""
    folder = tmp_path_factory.mktemp("show") / "masks"
    run_ok("pseudo", cams, "--background", "two-thresholds:0.2,0.5", "-o", folder)
    return folder


def write_run(folder: Path, index: Path, items: list[Item], kind: str = "masks") -> Path:
    """Write a run of masks or CAMs without a background for an index, in one shard."""
    shard = Shard(index)
    folder.mkdir()
    write_shard(folder / f"{kind}-00000-of-00001.h5", ShardContents(
        kind, shard.classes, items, index_digest=shard.digest, index_path=str(index),
        root_attrs={"background": "none"} if kind == "cams" else {}))
    return folder


def read_pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def count_colour(picture: np.ndarray, class_id: int) -> int:
    return int((picture == class_colours([class_id])[0]).all(axis=2).sum())


def test_one_photograph_has_a_panel_for_each_class_and_mask(cams, masks, tmp_path):
    """picture_002 shows both classes: the photograph, two heat maps, the mask, the truth, three panels to a line."""
    output = tmp_path / "new" / "look.png"
    assert run_ok("show", cams, masks, "--ids", "picture_002", "--truth", "-o", output) == [str(output)]
    assert read_pixels(output).shape[1] == 2 * 16 + 3 * 320 + 2 * 8
    widths = {}
    for name, words in (("both", (cams,)), ("one", (cams, "--classes", "dog")), ("mask", (masks,))):
        run_ok("show", *words, "--ids", "picture_002", "--cell", 100, "-o", tmp_path / f"{name}.png")
        widths[name] = read_pixels(tmp_path / f"{name}.png").shape[1]
    assert widths == {"both": 32 + 3 * 148 - 8, "one": 32 + 2 * 148 - 8, "mask": 32 + 2 * 148 - 8}


def test_the_legend_has_exactly_the_classes_in_the_masks(tiny_index, tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :20] = 2
    both = mask.copy()
    both[:, 40:] = 1
    masks = write_run(tmp_path / "masks", tiny_index, [Item("picture_000", {"mask": mask}),
                                                       Item("picture_001", {"mask": both})])
    swatch = 12 * 12 - 44  # its outline has another colour
    pictures = {}
    for name in ("picture_000", "picture_001"):
        run_ok("show", masks, "--ids", name, "-o", tmp_path / f"{name}.png")
        pictures[name] = read_pixels(tmp_path / f"{name}.png")
    assert count_colour(pictures["picture_000"], 1) == 0 and count_colour(pictures["picture_000"], 2) > swatch
    assert count_colour(pictures["picture_001"], 1) > swatch and count_colour(pictures["picture_001"], 2) > swatch
    run_ok("show", masks, "--ids", "picture_001", "--classes", "cat", "-o", tmp_path / "cat.png")
    assert count_colour(read_pixels(tmp_path / "cat.png"), 2) == 0 < count_colour(read_pixels(tmp_path / "cat.png"), 1)


def test_columns_have_the_given_titles(cams, masks, tiny_index, tmp_path):
    """Titles equal to the names of the runs give the default page, and other titles change only the title row."""
    sheets = {}
    for name, more in (("default", ()), ("same", ("--titles", "cams,masks")), ("other", ("--titles", "base,ours"))):
        run_ok("show", tiny_index, cams, masks, "--count", "2", *more, "-o", tmp_path / f"{name}.png")
        sheets[name] = read_pixels(tmp_path / f"{name}.png")
    assert (sheets["default"] == sheets["same"]).all()
    assert (sheets["default"][:40] != sheets["other"][:40]).any(), "the titles are at the top"
    assert (sheets["default"][60:] == sheets["other"][60:]).all(), "nothing else differs"
    done = run("show", cams, masks, "--titles", "base", "-o", tmp_path / "x.png")
    check_error(done, 2, "--titles has 1 titles for 2")
    assert not (tmp_path / "x.png").exists()


def test_images_are_chosen_from_the_first_run(cams, tiny_index, tmp_path):
    """An index as first input limits the images, and has no column."""
    run_ok("index", "split", tiny_index, "--multi", "-o", tmp_path / "multi.h5")
    ids = list(Run([tmp_path / "multi.h5"]).ids)
    done = run("show", tmp_path / "multi.h5", cams, "--count", 99, "--dry-run", "-o", tmp_path / "x.png")
    assert f"Would draw {', '.join(ids)} to" in done.err
    assert 0 < len(ids) < len(list(Run([tiny_index]).ids))


def test_an_index_is_drawn_with_its_ground_truth(tiny_index, tiny_dataset, tmp_path):
    run_ok("show", tiny_index, "--count", 3, "-o", tmp_path / "index.png")
    sheet = read_pixels(tmp_path / "index.png")
    assert count_colour(sheet, 1) and count_colour(sheet, 2)
    run_ok("index", "table", tiny_dataset.root / "labels.csv", "--images", tiny_dataset.root / "JPEGImages", "-o",
           tmp_path / "bare.h5")
    run_ok("show", tmp_path / "bare.h5", "--count", 3, "-o", tmp_path / "bare.png")
    bare = read_pixels(tmp_path / "bare.png")
    assert not count_colour(bare, 1) and not count_colour(bare, 2) and bare.size < sheet.size


def test_many_images_are_pages(cams, masks, tmp_path):
    output = tmp_path / "look.png"
    paths = run_ok("show", cams, masks, "--count", 12, "--cell", 600, "-o", output)
    assert paths == [str(output), *(str(tmp_path / f"look-{number}.png") for number in range(2, len(paths) + 1))]
    assert len(paths) > 1 and all(max(read_pixels(Path(path)).shape) <= 2400 for path in paths)
    pdf, = run_ok("show", cams, masks, "--count", 12, "--cell", 600, "-o", tmp_path / "look.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b", Path(pdf).read_bytes())) == len(paths)


def test_pages_of_a_longer_run_stay_and_are_named(cams, tmp_path):
    output = tmp_path / "look.png"
    for name in ("look-2.png", "look-3.png", "look-5.png"):
        (tmp_path / name).write_bytes(b"old")
    done = run("show", cams, "--count", 1, "-o", output)
    assert done.code == 0
    assert "look-2.png to look-3.png are not part of this run" in done.err and "look-5" not in done.err
    assert (tmp_path / "look-2.png").read_bytes() == b"old"
    (tmp_path / "look-3.png").unlink()
    assert "look-2.png is not part of this run" in run("show", cams, "--count", 1, "-o", output).err
    assert "not part" not in run("show", cams, "--count", 1, "-o", tmp_path / "other.png").err


def test_an_image_is_not_taken_for_a_run(tiny_dataset, tmp_path):
    image = next((tiny_dataset.root / "JPEGImages").glob("*.jpg"))
    shutil.copy(image, tmp_path / "photo")
    for path in (image, tmp_path / "photo"):
        check_error(run("show", path, "-o", tmp_path / "look.png"), 2, f"{path} is an image", "wsss index folder")


def test_names_that_no_font_can_draw_are_reported_once(tiny_index, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheets, "load_system_font", lambda characters, size: None)
    index = Shard(tiny_index)
    items = [index.item(item_id) for item_id in index.ids[:3]]
    root = os.path.relpath(tiny_index.parent / index.attribute("root"), tmp_path)
    write_shard(tmp_path / "i.h5", ShardContents("index", ("background", "\u732b", "\u72ac"), items,
                                                 provenance=index.provenance, root_attrs={"root": root}))
    done = run("show", tmp_path / "i.h5", "--count", 3, "-o", tmp_path / "look.png")
    assert done.code == 0, done.err
    assert done.err.count("drawn as escapes") == 1 and "\u732b" in done.err and "\\u732b" in done.err



@pytest.mark.parametrize(("suffix", "start"), [(".jpg", b"\xff\xd8"), (".JPEG", b"\xff\xd8"), (".pdf", b"%PDF"),
                                              (".png", b"\x89PNG")])
def test_the_suffix_decides_about_the_format(masks, tmp_path, suffix, start):
    run_ok("show", masks, "-o", tmp_path / f"look{suffix}")
    assert (tmp_path / f"look{suffix}").read_bytes().startswith(start)


def test_other_commands_draw_the_same_formats(tiny_index, tmp_path):
    run_ok("cooc", tiny_index, "-o", tmp_path / "cooc.h5", "--plot", tmp_path / "cooc.pdf")
    assert (tmp_path / "cooc.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["look.gif", "look", "look.h5"])
def test_other_suffixes_are_an_error(masks, tmp_path, name):
    check_error(run("show", masks, "-o", tmp_path / name), 2, f"{name} does not end in .png, .jpg, .jpeg or .pdf")
    assert not (tmp_path / name).exists()


def build_ranked_runs(tiny_index, tmp_path) -> tuple[Path, Path, dict[str, float]]:
    """Return masks that are the truth except for more and more rows, the truth itself, and the mean IoU by id."""
    shard, first, second, expected = Shard(tiny_index), [], [], {}
    from stages.data.image_source import ImageSource
    source = ImageSource(shard)
    for position, item_id in enumerate(shard.ids):
        truth = source.read_mask(item_id)
        exact = np.where(truth == 255, 0, truth).astype(np.uint8)
        wrong = exact.copy()
        wrong[:(7 * position) % 12 * 4] = 0
        counted = truth != 255
        pairs = [((wrong == value)[counted], (truth == value)[counted]) for value in np.unique(truth[counted])]
        ious = [(predicted & true).sum() / (predicted | true).sum() for predicted, true in pairs]
        expected[item_id] = float(np.mean(ious))
        first.append(Item(item_id, {"mask": wrong}))
        second.append(Item(item_id, {"mask": exact}))
    return (write_run(tmp_path / "wrong", tiny_index, first), write_run(tmp_path / "exact", tiny_index, second),
            expected)


def read_order(done, label: str) -> dict[str, float]:
    """Return the ids and values of the message about the order."""
    assert done.code == 0, done.err
    line = next(line for line in done.err.splitlines() if line.startswith(label))
    pairs = [pair.split() for pair in line.removeprefix(f"{label} first: ").rstrip(".").split(", ")]
    return {item_id: float(value) for item_id, value in pairs}


def test_the_worst_images_by_iou_come_first(tiny_index, tmp_path):
    wrong, exact, expected = build_ranked_runs(tiny_index, tmp_path)
    done = run("show", wrong, "--worst", 4, "-o", tmp_path / "worst.png")
    order = read_order(done, "Lowest IoU")
    assert list(order) == sorted(expected, key=lambda item_id: (expected[item_id], item_id))[:4]
    assert all(abs(order[item_id] - expected[item_id]) < 0.001 for item_id in order)
    done = run("show", wrong, exact, "--sort", "disagreement", "--worst", 2, "-n", "-o", tmp_path / "x.png")
    disagreement = read_order(done, "Highest disagreement")
    assert list(disagreement.values()) == sorted(disagreement.values(), reverse=True)
    assert f"Would draw {', '.join(disagreement)} to" in done.err
    ids = "picture_003,picture_001,picture_007"
    done = run("show", wrong, "--ids", ids, "--sort", "iou", "-n", "-o", tmp_path / "x.png")
    assert sorted(read_order(done, "Lowest IoU")) == sorted(ids.split(","))


def test_images_without_ground_truth_are_left_out_and_counted(tiny_index, tiny_dataset, tmp_path):
    masks = tmp_path / "some"
    masks.mkdir()
    for name in tiny_dataset.ids[:3]:
        shutil.copy(tiny_dataset.root / "SegmentationClass" / f"{name}.png", masks)
    run_ok("index", "table", tiny_dataset.root / "labels.csv", "--images", tiny_dataset.root / "JPEGImages", "--masks",
           masks, "--class-names", tiny_dataset.root / "classes.txt", "-o", tmp_path / "some.h5")
    items = [Item(name, {"mask": np.ones(SIZE, np.uint8)}) for name in tiny_dataset.ids]
    predictions = write_run(tmp_path / "predictions", tmp_path / "some.h5", items)
    done = run("show", predictions, "--worst", 12, "--truth", "-o", tmp_path / "x.png")
    assert sorted(read_order(done, "Lowest IoU")) == list(tiny_dataset.ids[:3])
    assert "Left out 9 of 12 images without ground truth" in done.err
    run_ok("show", predictions, "--count", 12, "--truth", "-o", tmp_path / "y.png")
    check_error(run("show", predictions, "--ids", "picture_005", "--truth", "-o", tmp_path / "z.png"), 65,
                "no ground truth of picture_005", "--masks DIR")
    assert not (tmp_path / "z.png").exists()


def test_missing_ground_truth_is_an_error(tiny_dataset, tmp_path):
    run_ok("index", "table", tiny_dataset.root / "labels.csv", "--images", tiny_dataset.root / "JPEGImages",
           "--class-names", tiny_dataset.root / "classes.txt", "-o", tmp_path / "bare.h5")
    masks = write_run(tmp_path / "masks", tmp_path / "bare.h5",
                      [Item(name, {"mask": np.ones(SIZE, np.uint8)}) for name in tiny_dataset.ids])
    more = ("-o", tmp_path / "x.png")
    check_error(run("show", masks, "--count", 2, "--truth", *more), 65, "picture_000, picture_011", "Leave out --truth")
    check_error(run("show", masks, "--sort", "iou", *more), 65, "without ground truth", "--masks DIR")
    check_error(run("show", masks, "--worst", 2, *more), 2, "--sort score needs CAMs")
    check_error(run("show", masks, "--sort", "disagreement", *more), 2, "needs two runs")
    assert not (tmp_path / "x.png").exists()


def test_the_worst_images_by_score(tiny_index, tmp_path):
    scores = {"picture_000": 0.9, "picture_001": 0.2, "picture_002": 0.2, "picture_003": 0.5}
    maps = {"class_ids": np.array([1, 2], "<u2"), "cam": np.full((2, 3, 4), 0.5, np.float16)}
    attrs = {"height": 48, "width": 64, "covers": np.array(SIZE)}
    items = [Item(name, {**maps, "scores": np.array([score, 0.1], "<f4")}, attrs) for name, score in scores.items()]
    items.append(Item("picture_004", maps, attrs))
    cams = write_run(tmp_path / "cams", tiny_index, items, "cams")
    done = run("show", cams, "--worst", 3, "-o", tmp_path / "x.png")
    assert list(read_order(done, "Lowest score").items()) == [("picture_001", 0.2), ("picture_002", 0.2),
                                                              ("picture_003", 0.5)]
    assert "Left out 1 of 5 images without a score" in done.err
    done = run("show", cams, "--worst", 1, "--classes", "dog", "-o", tmp_path / "x.png")
    assert list(read_order(done, "Lowest score").values()) == [0.1]
    check_error(run("show", cams, "--sort", "iou", "-o", tmp_path / "x.png"), 2, "CAMs without a background",
                "--background constant:0.3")
    done = run("show", cams, "--worst", 2, "--background", "constant:0.3", "-o", tmp_path / "x.png")
    assert len(read_order(done, "Lowest IoU")) == 2
    done = run("show", cams, "--worst", 1, "--ids", "picture_000", "-o", tmp_path / "x.png")
    check_error(done, 2, "--ids and --worst")


def test_unknown_classes_are_an_error_with_similar_names(cams, tmp_path):
    check_error(run("show", cams, "--classes", "cot", "-o", tmp_path / "x.png"), 2, "--classes 'cot' is not a class",
                "Did you mean 'cat'?")
    check_error(run("show", cams, "--classes", "zebra", "-o", tmp_path / "x.png"), 2, "Use some of cat, dog")


def test_a_class_without_a_cam_is_named(cams, tmp_path):
    done = run("show", cams, "--ids", "picture_000", "--classes", "cat,dog", "-o", tmp_path / "x.png")
    assert (done.code, done.err) == (0, "cams: picture_000 has no CAM of dog.\n")


def test_images_that_a_run_lacks_are_named_in_words(tiny_index, tmp_path):
    mask = np.ones(SIZE, np.uint8)
    first = write_run(tmp_path / "a", tiny_index, [Item("picture_000", {"mask": mask}),
                                                   Item("picture_001", {"mask": mask})])
    second = write_run(tmp_path / "b", tiny_index, [Item("picture_000", error="the photograph is broken")])
    run_ok("show", first, second, "--count", 2, "-o", tmp_path / "two.png")
    run_ok("show", first, second, "--ids", "picture_000", "-o", tmp_path / "one.png")
    assert count_colour(read_pixels(tmp_path / "one.png"), 1)


def test_curves_of_a_network_and_of_a_log(tiny_net, tmp_path):
    log = tiny_net.with_suffix(".log.jsonl")
    assert run_ok("show", tiny_net, "-o", tmp_path / "curves.png") == [str(tmp_path / "curves.png")]
    run_ok("show", log, "-o", tmp_path / "log.png")
    assert read_pixels(tmp_path / "curves.png").shape == read_pixels(tmp_path / "log.png").shape
    shutil.copy(tiny_net, tmp_path / "moved.safetensors")
    check_error(run("show", tmp_path / "moved.safetensors", "-o", tmp_path / "x.png"), 66, "moved.log.jsonl",
                "wsss show LOG.jsonl")
    check_error(run("show", tmp_path / "none.jsonl", "-o", tmp_path / "x.png"), 66, "none.jsonl")
    (tmp_path / "run.jsonl").write_text('{"path": "a.h5", "items": 3}\nnonsense\n')
    check_error(run("show", tmp_path / "run.jsonl", "-o", tmp_path / "x.png"), 65, "no line of a training")
    assert "Would draw the curves of" in run("show", log, "-n", "-o", tmp_path / "x.png").err
    assert not (tmp_path / "x.png").exists()
    assert "\u2580" in run_ok("show", log, "--terminal")[0]


def test_the_last_training_of_a_log_is_drawn(tmp_path):
    lines = [{"epoch": epoch, "step": 5 * epoch, "loss": 1 / epoch} for epoch in (1, 2, 3, 1, 2)]
    (tmp_path / "a.log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 3, "st')
    done = run("show", tmp_path / "a.log.jsonl", "-o", tmp_path / "a.png")
    assert (done.code, "holds 2 trainings; drawing the last one" in done.err) == (0, True)
    (tmp_path / "b.log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[3:]))
    run_ok("show", tmp_path / "b.log.jsonl", "-o", tmp_path / "b.png")
    assert (read_pixels(tmp_path / "a.png")[60:] == read_pixels(tmp_path / "b.png")[60:]).all(), "except the heading"


def test_the_matrix_of_cooc(tiny_index, cams, tmp_path):
    run_ok("cooc", tiny_index, "-o", tmp_path / "cooc.h5", "--plot", tmp_path / "plot.png")
    run_ok("show", tmp_path / "cooc.h5", "-o", tmp_path / "look.png")
    assert (tmp_path / "look.png").read_bytes() == (tmp_path / "plot.png").read_bytes()
    check_error(run("show", cams, tmp_path / "cooc.h5", "-o", tmp_path / "x.png"), 2, "is drawn alone",
                f"wsss show {tmp_path / 'cooc.h5'}")


def test_what_is_no_picture_says_what_to_use_instead(cams, tiny_net, tmp_path):
    out, classes = ("-o", tmp_path / "x.png"), ("background", "cat")
    contents = {"features": {"features": np.zeros((1, 4), "<f4"), "labels": np.ones((1, 2), np.uint8)},
                "clusters": {"assignment": np.zeros((1, 2), "<i4"), "n_clusters": np.ones(2, "<i4")}}
    for kind, datasets in contents.items():
        write_shard(tmp_path / f"{kind}.h5", ShardContents(kind, classes, ids=["a"], root_datasets=datasets))
    check_error(run("show", tmp_path / "features.h5", *out), 65, "holds features", "wsss cluster finch", "--sheet")
    check_error(run("show", tmp_path / "clusters.h5", *out), 65, "holds clusters", "--sheet")
    check_error(run("show", cams, tiny_net, *out), 2, "two commands")


def test_drawings_in_the_terminal_have_the_given_width(cams, tiny_index, monkeypatch):
    for path in (cams, tiny_index):
        lines = run_ok("show", path, "--terminal", "--columns", "20", "--count", 2)
        drawn = [line for line in lines if "\u2580" in line]
        assert all(line.count("\u2580") == 20 and line.endswith("\x1b[0m") for line in drawn)
        assert len(drawn) > 20 and lines[0].startswith("picture_000   tags: ")
    lines = run_ok("show", cams, "--ids", "picture_002", "--terminal")
    assert lines[:2] == ["picture_002", "tags: cat, dog"] and lines[2].split()[0] == "photograph"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "\n".join(run_ok("show", cams, "--terminal"))


def test_the_terminal_shows_pixels_by_kitty_or_sixel(cams, tmp_path, monkeypatch):
    run_ok("show", cams, "--ids", "picture_002", "-o", tmp_path / "look.png")
    text = run("show", cams, "--ids", "picture_002", "--terminal", "--graphics", "kitty", "--columns", 500).out
    assert np.array_equal(decode_kitty(text.rstrip("\n")), read_pixels(tmp_path / "look.png"))
    assert run("show", cams, "--count", 3, "--terminal", "--graphics", "sixel").out.startswith("\x1bPq")
    monkeypatch.setenv("TERM", "xterm-kitty")
    assert "\u2580" in run("show", cams, "--terminal").out, "standard output is no terminal"
    check_error(run("show", cams, "--terminal", "--graphics", "regis"), 2, "--graphics", "blocks, kitty, sixel")


def test_show_needs_an_output_and_existing_ids(cams, tmp_path):
    check_error(run("show", cams), 2, "-o", "--terminal")
    check_error(run("show", cams, "--ids", "nobody", "-o", tmp_path / "x.png"), 66, "nobody")
    check_error(run("show", tmp_path / "none.h5", "--terminal"), 66, "none.h5")


def test_cams_with_a_background_leave_out_classes_that_are_nowhere(tiny_index, tmp_path):
    shard = Shard(tiny_index)
    cam = np.zeros((3, 4, 4), np.float16)
    cam[0], cam[1], cam[2] = 0.5, 0.49, 0.01
    item = Item("picture_000", {"class_ids": np.array([0, 1, 2], "<u2"), "cam": cam},
                {"height": 48, "width": 64, "covers": np.array(SIZE)})
    write_shard(tmp_path / "scores.h5", ShardContents(
        "cams", shard.classes, [item], index_digest=shard.digest, index_path=str(tiny_index),
        root_attrs={"background": "included"}))
    done = run("show", tmp_path / "scores.h5", "-o", tmp_path / "x.png")
    assert "left out 1 class whose map is" in done.err and "(dog)" in done.err and "--classes dog." in done.err
    assert read_pixels(tmp_path / "x.png").shape[1] == 2 * 16 + 2 * 320 + 8
    done = run("show", tmp_path / "scores.h5", "--classes", "dog", "--cell", 200, "-o", tmp_path / "x.png")
    assert (done.code, done.err) == (0, "")
