"""`index labelstudio`: the JSON export as Label Studio writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.annotations import (
    HEIGHT,
    PAINTED,
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


def build_task(*results: dict, image: str = "/data/upload/3/0a1b2c3d-a.png", **changes) -> dict:
    listed = [{"id": f"r{number}", "from_name": "label", "to_name": "image", "original_width": WIDTH,
               "original_height": HEIGHT, "image_rotation": 0, "origin": "manual", **result}
              for number, result in enumerate(results)]
    return {"id": 7, "annotations": [{"id": 1, "was_cancelled": False, "ground_truth": False, "result": listed}],
            "predictions": [], "data": {"image": image}, "file_upload": "0a1b2c3d-a.png", **changes}


def build_ls_polygon(points: list[float], label: str) -> dict:
    scale = np.array([100 / WIDTH, 100 / HEIGHT])
    return {"type": "polygonlabels", "value": {"points": (np.reshape(points, (-1, 2)) * scale).tolist(),
                                               "closed": True, "polygonlabels": [label]}}


def pack_brush(region: np.ndarray) -> list[int]:
    """Return the bit stream of a brush label: repeated values and, for every fourth block, values in full."""
    values = np.repeat(region.astype(np.uint8).ravel() * 255, 4).tolist()
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in (3, 4, 8, 16))
    position, number = 0, 0
    while position < len(values):
        count = 1
        while position + count < len(values) and values[position + count] == values[position]:
            count += 1
        choice = next(index for index, width in enumerate((3, 4, 8, 16)) if count - 1 < 1 << width)
        is_repeated = number % 4 != 0 or count > 256
        bits += f"{int(is_repeated)}{choice:02b}{count - 1:0{(3, 4, 8, 16)[choice]}b}"
        bits += f"{values[position]:08b}" * (1 if is_repeated else count)
        position, number = position + count, number + 1
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start:start + 8], 2) for start in range(0, len(bits), 8)]


def index_labelstudio(tmp_path: Path, tasks: object, *more: object):
    save_image(tmp_path / "photos" / "a.png")
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    return index_layout("labelstudio", tmp_path / "project.json", "--images", tmp_path / "photos", *more)


def test_labelstudio(tmp_path):
    brush = {"type": "brushlabels", "value": {"format": "rle", "rle": pack_brush(PAINTED), "brushlabels": ["dog"]}}
    done = index_labelstudio(tmp_path, [build_task(build_ls_polygon(SQUARE, "cat"), brush)])
    assert done.code == 0, done.err
    assert read_classes(tmp_path / "project.json") == ("background", "cat", "dog")
    labels, mask = read_items(tmp_path / "project.json")["a"]
    assert labels == (1, 2)
    check_mask(mask, np.where(PAINTED, 2, draw_polygon(SQUARE)))


def test_labelstudio_choices_and_rectangles_make_tags_only(tmp_path):
    choice = {"type": "choices", "value": {"choices": ["dog"]}}
    box = {"type": "rectanglelabels", "value": {"x": 1, "y": 2, "width": 30, "height": 20, "rotation": 0,
                                                "rectanglelabels": ["cat"]}}
    for results, labels in (((choice,), (1,)), ((box, choice), (1, 2)), ((build_ls_polygon(SQUARE, "cat"), choice),
                                                                         (1, 2))):
        index_labelstudio(tmp_path, [build_task(*results)])
        assert read_items(tmp_path / "project.json")["a"] == (labels, None)
    region_choice = {"id": "r0", "type": "choices", "value": {"x": 1, "y": 2, "choices": ["blurred"]}}
    text = {"type": "textarea", "value": {"text": ["a note"]}}
    done = index_labelstudio(tmp_path, [build_task(build_ls_polygon(SQUARE, "cat"), region_choice, text)])
    assert "not used: 1 choices, 1 textarea" in done.err
    assert read_classes(tmp_path / "project.json") == ("background", "cat")
    ellipse = {"type": "ellipselabels", "value": {"x": 50, "y": 50, "radiusX": 20, "radiusY": 25, "rotation": 0,
                                                  "ellipselabels": ["cat"]}}
    index_labelstudio(tmp_path, [build_task(ellipse)])
    assert abs(int(read_items(tmp_path / "project.json")["a"][1].sum()) - np.pi * 12 * 10) < 10


def test_labelstudio_tasks_without_annotation_are_unknown(tmp_path):
    skipped = build_task(build_ls_polygon(SQUARE, "cat"), image="b.png")
    skipped["annotations"][0]["was_cancelled"] = True
    done = index_labelstudio(tmp_path, [build_task(build_ls_polygon(SQUARE, "cat")), skipped,
                                        build_task(image="c.png", annotations=[])], "--allow-errors", "2")
    assert "2 of 3 tasks have no annotation or were skipped" in done.err
    save_image(tmp_path / "photos" / "b.png"), save_image(tmp_path / "photos" / "c.png")
    index_labelstudio(tmp_path, [build_task(build_ls_polygon(SQUARE, "cat")), skipped,
                                 build_task(image="c.png", annotations=[])])
    items = read_items(tmp_path / "project.json")
    assert (items["b"], items["c"]) == ((None, None), (None, None))


@pytest.mark.parametrize("image", ["/data/upload/3/0a1b2c3d-a.png", "/data/local-files/?d=some/photos/a.png", "a.png",
                                   "s3://bucket/photos/a.png", "http://localhost:8080/data/upload/0a1b2c3d-a.png",
                                   "/data/local-files/?d=photos%5Ca.png".replace("%5C", "/")])
def test_labelstudio_addresses_of_images(tmp_path, image):
    assert index_labelstudio(tmp_path, [build_task(build_ls_polygon(SQUARE, "cat"), image=image)]).code == 0
    assert list(read_items(tmp_path / "project.json")) == ["a"]


@pytest.mark.parametrize(("tasks", "messages"), [
    ({"a": 1}, ("list of tasks",)), ([{"image": "a.png", "label": [{"x": 1}]}], ("JSON-MIN",)),
    ([build_task(annotations=[{"result": []}, {"result": []}])], ("task 7", "2 annotations")),
    ([build_task({**build_ls_polygon(SQUARE, "cat"), "original_width": 0})], ("the width 0",)),
    ([build_task({"type": "polygonlabels", "value": {"points": [[1, 2], [3]], "polygonlabels": ["cat"]}})],
     ("points[1]",)),
    ([build_task({"type": "polygonlabels", "value": {"points": [], "polygonlabels": ["cat", "dog"]}})], ("2 labels",)),
    ([build_task({"type": "brushlabels", "value": {"rle": pack_brush(PAINTED)[:50], "brushlabels": ["cat"]}})],
     ("ends too early",)),
    ([build_task({"type": "brushlabels", "value": {"rle": pack_brush(PAINTED[1:]), "brushlabels": ["cat"]}})],
     ("9360 values",)),
    ([build_task({"type": "brushlabels", "value": {"rle": "abc", "brushlabels": ["cat"]}})], ("list of bytes",)),
    ([build_task(data={"a": "a.png", "b": "b.png"})], ("2 images",)),
])
def test_other_tasks_of_labelstudio_are_rejected(tmp_path, tasks, messages):
    check_error(index_labelstudio(tmp_path, tasks), 65, "project.json", *messages)
