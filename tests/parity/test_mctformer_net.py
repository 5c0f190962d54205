"""Complete MCTformers against reference values: from weights with their released names and images to maps and logits.

The arrays are `state/*`, `train_*` (training form, on `train_image`), and for each case (square, wide, ...)
`CASE_image`, `CASE_logits`, `CASE_maps_N`, `CASE_refined_N` (N last layers) and `CASE_patch_affinity`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import multilabel_soft_margin_loss

import plain_mctformer
from small_vit import build_reference_mctformer, count_heads, extract_state
from stages.cams.config import MctformerConfig
from stages.cams.mctformer import compute_view_maps
from stages.kernels.class_attention import compute_patch_affinity

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PATTERN = "cam-methods/mctformer_net_*"
VERSION = re.compile(r"mctformer_net_(v1|v2|plus)")
OFFSETS = {"v1": 0.1, "v2": 0.1, "plus": 0.0}


@pytest.fixture(scope="module")
def nets(reference) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    """Return (name, version, arrays) of every reference network."""
    names = reference.cases(PATTERN)
    if not names:
        reference("cam-methods/mctformer_net_v1")  # skips the test, or fails it if all values are required
    networks = [(name, VERSION.search(name)[1], dict(reference(name))) for name in names]
    assert {version for _, version, _ in networks} == {"v1", "v2", "plus"}
    return networks


def get_tensor(values: Mapping[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(np.asarray(values[name])).float()


def list_cases(values: Mapping[str, np.ndarray]) -> list[str]:
    cases = sorted(name.removesuffix("_image") for name in values if name.endswith("_image") and name != "train_image")
    assert cases
    return cases


def list_layers(values: Mapping[str, np.ndarray], case: str) -> list[int]:
    layers = [int(name.rpartition("_")[2]) for name in values if name.startswith(f"{case}_maps_")]
    assert layers
    return layers


def test_released_checkpoints_load_and_report_the_final_norm_as_not_used(nets):
    for name, version, values in nets:
        net, report = build_reference_mctformer(version, values)
        assert len(report.loaded) == len(net.state_dict()), name
        assert sorted(report.unused) == ["norm.bias", "norm.weight"], name
        assert len(report.dropped_head) == (2 if version == "v1" else 0), name
        assert "2 not used (norm.bias, norm.weight)" in str(report), name


@torch.no_grad()
def test_training_outputs_match(nets):
    for name, version, values in nets:
        net, _ = build_reference_mctformer(version, values)
        net.backbone.exact_positions = False
        outputs = net.train().forward_outputs(get_tensor(values, "train_image"))  # neither dropout nor drop path is set
        torch.testing.assert_close(outputs.class_logits, get_tensor(values, "train_class_logits"), **CLOSE, msg=name)
        loss = multilabel_soft_margin_loss(outputs.class_logits, get_tensor(values, "labels"))
        assert float(loss) == pytest.approx(float(values["train_loss_class"]), rel=1e-4), name
        assert (outputs.patch_logits is None) == (version == "v1")
        if version != "v1":
            patch_logits = get_tensor(values, "train_patch_logits")
            torch.testing.assert_close(outputs.patch_logits, patch_logits, **CLOSE, msg=name)
        if "train_class_tokens_by_layer" in values:
            torch.testing.assert_close(outputs.class_tokens, get_tensor(values, "train_class_tokens_by_layer"), **CLOSE,
                                       msg=name)


@torch.no_grad()
def test_logits_maps_and_affinity_match(nets):
    for name, version, values in nets:
        net, _ = build_reference_mctformer(version, values)
        net.backbone.exact_positions = False
        for case in list_cases(values):
            images, message = get_tensor(values, f"{case}_image"), f"{name} {case}"
            torch.testing.assert_close(net(images), get_tensor(values, f"{case}_logits"), **CLOSE, msg=message)
            outputs = net.forward_with_attention(images)
            affinity = compute_patch_affinity(outputs.attention, outputs.grid)
            torch.testing.assert_close(affinity, get_tensor(values, f"{case}_patch_affinity"), **CLOSE, msg=message)
            for layers in list_layers(values, case):
                for refine, key in ((False, "maps"), (True, "refined")):
                    expected = get_tensor(values, f"{case}_{key}_{layers}")
                    maps = net.maps(images, layers=layers, refine=refine)
                    torch.testing.assert_close(maps, expected, **CLOSE, msg=f"{message} {key} {layers}")
                    config = MctformerConfig(layers=layers, affinity=refine, as_released=True)
                    maps, logits = compute_view_maps(net, images, config)
                    torch.testing.assert_close(maps, expected, **CLOSE, msg=f"{message} {key} {layers} of cams")
                    torch.testing.assert_close(logits, get_tensor(values, f"{case}_logits"), **CLOSE, msg=message)


@torch.no_grad()
def test_positions_of_v1_and_v2_are_sampled_off_centre_and_those_of_plus_are_not(nets):
    """With exact positions the logits of resized images differ from the released ones, except for plus."""
    for name, version, values in nets:
        net, _ = build_reference_mctformer(version, values)
        resized = [case for case in list_cases(values) if net.backbone.grid != net.backbone.compute_patch_grid(
            get_tensor(values, f"{case}_image"))]
        assert resized, name
        for case in resized:
            net.backbone.exact_positions = True
            logits, expected = net(get_tensor(values, f"{case}_image")), get_tensor(values, f"{case}_logits")
            distance = float((logits - expected).abs().max())
            assert (distance < 1e-4) == (version == "plus"), f"{name} {case}: {distance}"


@torch.no_grad()
def test_plain_implementation_matches(nets):
    """Other tests compare with the plain implementation, since they do not need the reference values."""
    for name, version, values in nets:
        state = {key: weight.double() for key, weight in extract_state(values).items()}
        heads = count_heads(values)
        images = get_tensor(values, "train_image").double()
        outputs = plain_mctformer.compute_outputs(state, version, images, heads, offset=0.1)
        expected = get_tensor(values, "train_class_logits")
        torch.testing.assert_close(outputs.class_logits.float(), expected, **CLOSE, msg=name)
        for case in list_cases(values):
            images, message = get_tensor(values, f"{case}_image").double(), f"{name} {case}"
            outputs = plain_mctformer.compute_outputs(state, version, images, heads, offset=OFFSETS[version])
            logits = outputs.class_logits
            logits = (logits + outputs.patch_logits) / 2 if version == "plus" else logits
            torch.testing.assert_close(logits.float(), get_tensor(values, f"{case}_logits"), **CLOSE, msg=message)
            for layers in list_layers(values, case):
                maps = plain_mctformer.fuse_maps(outputs, version, layers)
                expected = get_tensor(values, f"{case}_maps_{layers}")
                torch.testing.assert_close(maps.float(), expected, **CLOSE, msg=message)
                refined = plain_mctformer.refine_maps(outputs, maps).float()
                expected = get_tensor(values, f"{case}_refined_{layers}")
                torch.testing.assert_close(refined, expected, **CLOSE, msg=message)
