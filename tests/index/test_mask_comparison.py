"""The comparison of tags with the classes in masks: limits, and the meaning of values that explains the tags."""

from __future__ import annotations

import pytest

from stages.data.mask_counts import MaskCounts
from stages.data.mask_values import MaskValues
from stages.errors import BadData
from stages.index.mask_comparison import compare_masks, has_too_many
from stages.index.value_mapping import find_colour_mapping, find_mapping

CLASSES = ("background", "cat", "dog", "cow")


def count(tags, *values, ignored: int = 0, **more) -> MaskCounts:
    """Return the counts of a mask with 6 pixels of background and 4 of each of the `values`."""
    return MaskCounts("a", tags, {0: 6, **dict.fromkeys(values, 4)}, ignored, **more)


def compare(images, **more):
    return compare_masks(images, CLASSES, MaskValues(), where="photos", **{"is_allowed": False, **more})


@pytest.mark.parametrize(("wrong", "total", "expected"), [
    (0, 4, False), (2, 4, False), (3, 4, True), (10, 19, True), (9, 19, False), (2, 20, False), (3, 20, True),
    (5, 100, False), (6, 100, True), (1, 1, True), (0, 0, False)])
def test_the_limits_of_contradictions(wrong, total, expected):
    assert has_too_many(wrong, total) is expected


@pytest.mark.parametrize(("image", "expected"), [
    (count((1,), 1), False), (count((1, 2), 1), False), (count((1,), 1, 2), True), (count((), 1), True),
    (count((), ignored=3), False), (count((1,)), True), (count((1,), ignored=3), True), (count(None, 2), False),
    (MaskCounts("all ignored", (1,), {}, 10), False), (count(None, 9, is_unknown=True), True)])
def test_what_contradicts(image, expected):
    assert image.is_contradiction is expected


def test_masks_without_objects_stop_only_if_all_are():
    assert len(compare([count((1,))] * 30 + [count((1,), 1)])) == 1
    assert len(compare([count((1,))] * 2)) == 2
    with pytest.raises(BadData, match="30 of 31 images contradict"):
        compare([count((1,))] * 30 + [count(())])


def test_images_are_not_compared_if_none_has_a_tag():
    assert compare([count((), 1)] * 9) == ()
    with pytest.raises(BadData, match="9 of 10 images contradict"):
        compare([count((), 1)] * 9 + [count((1,), 1)])


def test_a_shift_by_one_is_a_mapping_and_agreement_is_none():
    shifted = [count((tag,), tag + 1) for tag in (1, 2, 3)]
    assert find_mapping(shifted, 3).mapping == {2: 1, 3: 2, 4: 3}
    assert find_mapping([count((1,), 1), count((2,), 2)], 3).mapping == {}


def test_a_shift_names_classes_that_no_mask_has_too():
    assert find_mapping([count((1,), 2), count((2,), 3)], 3).mapping == {2: 1, 3: 2, 4: 3}


def test_a_permutation_is_found_from_images_with_several_tags():
    images = [count((1, 2), 3, 1), count((2, 3), 1, 2), count((1, 3), 3, 2), count((2,), 1)]
    assert find_mapping(images, 3).mapping == {3: 1, 1: 2, 2: 3}


def test_images_that_no_mapping_explains_give_none():
    images = [count((1,), 2), count((2,), 2), count((1,), 3), count((3,), 3), count((2,), 1), count((3,), 1)]
    assert find_mapping(images, 3).mapping == {}


def test_a_few_wrong_images_do_not_hide_a_permutation():
    images = [count((1,), 2), count((2,), 1)] * 5 + [count((3,), 1)]
    assert find_mapping(images, 3).mapping == {2: 1, 1: 2}


def test_colours_of_palettes_with_changing_indices():
    images = [count((1,), 1, palette_colours={0: "#000000", 1: "#FF0000"}),
              count((2,), 1, palette_colours={0: "#000000", 1: "#0000FF"}),
              count((1, 2), 1, 2, palette_colours={0: "#000000", 1: "#0000FF", 2: "#FF0000"})]
    assert find_colour_mapping(images, 3).mapping == {"#000000": 0, "#FF0000": 1, "#0000FF": 2}
    with pytest.raises(BadData, match=r"colours of the palettes.*'#000000=background,#FF0000=cat,#0000FF=dog'"):
        compare([images[0], *[images[1]] * 3, images[2]])


def test_a_background_that_is_not_black():
    white = {"#FFFFFF": 9}
    images = [MaskCounts("a", (1,), {**white, "#FF0000": 3}, 0, True),
              MaskCounts("b", (2,), {**white, "#00FF00": 3}, 0, True)]
    assert find_mapping(images, 3).mapping == {"#FFFFFF": 0, "#FF0000": 1, "#00FF00": 2}


def test_colours_without_a_suggestion_are_named():
    images = [MaskCounts("a", (1,), {"#000000": 9, "#FF0000": 3, "#EEEEEE": 1}, 0, True),
              MaskCounts("b", (2,), {"#000000": 9, "#00FF00": 3, "#EEEEEE": 1}, 0, True)]
    with pytest.raises(BadData, match=r"#00FF00=dog' after adding what #EEEEEE means \(a class or ignore\)"):
        compare(images)


def test_instances_are_recognised():
    images = [count((1,), 1), count((2,), 1, 2), count((3,), 1, 2, 3), count((2, 3), 1, 2)] * 3
    with pytest.raises(BadData, match=r"number the objects \(instances\)"):
        compare(images)


def test_the_same_value_for_all_classes_stops_even_below_the_limit():
    images = [count((1,), 1)] * 6 + [count((2,), 1)] * 4
    with pytest.raises(BadData, match="single value 1 for objects of every class"):
        compare(images)
    assert len(compare(images, is_allowed=True)) == 2


def test_names_with_commas_and_blanks_can_be_pasted():
    classes = ("background", "polar bear", "dog, wild")
    with pytest.raises(BadData, match="--mask-values '2=polar bear,1=2', or"):
        compare_masks([count((1,), 2), count((2,), 1)], classes, MaskValues(), where="photos", is_allowed=False)


def test_the_order_of_examples_and_the_sentences():
    images = [count((1,), 1)] * 18 + [count((2,), 3), MaskCounts("b", (1,), {0: 5, 9: 5}, 0, True)]
    first, second = compare(images)
    assert first == ("The masks of 1 of 19 images contradict their tags, for example a: tags dog; mask cow (40 % of "
                     "the pixels).")
    assert second == "No mask shows dog (1 image), although it is tagged."


def test_a_wrong_mapping_is_shown():
    with pytest.raises(BadData, match=r"Correct --mask-values \(now 1=2; class ids follow .*1 cat, 2 dog, 3 cow\)"):
        compare_masks([count((1,), 2)] * 2, CLASSES, MaskValues({1: 2}), where="photos", is_allowed=False)
