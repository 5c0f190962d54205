"""CLIP-ES against its released code's values, on CLIPs with seeded weights.

Case names are MODEL[_pos32][_coco]_IMAGE: pos32 did not round position embeddings to float16, coco used the class
names, background words and threshold of COCO.
"""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TESTS, Reference
from seeded_clip import CLIP_RECIPES
from stages.cams import clip_es
from stages.cams.clip_es import TextFeatures, compute_cams
from stages.cams.config import ClipEsConfig
from stages.data.class_vocabulary import load_words_without_index
from stages.data.inference_views import build_patch_aligned_views
from stages.kernels.attention_affinity import (
    apply_affinity,
    build_box_mask,
    build_box_masks,
    compute_sinkhorn_scalings,
    refine_with_attention,
)
from stages.kernels.background import Background, cams_to_mask
from stages.kernels.dense_crf import CRF_PRESETS, convert_image_as_released, dense_crf, unary_from_scores
from stages.kernels.resample import upsample
from stages.nets.clip import ClipModel, ClipSource, load_clip
from stages.nets.prompt_encoding import encode_classes, encode_words, load_templates

FOLDER = Path(os.environ.get("WSSS_ORACLES") or TESTS / "reference")


def list_cases(kind: str) -> list[str]:
    """Return the available case names of `kind` (im or text)."""
    names = Reference(FOLDER, complete=False).cases(f"clip-es/*_{kind}*")
    return [name for name in names if name.split("/")[1].split("_")[0] in CLIP_RECIPES]


@lru_cache(maxsize=4)
def load_seeded_clip(model: str, round_positions: bool) -> ClipModel:
    """Load a CLIP with the weights stored with the reference values, or with those of its recipe if there are none."""
    stored = FOLDER / "clip-es" / f"{model}_openai.pt"
    with tempfile.TemporaryDirectory() as folder:
        weights = stored if stored.is_file() else CLIP_RECIPES[model].write(Path(folder))[1]
        source = ClipSource(model, CLIP_RECIPES[model].config(), weights)
        return load_clip(source, device=torch.device("cpu"), round_positions=round_positions)


class Case:
    """The settings that a case name stands for."""

    def __init__(self, name: str) -> None:
        parts = name.split("/")[1].split("_")
        self.model, self.image = parts[0], parts[-1]
        self.round_positions, self.coco = "pos32" not in parts, "coco" in parts
        self.threshold = 0.7 if self.coco else 0.4
        self.words = load_words_without_index("coco" if self.coco else "voc", as_released=True)
        self.clip = load_seeded_clip(self.model, self.round_positions)

    def encode_text(self) -> TextFeatures:
        """Return the embeddings of the words in the released template."""
        templates = load_templates("a clean origami {}.")
        return TextFeatures(encode_classes(self.clip.text, self.words.classes, templates, "sentence"),
                        encode_words(self.clip.text, self.words.background, templates), self.clip.logit_scale)

    def load_views(self, reference) -> list[torch.Tensor]:
        """Return the image as input of the tower."""
        image = Image.open(reference.file(f"clip-es/images/{self.image}.png")).convert("RGB")
        clip = self.clip
        views = build_patch_aligned_views(np.asarray(image), (1.0,), clip.vision.cell, clip.mean, clip.std)
        return [torch.from_numpy(view)[None] for view in views]


def compute_relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest expected value."""
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


@pytest.mark.parametrize("name", list_cases("text"))
def test_text_features_match(reference, name):
    values, case = reference(name), Case(name)
    assert [",".join(words) for words in case.words.classes] == list(values["class_names"])
    assert list(case.words.background) == list(values["background"])
    for key, words in (("tokens_fg", values["class_names"]), ("tokens_bg", values["background"])):
        if key in values:
            tokens = [case.clip.text._tokenise(f"a clean origami {word}.")[0].tolist() for word in words]
            assert tokens == values[key].tolist()
    text = case.encode_text()
    np.testing.assert_allclose(text.classes[0], values["fg_text_features"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(text.background, values["bg_text_features"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", ["log-odds", "probability"])
@pytest.mark.parametrize("name", list_cases("im"))
def test_maps_and_labels_match(reference, name, target):
    values, case = reference(name), Case(name)
    ids, order = np.sort(values["keys"]) + 1, np.argsort(np.argsort(values["keys"]))
    config = ClipEsConfig(as_released=True, target=target)
    views = case.load_views(reference)
    if "input" in values:
        # 1 / 255 over the smallest of the three standard deviations: versions of Pillow differ by one grey level.
        np.testing.assert_allclose(views[0][0], values["input"], atol=0.0152, rtol=0)
    (result,) = compute_cams(case.clip.vision, views, case.encode_text(), config, case.threshold,
                             lambda index, scores: ids)
    expected = values["softmax"][:len(ids)]
    np.testing.assert_allclose(result.scores[order], expected, rtol=1e-4)
    # If p is close to 1, the float32 gradient of the reference itself is off by up to 4.4e-3.
    close = 1e-2 if (expected > 0.999).any() else 1e-4
    np.testing.assert_allclose(result.raw[order], values["cam"], atol=close, rtol=0)
    full = upsample(result.refined.numpy(), tuple(values["image_size"]), tuple(values["image_size"]))
    np.testing.assert_allclose(full[order], values["refined_highres"], atol=1e-2 if case.model == "vitb16" else
                               max(close, 1e-3), rtol=0)
    for key, rule in (("label_pow1", Background("power", (1.0,))), ("label_pow2", Background("power", (2.0,))),
                      ("label_thr0p3", Background("constant", (0.3,)))):
        label = cams_to_mask(full.astype(np.float16).astype(np.float32), ids, rule, 255)
        assert (label != values[key]).mean() <= 2e-3, key


@pytest.mark.parametrize("name", list_cases("im"))
def test_intermediate_values_of_the_tower_match(reference, name):
    values, case = reference(name), Case(name)
    with torch.inference_mode():
        embedded = case.clip.vision.embed(case.load_views(reference)[0], num_attention_layers=8)
        patches = embedded.patches[0].T.unflatten(-1, embedded.grid).numpy()
        if "ln1_activation" in values:
            assert compute_relative_error(patches, values["ln1_activation"]) <= 1e-4
        if "attn_mean" in values:
            np.testing.assert_allclose(embedded.attention[0], values["attn_mean"], atol=1e-6, rtol=0)
        if "attn_mean_rowsum" in values:
            np.testing.assert_allclose(embedded.attention[0].sum(1), values["attn_mean_rowsum"], atol=1e-4)
        text, keys = case.encode_text(), values["keys"]
        ids = [np.sort(keys) + 1]
        gradients, _, _ = clip_es._compute_gradients(embedded.embedding, text.classes[0], text, ids,
                                                  ClipEsConfig(target="probability"))
        weights = case.clip.vision.compute_channel_weights(embedded, gradients)
        raw = clip_es.combine_channels(weights, embedded.patches)[0].unflatten(-1, embedded.grid).numpy()
        # The reference's normalised CAM: the bound of `cam` already allows for a difference in normalisation.
        cam = torch.from_numpy(values["cam"]).float().flatten(1)[None]
        boxes = build_box_masks(cam, embedded.grid, case.threshold, as_released=True)
        refined = refine_with_attention(cam, boxes, embedded.attention, mask="source")[0]
        refined = refined.unflatten(-1, embedded.grid).numpy()
    order = np.argsort(np.argsort(keys))
    # Relative to each class's own largest weight; if p is close to 1, float32 itself is off.
    for index, row in enumerate(order):
        bound = 1e-2 if values["softmax"][index] > 0.999 else 1e-4
        assert compute_relative_error(weights[0, row].numpy(), values["weights"][index]) <= bound
        assert compute_relative_error(raw[row], values["cam_raw"][index]) <= bound
        assert compute_relative_error(refined[index], values["refined"][index]) <= 1e-4


def test_box_masks_match(reference):
    values = reference("clip-es/unit_boxmask")
    keys = sorted(key for key in values if key.startswith("map_"))
    assert keys
    for index, key in enumerate(keys):
        expected = values[key.replace("map", "mask")]
        actual = build_box_mask(values[key], float(values["threshold"][index]), as_released=True)
        np.testing.assert_array_equal(actual, expected, err_msg=key)


def test_sinkhorn_and_affinity_match(reference):
    values = reference("clip-es/unit_sinkhorn")
    attention = torch.from_numpy(values["attn"])[None]
    row, column = compute_sinkhorn_scalings(attention, 3)
    doubly = row[0, :, None] * attention[0] * column[0]
    np.testing.assert_allclose(doubly, values["doubly"], rtol=1e-5, atol=1e-8)
    unit = torch.eye(len(doubly))[None]
    once = apply_affinity(unit, attention, row, column)
    np.testing.assert_allclose(once[0], values["sym"], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(apply_affinity(once, attention, row, column)[0], values["squared"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", list_cases("im"))
def test_crf_matches_on_both_images(reference, name):
    values = reference(name)
    image = np.array(Image.open(reference.file(f"clip-es/images/{Case(name).image}.png")).convert("RGB"))
    maps = values["refined_highres_f16"].astype(np.float32)
    scores = np.concatenate([1 - maps.max(0, keepdims=True), maps])
    ids = np.concatenate([[0], values["keys"] + 1])
    released = convert_image_as_released(image)
    if "crf_image_peer" in values:
        np.testing.assert_array_equal(released, values["crf_image_peer"])
    for key, crf_image in (("crf_label", released), ("crf_label_rgb", image)):
        posteriors = dense_crf(crf_image, unary_from_scores(scores), CRF_PRESETS["clip-es"])
        label = ids[posteriors.argmax(0)]
        assert (label != values[key]).mean() <= 2e-3
        confident_label = np.where(posteriors.max(0) < 0.95, 255, label)
        assert (confident_label != values[f"{key}_ignore"]).mean() <= 2e-3
