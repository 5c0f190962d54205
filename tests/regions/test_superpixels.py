"""Superpixels of arrays: numbered without gaps, connected, along edges, and the package that computes them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import ndimage

from stages.errors import Unavailable
from stages.regions.superpixels import compute_superpixels, require_scikit_image

pytest.importorskip("skimage")


def draw_halves(height: int, width: int, column: int) -> np.ndarray:
    """Return a red image (H, W, 3) that is blue from `column` on."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :column, 0], image[:, column:, 2] = 200, 200
    return image


def count_pieces(labels: np.ndarray) -> dict[int, int]:
    """Return the number of connected pieces of every label."""
    return {int(label): ndimage.label(labels == label)[1] for label in np.unique(labels)}


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (5, 3), (32, 40)])
@pytest.mark.parametrize("content", ["black", "white", "noise"])
@pytest.mark.parametrize("segments", [1, 2, 30, 10**9])
def test_all_pixels_are_in_connected_regions_numbered_from_1(size, content, segments):
    image = {"black": np.zeros((*size, 3), np.uint8), "white": np.full((*size, 3), 255, np.uint8),
             "noise": np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)}[content]
    before = image.copy()
    labels = compute_superpixels(image, segments, 10.0, 0.0)
    assert (labels.shape, labels.dtype) == (size, np.int32)
    pieces = count_pieces(labels)
    assert list(pieces) == list(range(1, len(pieces) + 1))
    assert set(pieces.values()) == {1}
    assert np.array_equal(image, before)


def test_superpixels_end_at_an_edge_unless_nearness_weighs_more():
    image = draw_halves(40, 60, column=27)  # no column of the grid of centres

    def crosses_edge(compactness: float) -> bool:
        labels = compute_superpixels(image, 24, compactness, 0.0)
        return bool(set(np.unique(labels[:, :27])) & set(np.unique(labels[:, 27:])))

    assert not crosses_edge(10.0)
    assert crosses_edge(1e6)


def test_the_number_of_segments_is_about_what_was_asked_for():
    image = np.zeros((60, 80, 3), np.uint8)
    counts = [compute_superpixels(image, segments, 10.0, 0.0).max() for segments in (12, 48, 300)]
    assert counts == [12, 48, 300]


def test_sigma_smooths_the_image_first():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    # The pieces of noise are all smaller than half a superpixel, so that they are joined to one region.
    assert compute_superpixels(image, 16, 1.0, 0.0).max() < compute_superpixels(image, 16, 1.0, 5.0).max()


@pytest.mark.parametrize(("is_installed", "reason"), [(False, "is not installed"), (True, "can't be loaded (broken)")])
def test_without_the_package_the_message_has_the_command_that_installs_it(is_installed, reason, monkeypatch):
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "skimage.segmentation":
                raise ImportError("broken")

    if is_installed:
        monkeypatch.delitem(sys.modules, "skimage.segmentation", raising=False)
        monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(Unavailable) as raised:
        require_scikit_image()
    assert reason in str(raised.value)
    assert "pip install 'wsss[superpixels]'" in str(raised.value)
