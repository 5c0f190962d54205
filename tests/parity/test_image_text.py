"""The losses, masks and prompts of TCL and CoDe against reference values."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.nets.image_segmenter import compute_cosine_similarity, scale_to_unit_length
from stages.nets.text_grounded import mix_clip_masks
from stages.nets.text_segmenter import compute_word_masks, prepend_no_noun_logits
from stages.train_text import grounding, losses
from stages.train_text.config import CodeConfig, TclConfig
from stages.train_text.highlight import highlight_images, highlight_words, unmask_special_tokens
from stages.train_text.noun_labels import label_noun_tokens

SCALAR = {"rtol": 1e-6, "atol": 1e-6}
START = torch.tensor(-np.log(0.07), dtype=torch.float32)
PROBABILITY = {"rtol": 0, "atol": 1e-5}


def load_tensors(reference, name: str) -> dict[str, torch.Tensor]:
    arrays = reference(f"image-text/{name}").items()
    return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays if array.dtype.kind in "fi"}


def test_info_nce_and_its_gradients_match(reference):
    values = load_tensors(reference, "infonce")
    temperatures = [re.fullmatch(r"loss_T(.+)", key)[1] for key in values if key.startswith("loss_T")]
    assert temperatures
    for temperature in temperatures:
        image = values["image_emb"].clone().requires_grad_()
        log_scale = torch.tensor(np.log(1 / float(temperature)), dtype=torch.float32).requires_grad_()
        cosines = F.normalize(image, dim=-1) @ F.normalize(values["text_emb"], dim=-1).T
        loss = losses.symmetric_info_nce(cosines, log_scale)
        loss.backward()
        torch.testing.assert_close(loss.detach(), values[f"loss_T{temperature}"], **SCALAR)
        torch.testing.assert_close(image.grad, values[f"grad_img_T{temperature}"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(log_scale.grad, values[f"grad_logscale_T{temperature}"], rtol=1e-5, atol=1e-6)


def test_masks_of_tcl_match(reference):
    values = load_tensors(reference, "tcl_losses")
    cosines = compute_cosine_similarity(values["image_emb_raw"], values["text_emb_raw"])
    torch.testing.assert_close(cosines, values["simmap"], **PROBABILITY)
    logits = 10 * cosines - 2.5
    soft, hard = logits.sigmoid(), losses.sample_binary_masks(logits, values["gumbel_uniform"])
    torch.testing.assert_close(soft, values["soft_all"], **PROBABILITY)
    is_own_text = torch.eye(len(soft), dtype=torch.bool)
    torch.testing.assert_close(hard[is_own_text][:, None], values["hard_pos"], **PROBABILITY)
    torch.testing.assert_close(soft[is_own_text][:, None], values["soft_pos"], **PROBABILITY)
    torch.testing.assert_close(soft[~is_own_text].view_as(values["soft_neg"]), values["soft_neg"], **PROBABILITY)


def test_losses_of_tcl_match(reference):
    values = load_tensors(reference, "tcl_losses")
    soft, texts = values["soft_all"], values["text_emb_raw"]
    is_own_text = torch.eye(len(soft), dtype=torch.bool)
    own_area, other_area = soft[is_own_text].mean(), soft[~is_own_text].mean()
    actual = {"area_pos_04": losses.area_loss(own_area, 0.4), "area_pos_025": losses.area_loss(own_area, 0.25),
              "area_neg_0": losses.area_loss(other_area, 0.0), "tv_mask": losses.total_variation(soft)}
    for dense, ending in ((scale_to_unit_length(values["image_emb_raw"], 1), ""), (values["image_emb_raw"], "_raw")):
        torch.testing.assert_close(losses.pool_under_masks(dense, soft), values[f"pooled{ending}"], rtol=0, atol=2e-5)
        actual[f"tclf{ending}"] = losses.symmetric_info_nce(losses.pooled_cosines(dense, soft, texts), START)
        actual[f"tv_emb{ending}"] = losses.total_variation(dense)
    image = scale_to_unit_length(values["tcli_img_emb"], -1) @ scale_to_unit_length(texts, -1).T
    actual["tcli"] = losses.symmetric_info_nce(image, START)
    for ending, name in (("", "tcl_total"), ("_raw", "tcl_total_rawmap")):
        area = actual["area_pos_04"] + actual["area_neg_0"]
        actual[name] = (0.1 * (actual["tcli"] + actual[f"tclf{ending}"]) + 0.4 * area
                        + actual[f"tv_emb{ending}"] + actual["tv_mask"])
    actual["code_total"] = (0.1 * (actual["tcli"] + actual["tclf"]) + 0.5 * actual["area_pos_025"]
                            + 0.05 * actual["area_neg_0"] + actual["tv_emb"] + actual["tv_mask"])
    for name, value in actual.items():
        torch.testing.assert_close(value, values[name], **SCALAR, msg=lambda text, name=name: f"{name}: {text}")


class PrecomputedNet:
    """A network that returns precomputed embeddings of images and texts."""

    def __init__(self, regions: torch.Tensor) -> None:
        self.clip, self.segmenter, self.encoded_images = self, self, torch.zeros(0)
        self.log_scales, self.regions = {"image": START, "map": START}, regions

    def logits(self, dense, texts):
        return 10 * compute_cosine_similarity(dense, texts) - 2.5

    def encode_image(self, images):
        self.encoded_images = images
        return self.regions


RELEASED = CodeConfig(dense="unit", area_prior=0.25, lambda_area=0.5, lambda_area_negative=0.05)


@pytest.mark.parametrize(("config", "total", "ending"), [
    (TclConfig(), "tcl_total_rawmap", "_raw"), (TclConfig(dense="unit"), "tcl_total", ""),
    (RELEASED, "code_total", "")])
def test_weighted_sum_of_the_losses_of_tcl_matches(reference, monkeypatch, config, total, ending):
    values = load_tensors(reference, "tcl_losses")
    net, texts = PrecomputedNet(values["tcli_img_emb"]), values["text_emb_raw"]
    diagonal = torch.arange(len(texts))
    monkeypatch.setattr(grounding, "_draw_uniform_noise", lambda like: values["gumbel_uniform"][diagonal, diagonal])
    images, valid = torch.ones(len(texts), 3, 24, 20), torch.ones(len(texts), dtype=torch.bool)
    actual = grounding.compute_grounding_losses(net, images, values["image_emb_raw"], texts, valid, config)
    expected_losses = {"image": values["tcli"], "map": values[f"tclf{ending}"], "area_negative": values["area_neg_0"],
                       "smooth": values[f"tv_emb{ending}"] + values["tv_mask"]}
    for name, expected in expected_losses.items():
        torch.testing.assert_close(actual.losses[name], expected, **SCALAR,
                                   msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(actual.total, values[total], **SCALAR)
    torch.testing.assert_close(net.encoded_images[:, :1, ::2, ::2], values["hard_pos"], **PROBABILITY)


def test_masks_mixed_with_those_of_clip_match(reference):
    values = load_tensors(reference, "tcl_mask")
    cosines = compute_cosine_similarity(values["image_emb"], values["text_emb"])
    torch.testing.assert_close(cosines, values["simmap"], **PROBABILITY)
    soft = (10 * cosines - 2.5).sigmoid()
    torch.testing.assert_close(soft, values["soft"], **PROBABILITY)
    mixed = mix_clip_masks(soft, values["clip_feat_proj"], values["text_emb"], float(values["kp_w"]))
    torch.testing.assert_close(mixed, values["kp_mixed"], **PROBABILITY)
    torch.testing.assert_close(mix_clip_masks(soft, values["clip_feat_proj"], values["text_emb"], 0.0), soft)


def test_knowledge_losses_match(reference):
    values = load_tensors(reference, "kgcoop")
    nouns, guides = F.normalize(values["noun_emb"], dim=-1), F.normalize(values["kg_emb"], dim=-1)
    torch.testing.assert_close(losses.knowledge_loss(nouns, guides, "cosine"), values["code_loss"], **SCALAR)
    torch.testing.assert_close(losses.knowledge_loss(nouns, guides, "cosine"), values["kgcoop_loss"], **SCALAR)
    torch.testing.assert_close(losses.knowledge_loss(nouns, guides, "squared"), values["thesis_sq_l2_mean"], **SCALAR)
    for noun, guide, expected in zip(nouns, guides, values["thesis_sq_l2_each"], strict=True):
        torch.testing.assert_close(losses.knowledge_loss(noun, guide, "squared"), expected, **SCALAR)


def test_word_masks_and_their_loss_match(reference):
    values = load_tensors(reference, "word_mask")
    features = F.normalize(values["text_dense"].transpose(0, 1), dim=-1)
    nouns = F.normalize(values["noun_emb"], dim=-1).unflatten(0, (-1, len(features))).transpose(0, 1)
    logits = prepend_no_noun_logits(values["w"].float() * (nouns @ features.transpose(1, 2)) + values["b"].float())
    torch.testing.assert_close(logits, values["logits"], rtol=0, atol=2e-5)
    torch.testing.assert_close(logits.softmax(1), values["probs_full"], **PROBABILITY)
    noun_major = compute_word_masks(logits).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(noun_major, values["probs"], **PROBABILITY)
    torch.testing.assert_close(logits.argmax(1), values["argmax_label"])
    torch.testing.assert_close(losses.word_loss(logits, values["pseudo_label_given"], 0.5), values["ce_code"], **SCALAR)
    torch.testing.assert_close(losses.word_loss(logits, logits.argmax(1)), values["ce_thesis_argmax"], **SCALAR)


def test_noun_labels_of_tokens_match(reference):
    from open_clip.tokenizer import SimpleTokenizer

    values, encode = reference("image-text/pseudo_text_label"), SimpleTokenizer().encode
    for caption, tokens, selected_nouns, all_nouns, expected in zip(
            *(values[name] for name in ("captions", "tokens", "selected", "all_nouns", "pseudo_label")), strict=True):
        assert [encode(str(caption))] == [[token for token in tokens[1:] if token][:-1]]
        actual = label_noun_tokens(tokens, [encode(noun) for noun in selected_nouns],
                                   [encode(noun) for noun in all_nouns.split("|")])
        np.testing.assert_array_equal(actual, expected)


def test_highlighted_images_and_words_match(reference):
    values = load_tensors(reference, "highlight")
    close = {"rtol": 0, "atol": 1e-6}
    image = highlight_images(values["image"], values["mask_low"], values["region_prompt"])
    torch.testing.assert_close(image, values["highlighted_image"], **close)
    masks = unmask_special_tokens(values["word_probs"], values["eos_index"])
    torch.testing.assert_close(masks, values["mask_handled"], **close)
    words = highlight_words(values["tokens_LBC"].transpose(0, 1), masks, values["word_prompt_L1C"][:, 0])
    torch.testing.assert_close(words, values["highlighted_tokens_LBC"].transpose(0, 1), **close)


@pytest.mark.parametrize("form", ["squared", "cosine"])
def test_gradients_match_finite_differences(form):
    torch.manual_seed(0)
    dense, texts = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    log_scale = torch.tensor(1.5, dtype=torch.float64)

    def total(dense, texts, log_scale):
        masks = (3 * compute_cosine_similarity(dense, texts) - 1).sigmoid()
        nouns = F.normalize(texts, dim=-1)
        return (losses.symmetric_info_nce(losses.pooled_cosines(dense, masks, texts), log_scale)
                + losses.area_loss(masks.mean(), 0.9) + losses.total_variation(masks)
                + losses.knowledge_loss(nouns, nouns.flip(0), form))

    assert torch.autograd.gradcheck(total, [tensor.requires_grad_() for tensor in (dense, texts, log_scale)])
