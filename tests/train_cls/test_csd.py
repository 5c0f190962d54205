"""The losses of CSD: their gradients, what counts in them, and which image feeds which."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stages.nets.class_tokens import ClassTokenBackbone
from stages.nets.classifier import Classifier
from stages.nets.mctformer import MCTformer
from stages.nets.tiny import Tiny
from stages.train_cls import cam
from stages.train_cls.config import CsdCamConfig, CsdMctformerConfig
from stages.train_cls.csd import (
    background_divergence,
    carried,
    class_maps,
    foreground_divergence,
    loss,
    reduced,
    teacher_maps,
    whole_cells,
)
from stages.training.optimiser import hold_batch_norm

MCTFORMER, CAM = CsdMctformerConfig(), CsdCamConfig(reduction="sum")
SOURCE = torch.tensor([2, 1])


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def changed(config, **more):
    return SimpleNamespace(**{**vars(config), **more})


@pytest.mark.parametrize("config", [
    MCTFORMER, changed(MCTFORMER, temperature=2.0), changed(MCTFORMER, terms="own", saliency="per-class"),
    changed(MCTFORMER, background_gain=10.0), CAM], ids=["mctformer", "temperature", "own", "gain", "cam"])
def test_gradients(config):
    teacher, student = drawn(1, 2, 3, 4, 5), drawn(2, 2, 3, 4, 5).requires_grad_()
    cells = drawn(3, 2, 4, 5) > 0
    assert torch.autograd.gradcheck(
        lambda maps: reduced(foreground_divergence(teacher, maps, config, SOURCE), cells, "sum"), student)
    assert torch.autograd.gradcheck(
        lambda maps: reduced(background_divergence(teacher, maps, config), cells, "mean"), student)


@pytest.mark.parametrize("config", [MCTFORMER, CAM], ids=["mctformer", "cam"])
def test_nothing_between_equal_maps_and_more_than_nothing_between_others(config):
    maps, others = drawn(1, 2, 3, 4, 5), drawn(2, 2, 3, 4, 5)
    for each in (lambda one, two: foreground_divergence(one, two, config, SOURCE),
                 lambda one, two: background_divergence(one, two, config)):
        assert each(maps, maps).abs().max() < 1e-12
        assert (each(maps, others) > -1e-12).all() and each(maps, others).max() > 0.01


def test_the_background_by_hand():
    teacher = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    student = torch.tensor([0.2, 0.1, 0.3], dtype=torch.float64).reshape(1, 3, 1, 1)

    def divergence(one: float, two: float) -> Tensor:
        p, q = (torch.sigmoid(torch.tensor(score, dtype=torch.float64)) for score in (one, two))
        return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()

    for config, wanted in ((MCTFORMER, divergence(1.5 - 0.1, 0.6 - 0.1)),
                           (CAM, divergence(1.5 - 0.15, 0.6 - 0.15)),  # a tenth of the teacher's largest saliency
                           (changed(CAM, constant_of="one"), divergence(1.5 - 0.1, 0.6 - 0.1)),
                           (changed(MCTFORMER, temperature=0.5), divergence(2.8, 1.0)),
                           # 0.1 is on the scale of refined maps: of others it is a share of their maximum.
                           (changed(MCTFORMER, csd_maps="fused"), divergence(1.5 - 0.15, 0.6 - 0.15)),
                           (changed(MCTFORMER, csd_maps="patch-logits"), divergence(1.5 - 0.15, 0.6 - 0.15)),
                           (changed(MCTFORMER, csd_maps="fused", constant_of="one"), divergence(1.4, 0.5)),
                           (changed(MCTFORMER, background_gain=2.0), divergence(1.4, 1.0))):
        torch.testing.assert_close(background_divergence(teacher, student, config)[0, 0, 0], wanted)


def test_a_multiple_of_all_maps_is_the_same_to_the_unbounded_threshold():
    """With cam M' keeps its place between the maps' zero and their maximum, whatever their scale."""
    teacher, student = drawn(1, 2, 3, 4, 5), drawn(2, 2, 3, 4, 5)
    one = background_divergence(teacher, student, CAM)
    other = background_divergence(8 * teacher, 8 * student, changed(CAM, temperature=8.0))
    torch.testing.assert_close(one, other)


def test_cells_wholly_inside():
    mask = torch.zeros(1, 8, 8)
    mask[0, :5, 2:] = 1
    assert whole_cells(mask, (4, 4)).int().tolist() == [[[0, 1, 1, 1]] * 2 + [[0] * 4] * 2]
    # 5 pixels in 2 cells: the third pixel, cut by the border, counts for both.
    odd = torch.ones(1, 5, 5)
    odd[0, 2, 0] = 0
    assert whole_cells(odd, (2, 2)).int().tolist() == [[[0, 1], [0, 1]]]
    # Cells of 3 pixels: the first of them has that pixel, and the others reach beyond the mask.
    assert whole_cells(odd, (2, 2), 3).int().tolist() == [[[0, 0], [0, 0]]]
    assert whole_cells(torch.ones(1, 5, 5), (2, 2), 3).int().tolist() == [[[1, 0], [0, 0]]]
    torch.testing.assert_close(whole_cells(mask, (4, 4), 2), whole_cells(mask, (4, 4)))


def test_no_cell_is_nothing_even_where_the_divergence_is_not_finite():
    divergence = torch.full((2, 2, 2), float("inf"), requires_grad=True)
    nowhere = torch.zeros(2, 2, 2, dtype=torch.bool)
    for reduction in ("sum", "mean"):
        found = reduced(divergence, nowhere, reduction)
        assert float(found) == 0
        assert not torch.autograd.grad(found, divergence)[0].any()


def test_sum_and_mean():
    divergence = torch.arange(8.0).reshape(2, 2, 2)
    cells = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 1]]], dtype=torch.bool)
    assert float(reduced(divergence, cells, "sum")) == pytest.approx((0 + 1 + 7) / 2)
    assert float(reduced(divergence, cells, "mean")) == pytest.approx((0 + 1 + 7) / 3)


def test_maps_carried_back():
    maps = drawn(1, 1, 2, 6, 6)
    stays = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(carried(maps, stays), maps)
    # Seen one cell to the left and two down.
    moved = torch.tensor([[[1.0, 0, 2 / 6], [0, 1, -4 / 6]]], dtype=torch.float64)
    torch.testing.assert_close(carried(maps, moved)[..., 2:, :5], maps[..., :4, 1:])


def test_maps_whose_last_cells_reach_beyond_the_view_are_carried_by_cells():
    """Five cells of 16 pixels for a view of 70: 16 pixels to the right and 32 up are a cell and two."""
    maps = drawn(1, 1, 2, 5, 5)
    back = torch.tensor([[[1.0, 0, 2 * 16 / 70], [0, 1, -2 * 32 / 70]]], dtype=torch.float64)
    torch.testing.assert_close(carried(maps, back, 70 / 80)[..., 2:, :4], maps[..., :3, 1:])
    # Half the size about the upper left corner of the view, which is that of the maps.
    half = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]], dtype=torch.float64)
    torch.testing.assert_close(carried(maps, half, 70 / 80), carried(maps, half))


@pytest.mark.parametrize("placement", ["same", "random"])
def test_patches_that_the_border_of_a_view_cuts(placement):
    """A ViT has 3 x 3 patches of 16 pixels for views of 40: the masks are read by these, not by thirds of a view."""
    torch.manual_seed(0)
    net = MCTformer(ClassTokenBackbone("timm:vit_tiny_patch16_224", 2), "v1").eval()
    batch = batch_of([1, 1], 40)
    batch["back"] = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]]).expand(2, 2, 3)
    batch["object"][:] = 0
    batch["object"][0, :16, :32] = 1  # two patches; of the thirds of a view the last is cut
    told = loss(net, batch, changed(MCTFORMER, placement=placement))
    assert list(map(int, told["counted"].values())) == [2, 1, 0]
    teacher = teacher_maps(net, batch["single"], MCTFORMER)
    seen = teacher if placement == "same" else carried(teacher, batch["back"], 40 / 48)
    student = class_maps(net, batch["pasted_object"], MCTFORMER)
    each = foreground_divergence(seen, student, MCTFORMER, batch["source"])
    torch.testing.assert_close(told["foreground"], each[0, 0, :2].sum() / 2)
    each = background_divergence(teacher, class_maps(net, batch["pasted_background"], MCTFORMER), MCTFORMER)
    torch.testing.assert_close(told["background"], each[:, :2, :2].sum() / 2)


class Watched(Classifier):
    """A classifier that remembers which images it saw, in which mode, with or without a gradient."""

    def __init__(self) -> None:
        super().__init__(Tiny(), 2, dropout=0.5)
        nn.init.normal_(self.classifier.weight)
        self.seen: list[tuple[str, Tensor, bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(("logits", images, self.training, torch.is_grad_enabled()))
        return super().forward(images)

    def maps(self, images: Tensor) -> Tensor:
        self.seen.append(("maps", images, self.training, torch.is_grad_enabled()))
        return super().maps(images)


@pytest.fixture
def net() -> Watched:
    torch.manual_seed(0)
    made = Watched()
    hold_batch_norm(made, "statistics")
    return made


def batch_of(paired: list[int], side: int = 32) -> dict[str, Tensor]:
    count = len(paired)
    images = {name: drawn(seed, count, 3, side, side).float() for seed, name in
              enumerate(("image", "single", "pasted_object", "pasted_background"))}
    masks = {name: torch.ones(count, side, side, dtype=torch.uint8) for name in ("object", "surroundings")}
    masks["object"][0, :, 5:] = 0  # no cell is wholly inside
    return {**images, **masks, "labels": torch.ones(count, 2, dtype=torch.uint8), "source": torch.ones(count).long(),
            "back": torch.zeros(count, 2, 3), "paired": torch.tensor(paired, dtype=torch.uint8)}


def test_only_the_ordinary_image_feeds_the_classification_and_the_teacher_is_still(net):
    batch, modes = batch_of([1, 1, 0]), [module.training for module in net.modules()]
    told = loss(net, batch, CAM)
    assert [module.training for module in net.modules()] == modes
    what, images, training, gradient = zip(*net.seen, strict=True)
    assert what == ("logits", "maps", "maps")
    assert (training, gradient) == ((True, False, True), (True, False, True))
    assert torch.equal(images[0], batch["image"]) and torch.equal(images[1], batch["single"][:2])
    pasted = torch.cat([batch["pasted_object"][:2], batch["pasted_background"][:2]])
    assert torch.equal(images[2], pasted)
    assert float(told["no_object"]) == 0.5 and float(told["no_surroundings"]) == 0
    assert list(map(int, told["counted"].values())) == [2, 1, 0]
    total = told["classification"] + 0.01 * told["foreground"] + 0.1 * told["background"]
    torch.testing.assert_close(told["loss"], total)
    assert float(told["foreground"]) > 0 and float(told["background"]) > 0
    torch.manual_seed(4)
    alone = cam.loss(net, batch, CAM)["loss"]
    torch.manual_seed(4)
    torch.testing.assert_close(loss(net, batch, CAM)["classification"], alone)


def test_the_parts_are_of_their_own_images(net):
    batch = batch_of([1, 1])
    told = loss(net, batch, CAM)
    teacher = teacher_maps(net, batch["single"], CAM)
    assert not teacher.requires_grad
    for name, pasted, mask in (("foreground", "pasted_object", "object"), ("background", "pasted_background",
                                                                            "surroundings")):
        student = net.maps(batch[pasted])
        each = (foreground_divergence(teacher, student, CAM, batch["source"]) if name == "foreground"
                else background_divergence(teacher, student, CAM))
        wanted = reduced(each, whole_cells(batch[mask], (4, 4)), "sum")
        torch.testing.assert_close(told[name], wanted)


@pytest.mark.parametrize(("weights", "views"), [((0.0, 0.1), 1), ((0.01, 0.0), 1), ((0.0, 0.0), 0)])
def test_a_weight_of_zero_costs_nothing(net, weights, views):
    config = changed(CAM, lambda_fg=weights[0], lambda_bg=weights[1])
    batch = batch_of([1, 1])
    told = loss(net, batch, config)
    assert len(net.seen) == 1 + (views > 0) + (views > 0)
    assert views == 0 or len(net.seen[-1][1]) == 2 * views
    assert (float(told["foreground"]) > 0, float(told["background"]) > 0) == tuple(weight > 0 for weight in weights)
    # What is told of the pairs was measured: also of the part that weighs nothing.
    assert list(map(int, told["counted"].values())) == ([2, 1, 0] if views else [0, 0, 0])
    assert float(told["no_object"]) == (0.5 if views else 0)


def test_a_batch_without_a_pair(net):
    told = loss(net, batch_of([0, 0]), CAM)
    assert [what for what, *_ in net.seen] == ["logits"]
    torch.testing.assert_close(told["loss"], told["classification"])
    told["loss"].backward()
    assert float(told["foreground"]) == float(told["no_object"]) == 0


def test_the_teacher_of_a_moved_object_is_carried_there(net):
    batch = batch_of([1, 1])
    batch["back"] = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]]).expand(2, 2, 3)
    net.eval()
    moved, still = (loss(net, batch, changed(CAM, placement=placement)) for placement in ("random", "same"))
    assert float(moved["foreground"]) != float(still["foreground"])
    assert float(moved["background"]) == float(still["background"])
    wanted = foreground_divergence(carried(teacher_maps(net, batch["single"], CAM), batch["back"]),
                                   net.maps(batch["pasted_object"]), CAM, batch["source"])
    torch.testing.assert_close(moved["foreground"], reduced(wanted, whole_cells(batch["object"], (4, 4)), "sum"))
