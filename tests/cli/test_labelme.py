"""`index labelme`: JSON files as LabelMe writes them; masks are those that LabelMe draws."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cli.annotations import (
    HEIGHT,
    INNER,
    PAINTED,
    SQUARE,
    WIDTH,
    check_mask,
    index_layout,
    read_classes,
    read_items,
    save_image,
    to_pairs,
)
from cli.runner import check_error


def encode_png(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def build_labelme(*shapes: dict, **changes) -> dict:
    listed = [{"label": "cat", "points": [], "group_id": None, "description": "", "shape_type": "polygon", "flags": {},
               "mask": None, **shape} for shape in shapes]
    return {"version": "5.5.0", "flags": {}, "shapes": listed, "imagePath": "a.png", "imageData": "AAAA",
            "imageHeight": HEIGHT, "imageWidth": WIDTH, **changes}


def index_labelme(tmp_path: Path, content: object, *more: object):
    save_image(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "a.json").write_text(json.dumps(content))
    return index_layout("labelme", tmp_path / "set", *more)


def draw_like_labelme(points: list[float], shape_type: str = "polygon") -> np.ndarray:
    """Return a shape as the masks of LabelMe show it: drawn by Pillow, with its border."""
    canvas = Image.new("L", (WIDTH, HEIGHT))
    corners = [tuple(point) for point in to_pairs(points)]
    getattr(ImageDraw.Draw(canvas), shape_type)(corners, fill=1, outline=1)
    return np.asarray(canvas) > 0


def test_labelme(tmp_path):
    bitmap = PAINTED[10:20, 30:50]
    done = index_labelme(tmp_path, build_labelme(
        {"label": "dog", "points": to_pairs(INNER)}, {"points": to_pairs(SQUARE)},
        {"label": "dog", "shape_type": "rectangle", "points": [[40.7, 39.0], [30.2, 30.0]]},
        {"label": "mouse", "shape_type": "mask", "points": [[30.0, 10.0], [49.0, 19.0]], "mask": encode_png(bitmap)}))
    assert done.code == 0, done.err
    assert "Rectangles (1) are filled" in done.err
    assert read_classes(tmp_path / "set") == ("background", "cat", "dog", "mouse")
    expected = np.where(draw_like_labelme(SQUARE), 1, 2 * draw_like_labelme(INNER))  # later shapes are on top
    expected[draw_like_labelme([30.2, 30.0, 40.7, 39.0], "rectangle")] = 2
    expected[10:20, 30:50][bitmap] = 3
    labels, mask = read_items(tmp_path / "set")["a"]
    assert labels == (1, 2, 3)
    check_mask(mask, expected)


def test_a_circle_of_labelme_is_a_disc(tmp_path):
    index_labelme(tmp_path, build_labelme({"shape_type": "circle", "points": [[30.5, 20.5], [30.5, 33.1]]}))
    mask = read_items(tmp_path / "set")["a"][1]
    check_mask(mask, draw_like_labelme([17.9, 7.9, 43.1, 33.1], "ellipse"))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(rows + 0.5 - 20.5, columns + 0.5 - 30.5)
    assert mask[distance < 12.6 - 1.5].all() and not mask[distance > 12.6 + 1.5].any()


def test_labelme_lines_make_tags_only(tmp_path):
    done = index_labelme(tmp_path, build_labelme({"points": to_pairs(SQUARE)}, {
        "label": "dog", "shape_type": "linestrip", "points": to_pairs(INNER)}))
    assert "Lines and points (1) have no area" in done.err
    assert read_items(tmp_path / "set")["a"] == ((1, 2), None)


def test_labelme_flags_are_tags(tmp_path):
    index_labelme(tmp_path, build_labelme(flags={"cat": True, "dog": False, "mouse": True}))
    assert read_classes(tmp_path / "set") == ("background", "cat", "mouse")
    assert read_items(tmp_path / "set")["a"] == ((1, 2), None)
    done = index_labelme(tmp_path, build_labelme({"points": to_pairs(SQUARE)}, flags={"cat": True, "blurred": True}))
    assert "not used: blurred" in done.err
    assert read_items(tmp_path / "set")["a"][0] == (1,) and read_items(tmp_path / "set")["a"][1].any()


@pytest.mark.parametrize("path", ["..\\images\\a.png", "C:\\photos\\a.png", "/data/other/a.png", "../set/a.png"])
def test_labelme_image_paths_of_other_machines(tmp_path, path):
    done = index_labelme(tmp_path, build_labelme({"points": to_pairs(SQUARE)}, imagePath=path))
    assert done.code == 0, done.err
    assert list(read_items(tmp_path / "set")) == ["a"]


def test_labelme_images_of_another_folder_and_ignored_shapes(tmp_path):
    save_image(tmp_path / "photos" / "a.png")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "a.json").write_text(json.dumps(build_labelme(
        {"points": to_pairs(SQUARE)}, {"label": "__ignore__", "points": to_pairs(INNER)}, imagePath="../photos/a.png")))
    check_error(index_layout("labelme", tmp_path / "json"), 66, "none of the 1 images", "--images")
    assert index_layout("labelme", tmp_path / "json", "--images", tmp_path / "photos").code == 0
    expected = np.where(draw_like_labelme(INNER), 255, draw_like_labelme(SQUARE))
    check_mask(read_items(tmp_path / "json")["a"][1], expected)


@pytest.mark.parametrize(("shape", "messages"), [
    ({"shape_type": "cube", "points": to_pairs(SQUARE)}, ("shapes[0] (cat)", "'cube'")),
    ({"label": None, "points": to_pairs(SQUARE)}, ("shapes[0]", "label None")),
    ({"points": [[1, 2], [3, "4"], [5, 6]]}, ("shapes[0] (cat).points[1]", "2 numbers")),
    ({"points": [[1, 2], [3, float("nan")], [5, 6]]}, ("points[1]",)),
    ({"shape_type": "circle", "points": [[1, 2]]}, ("circle of 1 points", "needs 2")),
    ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": "!"}, ("mask is not base64",)),
    ({"shape_type": "mask", "points": [[1, 2], [3, 4]], "mask": encode_png(PAINTED)}, ("40x60", "3x3")),
    ({"shape_type": "mask", "points": [[99, 2], [101, 4]], "mask": encode_png(PAINTED[:3, :3])}, ("covers no pixel",)),
])
def test_other_shapes_of_labelme_are_rejected(tmp_path, shape, messages):
    check_error(index_labelme(tmp_path, build_labelme(shape)), 65, "a.json", *messages)


def test_other_files_of_labelme(tmp_path):
    save_image(tmp_path / "set" / "a.png")
    check_error(index_layout("labelme", tmp_path / "set"), 66, "no JSON file of LabelMe")
    (tmp_path / "set" / "other.json").write_text('{"a": 1}')
    done = index_labelme(tmp_path, build_labelme({"points": to_pairs(SQUARE)}))
    assert "not of LabelMe: 1." in done.err
    names = tmp_path / "names.txt"
    names.write_text("dog\ncat\n")
    index_labelme(tmp_path, build_labelme({"points": to_pairs(SQUARE)}), "--class-names", names)
    assert read_classes(tmp_path / "set") == ("background", "dog", "cat")
    assert read_items(tmp_path / "set")["a"][0] == (2,)
    names.write_text("dog\n")
    check_error(index_labelme(tmp_path, build_labelme({"points": to_pairs(SQUARE)}), "--class-names", names), 65,
                "shapes[0] (cat)", "--class-names")
    other_case = {"points": to_pairs(INNER), "label": "Cat"}
    check_error(index_labelme(tmp_path, build_labelme({"points": to_pairs(SQUARE)}, other_case)), 65, "'Cat'", "'cat'")
