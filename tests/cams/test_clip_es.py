"""CLIP-ES on a seeded CLIP in float64, against plain autograd through open_clip's own forward pass."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seeded_clip import Recipe
from stages.cams.affinity import box_mask, refine, sinkhorn_scalings
from stages.cams.clip_es import TextSide, all_scores, batch_maps
from stages.cams.config import ClipEsConfig
from stages.cams.softmax_gradcam import cotangents, probability_slope, released_range, unit_range
from stages.nets.clip_resnet import ResNetTower
from stages.nets.clip_vision import VisionTower
from stages.nets.clip_watched import WatchedTower

RECIPE = Recipe(seed=3, width=32, layers=3, heads=4, embed=12, text_width=16, text_layers=1, text_heads=2)
PLAIN = ClipEsConfig(affinity="none")


def open_clip_model(config: dict, state: dict | None = None):
    """Return open_clip's model in float64; without `state` with seeded weights of its own."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(**config).eval()
    if state is not None:
        model.load_state_dict(state)
    return model.double().requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    """Return a small ViT CLIP."""
    return open_clip_model(RECIPE.config(), RECIPE.state())


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return seeded normals in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def text_side(classes: int, background: int, variants: int = 1) -> TextSide:
    """Return random unit vectors."""
    return TextSide(F.normalize(drawn(variants, classes, 12, seed=1), dim=-1),
                    F.normalize(drawn(background, 12, seed=2), dim=-1), 20.0)


def released_way(model, image: torch.Tensor, text: TextSide, ids: np.ndarray, target: str, pooling: str,
                 grid: tuple[int, int], stretch=unit_range) -> torch.Tensor:
    """Return the maps (K, h, w) by one backward pass a class, as the published code goes about it."""
    visual = model.visual
    kept = {}

    def keep(_module, _inputs, output):
        kept["map"] = output.detach().requires_grad_()
        return kept["map"]

    positions = visual.positional_embedding
    cells = F.interpolate(positions[1:].T.reshape(1, -1, *visual.grid_size), grid, mode="bilinear")
    handle = visual.transformer.resblocks[-1].ln_1.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            stem = visual.conv1(image).flatten(2).transpose(1, 2)
            rows = torch.cat([visual.class_embedding.expand(1, 1, -1), stem], 1)
            rows = visual.ln_pre(rows + torch.cat([positions[:1], cells.flatten(2)[0].T]))
            for block in visual.transformer.resblocks:
                rows = block(rows)
            rows = visual.ln_post(rows)
            pooled = rows[:, 1:].mean(1) if pooling == "average" else rows[:, 0]
            unit = F.normalize(pooled @ visual.proj, dim=-1)[0]
            logits = text.scale * torch.cat([text.classes[0][ids - 1], text.background]) @ unit
            scores = {"logit": logits, "probability": logits.softmax(0),
                      "log-odds": torch.special.logit(logits.softmax(0))}[target]
            maps = []
            for place in range(len(ids)):
                (gradient,) = torch.autograd.grad(scores[place], kept["map"], retain_graph=True)
                weights = gradient[0, 1:].mean(0)
                maps.append(torch.relu(kept["map"][0, 1:].detach() @ weights))
    finally:
        handle.remove()
    return stretch(torch.stack(maps)).unflatten(-1, grid)


@pytest.mark.parametrize("pooling", ["average", "class"])
@pytest.mark.parametrize("target", ["log-odds", "probability", "logit"])
@pytest.mark.parametrize(("grid", "ids"), [((3, 5), [2]), ((14, 14), [1, 3]), ((4, 19), [1, 2, 3, 4, 5]),
                                             ((1, 2), [4])])
def test_equal_to_a_backward_pass_a_class(model, grid, ids, target, pooling):
    image = drawn(1, 3, 16 * grid[0], 16 * grid[1], seed=sum(grid))
    text, ids = text_side(5, 4), np.array(ids)
    config = replace(PLAIN, target=target, pooling=pooling)
    tower = VisionTower(model.visual, dtype=torch.float64)
    (found,) = batch_maps(tower, [image], text, config, 0.4, lambda place, scores: ids)
    expected = released_way(model, image, text, ids, target, pooling, grid)
    np.testing.assert_allclose(found.raw, expected, atol=1e-9, rtol=0)


def test_log_odds_and_probability_give_one_map(model):
    text, image = text_side(4, 3), [drawn(1, 3, 64, 80)]
    tower = VisionTower(model.visual, dtype=torch.float64)
    one, other = (batch_maps(tower, image, text, replace(PLAIN, target=target), 0.4,
                             lambda place, scores: np.array([1, 2, 4]))[0] for target in ("log-odds", "probability"))
    np.testing.assert_allclose(one.raw, other.raw, atol=1e-9)
    np.testing.assert_allclose(one.scores, other.scores)


@pytest.mark.parametrize("target", ["log-odds", "probability"])
def test_as_released_a_class_with_next_to_no_probability_is_dimmed(model, target):
    text = text_side(5, 4)._replace(scale=60.0)
    image, ids, grid = drawn(1, 3, 48, 80, seed=1), np.array([1, 2, 3, 4, 5]), (3, 5)
    tower = VisionTower(model.visual, dtype=torch.float64)
    (kept,) = batch_maps(tower, [image], text, replace(PLAIN, target=target), 0.4, lambda place, scores: ids)
    released = replace(PLAIN, target=target, as_released=True)
    (dimmed,) = batch_maps(tower, [image], text, released, 0.4, lambda place, scores: ids)
    expected = released_way(model, image, text, ids, "probability", "average", grid,
                            stretch=lambda maps: released_range(released_range(maps)))
    # The plain autograd of a softmax sums its own terms: what it rounds to is relative to the largest, 2 ** -52.
    np.testing.assert_allclose(dimmed.raw, expected, rtol=1e-6, atol=1e-12)
    faint = dimmed.scores < 1e-20
    assert faint.any() and not faint.all(), "the case has both"
    peaks, kept_peaks = dimmed.raw.flatten(1).amax(1).numpy(), kept.raw.flatten(1).amax(1).numpy()
    assert (peaks[faint] < 0.1).all()
    assert kept_peaks[faint].tolist() == [1.0] * faint.sum(), "the default keeps them"
    likely = dimmed.scores > 1e-3
    assert likely.any() and (peaks[likely] > 0.99999).all()


@pytest.mark.parametrize("more", [{"flip": True}, {"scales": (1.0, 1.0)}, {"affinity": "caa"}, {"affinity": "mhsa"}])
def test_what_the_released_normalisation_dims_stays_dim(model, more):
    text, ids = text_side(5, 4)._replace(scale=60.0), np.array([1, 2, 3, 4, 5])
    config = replace(PLAIN, as_released=True, **more)
    image = drawn(1, 3, 48, 80, seed=1)
    views = [image for _ in config.scales]
    (found,) = batch_maps(VisionTower(model.visual, dtype=torch.float64), views, text, config, 0.4,
                          lambda place, scores: ids)
    faintest = int(found.scores.argmin())
    assert found.scores[faintest] < 1e-20
    assert found.refined[faintest].max() < 0.1
    assert found.refined[int(found.scores.argmax())].max() > 0.999


def test_the_released_range():
    maps = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0], [5.0, 5.0, 5.0 + 1e-9]], dtype=torch.float64)
    found = released_range(maps)
    np.testing.assert_allclose(found[0], [0, 1 / 3.0000001, 3 / 3.0000001], rtol=1e-12)
    assert found[1].tolist() == [0, 0, 0]
    assert found[2, 2] == pytest.approx(1e-9 / (1e-7 + 1e-9), rel=1e-5)


def test_the_slope_of_a_probability_keeps_its_digits():
    logits = torch.tensor([20.0, 0.0, -30.0])
    exact = logits.double().softmax(0)
    found = probability_slope(logits.softmax(0), torch.tensor([0, 1, 2]))
    np.testing.assert_allclose(found, exact * torch.stack([exact[1] + exact[2], exact[0] + exact[2],
                                                           exact[0] + exact[1]]), rtol=1e-5)
    assert found[0] > 0, "p rounds to 1 in float32"


def test_a_probability_fades_in_half_precision_where_log_odds_do_not():
    text = F.normalize(drawn(3, 12), dim=-1)
    embedding = text[0] * 5  # p of class 0 is close to 1, of class 1 close to 0
    for target, survives in (("log-odds", True), ("probability", False)):
        gradient, _ = cotangents(embedding, text, torch.tensor([0, 1]), 100.0, target)
        in_half = (gradient / 1000).half().abs().amax(1)  # a thousand patches share it
        assert bool((in_half > 0).all()) is survives, target


def test_a_class_without_competitor_has_its_logit():
    text = F.normalize(drawn(1, 12), dim=-1)
    one, _ = cotangents(drawn(12, seed=4), text, torch.tensor([0]), 5.0, "log-odds")
    other, _ = cotangents(drawn(12, seed=4), text, torch.tensor([0]), 5.0, "logit")
    torch.testing.assert_close(one, other)
    assert one.abs().max() > 0


def test_images_of_a_batch_do_not_mix(model):
    tower, text, config = VisionTower(model.visual, dtype=torch.float64), text_side(5, 4), ClipEsConfig()
    images, ids = drawn(3, 3, 48, 64), [np.array([1]), np.array([], dtype=int), np.array([2, 3, 5])]
    together = batch_maps(tower, [images], text, config, 0.4, lambda place, scores: ids[place])
    for place, one in enumerate(together):
        (alone,) = batch_maps(tower, [images[place:place + 1]], text, config, 0.4, lambda _, scores, p=place: ids[p])
        assert one.refined.shape == (len(ids[place]), 3, 4)
        np.testing.assert_allclose(one.refined, alone.refined, atol=1e-12)
        np.testing.assert_allclose(one.scores, alone.scores)


def test_all_classes_compete_where_that_is_asked_for(model):
    tower, text, image = VisionTower(model.visual, dtype=torch.float64), text_side(5, 2), [drawn(1, 3, 32, 32)]
    few, all_of_them = (batch_maps(tower, image, text, replace(PLAIN, compete=compete), 0.4,
                                   lambda place, scores: np.array([2, 3]))[0] for compete in ("present", "all"))
    assert (all_of_them.scores < few.scores).all()
    alone = batch_maps(tower, image, text, replace(PLAIN, compete="all"), 0.4, lambda place, scores: np.arange(1, 6))[0]
    np.testing.assert_allclose(all_of_them.raw, alone.raw[[1, 2]], atol=1e-12)


def test_a_mirrored_image_has_mirrored_maps_once_flips_are_added(model):
    tower, text, config = VisionTower(model.visual, dtype=torch.float64), text_side(3, 3), ClipEsConfig(flip=True)
    image = drawn(1, 3, 48, 80)
    one, other = (batch_maps(tower, [view], text, replace(config, affinity="mhsa"), 0.4,
                             lambda place, scores: np.array([1, 3]))[0] for view in (image, image.flip(-1)))
    np.testing.assert_allclose(one.refined.flip(-1), other.refined, atol=1e-9)


def test_scales_are_summed_on_the_grid_of_scale_one(model):
    tower, text = VisionTower(model.visual, dtype=torch.float64), text_side(3, 3)
    views = [drawn(1, 3, 32, 32), drawn(1, 3, 64, 64, seed=9)]
    config = ClipEsConfig(scales=(0.5, 1.0))
    both = batch_maps(tower, views, text, config, 0.4, lambda place, scores: np.array([2]))[0]
    coarse, fine = (batch_maps(tower, [view], text, ClipEsConfig(), 0.4, lambda place, scores: np.array([2]))[0].refined
                    for view in views)
    summed = fine + F.interpolate(coarse[None], (4, 4), mode="bilinear", align_corners=False)[0]
    expected = unit_range(summed.flatten(1)).unflatten(1, (4, 4))
    np.testing.assert_allclose(both.refined, expected, atol=1e-12)


def test_synonyms_fused_as_maps_are_the_mean_of_their_maps(model):
    tower, text, image = VisionTower(model.visual, dtype=torch.float64), text_side(3, 3, 2), [drawn(1, 3, 48, 48)]
    ids = np.array([1, 2])
    both = batch_maps(tower, image, text, PLAIN, 0.4, lambda place, scores: ids)[0]
    each = [batch_maps(tower, image, text._replace(classes=text.classes[place:place + 1]), PLAIN, 0.4,
                       lambda place, scores: ids)[0].raw for place in (0, 1)]
    expected = unit_range((each[0] + each[1]).flatten(1)).unflatten(1, (3, 3))
    np.testing.assert_allclose(both.raw, expected, atol=1e-12)


def test_a_class_has_its_own_synonyms_alone_however_many_another_has(model):
    image, ids = drawn(1, 3, 48, 64, seed=3), np.array([1])
    tower = VisionTower(model.visual, dtype=torch.float64)
    three = text_side(2, 3, variants=3)._replace(shares=torch.tensor([[0.5, 1 / 3], [0.5, 1 / 3], [0, 1 / 3]]))
    two = three._replace(classes=three.classes[:2], shares=None)
    (of_three,), (of_two,) = (batch_maps(tower, [image], text, PLAIN, 0.4, lambda place, scores: ids)
                              for text in (three, two))
    torch.testing.assert_close(of_three.raw, of_two.raw)
    np.testing.assert_allclose(of_three.scores, of_two.scores)
    embedding = tower.embed(image).embedding[0]
    unit = embedding / embedding.norm()
    mean = torch.stack([three.classes[:2, 0].mean(0), three.classes[:, 1].mean(0)])
    wanted = (20.0 * torch.cat([mean, three.background]) @ unit).softmax(0)[:2]
    np.testing.assert_allclose(all_scores(embedding, three), wanted)


def test_attention_of_the_last_blocks_without_the_class_token(model):
    tower, image = VisionTower(model.visual, dtype=torch.float64), drawn(1, 3, 48, 64)
    rows, each = _tokens(model.visual, image), []
    for block in model.visual.transformer.resblocks:
        normed = block.ln_1(rows)
        each.append(block.attn(normed, normed, normed, need_weights=True)[1][:, 1:, 1:])
        rows = block(rows)
    assert len(each) == 3
    for capture in (1, 2, 3, 8):
        expected = torch.stack(each[-capture:]).mean(0)
        torch.testing.assert_close(tower.embed(image, capture=capture).attention, expected)


def _tokens(visual, image: torch.Tensor) -> torch.Tensor:
    positions = visual.positional_embedding
    stem = visual.conv1(image)
    cells = F.interpolate(positions[1:].T.reshape(1, -1, *visual.grid_size), stem.shape[-2:], mode="bilinear")
    rows = torch.cat([visual.class_embedding.expand(1, 1, -1), stem.flatten(2).transpose(1, 2)], 1)
    return visual.ln_pre(rows + torch.cat([positions[:1], cells.flatten(2)[0].T]))


def test_affinity_is_the_dense_formula():
    attention = drawn(1, 12, 12).abs() + 0.01
    dense = attention[0]
    for _ in range(3):
        dense = dense / dense.sum(0, keepdim=True)
        dense = dense / dense.sum(1, keepdim=True)
    row, column = sinkhorn_scalings(attention, 3)
    torch.testing.assert_close(row[0, :, None] * attention[0] * column[0], dense)
    affinity = (dense + dense.T) / 2
    maps, boxes = drawn(1, 2, 12, seed=5).abs(), (drawn(1, 2, 12, seed=6) > 0).double()
    after = affinity @ affinity
    for mask, expected in (("result", boxes * (maps @ after)), ("source", (boxes * maps) @ after),
                           ("none", maps @ after)):
        torch.testing.assert_close(refine(maps, boxes, attention, mask=mask), expected)


def test_boxes_touch_the_border_unless_as_released():
    cam = np.zeros((5, 6), dtype=np.float32)
    cam[3:, 4:] = 1
    expected = np.zeros((5, 6), dtype=np.uint8)
    expected[3:, 4:] = 1
    np.testing.assert_array_equal(box_mask(cam, 0.4), expected)
    expected[4], expected[:, 5] = 0, 0
    np.testing.assert_array_equal(box_mask(cam, 0.4, as_released=True), expected)


def test_parts_that_touch_at_a_corner_have_one_box():
    cam = np.zeros((6, 6), dtype=np.float32)
    cam[1, 1] = cam[2, 2] = cam[5, 5] = 1
    expected = np.zeros((6, 6), dtype=np.uint8)
    expected[1:3, 1:3] = expected[5, 5] = 1
    np.testing.assert_array_equal(box_mask(cam, 0.4), expected)
    assert not box_mask(np.zeros((3, 3)), 0.4).any()


def test_flat_maps():
    maps = torch.tensor([[0.0, 0.0], [2.0, 2.0], [1.0, 3.0]])
    torch.testing.assert_close(unit_range(maps), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))


@pytest.mark.parametrize("pooling", ["average", "class"])
def test_a_watched_tower_is_the_closed_form(model, pooling):
    closed, watched = VisionTower(model.visual, dtype=torch.float64), WatchedTower(copy.deepcopy(model.visual))
    images, gradients = drawn(2, 3, 48, 80), drawn(2, 3, 12, seed=7)
    with torch.inference_mode():
        one, other = (tower.embed(images, pooling=pooling, capture=2) for tower in (closed, watched))
        for name in ("embedding", "attention", "patches"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name))
        torch.testing.assert_close(closed.channel_weights(one, gradients), watched.channel_weights(other, gradients))


def test_resnet_tower_against_autograd():
    config = {"embed_dim": 12, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
              "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}}
    model = open_clip_model(config)
    tower = ResNetTower(model.visual)
    image = drawn(2, 3, 64, 64)
    with torch.inference_mode():
        embedded = tower.embed(image)
        weights = tower.channel_weights(embedded, drawn(2, 3, 12, seed=8))
    torch.testing.assert_close(embedded.embedding, model.visual(image))
    visual = model.visual
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(image))))).requires_grad_()
    (expected,) = torch.autograd.grad((visual.attnpool(maps) * drawn(2, 3, 12, seed=8)[:, 1]).sum(), maps)
    torch.testing.assert_close(weights[:, 1], expected.mean((-2, -1)))
    assert tower.embed(drawn(1, 3, 96, 160)).grid == (3, 5)
