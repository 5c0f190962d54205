"""The consistency losses of CSD against reference values: the paper's equations, and its author's development code."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plain_csd import csd_terms
from small_vit import heads_of, reference_mctformer, state_of
from stages.train_cls.config import CsdMctformerConfig
from stages.train_cls.csd import background_divergence, class_maps, foreground_divergence, loss, reduced, whole_cells

# The maps of these values are refined ones, to whose scale the dummy score 0.1 belongs.
PAPER = {"base": "mctformer", "csd_maps": "refined", "constant": 0.1, "constant_of": "auto", "saliency": "sum",
         "terms": "all", "temperature": 1.0, "background_gain": 1.0}
DEVELOPMENT = {**PAPER, "saliency": "per-class", "terms": "own", "background_gain": 10.0}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def values(reference):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in reference("cam-methods/csd_losses").items()}


def maps(values, name: str) -> torch.Tensor:
    return values[f"{name}_attn"].double()


def source_of(values) -> torch.Tensor:
    return values["label_single"].argmax(1) + 1


def cells(values, name: str) -> torch.Tensor:
    return whole_cells(values[f"{name}_mask"], maps(values, "single").shape[-2:])


@pytest.mark.parametrize("name", ["fg", "bg"])
def test_cells_that_are_wholly_inside(values, name):
    torch.testing.assert_close(cells(values, name).float(), values[f"dev_{name}_grid"])


def test_the_foreground(values):
    found = foreground_divergence(maps(values, "single"), maps(values, "fgpaste"), SimpleNamespace(**PAPER),
                                  source_of(values))
    torch.testing.assert_close(found, values["rec_fg_kl_map"], **CLOSE)
    inside = cells(values, "fg")
    torch.testing.assert_close(reduced(found, inside, "sum") * len(found), values["rec_fg_loss_sum"], **CLOSE)
    torch.testing.assert_close(reduced(found, inside, "mean"), values["rec_fg_loss_mean"], **CLOSE)


def test_the_background_at_every_dummy_score(values):
    tried = [name.removeprefix("rec_bg_kl_map_M") for name in values if name.startswith("rec_bg_kl_map_M")]
    assert tried
    for score in tried:
        found = background_divergence(maps(values, "single"), maps(values, "bgpaste"),
                                      SimpleNamespace(**{**PAPER, "constant": float(score)}))
        torch.testing.assert_close(found, values[f"rec_bg_kl_map_M{score}"], **CLOSE)
        inside = cells(values, "bg")
        torch.testing.assert_close(reduced(found, inside, "sum") * len(found), values[f"rec_bg_loss_sum_M{score}"],
                                   **CLOSE)
        torch.testing.assert_close(reduced(found, inside, "mean"), values[f"rec_bg_loss_mean_M{score}"], **CLOSE)


def test_the_background_of_the_development_code(values):
    found = background_divergence(maps(values, "single"), maps(values, "bgpaste"), SimpleNamespace(**DEVELOPMENT))
    torch.testing.assert_close(found.float(), values["dev_bg_kl_map"], rtol=1e-5, atol=1e-6)
    # Its sum weighs the cells (the weights of an image sum to 1) and is the mean over the images.
    weighed = (found * values["dev_bg_pixel_weight"]).sum() / len(found)
    torch.testing.assert_close(weighed, values["dev_bg_loss"], rtol=1e-5, atol=1e-7)


def test_the_foreground_of_the_development_code(values):
    """It stretches the maps over the classes first, which the paper does not, and drops cells: those left agree."""
    def stretched(scores: torch.Tensor) -> torch.Tensor:
        low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
        return (scores - low) / (high - low + 1e-4)

    teacher = stretched(maps(values, "single"))
    torch.testing.assert_close(teacher.float(), values["dev_single_chan_minmax"], rtol=1e-5, atol=1e-6)
    found = foreground_divergence(teacher, stretched(maps(values, "fgpaste")), SimpleNamespace(**DEVELOPMENT),
                                  source_of(values))
    kept = (values["dev_fg_kl_map"] != 0) & cells(values, "fg")
    assert kept.any()
    torch.testing.assert_close(found[kept].float(), values["dev_fg_kl_map"][kept], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def nets(reference) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return (version, arrays) of every whole MCTformer among the reference values."""
    names = reference.cases("cam-methods/mctformer_net_*")
    if not names:
        reference("cam-methods/mctformer_net_v2")  # skips the test, or fails it where all values have to be there
    return [(name.split("mctformer_net_")[1].split("_")[0], dict(reference(name))) for name in names]


def batch_of(values) -> dict[str, torch.Tensor]:
    """Return pairs of the reference images: the single one, that with an object, that with a background."""
    single, image = (torch.from_numpy(values[name]).double() for name in ("square_image", "train_image"))
    count, side = len(single), single.shape[-1]
    masks = {name: torch.zeros(count, side, side, dtype=torch.uint8) for name in ("object", "surroundings")}
    masks["object"][:, :side // 2 + 5, 10:] = 1
    masks["surroundings"][:, side // 2:] = 1
    return {"image": image, "single": single, "pasted_object": single.flip(-1) + image[:count],
            "pasted_background": single - image[:count], **masks, "labels": torch.from_numpy(values["labels"]),
            "source": torch.ones(count).long(), "back": torch.zeros(count, 2, 3, dtype=torch.float64),
            "paired": torch.ones(len(image), dtype=torch.uint8)}


@torch.no_grad()
def test_the_maps_that_are_compared(nets):
    """Each view's refined maps are those of the released network, for the last 3 and for all layers."""
    for version, values in nets:
        net, _ = reference_mctformer(version, values)
        net.backbone.exact_positions = False
        for name in values:
            if match := re.fullmatch(r"(\w+)_(refined|maps)_(\d+)", name):
                config = CsdMctformerConfig(csd_maps={"maps": "fused"}.get(match[2], match[2]),
                                            csd_layers=int(match[3]))
                images = torch.from_numpy(values[f"{match[1]}_image"]).float()
                torch.testing.assert_close(class_maps(net, images, config), torch.from_numpy(values[name]), rtol=1e-4,
                                           atol=1e-5, msg=f"{version} {name}")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@torch.no_grad()
def test_the_losses_from_images_to_numbers(nets, dtype):
    for version, values in nets:
        net = reference_mctformer(version, values)[0].to(dtype)
        state = {name: weight.double() for name, weight in state_of(values).items()}
        batch = batch_of(values)
        for maps in ("refined", "fused", *(() if version == "v1" else ("patch-logits",))):
            wanted = csd_terms(state, version, batch, heads_of(values), maps=maps, share=maps != "refined")
            cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
            told = loss(net, cast, CsdMctformerConfig(version=version, csd_maps=maps, contrast=0.0))
            for name, term in wanted._asdict().items():
                # In float32 a divergence is the difference of probabilities near 1, which have 1e-7 each.
                near = {"rel": 1e-9} if dtype == torch.float64 else {"rel": 1e-4, "abs": 2e-6}
                assert float(told[name]) == pytest.approx(float(term), **near), f"{version} {maps} {name}"
                assert float(term) > 0
