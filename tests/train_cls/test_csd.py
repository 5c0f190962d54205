"""The losses of CSD: their gradients, the cells they cover, and the image that each uses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stages.nets.class_token_backbone import ClassTokenBackbone
from stages.nets.classifier import Classifier
from stages.nets.mctformer import MCTformer
from stages.nets.tiny import Tiny
from stages.train_cls import cam
from stages.train_cls.config import CsdCamConfig, CsdMctformerConfig
from stages.train_cls.csd import (
    background_divergence,
    compute_class_maps,
    compute_teacher_maps,
    foreground_divergence,
    loss,
    reduce_divergence,
    select_full_cells,
    warp_maps,
)
from stages.training.optimiser import set_training_mode

MCTFORMER, CAM = CsdMctformerConfig(), CsdCamConfig(reduction="sum")
CLASS_IDS = torch.tensor([2, 1])


def draw_tensor(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def replace_settings(config, **settings):
    return SimpleNamespace(**{**vars(config), **settings})


@pytest.mark.parametrize("config", [
    MCTFORMER, replace_settings(MCTFORMER, temperature=2.0),
    replace_settings(MCTFORMER, terms="own", saliency="per-class"),
    replace_settings(MCTFORMER, background_gain=10.0), CAM], ids=["mctformer", "temperature", "own", "gain", "cam"])
def test_gradients(config):
    teacher, student = draw_tensor(1, 2, 3, 4, 5), draw_tensor(2, 2, 3, 4, 5).requires_grad_()
    cells = draw_tensor(3, 2, 4, 5) > 0
    assert torch.autograd.gradcheck(
        lambda maps: reduce_divergence(foreground_divergence(teacher, maps, config, CLASS_IDS), cells, "sum"), student)
    assert torch.autograd.gradcheck(
        lambda maps: reduce_divergence(background_divergence(teacher, maps, config), cells, "mean"), student)


@pytest.mark.parametrize("config", [MCTFORMER, CAM], ids=["mctformer", "cam"])
def test_divergence_is_zero_for_equal_maps_only(config):
    maps, others = draw_tensor(1, 2, 3, 4, 5), draw_tensor(2, 2, 3, 4, 5)
    for compute_divergence in (lambda first, second: foreground_divergence(first, second, config, CLASS_IDS),
                               lambda first, second: background_divergence(first, second, config)):
        assert compute_divergence(maps, maps).abs().max() < 1e-12
        divergence = compute_divergence(maps, others)
        assert (divergence > -1e-12).all() and divergence.max() > 0.01


def test_background_divergence_of_hand_computed_values():
    teacher = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    student = torch.tensor([0.2, 0.1, 0.3], dtype=torch.float64).reshape(1, 3, 1, 1)

    def divergence(first: float, second: float) -> Tensor:
        p, q = (torch.sigmoid(torch.tensor(score, dtype=torch.float64)) for score in (first, second))
        return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()

    for config, expected in ((MCTFORMER, divergence(1.5 - 0.1, 0.6 - 0.1)),
                           (CAM, divergence(1.5 - 0.15, 0.6 - 0.15)),  # a tenth of the teacher's largest saliency
                           (replace_settings(CAM, constant_of="one"), divergence(1.5 - 0.1, 0.6 - 0.1)),
                           (replace_settings(MCTFORMER, temperature=0.5), divergence(2.8, 1.0)),
                           # 0.1 is on the scale of refined maps: of others it is a share of their maximum.
                           (replace_settings(MCTFORMER, csd_maps="fused"), divergence(1.5 - 0.15, 0.6 - 0.15)),
                           (replace_settings(MCTFORMER, csd_maps="patch-logits"), divergence(1.5 - 0.15, 0.6 - 0.15)),
                           (replace_settings(MCTFORMER, csd_maps="fused", constant_of="one"), divergence(1.4, 0.5)),
                           (replace_settings(MCTFORMER, background_gain=2.0), divergence(1.4, 1.0))):
        torch.testing.assert_close(background_divergence(teacher, student, config)[0, 0, 0], expected)


def test_cam_dummy_score_scales_with_the_maps():
    """With cam, M' is a fixed share of the maximum of the maps, whatever their scale."""
    teacher, student = draw_tensor(1, 2, 3, 4, 5), draw_tensor(2, 2, 3, 4, 5)
    plain = background_divergence(teacher, student, CAM)
    scaled = background_divergence(8 * teacher, 8 * student, replace_settings(CAM, temperature=8.0))
    torch.testing.assert_close(plain, scaled)


def test_select_full_cells():
    mask = torch.zeros(1, 8, 8)
    mask[0, :5, 2:] = 1
    assert select_full_cells(mask, (4, 4)).int().tolist() == [[[0, 1, 1, 1]] * 2 + [[0] * 4] * 2]
    # 5 pixels in 2 cells: the third pixel, on the border, counts for both.
    odd = torch.ones(1, 5, 5)
    odd[0, 2, 0] = 0
    assert select_full_cells(odd, (2, 2)).int().tolist() == [[[0, 1], [0, 1]]]
    # Cells of 3 pixels: the first contains that pixel, and the others reach beyond the mask.
    assert select_full_cells(odd, (2, 2), 3).int().tolist() == [[[0, 0], [0, 0]]]
    assert select_full_cells(torch.ones(1, 5, 5), (2, 2), 3).int().tolist() == [[[1, 0], [0, 0]]]
    torch.testing.assert_close(select_full_cells(mask, (4, 4), 2), select_full_cells(mask, (4, 4)))


def test_no_cell_gives_zero_for_a_nonfinite_divergence():
    divergence = torch.full((2, 2, 2), float("inf"), requires_grad=True)
    no_cells = torch.zeros(2, 2, 2, dtype=torch.bool)
    for reduction in ("sum", "mean"):
        reduced = reduce_divergence(divergence, no_cells, reduction)
        assert float(reduced) == 0
        assert not torch.autograd.grad(reduced, divergence)[0].any()


def test_reductions_sum_and_mean():
    divergence = torch.arange(8.0).reshape(2, 2, 2)
    cells = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 1]]], dtype=torch.bool)
    assert float(reduce_divergence(divergence, cells, "sum")) == pytest.approx((0 + 1 + 7) / 2)
    assert float(reduce_divergence(divergence, cells, "mean")) == pytest.approx((0 + 1 + 7) / 3)


def test_warp_maps_shifts_cells():
    maps = draw_tensor(1, 1, 2, 6, 6)
    identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(warp_maps(maps, identity), maps)
    # One cell to the left and two down.
    shift = torch.tensor([[[1.0, 0, 2 / 6], [0, 1, -4 / 6]]], dtype=torch.float64)
    torch.testing.assert_close(warp_maps(maps, shift)[..., 2:, :5], maps[..., :4, 1:])


def test_warp_maps_when_cells_reach_beyond_the_view():
    """Five cells of 16 pixels cover a view of 70: 16 pixels to the right and 32 up are one cell and two cells."""
    maps = draw_tensor(1, 1, 2, 5, 5)
    shift = torch.tensor([[[1.0, 0, 2 * 16 / 70], [0, 1, -2 * 32 / 70]]], dtype=torch.float64)
    torch.testing.assert_close(warp_maps(maps, shift, 70 / 80)[..., 2:, :4], maps[..., :3, 1:])
    # Scaling by half about the upper left corner, which view and maps share.
    half = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]], dtype=torch.float64)
    torch.testing.assert_close(warp_maps(maps, half, 70 / 80), warp_maps(maps, half))


@pytest.mark.parametrize("placement", ["same", "random"])
def test_patches_cut_by_the_border_of_the_view(placement):
    """A ViT has 3 x 3 patches of 16 pixels for views of 40: the cells of the masks are these, not thirds of a view."""
    torch.manual_seed(0)
    net = MCTformer(ClassTokenBackbone("timm:vit_tiny_patch16_224", 2), "v1").eval()
    batch = build_batch([1, 1], 40)
    batch["inverse_affine"] = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]]).expand(2, 2, 3)
    batch["object"][:] = 0
    batch["object"][0, :16, :32] = 1  # two patches, but not two thirds of the view
    losses = loss(net, batch, replace_settings(MCTFORMER, placement=placement))
    assert list(map(int, losses["counted"].values())) == [2, 1, 0]
    teacher = compute_teacher_maps(net, batch["single"], MCTFORMER)
    moved_teacher = teacher if placement == "same" else warp_maps(teacher, batch["inverse_affine"], 40 / 48)
    student = compute_class_maps(net, batch["pasted_object"], MCTFORMER)
    divergence = foreground_divergence(moved_teacher, student, MCTFORMER, batch["pasted_class"])
    torch.testing.assert_close(losses["foreground"], divergence[0, 0, :2].sum() / 2)
    divergence = background_divergence(teacher, compute_class_maps(net, batch["pasted_background"], MCTFORMER),
                                       MCTFORMER)
    torch.testing.assert_close(losses["background"], divergence[:, :2, :2].sum() / 2)


class RecordingClassifier(Classifier):
    """A classifier that records its images, its mode, and whether gradients were enabled."""

    def __init__(self) -> None:
        super().__init__(Tiny(), 2, dropout=0.5)
        nn.init.normal_(self.classifier.weight)
        self.calls: list[tuple[str, Tensor, bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(("logits", images, self.training, torch.is_grad_enabled()))
        return super().forward(images)

    def maps(self, images: Tensor) -> Tensor:
        self.calls.append(("maps", images, self.training, torch.is_grad_enabled()))
        return super().maps(images)


@pytest.fixture
def net() -> RecordingClassifier:
    torch.manual_seed(0)
    recording_net = RecordingClassifier()
    set_training_mode(recording_net, "statistics")
    return recording_net


def build_batch(paired: list[int], side: int = 32) -> dict[str, Tensor]:
    size = len(paired)
    images = {name: draw_tensor(seed, size, 3, side, side).float() for seed, name in
              enumerate(("image", "single", "pasted_object", "pasted_background"))}
    masks = {name: torch.ones(size, side, side, dtype=torch.uint8) for name in ("object", "surroundings")}
    masks["object"][0, :, 5:] = 0  # leaves no cell wholly inside
    return {**images, **masks, "labels": torch.ones(size, 2, dtype=torch.uint8),
            "pasted_class": torch.ones(size).long(), "inverse_affine": torch.zeros(size, 2, 3),
            "paired": torch.tensor(paired, dtype=torch.uint8)}


def test_classification_uses_plain_images_and_teacher_is_frozen(net):
    batch, modes = build_batch([1, 1, 0]), [module.training for module in net.modules()]
    losses = loss(net, batch, CAM)
    assert [module.training for module in net.modules()] == modes
    outputs, images, training, gradient = zip(*net.calls, strict=True)
    assert outputs == ("logits", "maps", "maps")
    assert (training, gradient) == ((True, False, True), (True, False, True))
    assert torch.equal(images[0], batch["image"]) and torch.equal(images[1], batch["single"][:2])
    pasted = torch.cat([batch["pasted_object"][:2], batch["pasted_background"][:2]])
    assert torch.equal(images[2], pasted)
    assert float(losses["no_object"]) == 0.5 and float(losses["no_surroundings"]) == 0
    assert list(map(int, losses["counted"].values())) == [2, 1, 0]
    total = losses["classification"] + 0.01 * losses["foreground"] + 0.1 * losses["background"]
    torch.testing.assert_close(losses["loss"], total)
    assert float(losses["foreground"]) > 0 and float(losses["background"]) > 0
    torch.manual_seed(4)
    cam_loss = cam.loss(net, batch, CAM)["loss"]
    torch.manual_seed(4)
    torch.testing.assert_close(loss(net, batch, CAM)["classification"], cam_loss)


def test_each_term_uses_its_own_pasted_image(net):
    batch = build_batch([1, 1])
    losses = loss(net, batch, CAM)
    teacher = compute_teacher_maps(net, batch["single"], CAM)
    assert not teacher.requires_grad
    for name, pasted, mask in (("foreground", "pasted_object", "object"), ("background", "pasted_background",
                                                                            "surroundings")):
        student = net.maps(batch[pasted])
        divergence = (foreground_divergence(teacher, student, CAM, batch["pasted_class"]) if name == "foreground"
                      else background_divergence(teacher, student, CAM))
        expected = reduce_divergence(divergence, select_full_cells(batch[mask], (4, 4)), "sum")
        torch.testing.assert_close(losses[name], expected)


@pytest.mark.parametrize(("weights", "views"), [((0.0, 0.1), 1), ((0.01, 0.0), 1), ((0.0, 0.0), 0)])
def test_zero_weight_skips_the_forward_pass(net, weights, views):
    config = replace_settings(CAM, lambda_fg=weights[0], lambda_bg=weights[1])
    batch = build_batch([1, 1])
    losses = loss(net, batch, config)
    assert len(net.calls) == 1 + (views > 0) + (views > 0)
    assert views == 0 or len(net.calls[-1][1]) == 2 * views
    assert (float(losses["foreground"]) > 0, float(losses["background"]) > 0) == tuple(weight > 0 for weight in weights)
    # The pairs are counted for both terms, even for one of weight 0.
    assert list(map(int, losses["counted"].values())) == ([2, 1, 0] if views else [0, 0, 0])
    assert float(losses["no_object"]) == (0.5 if views else 0)


def test_batch_without_a_pair(net):
    losses = loss(net, build_batch([0, 0]), CAM)
    assert [output for output, *_ in net.calls] == ["logits"]
    torch.testing.assert_close(losses["loss"], losses["classification"])
    losses["loss"].backward()
    assert float(losses["foreground"]) == float(losses["no_object"]) == 0


def test_teacher_maps_are_warped_to_a_moved_object(net):
    batch = build_batch([1, 1])
    batch["inverse_affine"] = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]]).expand(2, 2, 3)
    net.eval()
    moved, still = (loss(net, batch, replace_settings(CAM, placement=placement)) for placement in ("random", "same"))
    assert float(moved["foreground"]) != float(still["foreground"])
    assert float(moved["background"]) == float(still["background"])
    moved_teacher = warp_maps(compute_teacher_maps(net, batch["single"], CAM), batch["inverse_affine"])
    divergence = foreground_divergence(moved_teacher, net.maps(batch["pasted_object"]), CAM, batch["pasted_class"])
    expected = reduce_divergence(divergence, select_full_cells(batch["object"], (4, 4)), "sum")
    torch.testing.assert_close(moved["foreground"], expected)
