"""`index cvat`: the exports "CVAT for images 1.1" and "Segmentation mask 1.1" as CVAT writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.annotations import (
    HEIGHT,
    INNER,
    PAINTED,
    SQUARE,
    WIDTH,
    check_mask,
    draw_polygon,
    index_layout,
    read_classes,
    read_items,
    save_image,
    to_pairs,
)
from cli.runner import check_error

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><name>pets</name><labels>
    <label><name>dog</name><color>#c06060</color><type>any</type><attributes></attributes></label>
    <label><name>cat</name><color>#2080c0</color><type>any</type><attributes></attributes></label>
  </labels></task></meta>
  <image id="0" name="a.png" width="60" height="40">{}</image>
</annotations>
"""


def write_points(points: list[float]) -> str:
    return ";".join(f"{x},{y}" for x, y in to_pairs(points))


def write_polygon(points: list[float], label: str = "cat", z_order: int = 0) -> str:
    return (f'<polygon label="{label}" source="manual" occluded="0" points="{write_points(points)}" '
            f'z_order="{z_order}"><attribute name="x">1</attribute></polygon>')


def write_mask(bitmap: np.ndarray, left: int, top: int, label: str = "cat") -> str:
    """Return a mask as CVAT writes it: runs of the rows of its box."""
    runs, value = [0], False
    for pixel in bitmap.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return (f'<mask label="{label}" source="manual" occluded="0" rle="{", ".join(map(str, runs))}" left="{left}" '
            f'top="{top}" width="{bitmap.shape[1]}" height="{bitmap.shape[0]}" z_order="0"></mask>')


def index_cvat(tmp_path: Path, shapes: str, *more: object, text: str = CVAT):
    save_image(tmp_path / "export" / "images" / "a.png")
    (tmp_path / "export" / "annotations.xml").write_text(text.replace("{}", shapes))
    return index_layout("cvat", tmp_path / "export", *more)


def test_cvat(tmp_path):
    bitmap = PAINTED[5:30, 20:55]
    done = index_cvat(tmp_path, write_polygon(INNER, "dog", 1) + write_polygon(SQUARE) + write_mask(bitmap, 20, 5))
    assert done.code == 0, done.err
    assert read_classes(tmp_path / "export") == ("background", "dog", "cat")
    region = np.zeros((HEIGHT, WIDTH), bool)
    region[5:30, 20:55] = bitmap
    labels, mask = read_items(tmp_path / "export")["a"]
    assert labels == (1, 2)
    check_mask(mask, np.where(draw_polygon(INNER), 1, 2 * (draw_polygon(SQUARE) | region)))


def test_the_order_of_cvat_shapes_is_z_order_then_the_file(tmp_path):
    for shapes, expected in ((write_polygon(INNER, "dog") + write_polygon(SQUARE), 2 * draw_polygon(SQUARE)),
                             (write_polygon(SQUARE) + write_polygon(INNER, "dog"),
                              np.where(draw_polygon(INNER), 1, 2 * draw_polygon(SQUARE)))):
        index_cvat(tmp_path, shapes)
        check_mask(read_items(tmp_path / "export")["a"][1], expected | draw_polygon(INNER) * (expected == 0))


def test_cvat_boxes_and_tags_make_tags_only(tmp_path):
    box = '<box label="dog" source="manual" occluded="0" xtl="1.0" ytl="2.0" xbr="30.5" ybr="20.1" z_order="0"></box>'
    done = index_cvat(tmp_path, write_polygon(SQUARE) + box)
    assert "1 box" in done.err and read_items(tmp_path / "export")["a"] == ((1, 2), None)
    index_cvat(tmp_path, write_polygon(SQUARE) + '<tag label="cat" source="manual"></tag>')
    assert read_items(tmp_path / "export")["a"][0] == (2,) and read_items(tmp_path / "export")["a"][1] is not None
    index_cvat(tmp_path, write_polygon(SQUARE) + '<tag label="dog" source="manual"></tag>')
    assert read_items(tmp_path / "export")["a"] == ((1, 2), None)
    index_cvat(tmp_path, "")
    assert read_items(tmp_path / "export")["a"] == ((), None)
    ellipse = '<ellipse label="dog" source="manual" occluded="0" cx="30.5" cy="20.5" rx="20" ry="10" z_order="0"/>'
    index_cvat(tmp_path, ellipse)
    assert abs(int(read_items(tmp_path / "export")["a"][1].sum()) - np.pi * 200) < 15


@pytest.mark.parametrize(("shapes", "messages"), [
    (write_polygon(SQUARE, "mouse"), ("a.png: polygon 1 (mouse)", "does not list")),
    (write_polygon(SQUARE).replace("25.0", "x"), ("a.png: polygon 1", "2 numbers")),
    (write_polygon(SQUARE).replace("points=", "pints="), ("a.png: polygon 1",)),
    (write_mask(PAINTED, 1, 0), ("box of 60x40 at (1, 0)", "60x40")),
    (write_mask(PAINTED, 0, 0).replace('width="60"', 'width="50"'), ("2400 pixels", "50x40")),
    (write_mask(PAINTED, 0, 0).replace('rle="', 'rle="-5, '), ("mask 1",)),
    ("<sphere/>", ("unknown type 'sphere'",)), ("<polygon", ("XML is malformed",)),
])
def test_other_shapes_of_cvat_are_rejected(tmp_path, shapes, messages):
    check_error(index_cvat(tmp_path, shapes), 65, "annotations.xml", *messages)


def test_other_documents_than_cvat_are_rejected(tmp_path):
    bomb = CVAT.replace("<annotations>", '<!DOCTYPE a [<!ENTITY b "cccc">]><annotations>', 1)
    check_error(index_cvat(tmp_path, "", text=bomb), 65, "DOCTYPE")
    check_error(index_cvat(tmp_path, "", text="<annotation/>"), 65, "'annotation'")
    check_error(index_cvat(tmp_path, "", text='<annotations><track id="0"/></annotations>'), 65, "CVAT for video")
    check_error(index_cvat(tmp_path, "", text="<annotations/>"), 66, "no annotated image")
    (tmp_path / "export" / "annotations.xml").unlink()
    check_error(index_layout("cvat", tmp_path / "export"), 66, "no annotations.xml and no labelmap.txt")


def test_cvat_segmentation_masks(tmp_path):
    root = tmp_path / "export"
    save_image(root / "JPEGImages" / "a.png")
    (root / "SegmentationClass").mkdir()
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
                                       "void:1,2,3::\ndog:51,221,255::\n")
    mask = np.where(draw_polygon(INNER), 2, draw_polygon(SQUARE)).astype(np.uint8)
    mask[30:, 50:] = 3
    colours = np.array([[0, 0, 0], [250, 50, 83], [51, 221, 255], [1, 2, 3]], np.uint8)
    Image.fromarray(colours[mask]).save(root / "SegmentationClass" / "a.png")
    done = index_layout("cvat", root)
    assert done.code == 0, done.err
    assert "read from the masks" in done.err and read_classes(root) == ("background", "cat", "dog")
    labels, found = read_items(root)["a"]
    assert labels == (1, 2)
    check_mask(found, np.where(mask == 3, 255, mask))
    colours[2] = 9
    Image.fromarray(colours[mask]).save(root / "SegmentationClass" / "a.png")
    check_error(index_layout("cvat", root), 65, "a.png", "colour 9,9,9", "labelmap.txt")
    (root / "labelmap.txt").write_text("cat:250,50,830::\n")
    check_error(index_layout("cvat", root), 65, "labelmap.txt:1", "cat:250,50,830")
