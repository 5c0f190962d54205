"""The consistency losses of CSD against reference values of the paper's equations and of the development code."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plain_csd import compute_csd_terms
from small_vit import build_reference_mctformer, count_heads, extract_state
from stages.train_cls.config import CsdMctformerConfig
from stages.train_cls.csd import (
    background_divergence,
    compute_class_maps,
    foreground_divergence,
    loss,
    reduce_divergence,
    select_full_cells,
)

# The reference maps are refined ones, for whose scale the dummy score is 0.1.
PAPER = {"base": "mctformer", "csd_maps": "refined", "constant": 0.1, "constant_of": "auto", "saliency": "sum",
         "terms": "all", "temperature": 1.0, "background_gain": 1.0}
DEVELOPMENT = {**PAPER, "saliency": "per-class", "terms": "own", "background_gain": 10.0}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def values(reference):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in reference("cam-methods/csd_losses").items()}


def maps(values, name: str) -> torch.Tensor:
    return values[f"{name}_attn"].double()


def get_source_classes(values) -> torch.Tensor:
    return values["label_single"].argmax(1) + 1


def select_mask_cells(values, name: str) -> torch.Tensor:
    return select_full_cells(values[f"{name}_mask"], maps(values, "single").shape[-2:])


@pytest.mark.parametrize("name", ["fg", "bg"])
def test_cells_fully_inside_a_mask_match(values, name):
    torch.testing.assert_close(select_mask_cells(values, name).float(), values[f"dev_{name}_grid"])


def test_foreground_losses_match(values):
    actual = foreground_divergence(maps(values, "single"), maps(values, "fgpaste"), SimpleNamespace(**PAPER),
                                  get_source_classes(values))
    torch.testing.assert_close(actual, values["rec_fg_kl_map"], **CLOSE)
    inside = select_mask_cells(values, "fg")
    loss_sum, loss_mean = (reduce_divergence(actual, inside, reduction) for reduction in ("sum", "mean"))
    torch.testing.assert_close(loss_sum * len(actual), values["rec_fg_loss_sum"], **CLOSE)
    torch.testing.assert_close(loss_mean, values["rec_fg_loss_mean"], **CLOSE)


def test_background_losses_match_at_every_dummy_score(values):
    scores = [name.removeprefix("rec_bg_kl_map_M") for name in values if name.startswith("rec_bg_kl_map_M")]
    assert scores
    for score in scores:
        actual = background_divergence(maps(values, "single"), maps(values, "bgpaste"),
                                      SimpleNamespace(**{**PAPER, "constant": float(score)}))
        torch.testing.assert_close(actual, values[f"rec_bg_kl_map_M{score}"], **CLOSE)
        inside = select_mask_cells(values, "bg")
        loss_sum, loss_mean = (reduce_divergence(actual, inside, reduction) for reduction in ("sum", "mean"))
        torch.testing.assert_close(loss_sum * len(actual), values[f"rec_bg_loss_sum_M{score}"], **CLOSE)
        torch.testing.assert_close(loss_mean, values[f"rec_bg_loss_mean_M{score}"], **CLOSE)


def test_background_loss_of_the_development_code_matches(values):
    actual = background_divergence(maps(values, "single"), maps(values, "bgpaste"), SimpleNamespace(**DEVELOPMENT))
    torch.testing.assert_close(actual.float(), values["dev_bg_kl_map"], rtol=1e-5, atol=1e-6)
    # Its sum over the cells is weighted (the weights of an image sum to 1), with the mean over the images.
    weighed = (actual * values["dev_bg_pixel_weight"]).sum() / len(actual)
    torch.testing.assert_close(weighed, values["dev_bg_loss"], rtol=1e-5, atol=1e-7)


def test_foreground_loss_of_the_development_code_matches(values):
    """It stretches the maps over the classes first, which the paper does not, and drops cells: the others agree."""
    def stretch(scores: torch.Tensor) -> torch.Tensor:
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        return (scores - low) / (high - low + 1e-4)

    teacher = stretch(maps(values, "single"))
    torch.testing.assert_close(teacher.float(), values["dev_single_chan_minmax"], rtol=1e-5, atol=1e-6)
    actual = foreground_divergence(teacher, stretch(maps(values, "fgpaste")), SimpleNamespace(**DEVELOPMENT),
                                  get_source_classes(values))
    is_compared = (values["dev_fg_kl_map"] != 0) & select_mask_cells(values, "fg")
    assert is_compared.any()
    torch.testing.assert_close(actual[is_compared].float(), values["dev_fg_kl_map"][is_compared], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def nets(reference) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return (version, arrays) of every complete MCTformer among the reference values."""
    names = reference.cases("cam-methods/mctformer_net_*")
    if not names:
        reference("cam-methods/mctformer_net_v2")  # skips the test, or fails it if all values are required
    return [(name.split("mctformer_net_")[1].split("_")[0], dict(reference(name))) for name in names]


def build_batch(values) -> dict[str, torch.Tensor]:
    """Build a batch of the reference images: single, with a pasted object, and with a pasted background."""
    single, image = (torch.from_numpy(values[name]).double() for name in ("square_image", "train_image"))
    count, side = len(single), single.shape[-1]
    masks = {name: torch.zeros(count, side, side, dtype=torch.uint8) for name in ("object", "surroundings")}
    masks["object"][:, :side // 2 + 5, 10:] = 1
    masks["surroundings"][:, side // 2:] = 1
    return {"image": image, "single": single, "pasted_object": single.flip(-1) + image[:count],
            "pasted_background": single - image[:count], **masks, "labels": torch.from_numpy(values["labels"]),
            "pasted_class": torch.ones(count).long(), "inverse_affine": torch.zeros(count, 2, 3, dtype=torch.float64),
            "paired": torch.ones(len(image), dtype=torch.uint8)}


@torch.no_grad()
def test_compared_maps_match_those_of_the_released_network(nets):
    """Each view's refined maps are those of the released network, for the last 3 and for all layers."""
    for version, values in nets:
        net, _ = build_reference_mctformer(version, values)
        net.backbone.exact_positions = False
        for name in values:
            if match := re.fullmatch(r"(\w+)_(refined|maps)_(\d+)", name):
                config = CsdMctformerConfig(csd_maps={"maps": "fused"}.get(match[2], match[2]),
                                            csd_layers=int(match[3]))
                images = torch.from_numpy(values[f"{match[1]}_image"]).float()
                class_maps = compute_class_maps(net, images, config)
                torch.testing.assert_close(class_maps, torch.from_numpy(values[name]), rtol=1e-4, atol=1e-5,
                                           msg=f"{version} {name}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@torch.no_grad()
def test_losses_match_the_plain_implementation(nets, dtype):
    for version, values in nets:
        net = build_reference_mctformer(version, values)[0].to(dtype)
        state = {name: weight.double() for name, weight in extract_state(values).items()}
        batch = build_batch(values)
        for maps in ("refined", "fused", *(() if version == "v1" else ("patch-logits",))):
            expected_terms = compute_csd_terms(state, version, batch, count_heads(values), maps=maps,
                                               share=maps != "refined")
            cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
            terms = loss(net, cast, CsdMctformerConfig(version=version, csd_maps=maps, contrast=0.0))
            for name, term in expected_terms._asdict().items():
                # In float32 a divergence is the difference of probabilities near 1, each with an error of 1e-7.
                tolerance = {"rel": 1e-9} if dtype == torch.float64 else {"rel": 1e-4, "abs": 2e-6}
                assert float(terms[name]) == pytest.approx(float(term), **tolerance), f"{version} {maps} {name}"
                assert float(term) > 0
