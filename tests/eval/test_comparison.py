"""What is said about a difference: better, worse, not to be told, and too few images."""

from __future__ import annotations

import pytest

from stages.eval.comparison import add_conclusions
from stages.eval.config import EvalConfig


def build_difference(**changes: object) -> dict:
    """Return the numbers of a difference."""
    return {"run": "crf", "reference": "cam", "difference": 0.021, "interval": [0.013, 0.029], "better": 0.61,
            "worse": 0.35, "ranges_overlap": None, **changes}


def conclude(num_images: int = 100, **changes: object) -> str:
    """Return the sentence about a difference."""
    comparison = {"images": num_images, "differences": [build_difference(**changes)]}
    (sentence,) = add_conclusions(EvalConfig(), comparison)
    assert comparison["differences"][0]["conclusion"] == sentence
    return sentence


NUMBERS = "95 % interval 1.3 to 2.9 (2,000 draws, seed 0)"


def test_a_run_that_is_better():
    assert conclude() == f"crf is better than cam on 61 % of the 100 images and worse on 35 %: +2.1 mIoU, {NUMBERS}."


def test_a_run_that_is_worse():
    assert "-2.1 mIoU, 95 % interval -2.9 to -1.3" in conclude(difference=-0.021, interval=[-0.029, -0.013])


@pytest.mark.parametrize("interval", [[-0.001, 0.04], [0.0, 0.04], [-0.04, 0.0]])
def test_an_interval_that_covers_0(interval):
    assert conclude(interval=interval).startswith("No difference between crf and cam can be told from these 100 images")


def test_few_images_tell_nothing():
    assert conclude(9).startswith("9 images are too few to tell a difference between crf and cam: +2.1 mIoU")
    assert conclude(10).startswith("crf is better")


def test_seeds_whose_ranges_overlap():
    assert "ranges of their seeds overlap" in conclude(ranges_overlap=True)
    assert "seeds" not in conclude(ranges_overlap=False)


def test_no_pixel_counts():
    assert "can't be compared" in conclude(difference=None, interval=[None, None], better=None, worse=None)
