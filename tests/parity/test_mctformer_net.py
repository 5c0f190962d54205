"""Whole MCTformers against reference values: weights under their released names and images in, everything else out.

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
from small_vit import heads_of, reference_mctformer, state_of
from stages.cams.config import MctformerConfig
from stages.cams.mctformer import view_maps
from stages.kernels.class_attention import patch_affinity

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PATTERN = "cam-methods/mctformer_net_*"
VERSION = re.compile(r"mctformer_net_(v1|v2|plus)")
OFFSETS = {"v1": 0.1, "v2": 0.1, "plus": 0.0}


@pytest.fixture(scope="module")
def nets(reference) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    """Return (name, version, arrays) of every reference network."""
    names = reference.cases(PATTERN)
    if not names:
        reference("cam-methods/mctformer_net_v1")  # skips the test, or fails it where all values have to be there
    found = [(name, VERSION.search(name)[1], dict(reference(name))) for name in names]
    assert {version for _, version, _ in found} == {"v1", "v2", "plus"}
    return found


def tensor(values: Mapping[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(np.asarray(values[name])).float()


def cases_of(values: Mapping[str, np.ndarray]) -> list[str]:
    cases = sorted(name.removesuffix("_image") for name in values if name.endswith("_image") and name != "train_image")
    assert cases
    return cases


def layers_of(values: Mapping[str, np.ndarray], case: str) -> list[int]:
    layers = [int(name.rpartition("_")[2]) for name in values if name.startswith(f"{case}_maps_")]
    assert layers
    return layers


def test_released_checkpoints_load_and_the_final_norm_is_named_as_not_used(nets):
    for name, version, values in nets:
        net, report = reference_mctformer(version, values)
        assert len(report.loaded) == len(net.state_dict()), name
        assert sorted(report.unused) == ["norm.bias", "norm.weight"], name
        assert len(report.dropped_head) == (2 if version == "v1" else 0), name
        assert "2 not used (norm.weight, norm.bias)" in str(report), name


@torch.no_grad()
def test_the_training_form(nets):
    for name, version, values in nets:
        net, _ = reference_mctformer(version, values)
        net.backbone.exact_positions = False
        outputs = net.train().outputs(tensor(values, "train_image"))  # neither dropout nor drop path is set
        torch.testing.assert_close(outputs.class_logits, tensor(values, "train_class_logits"), **CLOSE, msg=name)
        loss = multilabel_soft_margin_loss(outputs.class_logits, tensor(values, "labels"))
        assert float(loss) == pytest.approx(float(values["train_loss_class"]), rel=1e-4), name
        assert (outputs.patch_logits is None) == (version == "v1")
        if version != "v1":
            torch.testing.assert_close(outputs.patch_logits, tensor(values, "train_patch_logits"), **CLOSE, msg=name)
        if "train_class_tokens_by_layer" in values:
            torch.testing.assert_close(outputs.class_tokens, tensor(values, "train_class_tokens_by_layer"), **CLOSE,
                                       msg=name)


@torch.no_grad()
def test_logits_maps_and_affinity(nets):
    for name, version, values in nets:
        net, _ = reference_mctformer(version, values)
        net.backbone.exact_positions = False
        for case in cases_of(values):
            images, told = tensor(values, f"{case}_image"), f"{name} {case}"
            torch.testing.assert_close(net(images), tensor(values, f"{case}_logits"), **CLOSE, msg=told)
            seen = net.attended(images)
            affinity = patch_affinity(seen.attention, seen.grid)
            torch.testing.assert_close(affinity, tensor(values, f"{case}_patch_affinity"), **CLOSE, msg=told)
            for layers in layers_of(values, case):
                for refine, key in ((False, "maps"), (True, "refined")):
                    wanted = tensor(values, f"{case}_{key}_{layers}")
                    maps = net.maps(images, layers=layers, refine=refine)
                    torch.testing.assert_close(maps, wanted, **CLOSE, msg=f"{told} {key} {layers}")
                    config = MctformerConfig(layers=layers, affinity=refine, as_released=True)
                    maps, logits = view_maps(net, images, config)
                    torch.testing.assert_close(maps, wanted, **CLOSE, msg=f"{told} {key} {layers} of cams")
                    torch.testing.assert_close(logits, tensor(values, f"{case}_logits"), **CLOSE, msg=told)


@torch.no_grad()
def test_positions_of_v1_and_v2_are_read_off_their_places_and_those_of_plus_are_not(nets):
    """The released form is another network on wide images, unless it is plus's."""
    for name, version, values in nets:
        net, _ = reference_mctformer(version, values)
        resized = [case for case in cases_of(values) if net.backbone.grid != net.backbone.grid_of(
            tensor(values, f"{case}_image"))]
        assert resized, name
        for case in resized:
            net.backbone.exact_positions = True
            logits, wanted = net(tensor(values, f"{case}_image")), tensor(values, f"{case}_logits")
            distance = float((logits - wanted).abs().max())
            assert (distance < 1e-4) == (version == "plus"), f"{name} {case}: {distance}"


@torch.no_grad()
def test_the_network_written_out_is_the_reference(nets):
    """What other tests take for right where these values are not at hand."""
    for name, version, values in nets:
        state = {key: weight.double() for key, weight in state_of(values).items()}
        heads = heads_of(values)
        seen = plain_mctformer.see(state, version, tensor(values, "train_image").double(), heads, offset=0.1)
        torch.testing.assert_close(seen.class_logits.float(), tensor(values, "train_class_logits"), **CLOSE, msg=name)
        for case in cases_of(values):
            images, told = tensor(values, f"{case}_image").double(), f"{name} {case}"
            seen = plain_mctformer.see(state, version, images, heads, offset=OFFSETS[version])
            joint = (seen.class_logits + seen.patch_logits) / 2 if version == "plus" else seen.class_logits
            torch.testing.assert_close(joint.float(), tensor(values, f"{case}_logits"), **CLOSE, msg=told)
            for layers in layers_of(values, case):
                maps = plain_mctformer.fused_maps(seen, version, layers)
                torch.testing.assert_close(maps.float(), tensor(values, f"{case}_maps_{layers}"), **CLOSE, msg=told)
                refined = plain_mctformer.refined_maps(seen, maps).float()
                torch.testing.assert_close(refined, tensor(values, f"{case}_refined_{layers}"), **CLOSE, msg=told)
