"""ExCEL against its released code's values, on a CLIP with seeded weights.

A set of values has a text case, PREFIX_text, and image cases PREFIX_one, PREFIX_three and PREFIX_small; its weights are
PREFIX_openai.pt or, with the copies in this repository, those of a recipe. Of each tolerance, the released code in
float64 instead of float32 takes up at most 0.4.
"""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TESTS, Reference
from seeded_clip import ClipRecipe
from stages.cams import excel
from stages.cams.config import ExcelConfig
from stages.cams.text_shift import shift_text, weigh_centres
from stages.data.augment import IMAGENET_MEAN, IMAGENET_STD, normalise
from stages.data.class_vocabulary import load_words_without_index
from stages.data.inference_views import build_square_view
from stages.flow.text_centres import orient_text_centres
from stages.kernels import calibrated_attention
from stages.kernels.attention_affinity import apply_affinity, build_box_masks, compute_sinkhorn_scalings
from stages.kernels.pixel_adaptive import apply_par
from stages.kernels.resample import upsample
from stages.nets import clip_vision
from stages.nets.clip import ClipModel, ClipSource, load_clip
from stages.nets.clip_vision import CalibratedFeatures
from stages.nets.prompt_encoding import encode_classes, encode_words, load_templates

FOLDER = Path(os.environ.get("WSSS_ORACLES") or TESTS / "reference") / "beyond" / "excel"
RELEASED = ExcelConfig(as_released=True)
RECIPE = ClipRecipe(1212, 64, 12, 4, 32, 64, 2, 4, 1 / 0.07)
SHIFTS = ("bank", "none", "mean")


def list_cases(*kinds: str) -> list[str]:
    """Return the names of the available cases of these kinds."""
    reference = Reference(FOLDER.parents[1], complete=False)
    return [name for kind in kinds for name in reference.cases(f"beyond/excel/*_{kind}")]


def get_prefix(name: str) -> str:
    """Return the set of a case: `tiny12` of `beyond/excel/tiny12_one`."""
    return name.rpartition("/")[2].rpartition("_")[0]


def build_recipe_state() -> dict[str, torch.Tensor]:
    """Return the weights of the set tiny12: those of a recipe with other words, keys and values, and stored positions.

    The keys of its image tower resemble the queries, so that attention is not uniform.
    """
    state = RECIPE.state()
    state["token_embedding.weight"] = (state["token_embedding.weight"] * 3).half().float()
    for name in [name for name in state if name.startswith("visual.") and name.endswith("attn.in_proj_weight")]:
        query, key, value = state[name].split(RECIPE.width)
        mixed = (0.8 * query.double() + 0.6 * key.double()).half().float()
        state[name] = torch.cat([query, mixed, (value.half() * 0.7).float()])
    with np.load(FOLDER / "tiny12_positions.npz") as arrays:
        state["visual.positional_embedding"] = torch.from_numpy(arrays["positions"]).float()
    return state


@lru_cache(maxsize=1)
def load_seeded_clip(prefix: str) -> ClipModel:
    """Load the CLIP of a set."""
    stored = FOLDER / f"{prefix}_openai.pt"
    with tempfile.TemporaryDirectory() as folder:
        weights = stored if stored.is_file() else Path(folder, "weights.pt")
        if weights != stored:
            torch.save(build_recipe_state(), weights)
        return load_clip(ClipSource(prefix, RECIPE.config(), weights), device=torch.device("cpu"))


@lru_cache(maxsize=1)
def encode_text(prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the vectors of the classes and of the background words."""
    text, words = load_seeded_clip(prefix).text, load_words_without_index("voc", as_released=True)
    templates = load_templates(RELEASED.template)
    classes = encode_classes(text, words.classes, templates, "sentence")[0]
    return classes, encode_words(text, words.background, templates)


def build_word_vectors(prefix: str, shift: str, text_values: dict[str, np.ndarray]) -> excel.WordVectors:
    """Return the vectors of all words with a shift of the reference values: bank, mean (of its centres) or none."""
    classes, background = encode_text(prefix)
    centres = orient_text_centres(text_values["bank"], classes.shape[1], "bank")
    return excel.WordVectors(classes, background, shift_text(classes, shift, centres), 1 / 0.07)


def load_input(values: dict[str, np.ndarray]) -> torch.Tensor:
    """Return the input of the network, (1, 3, S, S)."""
    view = build_square_view(values["image_raw"], int(values["side"]), IMAGENET_MEAN, IMAGENET_STD, smooth=False)
    return torch.from_numpy(view)[None]


@torch.inference_mode()
def embed(values: dict[str, np.ndarray], prefix: str) -> CalibratedFeatures:
    """Return what the tower computes for an image."""
    tower = load_seeded_clip(prefix).vision
    return tower.embed_calibrated(load_input(values), num_calibrated_blocks=5, num_attention_layers=6,
                                  plain_block_weight=1 / tower.num_heads)


def check_close(actual: torch.Tensor | np.ndarray, expected: np.ndarray, tolerance: float, name: str = "") -> None:
    """Compare with an absolute tolerance."""
    np.testing.assert_allclose(np.asarray(actual), expected, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("name", list_cases("text"))
def test_text_vectors_match(reference, name):
    values, prefix = reference(name), get_prefix(name)
    classes, background = encode_text(prefix)
    check_close(torch.cat([classes, background]), values["text"], 1e-5)
    words = load_words_without_index("voc", as_released=True)
    assert [",".join(synonyms) for synonyms in words.classes] == list(values["prompt_names"])
    assert list(words.background) == list(values["background"])
    centres = orient_text_centres(values["bank"], classes.shape[1], "bank")
    check_close(classes @ centres.T, values["attr_logits"], 1e-5)
    weights = weigh_centres(classes, centres)
    np.testing.assert_array_equal(weights > 0, values["attr_keep"])
    check_close(weights, values["attr_weight"], 1e-6)
    check_close(weights @ centres, values["attr_sum"], 1e-5)
    for shift in ("bank", "mean"):
        shifted = torch.cat([shift_text(classes, shift, centres), background])
        check_close(shifted[:len(values[f"text_{shift}"])], values[f"text_{shift}"], 1e-5, shift)


@pytest.mark.parametrize("name", list_cases("one", "three", "small"))
def test_input_matches(reference, name):
    values = reference(name)
    normalised = normalise(values["image_raw"], IMAGENET_MEAN, IMAGENET_STD)
    check_close(normalised[:, ::16, ::16], values["normalised_step16"], 1e-6)
    step = int(values["input_step"])
    check_close(load_input(values)[0, :, ::step, ::step], values["input"], 1e-4)


@pytest.mark.parametrize("name", list_cases("one", "three", "small"))
def test_attention_and_streams_match(reference, monkeypatch, name):
    values, prefix = reference(name), get_prefix(name)
    attentions, blocks = [], []
    compute, run_block = calibrated_attention.compute_calibrated_attention, clip_vision._run_block

    def record_attention(*heads):
        attentions.append(compute(*heads))
        return attentions[-1].clone()

    def record_block(*arguments, stream, **options):
        tokens, attention = run_block(*arguments, stream=stream, **options)
        blocks.append({"o": tokens.clone(), "z": None if stream is None else stream.clone(),
                       "attn": None if attention is None else attention.clone()})
        return tokens, attention

    monkeypatch.setattr(calibrated_attention, "compute_calibrated_attention", record_attention)
    monkeypatch.setattr(clip_vision, "_run_block", record_block)
    embedded = embed(values, prefix)
    assert len(attentions) == 5
    if "tokens_after_block7" in values:
        check_close(blocks[6]["o"][0], values["tokens_after_block7"], 5e-4)
    if "z_after_block8" in values:
        check_close(blocks[7]["z"][0], values["z_after_block8"], 5e-4)
        check_close(blocks[7]["o"][0], values["o_after_block8"], 5e-4)
        check_close(blocks[6]["attn"][0], values["attn_block7"][1:, 1:], 3e-5)
        check_close(blocks[7]["attn"][0] * load_seeded_clip(prefix).vision.num_heads, values["attn_block8"][1:, 1:],
                    3e-5)
    for block, attention in ((8, attentions[0]), (12, attentions[-1])):
        check_close(attention[0, values["A_rows"]], values[f"A_block{block}"], 3e-5)
        check_close(attention[0].sum(0), values[f"A_block{block}_colsum"], 5e-4)
    check_close(embedded.tokens[0], values["z"], 2e-4)
    if "z_norm" in values:
        check_close(excel.normalise_channels(embedded.tokens)[0], values["z_norm"], 2e-5)
    affinity = embedded.attention[0] * load_seeded_clip(prefix).vision.num_heads
    check_close(affinity[values["aff_rows"]], values["affinity"], 1e-5)
    check_close(affinity.sum(1), values["affinity_rowsum"], 5e-5)
    check_close(affinity.sum(0), values["affinity_colsum"], 5e-5)


@pytest.mark.parametrize("name", list_cases("one", "three", "small"))
def test_random_walk_matches(reference, name):
    values = reference(name)
    attention, rows = embed(values, get_prefix(name)).attention, values["aff_rows"]
    row, column = compute_sinkhorn_scalings(attention, 3)
    doubly = row[..., None] * attention * column[..., None, :]
    check_close(doubly[0, rows], values["sinkhorn3"], 5e-6)
    unit = torch.eye(attention.shape[-1])[None, rows]
    once = apply_affinity(unit, attention, row, column)
    check_close(once[0], values["sinkhorn_sym"], 5e-6)
    check_close(apply_affinity(once, attention, row, column)[0], values["trans"], 1e-6)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", list_cases("one", "three", "small"))
def test_word_maps_boxes_and_refined_maps_match(reference, name, shift):
    values, prefix, suffix = reference(name), get_prefix(name), "" if shift == "bank" else f"_{shift}"
    words = build_word_vectors(prefix, shift, reference(f"beyond/excel/{prefix}_text"))
    embedded, keys = embed(values, prefix), values["keys"]
    vectors, tokens = torch.cat([words.shifted, words.background]), excel.normalise_channels(embedded.tokens)
    scores = excel.compute_word_scores(tokens, vectors)[0]
    maps = excel.compute_word_maps(embedded.tokens, words)
    if shift == "bank":
        weights = excel.weigh_words(tokens[:, 0], vectors)[0]
        check_close(weights / len(vectors), values["word_prob"], 1e-6)
        check_close(weights, values["word_weight"], 1e-5)
        check_close(maps[0].unflatten(-1, embedded.grid), values["maps"], 1e-4)
        check_close(maps[0].T, values["S01"][1:, :len(words.classes)], 1e-4)
    check_close(scores if shift == "bank" else scores[:, keys], values[f"S{suffix}"], 1e-5)
    selected = excel.gather_class_maps(maps, [keys + 1])
    if shift != "bank":
        check_close(selected[0].unflatten(-1, embedded.grid), values[f"maps{suffix}"], 1e-4)
    for key, threshold in ((f"box_mask{suffix}", 0.79), *((("box_mask_t88", 0.88), ("box_mask_t75", 0.75))
                                                          if shift == "bank" else ())):
        masks = build_box_masks(selected, embedded.grid, threshold, as_released=True)[0]
        np.testing.assert_array_equal(masks.unflatten(-1, embedded.grid), values[key], err_msg=key)
    refined = excel.refine_maps(selected, embedded.attention, embedded.grid, RELEASED)[0]
    check_close(refined.unflatten(-1, embedded.grid), values[f"refined{suffix}"], 2e-5)


@torch.inference_mode()
def compute_scores(values: dict[str, np.ndarray], prefix: str, words: excel.WordVectors) -> np.ndarray:
    """Return the scores (1 + K, H, W) of the background and the classes of an image at its own size."""
    (result,) = excel.compute_cams(load_seeded_clip(prefix).vision, load_input(values), words, RELEASED,
                                   lambda position, scores: values["keys"] + 1)
    size = tuple(values["image_size"].tolist())
    cams = upsample(result.refined.numpy(), size, size)
    return np.concatenate([1 - cams.max(0, keepdims=True), cams])


def check_label(scores: np.ndarray | torch.Tensor, keys: np.ndarray, expected: np.ndarray) -> None:
    """Compare the best class of each pixel; at most 1 of 1000 may differ."""
    assert (np.append(0, keys + 1)[np.asarray(scores).argmax(0)] != expected).mean() <= 1e-3


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", list_cases("one", "three", "small"))
def test_scores_and_labels_match(reference, name, shift):
    values, prefix = reference(name), get_prefix(name)
    scores = compute_scores(values, prefix, build_word_vectors(prefix, shift, reference(f"beyond/excel/{prefix}_text")))
    refined = apply_par(load_input(values), torch.from_numpy(scores)[None])[0]
    check_label(refined, values["keys"], values["label" if shift == "bank" else f"label_{shift}"])
    if shift == "bank":
        step = int(values["pixel_step"])
        check_close(scores[:, ::step, ::step], values["cams_bg"], 1e-4)
        check_label(scores, values["keys"], values["label_raw"])
        check_close(refined[:, ::step, ::step], values["par_out"], 2e-4)
