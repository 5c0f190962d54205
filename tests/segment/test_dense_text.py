"""Cosines to scores: whose word counts, how often the tower runs, and on what grid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stages.kernels.dense_tail import Heads
from stages.kernels.windows import Windows
from stages.segment import proxyclip
from stages.segment.config import NaclipConfig, TextConfig, resolved
from stages.segment.dense_text import TextSide, class_scores, grid_of, image_scores, with_threshold

SCLIP, TCL = resolved(TextConfig()), resolved(TextConfig(protocol="tcl"))


def test_a_class_has_the_best_of_its_words():
    cosines = torch.tensor([0.1, 0.3, 0.2, 0.0]).reshape(4, 1, 1)
    scores = class_scores(cosines, TextSide(torch.zeros(4, 2), (2, 0, 2), True), SCLIP).ravel()
    softmax = (40 * cosines).softmax(0).ravel()
    torch.testing.assert_close(scores, torch.stack([softmax[1], torch.tensor(0.0), softmax[2]]))
    sigmoid = class_scores(cosines, TextSide(torch.zeros(4, 2), (0, 1, 3), True), TCL).ravel()
    torch.testing.assert_close(sigmoid[1:], torch.sigmoid(torch.tensor([10 * 0.1 - 2.5, 10 * 0.3 - 2.5])))


def test_the_threshold_is_the_background_s_least():
    scores = torch.tensor([0.0, 0.05, 0.03]).reshape(3, 1, 1)
    there, without = (TextSide(torch.zeros(2, 2), (0, 1, 1), flag) for flag in (True, False))
    assert with_threshold(scores.clone(), there, SCLIP)[0].item() == pytest.approx(0.1)
    assert with_threshold(scores.clone(), without, SCLIP)[0].item() == 0
    assert with_threshold(scores.clone(), there, resolved(TextConfig(background="words")))[0].item() == 0


def test_classes_that_win_few_pixels_are_taken_out():
    """Of ten pixels the background has two, and the classes 5, 2 and 1: a tenth of the latter's eight is 0.8."""
    winners = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 2, 2, 3]])
    scores = 0.1 + 0.5 * F.one_hot(winners, 4).permute(2, 0, 1).float()
    scores[1, 0, 9] = 0.2
    text = TextSide(torch.zeros(4, 2), (1, 1, 1, 1), True)

    def found(share: float, side: TextSide = text) -> list[int]:
        config = resolved(TextConfig(area_threshold=share, threshold=0.15))
        return with_threshold(scores.clone(), side, config).argmax(0).ravel().tolist()

    assert found(0.0) == found(0.1) == winners.ravel().tolist()
    assert found(0.125) == found(0.2) == [*winners.ravel().tolist()[:9], 1]
    assert found(0.25) == [0, 0, 1, 1, 1, 1, 1, 0, 0, 1]
    assert found(0.25, text._replace(background=False)) == winners.ravel().tolist()


def test_protocols_fill_in_what_is_not_given():
    assert (SCLIP.short_side, SCLIP.window, SCLIP.stride, SCLIP.scale, SCLIP.threshold) == (336, 224, 112, 40.0, 0.1)
    assert (TCL.short_side, TCL.window, TCL.stride, TCL.shift, TCL.threshold) == (448, 448, 224, -2.5, 0.5)
    assert resolved(TextConfig(protocol="tcl", pamr=True)).threshold == 0.4
    given = resolved(NaclipConfig(short_side=100, threshold=0.0, shift=0.0, dilations=(3,), template="a {}."))
    assert (given.short_side, given.threshold, given.shift) == (100, 0, 0)
    assert (given.dilations, given.template) == ((3,), "a {}.")


@pytest.mark.parametrize(("batch", "calls"), [(1, 6), (4, 2), (16, 1)])
@pytest.mark.parametrize("config", [SCLIP, resolved(TextConfig(pamr=True)), TCL,
                                    resolved(TextConfig(protocol="tcl", pamr=True))],
                         ids=["sclip", "sclip pamr", "tcl", "tcl pamr"])
def test_every_window_goes_through_the_tower_once(batch, calls, config):
    seen: list[int] = []

    def embed(windows: torch.Tensor) -> torch.Tensor:
        seen.append(len(windows))
        return F.avg_pool2d(windows, 16)

    view = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    text = TextSide(F.normalize(torch.rand(3, 3), dim=-1), (1, 1, 1), True)
    scores = image_scores(embed, view, torch.rand(3, 30, 40), Windows((48, 64), 32, 16, 16), text, (30, 40),
                          replace(config, batch_size=batch))
    assert scores.shape == (3, 30, 40) and (len(seen), sum(seen)) == (calls, 6)
    assert scores.min() >= 0 and scores.max() <= 1


def test_a_patch_goes_where_it_lies():
    """One bright patch in one corner wins exactly there."""
    view = torch.zeros(2, 64, 64)
    view[0], view[:, :16, 48:] = 1.0, torch.tensor([0.0, 1.0]).view(2, 1, 1)
    text = TextSide(torch.eye(2), (0, 1, 1), True)
    config = resolved(TextConfig())
    scores = image_scores(lambda windows: F.avg_pool2d(windows, 16), view, torch.zeros(3, 128, 128),
                          Windows((64, 64), 64, 32, 16), text, (128, 128), config)
    won = scores.argmax(0) == 2
    assert won[:24, 104:].all() and not won[34:].any() and not won[:, :94].any()


def test_grids():
    assert grid_of((375, 500), 0) == (375, 500)
    assert grid_of((375, 500), 4) == (94, 125)
    assert grid_of((3000, 4000), 0) == (750, 1000)
    assert grid_of((3000, 4000), 1) == (3000, 4000)


def test_the_proxy_s_attention():
    features = torch.zeros(2, 2, 1, 4)
    features[:, 0, 0, :2], features[:, 1, 0, 2:] = 1.0, 1.0
    weights = proxyclip.proxy_attention(features, 1.2, 3.0)
    wanted = torch.tensor([[0.5, 0.5, 0, 0]] * 2 + [[0, 0, 0.5, 0.5]] * 2)
    torch.testing.assert_close(weights, wanted.expand(2, 4, 4))
    torch.testing.assert_close(proxyclip.proxy_attention(features, 5.0, 3.0), torch.eye(4).expand(2, 4, 4))
    value = torch.arange(5.0).reshape(1, 1, 5, 1)
    heads = Heads(value, value, value, (1, 4))
    found = proxyclip.context(heads, features[:1], 1.2, 3.0).ravel()
    torch.testing.assert_close(found, torch.tensor([1.5, 1.5, 3.5, 3.5]))
    finer = F.interpolate(features[:1], (1, 8), mode="nearest")
    assert proxyclip.context(heads, finer, 1.2, 3.0).shape == (1, 1, 8, 1)
