"""Maps of an MCTformer: views summed, mirror images, the classes asked for, sides that are no multiple of a patch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.cams.config import MctformerConfig
from stages.cams.mctformer import SCALES, batch_maps, summed, view_maps
from stages.data.views import patch_size, patch_views
from stages.kernels.class_attention import unit_range
from stages.nets.class_tokens import ClassTokenBackbone
from stages.nets.mctformer import VERSIONS, MCTformer

CONFIG = MctformerConfig(scales=(1.0,), flip=False)
SIZE = (53, 90)


@pytest.fixture(scope="module")
def nets() -> dict[str, MCTformer]:
    found = {}
    for version in VERSIONS:
        torch.manual_seed(0)
        found[version] = MCTformer(ClassTokenBackbone("timm:vit_tiny_patch16_224", 4), version).eval()
        # Small queries and keys make every attention nearly even, and maps that are flat to 0.05 %.
        for name, parameter in found[version].named_parameters():
            torch.nn.init.normal_(parameter, std=0.4 if "qkv.weight" in name else 0.08)
    return found


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    picture = np.stack([rows * 4, columns * 2, 255 - columns * 2], axis=-1).astype(np.uint8)
    picture[10:30, 5:40] = (250, 20, 30)
    return picture


def views_of(*images: np.ndarray, scales=(1.0,), rounding: str = "down") -> list[torch.Tensor]:
    each = [patch_views(one, scales, 16, (0.5,) * 3, (0.5,) * 3, rounding) for one in images]
    return [torch.from_numpy(np.stack(of_scale)) for of_scale in zip(*each, strict=True)]


def tolerance_after_stretching(raw: torch.Tensor) -> float:
    """Returns how far maps may be apart that were stretched to [0, 1] from float32 maps like `raw` (C, h, w).

    Twelve layers in float32 are right to 5e-6 of the largest value (40 roundings; 1e-7 to 4e-7 were measured against
    float64). Stretching divides that by the range of the map, which is small where the attention is nearly even.
    """
    tolerance = 5e-6 * float(raw.abs().max() / (raw.amax((1, 2)) - raw.amin((1, 2))).min())
    assert tolerance < 0.05, "the maps are too flat to be compared"
    return tolerance


def every(_place: int, _scores: np.ndarray) -> np.ndarray:
    return np.arange(1, 5)


def maps_of(net: MCTformer, *images: np.ndarray, chosen=every, **more) -> list[tuple]:
    config = replace(CONFIG, **more)
    rounding = "none" if config.as_released else "down"
    return batch_maps(net, views_of(*images, scales=config.scales, rounding=rounding), config, chosen)


def test_sizes_are_rounded_down_to_patches_of_which_there_is_one_at_least():
    assert patch_size((53, 90), 1.0, 16, "down") == (48, 80)
    assert patch_size((53, 90), 1.25, 16, "down") == (64, 112)
    assert patch_size((15, 160), 1.0, 16, "down") == (16, 160)
    assert patch_size((53, 90), 1.25, 16, "none") == (66, 112)
    assert patch_size((5, 90), 0.5, 16, "none") == (16, 45)
    assert patch_size((53, 90), 1.0, 16) == (64, 96)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("affinity", [True, False])
def test_without_scales_and_flip_it_is_the_nets_own_map(nets, image, version, affinity):
    net = nets[version]
    (ids, cam, scores), = maps_of(net, image, affinity=affinity)
    view = views_of(image)[0]
    with torch.no_grad():
        wanted = net.maps(view)[0]
        if affinity:
            attention = net.attention(view).mean(2).sum(0)[0, 4:, 4:]
            wanted = (wanted.flatten(1) @ attention.T).unflatten(1, (3, 5))
        torch.testing.assert_close(torch.from_numpy(scores), net(view)[0].sigmoid(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cam, unit_range(wanted), rtol=0, atol=tolerance_after_stretching(wanted))
    assert ids.tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(cam.amax((1, 2)), torch.ones(4), rtol=0, atol=1e-4)
    assert not cam.amin((1, 2)).any()


@pytest.mark.parametrize("more", [{}, {"as_released": True}, {"map": "attention", "affinity": False},
                                  {"map": "patch"}, {"scales": (1.0, 0.75, 1.25)}], ids=str)
@pytest.mark.parametrize("version", ["v2", "plus"])
def test_a_mirrored_image_has_mirrored_maps(nets, image, version, more):
    (_, straight, scores), = maps_of(nets[version], image, flip=True, **more)
    (_, mirrored, others), = maps_of(nets[version], np.ascontiguousarray(image[:, ::-1]), flip=True, **more)
    torch.testing.assert_close(mirrored.flip(-1), straight, rtol=0, atol=2e-3)
    assert float((mirrored - straight).abs().max()) > 0.1, "the picture is not symmetric"
    np.testing.assert_allclose(scores, others, atol=1e-4)


def test_views_are_summed_on_the_finest_grid(nets, image):
    net, config = nets["plus"], replace(CONFIG, scales=SCALES["plus"], flip=True)
    views = views_of(image, scales=config.scales)
    total = torch.zeros(4, 4, 7)
    with torch.no_grad():
        for view in views:
            for side in (False, True):
                maps = view_maps(net, view.flip(-1) if side else view, config)[0]
                maps = maps.flip(-1) if side else maps
                total += F.interpolate(maps, (4, 7), mode="bilinear", align_corners=False)[0]
    (_, cam, _), = batch_maps(net, views, config, every)
    assert cam.shape == (4, 4, 7)
    torch.testing.assert_close(cam, unit_range(total), rtol=0, atol=tolerance_after_stretching(total))


def test_the_sum_takes_the_largest_grid_wherever_it_stands():
    small, large = torch.ones(1, 2, 2, 3), torch.full((1, 2, 4, 6), 2.0)
    assert torch.equal(summed([large, small]), torch.full((1, 2, 4, 6), 3.0))
    assert torch.equal(summed([small, large]), torch.full((1, 2, 4, 6), 3.0))


def test_images_of_a_batch_have_the_classes_that_are_chosen(nets, image):
    other = image[::-1].copy()
    told = {}

    def some(place: int, scores: np.ndarray) -> np.ndarray:
        told[place] = scores
        return np.array([[2, 4], []][place], np.uint16)

    first, second = maps_of(nets["v2"], image, other, chosen=some)
    (_, alone, scores), = maps_of(nets["v2"], image)
    torch.testing.assert_close(first[1], alone[[1, 3]], rtol=1e-3, atol=1e-4)
    assert second[1].shape == (0, 3, 5)
    np.testing.assert_allclose(told[0], scores, atol=1e-5)
    assert told[0].shape == told[1].shape == (4,) and not np.allclose(told[0], told[1])


def test_as_released_cuts_what_is_no_whole_patch(nets, image):
    (_, cam, _), = maps_of(nets["v2"], image, as_released=True)
    (_, wanted, _), = maps_of(nets["v2"], image[:48, :80])
    torch.testing.assert_close(cam, wanted, rtol=1e-3, atol=1e-4)
    changed = image.copy()
    changed[48:] = changed[:, 80:] = 0
    (_, same, _), = maps_of(nets["v2"], changed, as_released=True)
    torch.testing.assert_close(same, cam, rtol=0, atol=1e-6)
    (_, resized, _), = maps_of(nets["v2"], image)
    assert float((resized - cam).abs().max()) > 1e-3


def test_fewer_layers_are_other_maps(nets, image):
    three, one = (maps_of(nets["v1"], image, layers=layers)[0][1] for layers in (3, 1))
    assert float((three - one).abs().max()) > 1e-3
