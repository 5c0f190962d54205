"""LargeFOV on ResNet-38 against MCTformer's released code: head, optimiser, whole network, fusion over scales.

PSA's AffinityNet on the same backbone is compared from image to affinities. Numbers are compared relative to the
largest value of an array, because a float32 convolution rounds relative to its largest terms.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seeded_resnet38 import draw_seeded_state
from stages.data.inference_views import resize_corner_aligned
from stages.kernels.cell_pairs import compute_pair_distances, compute_pair_offsets, scatter_pairs_to_map
from stages.nets.affinity import AffinityNet
from stages.nets.backbone import Backbone
from stages.nets.large_fov import LargeFov
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter
from stages.nets.weights import import_weights
from stages.segment.net import build_mask, compute_fused_scores
from stages.train_seg.config import SegConfig
from stages.train_seg.losses import cross_entropy, resize_logits
from stages.training.optimiser import build_optimiser, set_learning_rates

FOLDER = Path(os.environ.get("WSSS_ORACLES") or Path(__file__).parents[1] / "reference") / "resnet38-seg"
SEED, AFFINITY_SEED = 7707, 7708  # of the recipe that made the arrays, which do not contain them


def load_arrays_with(pattern: str) -> list[tuple[str, Mapping[str, np.ndarray]]]:
    """Return (group of `pattern`, arrays of the file) for every key that matches; at least one key must match."""
    matches = []
    for path in sorted(FOLDER.glob("*.npz")):
        with np.load(path) as file:
            groups = [match[1] for key in file.files if (match := re.fullmatch(pattern, key))]
            arrays = {key: file[key] for key in file.files} if groups else {}
        matches += [(group, arrays) for group in groups]
    assert matches, f"no array in {FOLDER} matches {pattern}"
    return matches


def read_checkpoint_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read {key: shape} from the table of a released checkpoint."""
    with path.open(newline="") as file:
        return {row["key"]: tuple(int(side) for side in row["shape"].split("x") if side.isdecimal())
                for row in csv.DictReader(file)}


def assert_close(values: np.ndarray, expected: np.ndarray, relative: float) -> None:
    """Compare within `relative` of the largest expected value."""
    np.testing.assert_allclose(values, expected, rtol=0, atol=relative * np.abs(expected).max())


class IdentityBackbone(Backbone):
    """Returns its input, so that a head can be run on stored features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.name, self.channels, self.stride = "none", channels, 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def build_reduced_head(values: Mapping[str, np.ndarray], name: str, dtype: torch.dtype) -> LargeFov:
    """Build our head with the widths and weights of a reference case."""
    state = {key.removeprefix(f"{name}_w_"): torch.from_numpy(array.astype(np.float32))
             for key, array in values.items() if key.startswith(f"{name}_w_")}
    inner, channels = state["fc8_seg_conv1.weight"].shape[:2]
    net = LargeFov(IdentityBackbone(channels), len(state["fc8_seg_conv2.weight"]))
    narrow = (nn.Conv2d(channels, inner, 3), nn.Conv2d(inner, net.n_outputs, 3))
    for layer, copied in zip((net.decoder[0], net.decoder[2]), narrow, strict=True):
        layer.weight, layer.bias = copied.weight, copied.bias
    report = import_weights(net, state)
    assert len(report.loaded) == len(state) == 4
    return net.to(dtype)


HEADS = load_arrays_with(r"(.*)_feat")


@pytest.mark.parametrize(("name", "values"), HEADS, ids=[name for name, _ in HEADS])
def test_head_matches_from_features_to_the_second_step(name, values):
    """It runs in float64, so that the bounds are the rounding of the float32 reference: a few units of 2^-24 = 6e-8."""
    net = build_reduced_head(values, name, torch.float64)
    features = torch.from_numpy(values[f"{name}_feat"].astype(np.float64))
    mask = torch.from_numpy(values[f"{name}_label"]).long()
    rates = [float(values[f"{name}_lr_step{step}"]) for step in (0, 1)]
    steps = round(1 / (1 - (rates[1] / rates[0]) ** (1 / 0.9)))
    config = SegConfig(optimizer="sgd", lr=rates[0] / 10, head_lr_factor=10.0, momentum=1e-5, weight_decay=0.0)
    optimiser = build_optimiser(net, net.head_parameters(), config)
    layers = {"fc8_seg_conv1": net.decoder[0], "fc8_seg_conv2": net.decoder[2]}
    for step, rate in enumerate(rates):
        set_learning_rates(optimiser, config, step, steps)
        assert optimiser.param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)
        logits = net(features)
        large = F.interpolate(logits, size=mask.shape[-2:], mode="bilinear", align_corners=False)
        loss = cross_entropy(large, mask, ignore_index=255)
        assert loss.item() == pytest.approx(float(values[f"{name}_loss_step{step}"]), rel=1e-6)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            assert_close(logits.detach().numpy(), values[f"{name}_logits"], 1e-6)
            for key, layer in layers.items():
                for kind in ("weight", "bias"):
                    gradient, expected = getattr(layer, kind).grad, values[f"{name}_grad_{key}.{kind}"]
                    norm = gradient.norm()[None] if expected.size == 1 else gradient
                    assert_close(norm.numpy(), expected, 1e-5)
        optimiser.step()
        for key, array in values.items():
            if match := re.fullmatch(rf"{name}_new_(\w+)\.(weight|bias)_step{step}", key):
                updated = getattr(layers[match[1]], match[2]).detach().numpy()
                assert_close(updated, array, 1e-6)


@pytest.mark.parametrize(("name", "values"), HEADS, ids=[name for name, _ in HEADS])
def test_head_matches_in_float32(name, values):
    net = build_reduced_head(values, name, torch.float32)
    with torch.no_grad():
        logits = net(torch.from_numpy(values[f"{name}_feat"].astype(np.float32)))
    assert_close(logits.numpy(), values[f"{name}_logits"], 1e-5)
    mask = torch.from_numpy(values[f"{name}_label"]).long()
    assert cross_entropy(resize_logits(logits, mask), mask, ignore_index=255).item() == pytest.approx(
        float(values[f"{name}_loss_step0"]), rel=1e-5)


def test_a_missing_dilation_changes_maps_of_13_cells_or_more():
    """On smaller maps all taps of a 3x3 convolution with dilation 12 but the centre read padding."""
    large = 0
    for name, values in HEADS:
        net = build_reduced_head(values, name, torch.float64)
        second = net.decoder[2]
        with torch.no_grad():
            inner = net.decoder[1](net.decoder[0](torch.from_numpy(values[f"{name}_feat"].astype(np.float64))))
            centre = F.conv2d(inner, second.weight[:, :, 1:2, 1:2], second.bias)
        agree = (centre.argmax(1).numpy() == values[f"{name}_logits"].argmax(1)).mean()
        rows, columns = values[f"{name}_logits"].shape[-2:]
        if max(rows, columns) <= 12:
            assert agree == 1
        elif min(rows, columns) >= 25:
            large += 1
            assert agree < 0.5
    assert large


def test_poly_learning_rates_of_backbone_and_head_match():
    for _, values in load_arrays_with(r"(lr_seg)"):
        net = LargeFov(IdentityBackbone(4), 2)
        net.backbone.layer = nn.Linear(2, 2)
        config = SegConfig(optimizer="sgd", lr=7e-4, head_lr_factor=10.0, momentum=1e-5, weight_decay=0.0)
        optimiser = build_optimiser(net, net.head_parameters(), config)
        for step, rate, fast_rate in values["lr_seg"]:
            actual = set_learning_rates(optimiser, config, int(step), int(values["lr_seg_max_step"]))
            assert actual == pytest.approx(rate)
            for group in optimiser.param_groups:
                assert group["lr"] == pytest.approx(fast_rate if group["factor"] == 10 else rate, rel=1e-9)


def test_weight_decay_used_as_momentum_matches_the_released_optimiser():
    """The released optimiser passes its weight decay as the momentum of SGD and applies no weight decay."""
    for _, values in load_arrays_with(r"(opt_quirk_traj)"):
        expected = values["opt_quirk_traj"]
        net = nn.Module()
        net.weight = nn.Parameter(torch.from_numpy(expected[0].astype(np.float64)))
        config = SegConfig(optimizer="sgd", lr=0.1, momentum=0.3, weight_decay=0.0)
        optimiser = build_optimiser(net, [], config)
        for step, gradient in enumerate(([1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.5, 1.0, 0.0])):
            set_learning_rates(optimiser, config, step, 10)
            net.weight.grad = torch.tensor(gradient, dtype=torch.float64)
            optimiser.step()
            assert_close(net.weight.detach().numpy(), expected[step + 1], 1e-6)


def test_whole_network_matches_from_image_to_logits():
    shapes = read_checkpoint_shapes(FOLDER / "state_dict_resnet38_seg.csv")
    for name, values in load_arrays_with(r"(.*)_logits"):
        if f"{name}_image" not in values:
            continue
        n_outputs = values[f"{name}_logits"].shape[1]
        net = build_segmenter("wsss:resnet38", n_outputs).eval()
        state = draw_seeded_state({key: (n_outputs, *shape[1:]) if key.startswith("fc8_seg_conv2") else shape
                                   for key, shape in shapes.items()}, SEED)
        report = import_weights(net, state)
        assert len(report.loaded) == len(state)
        del state
        image = torch.from_numpy(values[f"{name}_image"].astype(np.float32))
        with torch.no_grad():
            stages = net.backbone.forward_stages(image)
            logits = net.decoder(stages[-1])
        for number, maps in zip((4, 5, 6), stages, strict=True):
            means, part = values[f"{name}_conv{number}_mean"], values[f"{name}_conv{number}_sub"]
            step = maps.shape[1] // len(part)
            assert_close(maps[0, ::step].numpy(), part, 1e-4)
            assert_close(maps[0].mean((1, 2)).numpy(), means, 1e-4)
        assert_close(logits.numpy(), values[f"{name}_logits"], 1e-4)


def test_affinity_net_matches_from_image_to_affinities():
    tables = [FOLDER.parent / "cam-methods" / "state_dict_resnet38_aff.csv"]
    for _, values in load_arrays_with(r"(aff)"):
        net = AffinityNet(build_backbone("wsss:resnet38")).eval()
        state = draw_seeded_state(read_checkpoint_shapes(tables[0]), AFFINITY_SEED)
        report = import_weights(net, state)
        assert len(report.loaded) == len(state)
        del state
        with torch.no_grad():
            features = net(torch.from_numpy(values["image"].astype(np.float32)))
        affinity = torch.exp(-compute_pair_distances(features, 5)).numpy()
        np.testing.assert_allclose(affinity.reshape(values["aff"].shape), values["aff"], rtol=0, atol=1e-5)
        size = tuple(features.shape[2:])
        matrix = build_affinity_matrix(scatter_pairs_to_map(affinity[0], size, 5))
        np.testing.assert_allclose(matrix, values["dense"], rtol=0, atol=1e-5)


def build_affinity_matrix(affinity: np.ndarray) -> np.ndarray:
    """Build the symmetric matrix (N, N) of affinities (P, h, w), with a unit diagonal."""
    _, height, width = affinity.shape
    cells = np.arange(height * width).reshape(height, width)
    matrix = np.eye(height * width, dtype=affinity.dtype)
    for row, column in np.ndindex(height, width):
        for (down, across), values in zip(compute_pair_offsets(5), affinity, strict=True):
            if row + down < height and 0 <= column + across < width:
                first, second = cells[row, column], cells[row + down, column + across]
                matrix[first, second] = matrix[second, first] = values[row, column]
    return matrix


class OneConvolution(nn.Module):
    """The stand-in network of the fusion reference: a convolution of 8 x 8 pixels at stride 8."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight, self.bias = (torch.from_numpy(array.astype(np.float32)) for array in (weight, bias))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.conv2d(images, self.weight, self.bias, stride=8)


def test_maximum_over_five_scales_matches():
    for name, values in load_arrays_with(r"(.*)_probs_sub"):
        image = values[f"{name}_x"][0].astype(np.float32)
        views = [torch.from_numpy(resize_corner_aligned(image, scale))[None] for scale in (0.5, 0.75, 1.0, 1.25, 1.5)]
        size = (image.shape[1], image.shape[2])
        net = OneConvolution(values[f"{name}_w"], values[f"{name}_b"])
        scores = compute_fused_scores(net, views, size, flip=False,
                                      fusion="max", has_background=True)[0].numpy()
        # The slope of softmax is at most 1, so that its error is that of the logits, which are up to 5 here.
        np.testing.assert_allclose(scores[:, ::4, ::4], values[f"{name}_probs_sub"], rtol=0, atol=1e-5)
        mask, _ = build_mask(scores, size)
        differs = mask != values[f"{name}_argmax"]
        ordered = np.sort(scores, axis=0)
        assert (ordered[-1] - ordered[-2])[differs].max(initial=0) < 2e-5, "only ties may differ"
        assert differs.mean() < 1e-3
