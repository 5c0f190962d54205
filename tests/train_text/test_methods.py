"""The losses of TCL and CoDe on a tiny CLIP: parameters trained, ablations, several processes."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn import functional as F

from stages.errors import BadData, UsageError
from stages.train_text import code, losses, tcl
from stages.train_text.config import CodeConfig, TclConfig
from stages.training.config import LoopConfig
from stages.training.optimiser import build_optimiser
from train_text.small import CLIP, CODE, TCL, build_net, draw_batch, replace_settings

METHODS = {"tcl": (tcl.loss, TCL), "code": (code.loss, CODE)}


def list_trained_parts(net, loss) -> set[str]:
    """Return the parts of the network that got a nonzero gradient."""
    net.zero_grad()
    loss.backward()
    trained = [name for name, parameter in net.named_parameters()
               if parameter.grad is not None and parameter.grad.abs().sum() > 0]
    assert not any(name.startswith("clip.") for name in trained)
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters() if parameter.grad is not None)
    return {".".join(name.split(".")[:2]) for name in trained}


def test_parameters_that_tcl_trains():
    net = build_net("tcl")
    trained = list_trained_parts(net, tcl.loss(net, draw_batch(3), config=TCL)["loss"])
    assert trained == {"segmenter.last_block", "segmenter.decoder", "segmenter.norm", "segmenter.projection",
                   "segmenter.scale", "segmenter.shift", "log_scales.image", "log_scales.map"}


def test_parameters_that_code_trains_in_each_ablation():
    net = build_net("code")
    whole = list_trained_parts(net, code.loss(net, draw_batch(3), config=CODE)["loss"])
    assert {"noun_prompt.context", "text_segmenter.layers", "text_segmenter.scale", "text_segmenter.shift",
            "region_prompt", "word_prompt", "log_scales.highlighted", "segmenter.decoder"} <= whole
    net.set_trainable(word_prompt=True, region_prompt=False, text=True)
    assert whole - list_trained_parts(net, code.loss(net, draw_batch(3), config=CODE)["loss"]) == {"region_prompt"}
    net.set_trainable(word_prompt=False, region_prompt=True, text=True)
    assert whole - list_trained_parts(net, code.loss(net, draw_batch(3), config=CODE)["loss"]) == {"word_prompt"}
    net.set_trainable(word_prompt=True, region_prompt=True, text=True)
    baseline = code.loss(net, draw_batch(3), config=replace_settings(CODE, co_decomposition=False))
    assert {"words", "aligned"} & set(baseline) == set()
    assert whole - list_trained_parts(net, baseline["loss"]) == {"text_segmenter.layers", "text_segmenter.scale",
                                                     "text_segmenter.shift", "word_prompt", "log_scales.highlighted"}
    nouns = code.loss(net, draw_batch(3), config=replace_settings(CODE, regions_with="nouns"))
    assert whole - list_trained_parts(net, nouns["loss"]) == {"word_prompt"}


def test_total_variation_of_a_map_of_one_row():
    row = torch.tensor([[[0.0, 1.0, 3.0]]], requires_grad=True)
    assert losses.total_variation(row).item() == losses.total_variation(row.transpose(1, 2)).item() == 1.5
    losses.total_variation(row).backward()
    assert row.grad.isfinite().all()
    assert losses.total_variation(torch.ones(2, 1, 1)).item() == 0


def test_total_loss_is_equation_3_8():
    net, batch = build_net("code"), draw_batch(3)
    terms = code.loss(net, batch, config=CODE)
    image = 0.1 * (terms["image"] + terms["map"]) + 0.4 * (terms["area"] + terms["area_negative"]) + terms["smooth"]
    total = 8 * terms["knowledge"] + image + terms["words"] + 0.5 * terms["aligned"]
    torch.testing.assert_close(terms["loss"], total)
    half = code.loss(net, batch, config=replace_settings(CODE, knowledge="cosine"))
    torch.testing.assert_close(half["knowledge"] * 2, terms["knowledge"])


def test_alignment_compares_regions_with_their_word_segments():
    net, batch = build_net("code"), draw_batch(3)
    terms = code.loss(net, batch, config=CODE)["aligned"]
    dense, caption = net.segmenter(*net.clip.forward_trunk(batch["image"])), batch["caption"]
    words = net.clip.embed_tokens(caption)
    features = F.normalize(net.text_segmenter(net.clip.run_text_blocks(words)), dim=-1)
    nouns = torch.stack([net.noun_prompt(net.clip, batch["nouns"][:, noun]) for noun in range(2)])
    odds = (net.text_segmenter.scale * torch.einsum("bld,jbd->jbl", features, nouns) + net.text_segmenter.shift).exp()
    contrasts = []
    for noun in range(2):
        mask = odds[noun] / (1 + odds.sum(0))
        mask[:, 0], mask[:, 6:] = 1, 1
        text = words * mask[..., None] + net.word_prompt * (1 - mask[..., None])
        segments = F.normalize(net.clip.encode_text(text, torch.tensor([6, 6, 6])), dim=-1)
        soft = torch.stack([net.segmenter.logits(dense, nouns[noun])[image, image].sigmoid() for image in range(3)])
        soft = soft.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
        shown = batch["image"] * soft + net.region_prompt * (1 - soft)
        cosines = F.normalize(net.clip.encode_image(shown), dim=-1) @ segments.T
        logits = cosines * net.log_scales["highlighted"].exp()
        contrasts.append((F.cross_entropy(logits, torch.arange(3)) + F.cross_entropy(logits.T, torch.arange(3))) / 2)
    torch.testing.assert_close(terms, torch.stack(contrasts).mean())


@pytest.mark.parametrize("settings", [
    {"pairs": "all"}, {"text_labels": "match"}, {"dense": "unit"}, {"area_prior": 0.25}, {"regions_with": "nouns"},
    {"region_mask": "hard"}])
def test_each_setting_changes_the_loss(settings):
    net, batch = build_net("code"), draw_batch(3)
    torch.manual_seed(3)
    other = code.loss(net, batch, config=replace_settings(CODE, **settings))["loss"]
    assert torch.isfinite(other)
    assert not torch.allclose(other, code.loss(net, batch, config=CODE)["loss"])


@pytest.mark.parametrize("pairs", ["noun", "all"])
def test_invalid_nouns_do_not_change_the_loss(pairs):
    net, valid = build_net("code"), [[True, True], [True, False], [True, True]]
    batch, config = draw_batch(3, valid), replace_settings(CODE, pairs=pairs)
    other = {**batch, "nouns": batch["nouns"].clone(), "guides": batch["guides"].clone()}
    other["nouns"][1, 1, 1], other["guides"][1, 1, 1:3] = 399, 398
    first, second = (code.loss(net, samples, config=config) for samples in (batch, other))
    assert set(first) == set(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], msg=name)
    all_valid = code.loss(net, {**other, "valid": torch.ones(3, 2, dtype=torch.bool)}, config=config)
    assert not torch.allclose(all_valid["loss"], first["loss"])


def test_captions_of_one_noun_each():
    net = build_net("code")
    terms = code.loss(net, draw_batch(2, [[True, False]] * 2), config=CODE)
    assert all(torch.isfinite(value) for value in terms.values())
    list_trained_parts(net, terms["loss"])


def test_predicted_labels_ignore_special_tokens():
    logits = torch.tensor([[[0.0] * 5, [1, -1, 2, 3, 4.0]]])
    assert code.predict_word_labels(logits, torch.tensor([3])).tolist() == [[-1, 0, 1, -1, -1]]


def test_word_loss_with_none_weight_zero():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    none, noun = torch.tensor([[-1, 0, 0]]), torch.tensor([[-1, 0, 1]])
    loss = losses.word_loss(logits, none, 0.0)
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().sum() == 0
    torch.testing.assert_close(losses.word_loss(logits, noun, 0.0), torch.tensor(2.0).log())


def test_text_tower_of_another_width_is_an_error():
    clip = {**CLIP, "embed_dim": 8}
    build_net("tcl", clip=clip)
    with pytest.raises(UsageError, match="text tower is 16 wide and the embedding 8"):
        build_net("code", clip=clip)


def test_context_after_the_noun():
    before, after = (build_net("code", noun_place=position) for position in ("before", "after"))
    tokens = draw_batch(1)["nouns"][0]
    prompts = [net.noun_prompt.build_prompts(net.clip, tokens) for net in (before, after)]
    words = before.clip.embed_tokens(tokens)
    for (prompt, ends), noun_position in zip(prompts, (5, 1), strict=True):
        assert ends.tolist() == [6, 6]
        torch.testing.assert_close(prompt[:, noun_position], words[:, 1])
        torch.testing.assert_close(prompt[:, 6], words[:, 2])
    torch.testing.assert_close(prompts[1][0][0, 2:6], after.noun_prompt.context)


@pytest.mark.parametrize("head", ["tcl", "code"])
def test_masks_of_class_words(head):
    net = build_net(head)
    prompt_embeddings, clip_embeddings = net.encode_class_words(["dog", "a red car"], ["{}", "two {}"])
    dense, clip_map = net.maps(draw_batch(2)["image"])
    masks = net.masks(dense, prompt_embeddings)
    assert masks.shape == (2, 2, 8, 8) and clip_map.shape == (2, 16, 2, 2)
    assert (masks > 0).all() and (masks < 1).all()
    torch.testing.assert_close(prompt_embeddings.norm(dim=-1), torch.ones(2))
    assert torch.equal(prompt_embeddings, clip_embeddings) == (head == "tcl")


def test_templates_are_averaged_as_in_each_released_code():
    tcl, code_net = build_net("tcl"), build_net("code")
    tokens = tcl.tokenizer(["dog", "two dog"])
    plain = tcl.clip.encode_text(tcl.clip.embed_tokens(tokens), tokens.argmax(-1))
    expected = {"tcl": plain.mean(0), "code": F.normalize(plain, dim=-1).mean(0)}
    for name, net in (("tcl", tcl), ("code", code_net)):
        _, clip_embeddings = net.encode_class_words(["dog"], ["{}", "two {}"])
        torch.testing.assert_close(clip_embeddings[0], F.normalize(expected[name], dim=-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(F.normalize(expected["tcl"], dim=-1), F.normalize(expected["code"], dim=-1), atol=1e-4)


def test_nouns_too_long_for_the_context():
    net = build_net("code")
    assert net.encode_nouns(["one two three four five six seven eight"]).shape == (1, 16)
    with pytest.raises(BadData, match="have 11 tokens, but the network reads at most 10"):
        net.encode_nouns(["dog", "one two three four five six seven eight nine"])


def test_bf16_on_a_cpu():
    net = build_net("code")
    whole = code.loss(net, draw_batch(3), config=CODE)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = code.loss(net, draw_batch(3), config=CODE)["loss"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0.05, atol=0.05)
    half.backward()


CASES = {"tcl": ("tcl", TCL), "noun": ("code", CODE), "all": ("code", replace_settings(CODE, pairs="all",
                                                                                       dense="unit"))}


def _compute_gradients(rank: int, world: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return the gradients of one process's part of a batch of four, by case and parameter name."""
    gradients = {}
    for case, (method, config) in CASES.items():
        net, batch, num_samples = build_net(method), draw_batch(4), 4 // world
        part = {name: tensor[num_samples * rank:num_samples * (rank + 1)] for name, tensor in batch.items()}
        METHODS[method][0](net, part, config=config)["loss"].backward()
        gradients[case] = {name: parameter.grad for name, parameter in net.named_parameters()
                           if parameter.grad is not None}
    return gradients


def _run_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(_compute_gradients(rank, 2), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_gradient_of_two_processes_equals_that_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    multiprocessing.spawn(_run_process, (str(tmp_path),), nprocs=2)
    first, second, alone = torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt"), _compute_gradients(0, 1)
    for case, expected in alone.items():
        assert set(first[case]) == set(second[case]) == set(expected)
        for name, gradient in expected.items():
            mean = (first[case][name] + second[case][name]) / 2
            torch.testing.assert_close(mean, gradient, rtol=1e-3, atol=1e-5, msg=f"{case}: {name}")


def test_gates_and_scales_have_weight_decay_and_vectors_have_none():
    net = build_net("tcl")
    optimiser = build_optimiser(net, [], TclConfig(device="cpu"))
    decays = {id(parameter): group["weight_decay"] for group in optimiser.param_groups for parameter in group["params"]}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert decays[id(parameter)] == (0 if parameter.ndim == 1 else 0.05), name
    assert {group["eps"] for group in optimiser.param_groups} == {1e-6}
    assert build_optimiser(net, [], LoopConfig(optimizer="adamw")).param_groups[0]["eps"] == 1e-8


def test_defaults_are_those_of_the_thesis():
    config = CodeConfig()
    assert (config.lambda_kg, config.lambda_image, config.lambda_text, config.lambda_hcl) == (8.0, 1.0, 1.0, 0.5)
    assert (config.lr, config.steps, config.warmup, config.batch_size) == (5e-6, 50_000, 15_000, 16)
    assert (config.weight_decay, config.n_nouns, config.crop_size) == (0.05, 2, 224)
    assert TclConfig().area_prior == 0.4
