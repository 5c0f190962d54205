"""What `--mask-values` says about the values of masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data.test_masks import encode
from stages.data.mask_values import IGNORED, MaskValues, parse_recorded_values, read_mask_values
from stages.data.masks import UnknownMaskValues, decode_mask
from stages.errors import BadData

CLASSES = ("background", "cat", "polar bear", "7")


def test_pairs_of_the_command_line():
    values = read_mask_values(" 255 = cat, 3=polar bear,4=ignore,5=__background__,06=2", CLASSES)
    assert values.ids == {255: 1, 3: 2, 4: IGNORED, 5: 0, 6: 2} and not values.colours
    assert values.text == "3=2,4=ignore,5=0,6=2,255=1"
    assert parse_recorded_values(values.text) == values


def test_the_name_of_a_class_goes_before_its_id():
    assert read_mask_values("1=7", CLASSES).ids == {1: 3}
    assert read_mask_values("1=bg", ("background", "bg")).ids == {1: 1}


def test_colours_have_a_black_background():
    values = read_mask_values("#ff0000=cat", CLASSES)
    assert values.colours == {0: 0, 0xFF0000: 1} and values.text == "#000000=0,#FF0000=1"
    assert read_mask_values("#000000=cat,#FFFFFF=background", CLASSES).colours == {0: 1, 0xFFFFFF: 0}
    assert parse_recorded_values(values.text) == values


def test_a_file_has_names_with_commas_comments_and_lines_of_cvat(tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("# name:color:parts:actions\n\n#ff0000=dog, wild\ncat:0,0,255::\nbackground:1,1,1:a:b\n")
    values = read_mask_values(str(path), ("background", "cat", "dog, wild"))
    assert values.colours == {0: 0, 0xFF0000: 2, 0x0000FF: 1, 0x010101: 0}


def test_many_pairs_are_not_taken_for_a_path():
    classes = ("background", *(f"class {number}" for number in range(1, 301)))
    text = ",".join(f"{number + 1}=class {number}" for number in range(1, 301))
    assert read_mask_values(text, classes).ids == {number + 1: number for number in range(1, 301)}


def test_nothing_is_no_mapping():
    assert not read_mask_values("", CLASSES) and not parse_recorded_values("") and MaskValues().text == ""


@pytest.mark.parametrize("text", ["# only a comment\n", "cat\n", "1=\n", "=cat\n", "cat:1,2::\n", "1=" + "9" * 5000,
                                  "cat:" + "9" * 5000 + ",1,1::"])
def test_files_without_pairs_are_rejected(tmp_path, text):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(BadData, match=r"map\.txt"):
        read_mask_values(str(tmp_path / "map.txt"), CLASSES)


def test_ids_keep_their_meaning_unless_they_are_mapped():
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    decoded = decode_mask(encode(Image.fromarray(ids)), where="m", num_classes=3, mask_values=MaskValues({2: 3}))
    assert decoded.tolist() == [[0, 1, 3, 255]] and decoded.dtype == np.uint8
    decoded = decode_mask(encode(Image.fromarray(ids)), where="m", num_classes=3,
                          mask_values=MaskValues({255: 1, 1: IGNORED}))
    assert decoded.tolist() == [[0, 255, 2, 1]]


def test_ids_of_16_bits_and_many_classes():
    ids = np.array([[0, 1000, 255, 65535]], np.uint16)
    decoded = decode_mask(encode(Image.fromarray(ids)), where="m", num_classes=300, mask_values=MaskValues({1000: 299}))
    assert decoded.tolist() == [[0, 299, 255, 65535]] and decoded.dtype == np.uint16
    eight = Image.fromarray(np.array([[1, 2, 255]], np.uint8))
    assert decode_mask(encode(eight), where="m", num_classes=300, mask_values=MaskValues({1: 3})).tolist() == [
        [3, 2, 65535]]
    ones = Image.fromarray(np.array([[0, 1]]) > 0)
    assert decode_mask(encode(ones), where="m", num_classes=3, mask_values=MaskValues({1: 3})).tolist() == [[0, 3]]


def test_colours_of_every_mode():
    colours = np.array([[[0, 0, 0], [255, 0, 0], [9, 9, 9]]], np.uint8)
    values = MaskValues(colours={0: 0, 0xFF0000: 2, 0x090909: IGNORED})
    rgb = Image.fromarray(colours)
    for image in (rgb, rgb.convert("RGBA"), rgb.quantize(3)):
        assert decode_mask(encode(image), where="m", num_classes=3, mask_values=values).tolist() == [[0, 2, 255]]
    grey = Image.fromarray(np.array([[0, 9]], np.uint8))
    assert decode_mask(encode(grey), where="m", num_classes=3, mask_values=values).tolist() == [[0, 255]]
    ones = Image.fromarray(np.array([[0, 1]]) > 0)
    white = MaskValues(colours={0: 0, 0xFFFFFF: 1})
    assert decode_mask(encode(ones), where="m", num_classes=3, mask_values=white).tolist() == [[0, 1]]


def test_a_colour_that_is_not_listed_is_named_and_counted():
    colours = np.array([[[0, 0, 0], [255, 0, 0], [9, 9, 9], [9, 9, 9]]], np.uint8)
    for image in (Image.fromarray(colours), Image.fromarray(colours).quantize(3)):
        with pytest.raises(UnknownMaskValues, match=r"#090909 \(9, 9, 9\), which is not in --mask-values") as error:
            decode_mask(encode(image), where="m", num_classes=3, mask_values=MaskValues(colours={0: 0, 0xFF0000: 2}))
        assert error.value.pixels == {"#000000": 1, "#FF0000": 1, "#090909": 2}


def test_unknown_ids_are_counted():
    ids = np.array([[0, 5, 5, 9, 255]], np.uint8)
    with pytest.raises(UnknownMaskValues, match=r"class ids 5, 9, but the classes are 0..3") as error:
        decode_mask(encode(Image.fromarray(ids)), where="m", num_classes=3)
    assert error.value.pixels == {0: 1, 5: 2, 9: 1} and error.value.num_ignored == 1
