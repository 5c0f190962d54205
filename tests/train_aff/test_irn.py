"""Labels, views and losses of IRNet, compared with values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stages.data.augment import SegmentationViewSettings
from stages.errors import UsageError
from stages.settings import validate_config
from stages.train_aff.config import IrnConfig
from stages.train_aff.irn import (
    compute_displacement_losses,
    compute_inter_pixel_loss,
    draw_sample,
    measure_mean_displacement,
    select_label_settings,
)
from stages.train_aff.labels import IGNORE_LABEL, build_pair_masks, compute_crf_label, merge_agreeing_labels
from stages.train_aff.workers import compress_label, decompress_label


def test_merge_of_labels_at_two_thresholds():
    high = np.array([[0, 0, 2, 1]], dtype=np.uint8)
    low = np.array([[0, 1, 2, 0]], dtype=np.uint8)
    np.testing.assert_array_equal(merge_agreeing_labels(high, low), [[0, IGNORE_LABEL, 2, 1]])
    assert high[0, 1] == 0


def test_crf_labels_follow_image_edge():
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    image[:, 16:] = 255
    maps = np.full((1, 24, 32), 0.1, dtype=np.float32)
    maps[:, :, 18:] = 0.8  # two columns short of the edge in the image
    label = compute_crf_label(image, maps, 0.3, 0.7)
    assert (label[:, :16] == 0).all() and (label[:, 16:] == 1).all()
    assert (compute_crf_label(image, maps, 0.05, 0.7) == 1).all()
    assert not compute_crf_label(image, maps[:0], 0.3, 0.7).any()


def test_swapped_thresholds_raise():
    with pytest.raises(UsageError, match=r"--background-threshold 0\.4 is greater than --class-threshold 0\.3"):
        select_label_settings(IrnConfig(background_threshold=0.4), None)
    for scale_range in ((0.5,), (1.5, 0.5)):
        with pytest.raises(UsageError, match="--scale-range"):
            validate_config(IrnConfig(scale_range=scale_range))


def test_cell_label_is_taken_at_its_centre():
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
    label = np.arange(40 * 48).reshape(40, 48).astype(np.uint16)
    view = replace(SegmentationViewSettings(), crop=32, scale=(1.0, 1.0), flip=0.0, ignore_index=65535)
    view_image, cells = draw_sample(image, label, 4, np.random.default_rng(1), view)
    assert view_image.shape == (3, 32, 32) and cells.shape == (8, 8)
    np.testing.assert_array_equal(np.diff(cells.astype(int), axis=1), 4)
    np.testing.assert_array_equal(np.diff(cells.astype(int), axis=0), 4 * 48)
    row, column = divmod(int(cells[0, 0]), 48)  # of the pixel (2, 2) of the view
    mean, std = (np.array(part) for part in (view.mean, view.std))
    np.testing.assert_allclose(view_image[:, 2, 2], (image[row, column] / 255 - mean) / std, rtol=1e-5, atol=1e-5)


def test_displacement_losses_of_ideal_displacements():
    rows, columns = np.meshgrid(np.arange(12), np.arange(15), indexing="ij")
    to_centre = torch.from_numpy(np.stack([5 - rows, 7 - columns]))[None].double()
    inside = torch.full((1, 12, 15), 1, dtype=torch.uint8)
    background, classes, _ = build_pair_masks(inside, 4)
    class_loss, background_loss = compute_displacement_losses(to_centre, 4, background, classes)
    assert class_loss == 0 and background_loss == 0  # no pair of background
    class_loss, background_loss = compute_displacement_losses(torch.ones_like(to_centre), 4, classes, background)
    assert class_loss == 0 and background_loss == 0
    class_loss, _ = compute_displacement_losses(-to_centre, 4, background, classes)
    assert class_loss > 1


def test_loss_gradient():
    generator = torch.Generator().manual_seed(0)
    boundary = torch.rand(2, 6, 9, dtype=torch.float64, generator=generator).requires_grad_()
    displacement = torch.randn(2, 2, 6, 9, dtype=torch.float64, generator=generator).requires_grad_()
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2, IGNORE_LABEL], (2, 6, 9)).astype(np.uint8))

    def loss(boundary: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
        return compute_inter_pixel_loss(boundary, displacement, label, 3)["loss"]

    assert torch.autograd.gradcheck(loss, (boundary, displacement))


def test_loss_of_mirrored_view_is_equal():
    """Mirroring keeps the row displacements and changes the sign of the column displacements."""
    generator = torch.Generator().manual_seed(0)
    boundary, displacement = torch.rand(1, 9, 16, generator=generator), torch.randn(1, 2, 9, 16, generator=generator)
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 2], (1, 9, 16)).astype(np.uint8))
    # A pair along a row has its source at the other end when mirrored: both cells have to be sources.
    label[..., :3] = label[..., -3:] = IGNORE_LABEL
    mirrored = displacement.flip(-1) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    expected = compute_inter_pixel_loss(boundary, displacement, label, 4)
    assert expected["displacement"] > 0.1 and expected["affinity"] > 0.1
    torch.testing.assert_close(compute_inter_pixel_loss(boundary.flip(-1), mirrored, label.flip(-1), 4), expected)


class ConstantDisplacementNet(nn.Module):
    """Returns the mean of the image as the displacement along both axes, doubled along the second."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_displacement", torch.tensor([7.0, 7.0]))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = images.mean((1, 2, 3))[:, None, None]
        displacement = torch.stack([mean, 2 * mean], 1).expand(-1, -1, 3, 4)
        return mean, displacement - self.mean_displacement.view(1, 2, 1, 1)


def test_mean_displacement_over_all_images():
    net = ConstantDisplacementNet()
    measure_mean_displacement(net, (torch.full((3, size, 5), value) for size, value in ((4, 1.0), (9, 2.0))))
    torch.testing.assert_close(net.mean_displacement, torch.tensor([1.5, 3.0]))


def test_label_compression_is_lossless():
    label = np.random.default_rng(0).integers(0, 256, (13, 17), dtype=np.uint8)
    np.testing.assert_array_equal(decompress_label(compress_label("a", label)), label)
    assert compress_label("a", np.zeros((375, 500), np.uint8)).datasets["label"].nbytes < 2000
