"""Class activation maps of a classifier: views, scores, merging, mirrored images, sub-categories."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.cams.cnn import compute_class_maps, merge_class_maps
from stages.data.augment import normalise
from stages.data.inference_views import build_scaled_views
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


def build_views(image: np.ndarray, net: Classifier, scales=SCALES) -> list[torch.Tensor]:
    return [torch.from_numpy(view)[None] for view in build_scaled_views(image, scales, net.mean, net.std)]


def compute_cam(image: np.ndarray, net: Classifier, *, flip: bool, scales=SCALES, alignment: str = "centres",
                grid_stride: int = 4) -> np.ndarray:
    maps, _ = compute_class_maps(net, build_views(image, net, scales), flip=flip)
    return merge_class_maps(maps, 0, CLASSES, image.shape[:2], scales=scales, flip=flip, grid_stride=grid_stride,
                            stride=net.stride, alignment=alignment)[0]


def test_single_view_gives_maps_of_the_network(net, image):
    view = build_views(image, net, (1.0,))[0]
    np.testing.assert_array_equal(view[0].numpy(), normalise(image, tuple(net.mean), tuple(net.std)))
    maps, scores = compute_class_maps(net, [view], flip=False)
    with torch.no_grad():
        assert torch.equal(maps[0], net.maps(view).relu())
        torch.testing.assert_close(scores, net(view).sigmoid())


def test_scores_are_sigmoid_of_mean_logits(net, image):
    views = build_views(image, net)
    _, scores = compute_class_maps(net, views, flip=True)
    with torch.no_grad():
        logits = [net(side) for view in views for side in (view, view.flip(-1))]
    torch.testing.assert_close(scores, torch.stack(logits).double().mean(0).sigmoid().float())


def test_order_of_maps_and_flipping_back(net, image):
    views = build_views(image, net)
    maps, _ = compute_class_maps(net, views, flip=True)
    assert len(maps) == 2 * len(SCALES)
    with torch.no_grad():
        torch.testing.assert_close(maps[3], net.maps(views[1].flip(-1)).relu().flip(-1))


@pytest.mark.parametrize("alignment", ["centres", "cells"])
def test_mirrored_image_has_mirrored_maps(net, image, alignment):
    plain = compute_cam(image, net, flip=True, alignment=alignment)
    mirrored = compute_cam(np.ascontiguousarray(image[:, ::-1]), net, flip=True, alignment=alignment)
    np.testing.assert_allclose(mirrored[:, :, ::-1], plain, atol=3e-3)
    assert np.abs(mirrored - plain).max() > 0.1, "the image is not symmetric"


def test_maps_of_chosen_classes_have_maximum_1(net, image):
    cam = compute_cam(image, net, flip=True)
    assert cam.dtype == np.float16
    assert cam.shape == (2, 10, 14)
    assert cam.min() >= 0
    is_nonzero = cam.max(axis=(1, 2)) > 0
    np.testing.assert_allclose(cam.max(axis=(1, 2))[is_nonzero], 1, atol=2e-3)


def test_image_without_classes(net, image):
    maps, _ = compute_class_maps(net, build_views(image, net), flip=False)
    cam, covers = merge_class_maps(maps, 0, np.zeros(0, np.uint16), image.shape[:2], scales=SCALES, flip=False,
                                   grid_stride=4, stride=net.stride, alignment="centres")
    assert cam.shape == (0, 10, 14)
    assert covers == (40, 56)


def test_images_of_a_batch_are_independent(net, image):
    other_image = image[::-1].copy()
    pairs = [torch.cat(views) for views in zip(build_views(image, net), build_views(other_image, net), strict=True)]
    maps, _ = compute_class_maps(net, pairs, flip=True)
    second = merge_class_maps(maps, 1, CLASSES, image.shape[:2], scales=SCALES, flip=True, grid_stride=4,
                              stride=net.stride, alignment="centres")[0]
    np.testing.assert_allclose(second, compute_cam(other_image, net, flip=True), atol=3e-3)


def test_views_are_resized_by_the_scale(net, image):
    assert [view.shape for view in build_scaled_views(image, (0.5, 1.0, 1.5), net.mean, net.std)] == [
        (3, 20, 28), (3, 40, 56), (3, 60, 84)]


def test_subcategory_maps_are_maxima_per_class(image):
    torch.manual_seed(1)
    net = SubcategoryClassifier(build_backbone("wsss:tiny"), 3, (2, 0, 3)).eval()
    for head in (net.classifier, net.subcategories):
        torch.nn.init.normal_(head.weight)
    views = build_views(image, net)
    maps, scores = compute_class_maps(net, views, flip=True, head="subcategories")
    class_maps, class_scores = compute_class_maps(net, views, flip=True)
    assert [scale_maps.shape[1] for scale_maps in (maps[0], class_maps[0])] == [5, 3]
    assert torch.equal(scores, class_scores)
    settings = {"scales": SCALES, "flip": True, "grid_stride": 4, "stride": net.stride, "alignment": "centres",
                "n_subcategories": (2, 0, 3)}
    cam, _ = merge_class_maps(maps, 0, np.array([1, 2, 3], np.uint16), image.shape[:2], **settings)
    assert not cam[1].any()
    assert cam[[0, 2]].max(axis=(1, 2)) == pytest.approx(1, abs=1e-3)
    expected, _ = merge_scales([scale_maps[0, 2:] for scale_maps in maps], image.shape[:2],
                               scales=np.repeat(SCALES, 2), maps_per_class=[3], stride=net.stride,
                               mirrored=[False, True] * 3)
    np.testing.assert_allclose(cam[2], expected[0], atol=5e-4)
    last_class, _ = merge_class_maps(maps, 0, np.array([3], np.uint16), image.shape[:2], **settings)
    np.testing.assert_array_equal(last_class[0], cam[2])
    no_class, _ = merge_class_maps(maps, 0, np.zeros(0, np.uint16), image.shape[:2], **settings)
    assert no_class.shape == (0, 10, 14)
