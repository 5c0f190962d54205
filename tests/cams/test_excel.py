"""ExCEL on a seeded CLIP: its second stream against a plain restatement, its word maps against values by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cams.test_clip_es import RECIPE, build_open_clip_model, draw_normals
from stages.cams.config import ExcelConfig
from stages.cams.excel import WordVectors, compute_cams, compute_word_maps, compute_word_scores, weigh_words
from stages.nets.clip_vision import VisionTower, resize_positions

CONFIG = ExcelConfig(calibrated_layers=2, attention_layers=3, box_threshold=0.9)


@pytest.fixture(scope="module")
def model():
    """Build a small CLIP with a ViT, in float64."""
    return build_open_clip_model(RECIPE.config(), RECIPE.state())


@pytest.fixture(scope="module")
def tower(model):
    """Return its image tower."""
    return VisionTower(model.visual, dtype=torch.float64)


def draw_words(num_classes: int = 4, num_background: int = 3) -> WordVectors:
    """Draw random unit vectors."""
    classes, background, shifted = (F.normalize(draw_normals(count, 12, seed=seed), dim=-1)
                                    for seed, count in enumerate((num_classes, num_background, num_classes)))
    return WordVectors(classes, background, shifted, 20.0)


def embed_plainly(visual, images: torch.Tensor, grid: tuple[int, int], num_calibrated: int) -> torch.Tensor:
    """Return the token embeddings by open_clip's own blocks, and a second stream beside them."""
    stem = visual.conv1(images).flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(len(images), 1, -1), stem], 1)
    tokens = visual.ln_pre(tokens + resize_positions(visual.positional_embedding, visual.grid_size, grid))
    blocks = list(visual.transformer.resblocks)
    stream = None
    for index, block in enumerate(blocks):
        if index == len(blocks) - num_calibrated:
            stream = tokens
        if stream is not None:
            qkv = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
            heads = [part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in qkv]
            scale = heads[0].shape[-1] ** -0.5
            attention = sum((part @ part.transpose(-1, -2) * scale).softmax(-1) for part in heads).sum(1) / 3
            stream = stream + block.attn.out_proj(attention @ qkv[2])
        tokens = block(tokens)
    joined = torch.cat([tokens[:, :1], stream[:, 1:]], 1)
    return visual.ln_post(joined) @ visual.proj


@pytest.mark.parametrize("num_calibrated", [1, 2, 3])
@pytest.mark.parametrize("grid", [(4, 4), (2, 3)])
def test_tokens_equal_a_plain_restatement(model, tower, grid, num_calibrated):
    images = draw_normals(2, 3, 16 * grid[0], 16 * grid[1], seed=sum(grid))
    with torch.inference_mode():
        embedded = tower.embed_calibrated(images, num_calibrated_blocks=num_calibrated)
        expected = embed_plainly(model.visual, images, grid, num_calibrated)
    torch.testing.assert_close(embedded.tokens, expected, rtol=0, atol=1e-10)
    assert embedded.attention is None
    assert embedded.grid == grid


def test_attention_equals_that_of_the_ordinary_tower(tower):
    images = draw_normals(2, 3, 48, 48)
    with torch.inference_mode():
        calibrated = tower.embed_calibrated(images, num_calibrated_blocks=1, num_attention_layers=2)
        ordinary = tower.embed(images, pooling="class", num_attention_layers=2)
        last = tower.embed(images, pooling="class", num_attention_layers=1).attention
        weighted = tower.embed_calibrated(images, num_calibrated_blocks=1, num_attention_layers=2,
                                          plain_block_weight=0.25)
    torch.testing.assert_close(calibrated.attention, ordinary.attention, rtol=0, atol=1e-12)
    torch.testing.assert_close(calibrated.tokens[:, 0], ordinary.embedding, rtol=0, atol=1e-12)
    # The mean of the two blocks is (first + last) / 2; a quarter of the first one is left.
    first = 2 * ordinary.attention - last
    torch.testing.assert_close(weighted.attention, (0.25 * first + last) / 2, rtol=0, atol=1e-12)


def test_word_scores_by_hand():
    words = torch.eye(2, dtype=torch.float64)
    tokens = torch.tensor([[[0.5, 0.0], [1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    # softmax(2 * 0.5, 2 * 0) = (e, 1) / (e + 1), times two words.
    first, second = 2 * np.e / (np.e + 1), 2 / (np.e + 1)
    torch.testing.assert_close(weigh_words(tokens[:, 0], words), torch.tensor([[first, second]], dtype=torch.float64))
    weighted = np.array([[0.5 * first, 0], [first, 0], [0, second]])
    expected = weighted - weighted.mean(1, keepdims=True)
    np.testing.assert_allclose(compute_word_scores(tokens, words)[0], expected, atol=1e-12)


def test_word_maps_are_rescaled_over_all_tokens_and_flat_ones_are_empty():
    words = draw_words()
    tokens = draw_normals(2, 10, 12)
    maps = compute_word_maps(tokens, words)
    scores = compute_word_scores(F.normalize(tokens, dim=1), torch.cat([words.shifted, words.background]))[..., :4]
    span = scores.amax(1) - scores.amin(1)
    expected = ((scores - scores.amin(1, keepdim=True)) / span[:, None])[:, 1:].transpose(1, 2)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)
    flat = compute_word_maps(torch.ones(1, 10, 12, dtype=torch.float64), words)
    assert torch.equal(flat, torch.zeros(1, 4, 9, dtype=torch.float64))


def test_a_batch_equals_its_images_and_maps_do_not_depend_on_other_classes(tower):
    images, words = draw_normals(3, 3, 64, 64), draw_words()
    ids = [np.array([1, 3], np.uint16), np.array([], np.uint16), np.array([2], np.uint16)]
    together = compute_cams(tower, images, words, CONFIG, lambda position, scores: ids[position])
    for position, expected_ids in enumerate(ids):
        (alone,) = compute_cams(tower, images[position:position + 1], words, CONFIG,
                                lambda _, scores, chosen=expected_ids: chosen)
        maps = together[position]
        assert maps.raw.shape == maps.refined.shape == (len(expected_ids), 4, 4)
        torch.testing.assert_close(maps.refined, alone.refined, rtol=0, atol=1e-9)
        torch.testing.assert_close(maps.raw, alone.raw, rtol=0, atol=1e-9)
        np.testing.assert_allclose(maps.scores, alone.scores, rtol=1e-9)
        assert all(cam.amin() == 0 and cam.amax() == 1 for cam in [*maps.raw, *maps.refined])
    (every,) = compute_cams(tower, images[:1], words, CONFIG, lambda _, scores: np.arange(1, 5))
    torch.testing.assert_close(every.refined[[0, 2]], together[0].refined, rtol=0, atol=1e-9)
    assert every.scores.sum() < 1  # the background words have the rest


@pytest.mark.parametrize("changes", [{"affinity": "mhsa"}, {"affinity": "none"}, {"calibrated_layers": 1},
                                     {"attention_layers": 1}, {"steps": 1}, {"box_mask": "result"},
                                     {"box_threshold": 0.5}, {"as_released": True}], ids=str)
def test_settings_change_maps(tower, changes):
    images, words = draw_normals(1, 3, 96, 96), draw_words()
    maps = [compute_cams(tower, images, words, config, lambda _, scores: np.array([1, 2]))[0].refined
            for config in (CONFIG, replace(CONFIG, **changes))]
    assert (maps[0] - maps[1]).abs().max() > 1e-3


def test_half_precision_is_close_to_single():
    visual = build_open_clip_model(RECIPE.config(), RECIPE.state()).float().visual
    images, words = draw_normals(1, 3, 64, 64).float(), WordVectors(*(vectors.float() if isinstance(
        vectors, torch.Tensor) else vectors for vectors in draw_words()))
    config = replace(CONFIG, affinity="none")
    maps = [compute_cams(VisionTower(copy.deepcopy(visual), dtype=dtype), images, words, config,
                         lambda _, scores: np.array([1, 2]))[0].raw for dtype in (torch.float32, torch.bfloat16)]
    # bfloat16 has 8 bits; a wrong scale of the queries (a factor of 2.8 here) changes maps by 0.2 and more.
    assert (maps[0] - maps[1]).abs().max() < 0.06
    assert not torch.equal(*maps)
