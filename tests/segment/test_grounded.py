"""Masks of nets of `train-text`: the order of refining, mixing and averaging, and what each setting does."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stages.errors import UsageError
from stages.kernels.pamr import pamr
from stages.kernels.windows import Windows
from stages.segment.config import GroundedConfig, TextConfig, resolved
from stages.segment.dense_text import TextSide
from stages.segment.grounded import embed, mask_scores
from train_text.small import net_of

TCL = resolved(GroundedConfig(dilations=(1, 2), threshold=0.0))


@pytest.fixture(scope="module")
def net():
    """Return a small net of CoDe with its gates open."""
    return net_of("code").eval()


@pytest.fixture(scope="module")
def text(net):
    """Return three words, each a class."""
    own, kept = net.word_vectors(["dog", "cat", "grass"], ["{}", "a {}"])
    return TextSide(own, (0, 1, 1, 1), True, kept)


def scores(net, text, config, *, size=(32, 48), grid=(64, 96), side=64):
    """Return the scores of a seeded image."""
    view = torch.randn(3, *size, generator=torch.Generator().manual_seed(3))
    picture = F.interpolate(view[None], grid, mode="nearest")[0]
    windows = Windows(size, side, 16, net.clip.cell)
    return mask_scores(net, view, picture, windows, text, grid, config, nullcontext()), view


def test_masks_are_refined_then_mixed_then_resized(net, text):
    """One window, step by step: PAMR on the net's map, then 0.3 of CLIP's map, the size of the window, of the image."""
    found, view = scores(net, text, TCL)
    dense, own = net.maps(view[None])
    cosines = torch.einsum("ehw,ne->nhw", F.normalize(dense[0], dim=0), text.vectors)
    masks = torch.sigmoid(net.segmenter.scale * cosines + net.segmenter.shift)
    colours = F.interpolate(view[None], (16, 24), mode="bilinear", align_corners=True)[0]
    masks = pamr(colours, masks, (1, 2), 10)
    kept = torch.einsum("ehw,ne->nhw", F.normalize(own[0], dim=0), text.kept)
    kept = F.interpolate(torch.sigmoid(10 * (kept - 0.25))[None], (16, 24), mode="bilinear", align_corners=False)[0]
    wanted = (0.7 * masks + 0.3 * kept)[None]
    for to in ((32, 48), (64, 96)):
        wanted = F.interpolate(wanted, to, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[1:], wanted[0], rtol=1e-4, atol=1e-5)
    assert not found[0].any()


def test_settings_that_change_the_masks(net, text):
    plain, _ = scores(net, text, TCL)
    for settings in ({"knowledge": 0.0}, {"pamr": False}, {"blend": "cosines"}, {"iterations": 1}):
        other, _ = scores(net, text, replace(TCL, **settings))
        assert (other - plain).abs().max() > 1e-4, settings
    mean, rough = (scores(net, text, replace(TCL, blend="cosines", pamr=refined))[0]
                   for refined in (True, False))
    assert (mean - rough).abs().max() > 1e-4
    same, _ = scores(net, text, replace(TCL, batch_size=1), side=16)
    torch.testing.assert_close(same, scores(net, text, TCL, side=16)[0], rtol=1e-4, atol=1e-5)
    assert (same - plain).abs().max() > 1e-4


def test_a_class_has_the_best_mask_of_its_words(net, text):
    each, _ = scores(net, text, TCL)
    joined, _ = scores(net, text._replace(counts=(0, 2, 1)), TCL)
    torch.testing.assert_close(joined[1:], torch.stack([each[1:3].amax(0), each[3]]), atol=1e-3, rtol=0)
    rival, _ = scores(net, text._replace(counts=(1, 1, 1)), TCL)
    torch.testing.assert_close(rival, each[1:])


def test_the_threshold_is_the_background_s(net, text):
    with_it, _ = scores(net, text, replace(TCL, threshold=0.4))
    assert (with_it[0] == 0.4).all()
    without, _ = scores(net, text._replace(background=False), replace(TCL, threshold=0.4))
    assert not without[0].any()


def test_what_the_protocols_say_of_nets():
    thesis = resolved(GroundedConfig())
    assert (thesis.short_side, thesis.window, thesis.stride, thesis.blend) == (448, 448, 224, "scores")
    assert (thesis.pamr, thesis.threshold, thesis.dilations) == (True, 0.4, (1, 2, 4, 8, 12, 24))
    assert (thesis.score, thesis.scale, thesis.knowledge, thesis.template) == ("sigmoid", None, 0.3, "tcl")
    assert resolved(GroundedConfig(pamr=False)).threshold == 0.5
    sclip = resolved(GroundedConfig(protocol="sclip"))
    assert (sclip.short_side, sclip.score, sclip.scale, sclip.knowledge) == (336, "softmax", 40.0, 0.0)
    assert resolved(GroundedConfig(score="softmax")).scale == 40
    with pytest.raises(UsageError, match="--scale 20 is for --score softmax"):
        resolved(GroundedConfig(scale=20.0))
    with pytest.raises(UsageError, match=r"--knowledge 0\.1 is for --score sigmoid"):
        resolved(GroundedConfig(protocol="sclip", knowledge=0.1))
    assert not {"knowledge"} & set(vars(TextConfig()))


def test_the_learnt_embedding_alone(net):
    images = torch.randn(2, 3, 16, 32)
    torch.testing.assert_close(embed(net, nullcontext(), images), net.maps(images)[0])
