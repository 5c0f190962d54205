"""Scores from cosines: the words of a class, how often the image tower runs, and the grid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stages.kernels.dense_last_block import AttentionHeads
from stages.kernels.sliding_windows import SlidingWindows
from stages.segment import proxyclip
from stages.segment.config import NaclipConfig, TextConfig, apply_protocol
from stages.segment.dense_text import WordVectors, apply_threshold, choose_grid, score_classes, score_image

SCLIP, TCL = apply_protocol(TextConfig()), apply_protocol(TextConfig(protocol="tcl"))


def test_score_of_a_class_is_the_best_of_its_words():
    cosines = torch.tensor([0.1, 0.3, 0.2, 0.0]).reshape(4, 1, 1)
    scores = score_classes(cosines, WordVectors(torch.zeros(4, 2), (2, 0, 2), True), SCLIP).ravel()
    softmax = (40 * cosines).softmax(0).ravel()
    torch.testing.assert_close(scores, torch.stack([softmax[1], torch.tensor(0.0), softmax[2]]))
    sigmoid = score_classes(cosines, WordVectors(torch.zeros(4, 2), (0, 1, 3), True), TCL).ravel()
    torch.testing.assert_close(sigmoid[1:], torch.sigmoid(torch.tensor([10 * 0.1 - 2.5, 10 * 0.3 - 2.5])))


def test_threshold_is_the_minimum_of_the_background():
    scores = torch.tensor([0.0, 0.05, 0.03]).reshape(3, 1, 1)
    with_background, without = (WordVectors(torch.zeros(2, 2), (0, 1, 1), flag) for flag in (True, False))
    assert apply_threshold(scores.clone(), with_background, SCLIP)[0].item() == pytest.approx(0.1)
    assert apply_threshold(scores.clone(), without, SCLIP)[0].item() == 0
    assert apply_threshold(scores.clone(), with_background,
                           apply_protocol(TextConfig(background="words")))[0].item() == 0


def test_removes_classes_that_win_few_pixels():
    """Of ten pixels the background wins two and the classes 5, 2 and 1; a tenth of these eight is 0.8."""
    winners = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 2, 2, 3]])
    scores = 0.1 + 0.5 * F.one_hot(winners, 4).permute(2, 0, 1).float()
    scores[1, 0, 9] = 0.2
    text = WordVectors(torch.zeros(4, 2), (1, 1, 1, 1), True)

    def classify(share: float, words: WordVectors = text) -> list[int]:
        config = apply_protocol(TextConfig(area_threshold=share, threshold=0.15))
        return apply_threshold(scores.clone(), words, config).argmax(0).ravel().tolist()

    assert classify(0.0) == classify(0.1) == winners.ravel().tolist()
    assert classify(0.125) == classify(0.2) == [*winners.ravel().tolist()[:9], 1]
    assert classify(0.25) == [0, 0, 1, 1, 1, 1, 1, 0, 0, 1]
    assert classify(0.25, text._replace(has_background=False)) == winners.ravel().tolist()


def test_protocol_fills_in_unset_settings():
    assert (SCLIP.short_side, SCLIP.window, SCLIP.stride, SCLIP.scale, SCLIP.threshold) == (336, 224, 112, 40.0, 0.1)
    assert (TCL.short_side, TCL.window, TCL.stride, TCL.shift, TCL.threshold) == (448, 448, 224, -2.5, 0.5)
    assert apply_protocol(TextConfig(protocol="tcl", pamr=True)).threshold == 0.4
    config = apply_protocol(NaclipConfig(short_side=100, threshold=0.0, shift=0.0, dilations=(3,), template="a {}."))
    assert (config.short_side, config.threshold, config.shift) == (100, 0, 0)
    assert (config.dilations, config.template) == ((3,), "a {}.")


@pytest.mark.parametrize(("batch", "calls"), [(1, 6), (4, 2), (16, 1)])
@pytest.mark.parametrize("config", [SCLIP, apply_protocol(TextConfig(pamr=True)), TCL,
                                    apply_protocol(TextConfig(protocol="tcl", pamr=True))],
                         ids=["sclip", "sclip pamr", "tcl", "tcl pamr"])
def test_runs_the_tower_once_per_window(batch, calls, config):
    batch_sizes: list[int] = []

    def embed(windows: torch.Tensor) -> torch.Tensor:
        batch_sizes.append(len(windows))
        return F.avg_pool2d(windows, 16)

    view = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))
    text = WordVectors(F.normalize(torch.rand(3, 3), dim=-1), (1, 1, 1), True)
    scores = score_image(embed, view, torch.rand(3, 30, 40), SlidingWindows((48, 64), 32, 16, 16), text, (30, 40),
                         replace(config, batch_size=batch))
    assert scores.shape == (3, 30, 40) and (len(batch_sizes), sum(batch_sizes)) == (calls, 6)
    assert scores.min() >= 0 and scores.max() <= 1


def test_patch_is_scored_at_its_position():
    """A bright patch in a corner wins exactly there."""
    view = torch.zeros(2, 64, 64)
    view[0], view[:, :16, 48:] = 1.0, torch.tensor([0.0, 1.0]).view(2, 1, 1)
    text = WordVectors(torch.eye(2), (0, 1, 1), True)
    config = apply_protocol(TextConfig())
    scores = score_image(lambda windows: F.avg_pool2d(windows, 16), view, torch.zeros(3, 128, 128),
                         SlidingWindows((64, 64), 64, 32, 16), text, (128, 128), config)
    is_won = scores.argmax(0) == 2
    assert is_won[:24, 104:].all() and not is_won[34:].any() and not is_won[:, :94].any()


def test_choose_grid():
    assert choose_grid((375, 500), 0) == (375, 500)
    assert choose_grid((375, 500), 4) == (94, 125)
    assert choose_grid((3000, 4000), 0) == (750, 1000)
    assert choose_grid((3000, 4000), 1) == (3000, 4000)


def test_proxy_attention():
    features = torch.zeros(2, 2, 1, 4)
    features[:, 0, 0, :2], features[:, 1, 0, 2:] = 1.0, 1.0
    weights = proxyclip.compute_proxy_attention(features, 1.2, 3.0)
    expected = torch.tensor([[0.5, 0.5, 0, 0]] * 2 + [[0, 0, 0.5, 0.5]] * 2)
    torch.testing.assert_close(weights, expected.expand(2, 4, 4))
    torch.testing.assert_close(proxyclip.compute_proxy_attention(features, 5.0, 3.0), torch.eye(4).expand(2, 4, 4))
    value = torch.arange(5.0).reshape(1, 1, 5, 1)
    heads = AttentionHeads(value, value, value, (1, 4))
    result = proxyclip.compute_context(heads, features[:1], 1.2, 3.0).ravel()
    torch.testing.assert_close(result, torch.tensor([1.5, 1.5, 3.5, 3.5]))
    finer = F.interpolate(features[:1], (1, 8), mode="nearest")
    assert proxyclip.compute_context(heads, finer, 1.2, 3.0).shape == (1, 1, 8, 1)
