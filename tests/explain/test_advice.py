"""What `explain` says of numbers: each sentence where it applies, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from stages.explain.advice import explain_index, explain_masks, explain_training

CLASSES = ("background", "cat", "dog", "sofa")


def test_few_photographs_of_a_class():
    lines = explain_index([[1]] * 30 + [[2]] * 19 + [[]], CLASSES)
    assert lines[0] == "50 photographs: cat 30, dog 19, sofa 0."
    assert lines[1].startswith("Fewer than 20 photographs of dog (19):") and len(lines) == 2
    assert len(explain_index([[1]] * 20 + [[2]] * 20 + [[3]] * 20, CLASSES)) == 1


def test_a_class_in_every_photograph():
    lines = explain_index([[1]] * 20 + [[1, 2]] * 20, CLASSES)
    assert [line for line in lines if line.startswith("Every photograph shows cat:")]
    assert not [line for line in lines if line.startswith("Almost always together")]


def test_classes_that_are_always_together():
    lines = explain_index([[1, 3]] * 25 + [[3]] * 20 + [[2]] * 20, CLASSES)
    assert [line for line in lines if line.startswith("Almost always together: cat with sofa.")]
    assert not [line for line in explain_index([[1, 3]] * 18 + [[1]] * 2 + [[3]] * 20 + [[2]] * 20, CLASSES)
                if line.startswith("Almost always")]


def test_unknown_tags_are_counted():
    assert "2 have unknown tags" in explain_index([[1]] * 20 + [None, None], CLASSES)[1]


@pytest.mark.parametrize(("value", "text"), [(0.25, "It has learnt nothing"), (0.5, "Below 0.8"), (0.9, "")])
def test_a_classifier(value, text):
    lines = explain_training("c.safetensors", [
        {"epoch": 3, "loss": 0.25, "map": value, "map_of_chance": 0.2, "map_of_chance_sd": 0.02}])
    assert lines[0] == "c.safetensors: 3 passes, loss 0.25."
    assert f"is {value:.2f}; guessing gives 0.20" in lines[1]
    assert lines[2].startswith(text) if text else len(lines) == 2


def test_a_network_without_a_score():
    assert explain_training("s.safetensors", [{"epoch": 1, "loss": 1.5}]) == ["s.safetensors: 1 passes, loss 1.5."]


@pytest.mark.parametrize(("share", "text"), [(0.95, "Lower the background score"), (0.7, ""),
                                             (0.2, "Raise the background score")])
def test_the_share_of_background(share, text):
    counts = np.array([[round(1000 * share), round(1000 * (1 - share)), 0, 0]])
    lines = explain_masks("masks", counts, [[1]], CLASSES, 0)
    assert lines[0] == f"masks: 1 masks; background covers {share:.0%} of the pixels."
    assert bool(text) == any(text in line for line in lines[1:] if "background" in line)


def test_masks_are_compared_with_tags():
    counts = np.array([[50, 50, 0, 0], [60, 0, 40, 0], [90, 0, 0, 10]])
    lines = explain_masks("masks", counts, [[1], [1, 2], None], CLASSES, 100)
    assert "25% are ignored" in lines[0]
    assert lines[1] == "Of 3 tagged classes 2 have pixels in their image's mask."
    assert lines[2].startswith("Missing most often: cat (1 of 2).")
    lines = explain_masks("masks", counts, [[1], [2], [1]], CLASSES, 0)
    assert "1 classes were found that are not tagged" in lines[1]
    assert [line for line in lines if line.startswith("Found without a tag most often: sofa (1 of 1).")]


def test_empty_masks():
    assert explain_masks("masks", np.zeros((0, 4), int), [], CLASSES, 9) == ["masks: no mask has a pixel with a class."]
