"""Class activation maps of a classifier: what they are, and that a mirrored image gives mirrored maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.cams.cnn import class_maps, merged
from stages.data.augment import normalise
from stages.data.views import scaled_views
from stages.kernels.cam_merge import merge_scales
from stages.nets.classifier import Classifier, SubcategoryClassifier
from stages.nets.registry import build_backbone

SCALES = (0.5, 1.0, 1.5)
CLASSES = np.array([1, 3], np.uint16)


@pytest.fixture(scope="module")
def net() -> Classifier:
    torch.manual_seed(0)
    net = Classifier(build_backbone("wsss:tiny"), 3).eval()
    torch.nn.init.normal_(net.classifier.weight)  # it starts from zeros
    return net


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def views_of(image: np.ndarray, net: Classifier, scales=SCALES) -> list[torch.Tensor]:
    return [torch.from_numpy(view)[None] for view in scaled_views(image, scales, net.mean, net.std)]


def cam_of(image: np.ndarray, net: Classifier, *, flip: bool, scales=SCALES, alignment: str = "centres",
           grid_stride: int = 4) -> np.ndarray:
    maps, _ = class_maps(net, views_of(image, net, scales), flip=flip)
    return merged(maps, 0, CLASSES, image.shape[:2], scales=scales, flip=flip, grid_stride=grid_stride,
                  stride=net.stride, alignment=alignment)[0]


def test_at_scale_1_without_flip_the_maps_are_the_nets_own(net, image):
    view = views_of(image, net, (1.0,))[0]
    np.testing.assert_array_equal(view[0].numpy(), normalise(image, tuple(net.mean), tuple(net.std)))
    maps, scores = class_maps(net, [view], flip=False)
    with torch.no_grad():
        assert torch.equal(maps[0], net.maps(view).relu())
        torch.testing.assert_close(scores, net(view).sigmoid())


def test_the_scores_are_the_sigmoid_of_the_mean_logit(net, image):
    views = views_of(image, net)
    _, scores = class_maps(net, views, flip=True)
    with torch.no_grad():
        logits = [net(one) for view in views for one in (view, view.flip(-1))]
    torch.testing.assert_close(scores, torch.stack(logits).double().mean(0).sigmoid().float())


def test_maps_come_in_the_order_of_scales_and_are_flipped_back(net, image):
    views = views_of(image, net)
    maps, _ = class_maps(net, views, flip=True)
    assert len(maps) == 2 * len(SCALES)
    with torch.no_grad():
        torch.testing.assert_close(maps[3], net.maps(views[1].flip(-1)).relu().flip(-1))


@pytest.mark.parametrize("alignment", ["centres", "cells"])
def test_a_mirrored_image_has_mirrored_maps(net, image, alignment):
    straight = cam_of(image, net, flip=True, alignment=alignment)
    mirrored = cam_of(np.ascontiguousarray(image[:, ::-1]), net, flip=True, alignment=alignment)
    np.testing.assert_allclose(mirrored[:, :, ::-1], straight, atol=3e-3)
    assert np.abs(mirrored - straight).max() > 0.1, "the picture is not symmetric"


def test_maps_are_of_the_asked_classes_with_maximum_1(net, image):
    cam = cam_of(image, net, flip=True)
    assert cam.dtype == np.float16
    assert cam.shape == (2, 10, 14)
    assert cam.min() >= 0
    live = cam.max(axis=(1, 2)) > 0
    np.testing.assert_allclose(cam.max(axis=(1, 2))[live], 1, atol=2e-3)


def test_no_class_no_map(net, image):
    maps, _ = class_maps(net, views_of(image, net), flip=False)
    cam, covers = merged(maps, 0, np.zeros(0, np.uint16), image.shape[:2], scales=SCALES, flip=False, grid_stride=4,
                         stride=net.stride, alignment="centres")
    assert cam.shape == (0, 10, 14)
    assert covers == (40, 56)


def test_batches_do_not_mix(net, image):
    other = image[::-1].copy()
    pairs = [torch.cat(both) for both in zip(views_of(image, net), views_of(other, net), strict=True)]
    maps, _ = class_maps(net, pairs, flip=True)
    second = merged(maps, 1, CLASSES, image.shape[:2], scales=SCALES, flip=True, grid_stride=4, stride=net.stride,
                    alignment="centres")[0]
    np.testing.assert_allclose(second, cam_of(other, net, flip=True), atol=3e-3)


def test_views_are_resized_by_the_scale(net, image):
    assert [view.shape for view in scaled_views(image, (0.5, 1.0, 1.5), net.mean, net.std)] == [
        (3, 20, 28), (3, 40, 56), (3, 60, 84)]


def test_maps_of_subcategories_are_the_largest_of_their_class(image):
    torch.manual_seed(1)
    net = SubcategoryClassifier(build_backbone("wsss:tiny"), 3, (2, 0, 3)).eval()
    for head in (net.classifier, net.subcategories):
        torch.nn.init.normal_(head.weight)
    views = views_of(image, net)
    maps, scores = class_maps(net, views, flip=True, head="subcategories")
    outer, outer_scores = class_maps(net, views, flip=True)
    assert [one.shape[1] for one in (maps[0], outer[0])] == [5, 3]
    assert torch.equal(scores, outer_scores)
    how = {"scales": SCALES, "flip": True, "grid_stride": 4, "stride": net.stride, "alignment": "centres"}
    cam, _ = merged(maps, 0, np.array([1, 2, 3], np.uint16), image.shape[:2], n_subcategories=(2, 0, 3), **how)
    assert not cam[1].any()
    assert cam[[0, 2]].max(axis=(1, 2)) == pytest.approx(1, abs=1e-3)
    last, _ = merge_scales([one[0, 2:] for one in maps], image.shape[:2], scales=np.repeat(SCALES, 2), members=[3],
                           stride=net.stride, mirrored=[False, True] * 3)
    np.testing.assert_allclose(cam[2], last[0], atol=5e-4)
    alone, _ = merged(maps, 0, np.array([3], np.uint16), image.shape[:2], n_subcategories=(2, 0, 3), **how)
    np.testing.assert_array_equal(alone[0], cam[2])
    none, _ = merged(maps, 0, np.zeros(0, np.uint16), image.shape[:2], n_subcategories=(2, 0, 3), **how)
    assert none.shape == (0, 10, 14)
