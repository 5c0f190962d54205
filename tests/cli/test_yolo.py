"""`index yolo`: data.yaml, Roboflow's folders, and files of labels, as YOLO's tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.annotations import (
    HEIGHT,
    INNER,
    SQUARE,
    WIDTH,
    check_mask,
    draw_polygon,
    index_layout,
    read_classes,
    read_items,
    save_image,
)
from cli.runner import check_error


def to_fractions(points: list[float]) -> str:
    return " ".join(repr(value / (HEIGHT if position % 2 else WIDTH)) for position, value in enumerate(points))


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Return data.yaml of a data set with two splits: a has polygons, b a box, c no file, d an empty file."""
    root = tmp_path / "yolo"
    for name in "abcd":
        save_image(root / "images" / "train" / f"{name}.png")
    save_image(root / "images" / "val" / "v.png")
    (root / "labels" / "train").mkdir(parents=True)
    (root / "labels" / "train" / "a.txt").write_text(f"1 {to_fractions(SQUARE)}\n0 {to_fractions(INNER)}\n")
    (root / "labels" / "train" / "b.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (root / "labels" / "train" / "d.txt").write_text("\n")
    (root / "data.yaml").write_text("path: ../datasets/other\ntrain: images/train\nval: images/val\n"
                                    "names:\n  0: cat\n  1: dog\n")
    return root / "data.yaml"


def test_yolo(yolo):
    done = index_layout("yolo", yolo, "--split", "train")
    assert done.code == 0, done.err
    assert read_classes(yolo) == ("background", "cat", "dog")
    items = read_items(yolo)
    assert {name: labels for name, (labels, _) in items.items()} == {"a": (1, 2), "b": (2,), "c": (), "d": ()}
    check_mask(items["a"][1], np.where(draw_polygon(INNER), 1, 2 * draw_polygon(SQUARE)))
    assert items["b"][1] is None
    assert not items["c"][1].any() and not items["d"][1].any()
    assert "1 of 4 images have no file of labels" in done.err and "a box only" in done.err


def test_yolo_needs_a_split_if_there_are_several(yolo):
    check_error(index_layout("yolo", yolo), 2, "train, val", "--split train")
    check_error(index_layout("yolo", yolo, "--split", "test"), 2, "no split 'test'", "train, val")
    check_error(index_layout("yolo", yolo, "--split", "val"), 66, "none of the 1 images has a file of labels",
                "labels/val")


@pytest.mark.parametrize("text", ["train: ../train/images\nnames: [cat, dog]\nnc: 2\n",
                                  "train: train/images\nnames: ['cat', 'dog']\n",
                                  "train: train\\images\nnames: {0: cat, 1: dog}\n"])
def test_yolo_of_roboflow(yolo, text):
    root = yolo.parent
    (root / "train").mkdir()
    (root / "images" / "train").rename(root / "train" / "images")
    (root / "labels" / "train").rename(root / "train" / "labels")
    yolo.write_text(text)
    assert index_layout("yolo", yolo).code == 0
    assert read_classes(yolo) == ("background", "cat", "dog") and read_items(yolo)["a"][0] == (1, 2)


def test_yolo_without_yaml_and_with_classes(yolo):
    root = yolo.parent
    yolo.unlink()
    check_error(index_layout("yolo", root), 66, "no data.yaml and no classes.txt")
    (root / "classes.txt").write_text("cat\ndog\n")
    assert index_layout("yolo", root, "--split", "train").code == 0
    assert read_items(root)["a"][0] == (1, 2)
    (root / "list.txt").write_text("./images/train/b.png\nimages/train/a.png\n")
    yolo.write_text("train: list.txt\nnames: [cat, dog]\n")
    assert index_layout("yolo", yolo).code == 0
    assert list(read_items(yolo)) == ["b", "a"]


@pytest.mark.parametrize(("line", "messages"), [
    ("2 0.5 0.5 0.2 0.2", ("train/a.txt:1", "class number is 2", "0 to 1")),
    ("0.5 0.5 0.5 0.2 0.2", ("class number is 0.5",)),
    ("cat 0.5 0.5 0.2 0.2", ("'cat 0.5 0.5 0.2 0.2'", "not a number")),
    ("0 30 20 10 10", ("coordinate 30", "between 0 and 1")),
    ("0 nan 0.2 0.1 0.1", ("coordinate nan",)),
    ("0 0.1 0.2 0.1", ("4 numbers",)),
    ("0 0.5 0.5 0.2 0.2 0.9", ("6 numbers",)),
    ("0 0.1 0.1 0.2 0.2 0.3 0.1 0.4", ("8 numbers", "pairs")),
    ("0", ("1 numbers",)),
])
def test_other_lines_of_yolo_are_rejected(yolo, line, messages):
    (yolo.parent / "labels" / "train" / "a.txt").write_text(line)
    check_error(index_layout("yolo", yolo, "--split", "train"), 65, *messages)


@pytest.mark.parametrize(("text", "messages"), [
    ("names: [cat\n", ("not valid YAML",)), ("train: images/train\n", ("no class names",)),
    ("names: cat\ntrain: images/train\n", ("neither a list nor a map",)),
    ("names: {1: cat, 2: dog}\ntrain: images/train\n", ("class numbers are 1, 2, not 0 to 1",)),
    ("names: [cat, Cat]\ntrain: images/train\n", ("'Cat'", "'cat'")),
    ("names: [cat, cat]\ntrain: images/train\n", ("names[1]", "'cat'")),
    ("a: &a [cat, dog]\nnames: *a\ntrain: images/train\n", ("aliases",)),
    ("names: [cat, yes]\ntrain: images/train\n", ("names[1] has the name True",)),
    ("names: [cat, null]\ntrain: images/train\n", ("names[1] has the name None",)),
    ("names: [cat, dog]\nnc: 3\ntrain: images/train\n", ("nc is 3",)),
    ("names: [cat, dog]\ntrain: 5\n", ("train is 5",)),
])
def test_other_data_yaml_is_rejected(yolo, text, messages):
    yolo.write_text(text)
    check_error(index_layout("yolo", yolo), 65, "data.yaml", *messages)


def test_yolo_key_points_and_a_background_class(yolo):
    yolo.write_text("train: images/train\nnames: [background, dog]\nkpt_shape: [2, 2]\n")
    (yolo.parent / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.2 0.2 0.4 0.4 0.6 0.6\n")
    assert index_layout("yolo", yolo).code == 0
    assert read_classes(yolo) == ("background", "dog")
    assert read_items(yolo)["a"] == ((1,), None)
