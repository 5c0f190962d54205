"""Masks of networks of `train-text`: the order of refining, mixing and averaging, and the effect of settings."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stages.errors import UsageError
from stages.kernels.pamr import pamr
from stages.kernels.sliding_windows import SlidingWindows
from stages.segment.config import GroundedConfig, TextConfig, apply_protocol
from stages.segment.dense_text import WordVectors
from stages.segment.grounded import embed_windows, score_image_by_masks
from train_text.small import build_net

TCL = apply_protocol(GroundedConfig(dilations=(1, 2), threshold=0.0))


@pytest.fixture(scope="module")
def net():
    """Return a small network of CoDe with open gates."""
    return build_net("code").eval()


@pytest.fixture(scope="module")
def text(net):
    """Return the vectors of three words, one per class."""
    learnt_vectors, clip_vectors = net.encode_class_words(["dog", "cat", "grass"], ["{}", "a {}"])
    return WordVectors(learnt_vectors, (0, 1, 1, 1), True, clip_vectors)


def compute_scores(net, text, config, *, size=(32, 48), grid=(64, 96), side=64):
    """Return the scores of a seeded image."""
    view = torch.randn(3, *size, generator=torch.Generator().manual_seed(3))
    image = F.interpolate(view[None], grid, mode="nearest")[0]
    windows = SlidingWindows(size, side, 16, net.clip.cell)
    return score_image_by_masks(net, view, image, windows, text, grid, config, nullcontext()), view


def test_refines_then_mixes_then_resizes_masks(net, text):
    """One window, step by step: PAMR on the network's map, 0.3 of CLIP's map, then resizing to window and image."""
    result, view = compute_scores(net, text, TCL)
    dense, clip_map = net.maps(view[None])
    cosines = torch.einsum("ehw,ne->nhw", F.normalize(dense[0], dim=0), text.vectors)
    masks = torch.sigmoid(net.segmenter.scale * cosines + net.segmenter.shift)
    colours = F.interpolate(view[None], (16, 24), mode="bilinear", align_corners=True)[0]
    masks = pamr(colours, masks, (1, 2), 10)
    clip_cosines = torch.einsum("ehw,ne->nhw", F.normalize(clip_map[0], dim=0), text.clip_vectors)
    clip_masks = torch.sigmoid(10 * (clip_cosines - 0.25))[None]
    clip_masks = F.interpolate(clip_masks, (16, 24), mode="bilinear", align_corners=False)[0]
    expected = (0.7 * masks + 0.3 * clip_masks)[None]
    for size in ((32, 48), (64, 96)):
        expected = F.interpolate(expected, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(result[1:], expected[0], rtol=1e-4, atol=1e-5)
    assert not result[0].any()


def test_settings_change_the_masks(net, text):
    plain, _ = compute_scores(net, text, TCL)
    for settings in ({"knowledge": 0.0}, {"pamr": False}, {"blend": "cosines"}, {"iterations": 1}):
        other, _ = compute_scores(net, text, replace(TCL, **settings))
        assert (other - plain).abs().max() > 1e-4, settings
    mean, rough = (compute_scores(net, text, replace(TCL, blend="cosines", pamr=refined))[0]
                   for refined in (True, False))
    assert (mean - rough).abs().max() > 1e-4
    same, _ = compute_scores(net, text, replace(TCL, batch_size=1), side=16)
    torch.testing.assert_close(same, compute_scores(net, text, TCL, side=16)[0], rtol=1e-4, atol=1e-5)
    assert (same - plain).abs().max() > 1e-4


def test_mask_of_a_class_is_the_best_of_its_words(net, text):
    single, _ = compute_scores(net, text, TCL)
    joined, _ = compute_scores(net, text._replace(words_per_class=(0, 2, 1)), TCL)
    torch.testing.assert_close(joined[1:], torch.stack([single[1:3].amax(0), single[3]]), atol=1e-3, rtol=0)
    rival, _ = compute_scores(net, text._replace(words_per_class=(1, 1, 1)), TCL)
    torch.testing.assert_close(rival, single[1:])


def test_background_is_the_threshold(net, text):
    with_it, _ = compute_scores(net, text, replace(TCL, threshold=0.4))
    assert (with_it[0] == 0.4).all()
    without, _ = compute_scores(net, text._replace(has_background=False), replace(TCL, threshold=0.4))
    assert not without[0].any()


def test_protocols_of_grounded_networks():
    thesis = apply_protocol(GroundedConfig())
    assert (thesis.short_side, thesis.window, thesis.stride, thesis.blend) == (448, 448, 224, "scores")
    assert (thesis.pamr, thesis.threshold, thesis.dilations) == (True, 0.4, (1, 2, 4, 8, 12, 24))
    assert (thesis.score, thesis.scale, thesis.knowledge, thesis.template) == ("sigmoid", None, 0.3, "tcl")
    assert apply_protocol(GroundedConfig(pamr=False)).threshold == 0.5
    sclip = apply_protocol(GroundedConfig(protocol="sclip"))
    assert (sclip.short_side, sclip.score, sclip.scale, sclip.knowledge) == (336, "softmax", 40.0, 0.0)
    assert apply_protocol(GroundedConfig(score="softmax")).scale == 40
    with pytest.raises(UsageError, match="--scale 20 is for --score softmax only"):
        apply_protocol(GroundedConfig(scale=20.0))
    with pytest.raises(UsageError, match=r"--knowledge 0\.1 is for --score sigmoid only"):
        apply_protocol(GroundedConfig(protocol="sclip", knowledge=0.1))
    assert not {"knowledge"} & set(vars(TextConfig()))


def test_embed_windows_returns_the_learnt_embedding(net):
    images = torch.randn(2, 3, 16, 32)
    torch.testing.assert_close(embed_windows(net, nullcontext(), images), net.maps(images)[0])


@pytest.mark.parametrize("head", ["tcl", "code"])
def test_released_text_tower_takes_no_memory_and_images_are_still_segmented(head):
    net, images = build_net(head).eval(), torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    vectors, _ = net.encode_class_words(["dog", "cat"], ["{}"])
    expected = net.masks(net.maps(images)[0], vectors)
    num_blocks = sum(".transformer.resblocks." in name and ".visual." not in name for name in net.state_dict())
    assert num_blocks
    net.clip.release_text_tower()
    assert not any((".transformer.resblocks." in name and ".visual." not in name) or "token_embedding" in name
                   for name in net.state_dict())
    torch.testing.assert_close(net.masks(net.maps(images)[0], vectors), expected, rtol=0, atol=0)
