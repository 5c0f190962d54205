"""Labels, views and losses of IRNet, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.data.augment import SegmentationView
from stages.errors import UsageError
from stages.settings import checked
from stages.train_aff.config import IrnConfig
from stages.train_aff.irn import (
    displacement_losses,
    inter_pixel_loss,
    label_settings,
    measure_mean_displacement,
    sample,
)
from stages.train_aff.labels import UNDECIDED, agreed_areas, label_at, pair_labels
from stages.train_aff.workers import packed, unpacked


def test_a_class_needs_the_high_threshold_and_the_background_both():
    high = np.array([[0, 0, 2, 1]], dtype=np.uint8)
    low = np.array([[0, 1, 2, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(agreed_areas(high, low), [[0, UNDECIDED, 2, 1]])
    assert high[0, 1] == 0


def test_labels_follow_the_image():
    pytest.importorskip("pydensecrf")
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    image[:, 16:] = 255
    maps = np.full((1, 24, 32), 0.1, dtype=np.float32)
    maps[:, :, 18:] = 0.8  # two columns short of the edge in the image
    label = label_at(image, maps, 0.3, 0.7)
    assert (label[:, :16] == 0).all() and (label[:, 16:] == 1).all()
    assert (label_at(image, maps, 0.05, 0.7) == 1).all()
    assert not label_at(image, maps[:0], 0.3, 0.7).any()


def test_thresholds_in_the_wrong_order_are_refused():
    with pytest.raises(UsageError, match=r"--background-threshold 0\.4 is above --class-threshold 0\.3"):
        label_settings(IrnConfig(background_threshold=0.4), None)
    for given in ((0.5,), (1.5, 0.5)):
        with pytest.raises(UsageError, match="--scale-range"):
            checked(IrnConfig(scale_range=given))


def test_the_label_of_a_cell_is_that_of_its_middle():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    label = np.arange(40 * 48).reshape(40, 48).astype(np.uint16)
    view = replace(SegmentationView(), crop=32, scale=(1.0, 1.0), flip=0.0, ignore=65535)
    seen, cells = sample(image, label, 4, np.random.default_rng(1), view)
    assert seen.shape == (3, 32, 32) and cells.shape == (8, 8)
    np.testing.assert_array_equal(np.diff(cells.astype(int), axis=1), 4)
    np.testing.assert_array_equal(np.diff(cells.astype(int), axis=0), 4 * 48)
    row, column = divmod(int(cells[0, 0]), 48)  # of the pixel (2, 2) of the view
    mean, std = (np.array(part) for part in (view.mean, view.std))
    np.testing.assert_allclose(seen[:, 2, 2], (image[row, column] / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_displacements_to_one_centre_cost_nothing_on_a_class_and_equal_ones_on_the_background():
    rows, columns = np.meshgrid(np.arange(12), np.arange(15), indexing="ij")
    to_centre = torch.from_numpy(np.stack([5 - rows, 7 - columns]))[None].double()
    inside = torch.full((1, 12, 15), 1, dtype=torch.uint8)
    background, classes, _ = pair_labels(inside, 4)
    moved, still = displacement_losses(to_centre, 4, background, classes)
    assert moved == 0 and still == 0  # no pair of background
    moved, still = displacement_losses(torch.ones_like(to_centre), 4, classes, background)
    assert moved == 0 and still == 0
    moved, _ = displacement_losses(-to_centre, 4, background, classes)
    assert moved > 1


def test_the_loss_in_float64_has_the_gradient_that_it_should():
    generator = torch.Generator().manual_seed(0)
    boundary = torch.rand(2, 6, 9, dtype=torch.float64, generator=generator).requires_grad_()
    displacement = torch.randn(2, 2, 6, 9, dtype=torch.float64, generator=generator).requires_grad_()
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, UNDECIDED], (2, 6, 9)).astype(np.uint8))

    def loss(boundary: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
        return inter_pixel_loss(boundary, displacement, label, 3)["loss"]

    assert torch.autograd.gradcheck(loss, (boundary, displacement))


def test_the_loss_of_a_mirrored_view_is_the_same():
    """With the displacements along the rows as they are, and those along the columns of the other sign."""
    generator = torch.Generator().manual_seed(0)
    boundary, displacement = torch.rand(1, 9, 16, generator=generator), torch.randn(1, 2, 9, 16, generator=generator)
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2], (1, 9, 16)).astype(np.uint8))
    # A pair along a row has its source at the other end of the mirrored one: both have to be among the sources.
    label[..., :3] = label[..., -3:] = UNDECIDED
    mirrored = displacement.flip(-1) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    plain = inter_pixel_loss(boundary, displacement, label, 4)
    assert plain["displacement"] > 0.1 and plain["affinity"] > 0.1
    torch.testing.assert_close(inter_pixel_loss(boundary.flip(-1), mirrored, label.flip(-1), 4), plain)


class Still(nn.Module):
    """Gives the mean of the image as a displacement along both axes, the second doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_displacement", torch.tensor([7.0, 7.0]))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = images.mean((1, 2, 3))[:, None, None]
        moved = torch.stack([mean, 2 * mean], 1).expand(-1, -1, 3, 4)
        return mean, moved - self.mean_displacement.view(1, 2, 1, 1)


def test_the_mean_displacement_is_that_over_all_images():
    net = Still()
    measure_mean_displacement(net, (torch.full((3, size, 5), value) for size, value in ((4, 1.0), (9, 2.0))))
    torch.testing.assert_close(net.mean_displacement, torch.tensor([1.5, 3.0]))


def test_labels_are_packed_without_loss():
    label = np.random.default_rng(0).integers(0, 256, (13, 17), dtype=np.uint8)
    np.testing.assert_array_equal(unpacked(packed("a", label)), label)
    assert packed("a", np.zeros((375, 500), np.uint8)).datasets["label"].nbytes < 2000
