"""CAMs of an MCTformer: summed views, mirrored images, chosen classes, sizes that are not multiples of a patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.cams.config import MctformerConfig
from stages.cams.mctformer import DEFAULT_SCALES, compute_cams, compute_view_maps, sum_maps
from stages.data.inference_views import build_patch_aligned_views, round_size_to_patches
from stages.kernels.class_attention import rescale_to_unit_range
from stages.nets.class_token_backbone import ClassTokenBackbone
from stages.nets.mctformer import MCTFORMER_VERSIONS, MCTformer

CONFIG = MctformerConfig(scales=(1.0,), flip=False)
SIZE = (53, 90)


@pytest.fixture(scope="module")
def nets() -> dict[str, MCTformer]:
    nets = {}
    for version in MCTFORMER_VERSIONS:
        torch.manual_seed(0)
        nets[version] = MCTformer(ClassTokenBackbone("timm:vit_tiny_patch16_224", 4), version).eval()
        # With small queries and keys every attention is nearly uniform, and the maps vary by only 0.05 %.
        for name, parameter in nets[version].named_parameters():
            torch.nn.init.normal_(parameter, std=0.4 if "qkv.weight" in name else 0.08)
    return nets


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    image = np.stack([rows * 4, columns * 2, 255 - columns * 2], axis=-1).astype(np.uint8)
    image[10:30, 5:40] = (250, 20, 30)
    return image


def build_views(*images: np.ndarray, scales=(1.0,), rounding: str = "down") -> list[torch.Tensor]:
    image_views = [build_patch_aligned_views(image, scales, 16, (0.5,) * 3, (0.5,) * 3, rounding) for image in images]
    return [torch.from_numpy(np.stack(scale_views)) for scale_views in zip(*image_views, strict=True)]


def compute_rescaling_tolerance(raw: torch.Tensor) -> float:
    """Return the tolerance for maps that were rescaled to [0, 1] from float32 maps like `raw` (C, h, w).

    Twelve layers in float32 are accurate to 5e-6 of the largest value (40 roundings; 1e-7 to 4e-7 were measured against
    float64). Rescaling divides that by the range of the map, which is small if the attention is nearly uniform.
    """
    tolerance = 5e-6 * float(raw.abs().max() / (raw.amax((1, 2)) - raw.amin((1, 2))).min())
    assert tolerance < 0.05, "the maps are too flat to compare"
    return tolerance


def choose_all_classes(_position: int, _scores: np.ndarray) -> np.ndarray:
    return np.arange(1, 5)


def compute_image_cams(net: MCTformer, *images: np.ndarray, choose_classes=choose_all_classes,
                       **changes) -> list[tuple]:
    config = replace(CONFIG, **changes)
    rounding = "none" if config.as_released else "down"
    return compute_cams(net, build_views(*images, scales=config.scales, rounding=rounding), config, choose_classes)


def test_sizes_are_rounded_to_whole_patches():
    assert round_size_to_patches((53, 90), 1.0, 16, "down") == (48, 80)
    assert round_size_to_patches((53, 90), 1.25, 16, "down") == (64, 112)
    assert round_size_to_patches((15, 160), 1.0, 16, "down") == (16, 160)
    assert round_size_to_patches((53, 90), 1.25, 16, "none") == (66, 112)
    assert round_size_to_patches((5, 90), 0.5, 16, "none") == (16, 45)
    assert round_size_to_patches((53, 90), 1.0, 16) == (64, 96)


@pytest.mark.parametrize("version", MCTFORMER_VERSIONS)
@pytest.mark.parametrize("affinity", [True, False])
def test_single_view_gives_maps_of_the_network(nets, image, version, affinity):
    net = nets[version]
    (ids, cam, scores), = compute_image_cams(net, image, affinity=affinity)
    view = build_views(image)[0]
    with torch.no_grad():
        expected = net.maps(view)[0]
        if affinity:
            attention = net.forward_attention(view).mean(2).sum(0)[0, 4:, 4:]
            expected = (expected.flatten(1) @ attention.T).unflatten(1, (3, 5))
        torch.testing.assert_close(torch.from_numpy(scores), net(view)[0].sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cam, rescale_to_unit_range(expected), rtol=0, atol=compute_rescaling_tolerance(expected))
    assert ids.tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(cam.amax((1, 2)), torch.ones(4), rtol=0, atol=1e-4)
    assert not cam.amin((1, 2)).any()


@pytest.mark.parametrize("changes", [{}, {"as_released": True}, {"map": "attention", "affinity": False},
                                     {"map": "patch"}, {"scales": (1.0, 0.75, 1.25)}], ids=str)
@pytest.mark.parametrize("version", ["v2", "plus"])
def test_mirrored_image_has_mirrored_maps(nets, image, version, changes):
    (_, plain, scores), = compute_image_cams(nets[version], image, flip=True, **changes)
    mirrored_image = np.ascontiguousarray(image[:, ::-1])
    (_, mirrored, mirrored_scores), = compute_image_cams(nets[version], mirrored_image, flip=True, **changes)
    torch.testing.assert_close(mirrored.flip(-1), plain, rtol=0, atol=2e-3)
    assert float((mirrored - plain).abs().max()) > 0.1, "the image is not symmetric"
    np.testing.assert_allclose(scores, mirrored_scores, atol=1e-4)


def test_views_are_summed_on_finest_grid(nets, image):
    net, config = nets["plus"], replace(CONFIG, scales=DEFAULT_SCALES["plus"], flip=True)
    views = build_views(image, scales=config.scales)
    total = torch.zeros(4, 4, 7)
    with torch.no_grad():
        for view in views:
            for is_mirrored in (False, True):
                maps = compute_view_maps(net, view.flip(-1) if is_mirrored else view, config)[0]
                maps = maps.flip(-1) if is_mirrored else maps
                total += F.interpolate(maps, (4, 7), mode="bilinear", align_corners=False)[0]
    (_, cam, _), = compute_cams(net, views, config, choose_all_classes)
    assert cam.shape == (4, 4, 7)
    torch.testing.assert_close(cam, rescale_to_unit_range(total), rtol=0, atol=compute_rescaling_tolerance(total))


def test_sum_uses_largest_grid():
    small, large = torch.ones(1, 2, 2, 3), torch.full((1, 2, 4, 6), 2.0)
    assert torch.equal(sum_maps([large, small]), torch.full((1, 2, 4, 6), 3.0))
    assert torch.equal(sum_maps([small, large]), torch.full((1, 2, 4, 6), 3.0))


def test_images_of_a_batch_get_chosen_classes(nets, image):
    other_image = image[::-1].copy()
    received_scores = {}

    def choose_some_classes(position: int, scores: np.ndarray) -> np.ndarray:
        received_scores[position] = scores
        return np.array([[2, 4], []][position], np.uint16)

    first, second = compute_image_cams(nets["v2"], image, other_image, choose_classes=choose_some_classes)
    (_, single_cam, scores), = compute_image_cams(nets["v2"], image)
    torch.testing.assert_close(first[1], single_cam[[1, 3]], rtol=1e-3, atol=1e-4)
    assert second[1].shape == (0, 3, 5)
    np.testing.assert_allclose(received_scores[0], scores, atol=1e-5)
    assert received_scores[0].shape == received_scores[1].shape == (4,)
    assert not np.allclose(received_scores[0], received_scores[1])


def test_as_released_crops_to_whole_patches(nets, image):
    (_, cam, _), = compute_image_cams(nets["v2"], image, as_released=True)
    (_, expected, _), = compute_image_cams(nets["v2"], image[:48, :80])
    torch.testing.assert_close(cam, expected, rtol=1e-3, atol=1e-4)
    changed = image.copy()
    changed[48:] = changed[:, 80:] = 0
    (_, same, _), = compute_image_cams(nets["v2"], changed, as_released=True)
    torch.testing.assert_close(same, cam, rtol=0, atol=1e-6)
    (_, resized, _), = compute_image_cams(nets["v2"], image)
    assert float((resized - cam).abs().max()) > 1e-3


def test_number_of_layers_changes_maps(nets, image):
    with_three_layers, with_one_layer = (compute_image_cams(nets["v1"], image, layers=layers)[0][1]
                                         for layers in (3, 1))
    assert float((with_three_layers - with_one_layer).abs().max()) > 1e-3
