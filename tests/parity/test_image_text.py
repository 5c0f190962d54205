"""The losses, masks and prompts of TCL and CoDe against reference values."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.nets.image_segmenter import similarity, unit
from stages.nets.text_grounded import with_knowledge
from stages.nets.text_segmenter import word_logits, word_masks
from stages.train_text import grounding, losses
from stages.train_text.config import CodeConfig, TclConfig
from stages.train_text.highlight import highlighted_images, highlighted_words, kept_words
from stages.train_text.nouns import match_labels

SCALAR = {"rtol": 1e-6, "atol": 1e-6}
START = torch.tensor(-np.log(0.07), dtype=torch.float32)
PROBABILITY = {"rtol": 0, "atol": 1e-5}


def tensors(reference, name: str) -> dict[str, torch.Tensor]:
    found = reference(f"image-text/{name}").items()
    return {key: torch.from_numpy(np.asarray(array)) for key, array in found if array.dtype.kind in "fi"}


def test_info_nce_and_its_gradients(reference):
    values = tensors(reference, "infonce")
    temperatures = [re.fullmatch(r"loss_T(.+)", key)[1] for key in values if key.startswith("loss_T")]
    assert temperatures
    for told in temperatures:
        image = values["image_emb"].clone().requires_grad_()
        log_scale = torch.tensor(np.log(1 / float(told)), dtype=torch.float32).requires_grad_()
        loss = losses.contrast(F.normalize(image, dim=-1) @ F.normalize(values["text_emb"], dim=-1).T, log_scale)
        loss.backward()
        torch.testing.assert_close(loss.detach(), values[f"loss_T{told}"], **SCALAR)
        torch.testing.assert_close(image.grad, values[f"grad_img_T{told}"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(log_scale.grad, values[f"grad_logscale_T{told}"], rtol=1e-5, atol=1e-6)


def test_the_masks_of_tcl(reference):
    values = tensors(reference, "tcl_losses")
    cosines = similarity(values["image_emb_raw"], values["text_emb_raw"])
    torch.testing.assert_close(cosines, values["simmap"], **PROBABILITY)
    logits = 10 * cosines - 2.5
    soft, hard = logits.sigmoid(), losses.binary_masks(logits, values["gumbel_uniform"])
    torch.testing.assert_close(soft, values["soft_all"], **PROBABILITY)
    own = torch.eye(len(soft), dtype=torch.bool)
    torch.testing.assert_close(hard[own][:, None], values["hard_pos"], **PROBABILITY)
    torch.testing.assert_close(soft[own][:, None], values["soft_pos"], **PROBABILITY)
    torch.testing.assert_close(soft[~own].view_as(values["soft_neg"]), values["soft_neg"], **PROBABILITY)


def test_the_losses_of_tcl(reference):
    values = tensors(reference, "tcl_losses")
    soft, texts = values["soft_all"], values["text_emb_raw"]
    own = torch.eye(len(soft), dtype=torch.bool)
    told = {"area_pos_04": losses.area(soft[own].mean(), 0.4), "area_pos_025": losses.area(soft[own].mean(), 0.25),
            "area_neg_0": losses.area(soft[~own].mean(), 0.0), "tv_mask": losses.total_variation(soft)}
    for dense, ending in ((unit(values["image_emb_raw"], 1), ""), (values["image_emb_raw"], "_raw")):
        torch.testing.assert_close(losses.pooled(dense, soft), values[f"pooled{ending}"], rtol=0, atol=2e-5)
        told[f"tclf{ending}"] = losses.contrast(losses.pooled_cosines(dense, soft, texts), START)
        told[f"tv_emb{ending}"] = losses.total_variation(dense)
    image = unit(values["tcli_img_emb"], -1) @ unit(texts, -1).T
    told["tcli"] = losses.contrast(image, START)
    for ending, name in (("", "tcl_total"), ("_raw", "tcl_total_rawmap")):
        told[name] = (0.1 * (told["tcli"] + told[f"tclf{ending}"]) + 0.4 * (told["area_pos_04"] + told["area_neg_0"])
                      + told[f"tv_emb{ending}"] + told["tv_mask"])
    told["code_total"] = (0.1 * (told["tcli"] + told["tclf"]) + 0.5 * told["area_pos_025"]
                          + 0.05 * told["area_neg_0"] + told["tv_emb"] + told["tv_mask"])
    for name, value in told.items():
        torch.testing.assert_close(value, values[name], **SCALAR, msg=lambda text, name=name: f"{name}: {text}")


class Drawn:
    """A net whose images and texts are embedded already."""

    def __init__(self, regions: torch.Tensor) -> None:
        self.clip, self.segmenter, self.shown = self, self, torch.zeros(0)
        self.log_scales, self.regions = {"image": START, "map": START}, regions

    def logits(self, dense, texts):
        return 10 * similarity(dense, texts) - 2.5

    def image_embedding(self, images):
        self.shown = images
        return self.regions


RELEASED = CodeConfig(dense="unit", area_prior=0.25, lambda_area=0.5, lambda_area_negative=0.05)


@pytest.mark.parametrize(("config", "total", "ending"), [
    (TclConfig(), "tcl_total_rawmap", "_raw"), (TclConfig(dense="unit"), "tcl_total", ""),
    (RELEASED, "code_total", "")])
def test_the_losses_of_tcl_weighed_and_added(reference, monkeypatch, config, total, ending):
    values = tensors(reference, "tcl_losses")
    net, texts = Drawn(values["tcli_img_emb"]), values["text_emb_raw"]
    own = torch.arange(len(texts))
    monkeypatch.setattr(grounding, "_noise", lambda like: values["gumbel_uniform"][own, own])
    images, there = torch.ones(len(texts), 3, 24, 20), torch.ones(len(texts), dtype=torch.bool)
    found = grounding.ground(net, images, values["image_emb_raw"], texts, there, config)
    told = {"image": values["tcli"], "map": values[f"tclf{ending}"], "area_negative": values["area_neg_0"],
            "smooth": values[f"tv_emb{ending}"] + values["tv_mask"]}
    for name, wanted in told.items():
        torch.testing.assert_close(found.losses[name], wanted, **SCALAR, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(found.total, values[total], **SCALAR)
    torch.testing.assert_close(net.shown[:, :1, ::2, ::2], values["hard_pos"], **PROBABILITY)


def test_masks_at_another_size(reference):
    values = tensors(reference, "tcl_mask")
    cosines = similarity(values["image_emb"], values["text_emb"])
    torch.testing.assert_close(cosines, values["simmap"], **PROBABILITY)
    soft = (10 * cosines - 2.5).sigmoid()
    torch.testing.assert_close(soft, values["soft"], **PROBABILITY)
    mixed = with_knowledge(soft, values["clip_feat_proj"], values["text_emb"], float(values["kp_w"]))
    torch.testing.assert_close(mixed, values["kp_mixed"], **PROBABILITY)
    torch.testing.assert_close(with_knowledge(soft, values["clip_feat_proj"], values["text_emb"], 0.0), soft)


def test_the_knowledge_of_nouns(reference):
    values = tensors(reference, "kgcoop")
    nouns, guides = F.normalize(values["noun_emb"], dim=-1), F.normalize(values["kg_emb"], dim=-1)
    torch.testing.assert_close(losses.knowledge(nouns, guides, "cosine"), values["code_loss"], **SCALAR)
    torch.testing.assert_close(losses.knowledge(nouns, guides, "cosine"), values["kgcoop_loss"], **SCALAR)
    torch.testing.assert_close(losses.knowledge(nouns, guides, "squared"), values["thesis_sq_l2_mean"], **SCALAR)
    for noun, guide, wanted in zip(nouns, guides, values["thesis_sq_l2_each"], strict=True):
        torch.testing.assert_close(losses.knowledge(noun, guide, "squared"), wanted, **SCALAR)


def test_word_masks_and_their_loss(reference):
    values = tensors(reference, "word_mask")
    features = F.normalize(values["text_dense"].transpose(0, 1), dim=-1)
    nouns = F.normalize(values["noun_emb"], dim=-1).unflatten(0, (-1, len(features))).transpose(0, 1)
    logits = word_logits(values["w"].float() * (nouns @ features.transpose(1, 2)) + values["b"].float())
    torch.testing.assert_close(logits, values["logits"], rtol=0, atol=2e-5)
    torch.testing.assert_close(logits.softmax(1), values["probs_full"], **PROBABILITY)
    noun_major = word_masks(logits).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(noun_major, values["probs"], **PROBABILITY)
    torch.testing.assert_close(logits.argmax(1), values["argmax_label"])
    torch.testing.assert_close(losses.word_loss(logits, values["pseudo_label_given"], 0.5), values["ce_code"], **SCALAR)
    torch.testing.assert_close(losses.word_loss(logits, logits.argmax(1)), values["ce_thesis_argmax"], **SCALAR)


def test_labels_of_words_by_matching(reference):
    from open_clip.tokenizer import SimpleTokenizer

    values, encode = reference("image-text/pseudo_text_label"), SimpleTokenizer().encode
    for caption, tokens, chosen, every, wanted in zip(
            *(values[name] for name in ("captions", "tokens", "selected", "all_nouns", "pseudo_label")), strict=True):
        assert [encode(str(caption))] == [[one for one in tokens[1:] if one][:-1]]
        found = match_labels(tokens, [encode(noun) for noun in chosen], [encode(noun) for noun in every.split("|")])
        np.testing.assert_array_equal(found, wanted)


def test_highlighted_images_and_words(reference):
    values = tensors(reference, "highlight")
    close = {"rtol": 0, "atol": 1e-6}
    image = highlighted_images(values["image"], values["mask_low"], values["region_prompt"])
    torch.testing.assert_close(image, values["highlighted_image"], **close)
    masks = kept_words(values["word_probs"], values["eos_index"])
    torch.testing.assert_close(masks, values["mask_handled"], **close)
    words = highlighted_words(values["tokens_LBC"].transpose(0, 1), masks, values["word_prompt_L1C"][:, 0])
    torch.testing.assert_close(words, values["highlighted_tokens_LBC"].transpose(0, 1), **close)


@pytest.mark.parametrize("form", ["squared", "cosine"])
def test_gradients_in_double(form):
    torch.manual_seed(0)
    dense, texts = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    log_scale = torch.tensor(1.5, dtype=torch.float64)

    def total(dense, texts, log_scale):
        masks = (3 * similarity(dense, texts) - 1).sigmoid()
        nouns = F.normalize(texts, dim=-1)
        return (losses.contrast(losses.pooled_cosines(dense, masks, texts), log_scale)
                + losses.area(masks.mean(), 0.9) + losses.total_variation(masks)
                + losses.knowledge(nouns, nouns.flip(0), form))

    assert torch.autograd.gradcheck(total, [one.requires_grad_() for one in (dense, texts, log_scale)])
