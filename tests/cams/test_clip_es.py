"""CLIP-ES on a seeded CLIP in float64, compared with autograd through open_clip's own forward pass."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seeded_clip import ClipRecipe
from stages.cams.clip_es import TextFeatures, compute_cams, score_all_classes
from stages.cams.config import ClipEsConfig
from stages.cams.softmax_gradcam import (
    compute_probability_derivative,
    compute_score_gradients,
    rescale_as_released,
    rescale_to_unit_range,
)
from stages.kernels.attention_affinity import build_box_mask, compute_sinkhorn_scalings, refine_with_attention
from stages.nets.clip_hooked import HookedTower
from stages.nets.clip_resnet import ResNetTower
from stages.nets.clip_vision import VisionTower

RECIPE = ClipRecipe(seed=3, width=32, layers=3, heads=4, embed=12, text_width=16, text_layers=1, text_heads=2)
PLAIN = ClipEsConfig(affinity="none")


def build_open_clip_model(config: dict, state: dict | None = None):
    """Build open_clip's model in float64; without `state` it gets its own initialisation, seeded."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(**config).eval()
    if state is not None:
        model.load_state_dict(state)
    return model.double().requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    """Build a small CLIP with a ViT."""
    return build_open_clip_model(RECIPE.config(), RECIPE.state())


def draw_normals(*shape: int, seed: int = 0) -> torch.Tensor:
    """Draw seeded normals in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_text_features(classes: int, background: int, variants: int = 1) -> TextFeatures:
    """Draw random unit vectors for classes and background."""
    return TextFeatures(F.normalize(draw_normals(variants, classes, 12, seed=1), dim=-1),
                        F.normalize(draw_normals(background, 12, seed=2), dim=-1), 20.0)


def compute_maps_with_autograd(model, image: torch.Tensor, text: TextFeatures, ids: np.ndarray, target: str,
                               pooling: str, grid: tuple[int, int], rescale=rescale_to_unit_range) -> torch.Tensor:
    """Compute the maps (K, h, w) by one backward pass per class, as the published code does."""
    visual = model.visual
    feature_map = {}

    def replace_output(_module, _inputs, output):
        feature_map["map"] = output.detach().requires_grad_()
        return feature_map["map"]

    positions = visual.positional_embedding
    cells = F.interpolate(positions[1:].T.reshape(1, -1, *visual.grid_size), grid, mode="bilinear")
    handle = visual.transformer.resblocks[-1].ln_1.register_forward_hook(replace_output)
    try:
        with torch.enable_grad():
            stem = visual.conv1(image).flatten(2).transpose(1, 2)
            tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), stem], 1)
            tokens = visual.ln_pre(tokens + torch.cat([positions[:1], cells.flatten(2)[0].T]))
            for block in visual.transformer.resblocks:
                tokens = block(tokens)
            tokens = visual.ln_post(tokens)
            pooled = tokens[:, 1:].mean(1) if pooling == "average" else tokens[:, 0]
            unit = F.normalize(pooled @ visual.proj, dim=-1)[0]
            logits = text.logit_scale * torch.cat([text.classes[0][ids - 1], text.background]) @ unit
            scores = {"logit": logits, "probability": logits.softmax(0),
                      "log-odds": torch.special.logit(logits.softmax(0))}[target]
            maps = []
            for index in range(len(ids)):
                (gradient,) = torch.autograd.grad(scores[index], feature_map["map"], retain_graph=True)
                weights = gradient[0, 1:].mean(0)
                maps.append(torch.relu(feature_map["map"][0, 1:].detach() @ weights))
    finally:
        handle.remove()
    return rescale(torch.stack(maps)).unflatten(-1, grid)


@pytest.mark.parametrize("pooling", ["average", "class"])
@pytest.mark.parametrize("target", ["log-odds", "probability", "logit"])
@pytest.mark.parametrize(("grid", "ids"), [((3, 5), [2]), ((14, 14), [1, 3]), ((4, 19), [1, 2, 3, 4, 5]),
                                           ((1, 2), [4])])
def test_maps_equal_autograd(model, grid, ids, target, pooling):
    image = draw_normals(1, 3, 16 * grid[0], 16 * grid[1], seed=sum(grid))
    text, ids = draw_text_features(5, 4), np.array(ids)
    config = replace(PLAIN, target=target, pooling=pooling)
    tower = VisionTower(model.visual, dtype=torch.float64)
    (cams,) = compute_cams(tower, [image], text, config, 0.4, lambda position, scores: ids)
    expected = compute_maps_with_autograd(model, image, text, ids, target, pooling, grid)
    np.testing.assert_allclose(cams.raw, expected, atol=1e-9, rtol=0)


def test_log_odds_and_probability_give_the_same_map(model):
    text, image = draw_text_features(4, 3), [draw_normals(1, 3, 64, 80)]
    tower = VisionTower(model.visual, dtype=torch.float64)
    from_log_odds, from_probability = (
        compute_cams(tower, image, text, replace(PLAIN, target=target), 0.4,
                     lambda position, scores: np.array([1, 2, 4]))[0]
        for target in ("log-odds", "probability"))
    np.testing.assert_allclose(from_log_odds.raw, from_probability.raw, atol=1e-9)
    np.testing.assert_allclose(from_log_odds.scores, from_probability.scores)


@pytest.mark.parametrize("target", ["log-odds", "probability"])
def test_as_released_dims_improbable_classes(model, target):
    text = draw_text_features(5, 4)._replace(logit_scale=60.0)
    image, ids, grid = draw_normals(1, 3, 48, 80, seed=1), np.array([1, 2, 3, 4, 5]), (3, 5)
    tower = VisionTower(model.visual, dtype=torch.float64)
    (default,) = compute_cams(tower, [image], text, replace(PLAIN, target=target), 0.4, lambda position, scores: ids)
    released = replace(PLAIN, target=target, as_released=True)
    (dimmed,) = compute_cams(tower, [image], text, released, 0.4, lambda position, scores: ids)
    expected = compute_maps_with_autograd(model, image, text, ids, "probability", "average", grid,
                                          rescale=lambda maps: rescale_as_released(rescale_as_released(maps)))
    # Autograd sums all terms of the softmax's gradient: its rounding error is 2 ** -52 of the largest term.
    np.testing.assert_allclose(dimmed.raw, expected, rtol=1e-6, atol=1e-12)
    is_improbable = dimmed.scores < 1e-20
    assert is_improbable.any() and not is_improbable.all(), "the case has both kinds"
    peaks, default_peaks = dimmed.raw.flatten(1).amax(1).numpy(), default.raw.flatten(1).amax(1).numpy()
    assert (peaks[is_improbable] < 0.1).all()
    assert default_peaks[is_improbable].tolist() == [1.0] * is_improbable.sum(), "by default no class is dimmed"
    is_likely = dimmed.scores > 1e-3
    assert is_likely.any() and (peaks[is_likely] > 0.99999).all()


@pytest.mark.parametrize("settings", [{"flip": True}, {"scales": (1.0, 1.0)}, {"affinity": "caa"},
                                      {"affinity": "mhsa"}])
def test_dimmed_classes_stay_dim(model, settings):
    text, ids = draw_text_features(5, 4)._replace(logit_scale=60.0), np.array([1, 2, 3, 4, 5])
    config = replace(PLAIN, as_released=True, **settings)
    image = draw_normals(1, 3, 48, 80, seed=1)
    views = [image for _ in config.scales]
    (cams,) = compute_cams(VisionTower(model.visual, dtype=torch.float64), views, text, config, 0.4,
                           lambda position, scores: ids)
    least_likely = int(cams.scores.argmin())
    assert cams.scores[least_likely] < 1e-20
    assert cams.refined[least_likely].max() < 0.1
    assert cams.refined[int(cams.scores.argmax())].max() > 0.999


def test_rescale_as_released():
    maps = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0], [5.0, 5.0, 5.0 + 1e-9]], dtype=torch.float64)
    rescaled = rescale_as_released(maps)
    np.testing.assert_allclose(rescaled[0], [0, 1 / 3.0000001, 3 / 3.0000001], rtol=1e-12)
    assert rescaled[1].tolist() == [0, 0, 0]
    assert rescaled[2, 2] == pytest.approx(1e-9 / (1e-7 + 1e-9), rel=1e-5)


def test_probability_derivative_keeps_digits():
    logits = torch.tensor([20.0, 0.0, -30.0])
    exact = logits.double().softmax(0)
    derivative = compute_probability_derivative(logits.softmax(0), torch.tensor([0, 1, 2]))
    np.testing.assert_allclose(derivative, exact * torch.stack([exact[1] + exact[2], exact[0] + exact[2],
                                                                exact[0] + exact[1]]), rtol=1e-5)
    assert derivative[0] > 0, "p rounds to 1 in float32"


def test_only_log_odds_gradient_survives_half_precision():
    text = F.normalize(draw_normals(3, 12), dim=-1)
    embedding = text[0] * 5  # p of class 0 is close to 1, of class 1 close to 0
    for target, survives in (("log-odds", True), ("probability", False)):
        gradient, _ = compute_score_gradients(embedding, text, torch.tensor([0, 1]), 100.0, target)
        half_gradient = (gradient / 1000).half().abs().amax(1)  # as if spread over a thousand patches
        assert bool((half_gradient > 0).all()) is survives, target


def test_log_odds_without_competitor_is_logit():
    text = F.normalize(draw_normals(1, 12), dim=-1)
    log_odds_gradient, _ = compute_score_gradients(draw_normals(12, seed=4), text, torch.tensor([0]), 5.0, "log-odds")
    logit_gradient, _ = compute_score_gradients(draw_normals(12, seed=4), text, torch.tensor([0]), 5.0, "logit")
    torch.testing.assert_close(log_odds_gradient, logit_gradient)
    assert log_odds_gradient.abs().max() > 0


def test_images_of_a_batch_are_independent(model):
    tower, text, config = VisionTower(model.visual, dtype=torch.float64), draw_text_features(5, 4), ClipEsConfig()
    images, ids = draw_normals(3, 3, 48, 64), [np.array([1]), np.array([], dtype=int), np.array([2, 3, 5])]
    batch_cams = compute_cams(tower, [images], text, config, 0.4, lambda position, scores: ids[position])
    for position, cams in enumerate(batch_cams):
        (single_cams,) = compute_cams(tower, [images[position:position + 1]], text, config, 0.4,
                                      lambda _, scores, index=position: ids[index])
        assert cams.refined.shape == (len(ids[position]), 3, 4)
        np.testing.assert_allclose(cams.refined, single_cams.refined, atol=1e-12)
        np.testing.assert_allclose(cams.scores, single_cams.scores)


def test_compete_all(model):
    tower = VisionTower(model.visual, dtype=torch.float64)
    text, image = draw_text_features(5, 2), [draw_normals(1, 3, 32, 32)]
    among_present, among_all = (
        compute_cams(tower, image, text, replace(PLAIN, compete=compete), 0.4,
                     lambda position, scores: np.array([2, 3]))[0]
        for compete in ("present", "all"))
    assert (among_all.scores < among_present.scores).all()
    config = replace(PLAIN, compete="all")
    every_class = compute_cams(tower, image, text, config, 0.4, lambda position, scores: np.arange(1, 6))[0]
    np.testing.assert_allclose(among_all.raw, every_class.raw[[1, 2]], atol=1e-12)


def test_mirrored_image_has_mirrored_maps_with_flip(model):
    tower = VisionTower(model.visual, dtype=torch.float64)
    text, config = draw_text_features(3, 3), ClipEsConfig(flip=True)
    image = draw_normals(1, 3, 48, 80)
    plain, mirrored = (compute_cams(tower, [view], text, replace(config, affinity="mhsa"), 0.4,
                                    lambda position, scores: np.array([1, 3]))[0] for view in (image, image.flip(-1)))
    np.testing.assert_allclose(plain.refined.flip(-1), mirrored.refined, atol=1e-9)


def test_scales_are_summed_on_grid_of_scale_1(model):
    tower, text = VisionTower(model.visual, dtype=torch.float64), draw_text_features(3, 3)
    views = [draw_normals(1, 3, 32, 32), draw_normals(1, 3, 64, 64, seed=9)]
    config = ClipEsConfig(scales=(0.5, 1.0))
    cams = compute_cams(tower, views, text, config, 0.4, lambda position, scores: np.array([2]))[0]
    coarse, fine = (
        compute_cams(tower, [view], text, ClipEsConfig(), 0.4, lambda position, scores: np.array([2]))[0].refined
        for view in views)
    summed = fine + F.interpolate(coarse[None], (4, 4), mode="bilinear", align_corners=False)[0]
    expected = rescale_to_unit_range(summed.flatten(1)).unflatten(1, (4, 4))
    np.testing.assert_allclose(cams.refined, expected, atol=1e-12)


def test_fused_synonym_maps_are_their_mean(model):
    tower = VisionTower(model.visual, dtype=torch.float64)
    text, image = draw_text_features(3, 3, 2), [draw_normals(1, 3, 48, 48)]
    ids = np.array([1, 2])
    fused = compute_cams(tower, image, text, PLAIN, 0.4, lambda position, scores: ids)[0]
    variant_maps = [compute_cams(tower, image, text._replace(classes=text.classes[position:position + 1]), PLAIN, 0.4,
                                 lambda position, scores: ids)[0].raw for position in (0, 1)]
    expected = rescale_to_unit_range((variant_maps[0] + variant_maps[1]).flatten(1)).unflatten(1, (3, 3))
    np.testing.assert_allclose(fused.raw, expected, atol=1e-12)


def test_classes_may_have_different_numbers_of_synonyms(model):
    image, ids = draw_normals(1, 3, 48, 64, seed=3), np.array([1])
    tower = VisionTower(model.visual, dtype=torch.float64)
    weights = torch.tensor([[0.5, 1 / 3], [0.5, 1 / 3], [0, 1 / 3]])
    three = draw_text_features(2, 3, variants=3)._replace(variant_weights=weights)
    two = three._replace(classes=three.classes[:2], variant_weights=None)
    (cams_of_three,), (cams_of_two,) = (compute_cams(tower, [image], text, PLAIN, 0.4, lambda position, scores: ids)
                                        for text in (three, two))
    torch.testing.assert_close(cams_of_three.raw, cams_of_two.raw)
    np.testing.assert_allclose(cams_of_three.scores, cams_of_two.scores)
    embedding = tower.embed(image).embedding[0]
    unit = embedding / embedding.norm()
    mean = torch.stack([three.classes[:2, 0].mean(0), three.classes[:, 1].mean(0)])
    expected = (20.0 * torch.cat([mean, three.background]) @ unit).softmax(0)[:2]
    np.testing.assert_allclose(score_all_classes(embedding, three), expected)


def test_attention_is_mean_of_last_blocks(model):
    tower, image = VisionTower(model.visual, dtype=torch.float64), draw_normals(1, 3, 48, 64)
    tokens, attentions = _compute_tokens(model.visual, image), []
    for block in model.visual.transformer.resblocks:
        normed = block.ln_1(tokens)
        attentions.append(block.attn(normed, normed, normed, need_weights=True)[1][:, 1:, 1:])
        tokens = block(tokens)
    assert len(attentions) == 3
    for num_attention_layers in (1, 2, 3, 8):
        expected = torch.stack(attentions[-num_attention_layers:]).mean(0)
        torch.testing.assert_close(tower.embed(image, num_attention_layers=num_attention_layers).attention, expected)


def _compute_tokens(visual, image: torch.Tensor) -> torch.Tensor:
    positions = visual.positional_embedding
    stem = visual.conv1(image)
    cells = F.interpolate(positions[1:].T.reshape(1, -1, *visual.grid_size), stem.shape[-2:], mode="bilinear")
    tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), stem.flatten(2).transpose(1, 2)], 1)
    return visual.ln_pre(tokens + torch.cat([positions[:1], cells.flatten(2)[0].T]))


def test_affinity_equals_dense_formula():
    attention = draw_normals(1, 12, 12).abs() + 0.01
    dense = attention[0]
    for _ in range(3):
        dense = dense / dense.sum(0, keepdim=True)
        dense = dense / dense.sum(1, keepdim=True)
    row, column = compute_sinkhorn_scalings(attention, 3)
    torch.testing.assert_close(row[0, :, None] * attention[0] * column[0], dense)
    affinity = (dense + dense.T) / 2
    maps, boxes = draw_normals(1, 2, 12, seed=5).abs(), (draw_normals(1, 2, 12, seed=6) > 0).double()
    power = affinity @ affinity
    for mask, expected in (("result", boxes * (maps @ power)), ("source", (boxes * maps) @ power),
                           ("none", maps @ power)):
        torch.testing.assert_close(refine_with_attention(maps, boxes, attention, mask=mask), expected)


def test_boxes_reach_border_unless_as_released():
    cam = np.zeros((5, 6), dtype=np.float32)
    cam[3:, 4:] = 1
    expected = np.zeros((5, 6), dtype=np.uint8)
    expected[3:, 4:] = 1
    np.testing.assert_array_equal(build_box_mask(cam, 0.4), expected)
    expected[4], expected[:, 5] = 0, 0
    np.testing.assert_array_equal(build_box_mask(cam, 0.4, as_released=True), expected)


def test_parts_touching_at_a_corner_share_a_box():
    cam = np.zeros((6, 6), dtype=np.float32)
    cam[1, 1] = cam[2, 2] = cam[5, 5] = 1
    expected = np.zeros((6, 6), dtype=np.uint8)
    expected[1:3, 1:3] = expected[5, 5] = 1
    np.testing.assert_array_equal(build_box_mask(cam, 0.4), expected)
    assert not build_box_mask(np.zeros((3, 3)), 0.4).any()


def test_rescale_flat_maps():
    maps = torch.tensor([[0.0, 0.0], [2.0, 2.0], [1.0, 3.0]])
    torch.testing.assert_close(rescale_to_unit_range(maps), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))


@pytest.mark.parametrize("pooling", ["average", "class"])
def test_hooked_tower_equals_closed_form(model, pooling):
    closed_form, hooked = VisionTower(model.visual, dtype=torch.float64), HookedTower(copy.deepcopy(model.visual))
    images, gradients = draw_normals(2, 3, 48, 80), draw_normals(2, 3, 12, seed=7)
    with torch.inference_mode():
        closed_embedded, hooked_embedded = (tower.embed(images, pooling=pooling, num_attention_layers=2)
                                            for tower in (closed_form, hooked))
        for name in ("embedding", "attention", "patches"):
            torch.testing.assert_close(getattr(closed_embedded, name), getattr(hooked_embedded, name))
        torch.testing.assert_close(closed_form.compute_channel_weights(closed_embedded, gradients),
                                   hooked.compute_channel_weights(hooked_embedded, gradients))


def test_resnet_tower_equals_autograd():
    config = {"embed_dim": 12, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
              "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}}
    model = build_open_clip_model(config)
    tower = ResNetTower(model.visual)
    image = draw_normals(2, 3, 64, 64)
    with torch.inference_mode():
        embedded = tower.embed(image)
        weights = tower.compute_channel_weights(embedded, draw_normals(2, 3, 12, seed=8))
    torch.testing.assert_close(embedded.embedding, model.visual(image))
    visual = model.visual
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(image))))).requires_grad_()
    (expected,) = torch.autograd.grad((visual.attnpool(maps) * draw_normals(2, 3, 12, seed=8)[:, 1]).sum(), maps)
    torch.testing.assert_close(weights[:, 1], expected.mean((-2, -1)))
    assert tower.embed(draw_normals(1, 3, 96, 160)).grid == (3, 5)
