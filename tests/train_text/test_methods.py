"""The losses of TCL and CoDe on a tiny CLIP: what they teach, what the switches leave out, several processes."""

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
from train_text.small import CLIP, CODE, TCL, batch_of, changed, net_of

METHODS = {"tcl": (tcl.loss, TCL), "code": (code.loss, CODE)}


def learnt(net, loss) -> set[str]:
    """Return the parts of the net that got a gradient which is not zero."""
    net.zero_grad()
    loss.backward()
    got = [name for name, one in net.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0]
    assert not any(name.startswith("clip.") for name in got)
    assert all(torch.isfinite(one.grad).all() for one in net.parameters() if one.grad is not None)
    return {".".join(name.split(".")[:2]) for name in got}


def test_what_tcl_teaches():
    net = net_of("tcl")
    got = learnt(net, tcl.loss(net, batch_of(3), config=TCL)["loss"])
    assert got == {"segmenter.last_block", "segmenter.decoder", "segmenter.norm", "segmenter.projection",
                   "segmenter.scale", "segmenter.shift", "log_scales.image", "log_scales.map"}


def test_what_code_teaches_and_the_rows_of_its_ablation():
    net = net_of("code")
    whole = learnt(net, code.loss(net, batch_of(3), config=CODE)["loss"])
    assert {"noun_prompt.context", "text_segmenter.layers", "text_segmenter.scale", "text_segmenter.shift",
            "region_prompt", "word_prompt", "log_scales.highlighted", "segmenter.decoder"} <= whole
    net.learn(word_prompt=True, region_prompt=False, text=True)
    assert whole - learnt(net, code.loss(net, batch_of(3), config=CODE)["loss"]) == {"region_prompt"}
    net.learn(word_prompt=False, region_prompt=True, text=True)
    assert whole - learnt(net, code.loss(net, batch_of(3), config=CODE)["loss"]) == {"word_prompt"}
    net.learn(word_prompt=True, region_prompt=True, text=True)
    baseline = code.loss(net, batch_of(3), config=changed(CODE, co_decomposition=False))
    assert {"words", "aligned"} & set(baseline) == set()
    assert whole - learnt(net, baseline["loss"]) == {"text_segmenter.layers", "text_segmenter.scale",
                                                     "text_segmenter.shift", "word_prompt", "log_scales.highlighted"}
    nouns = code.loss(net, batch_of(3), config=changed(CODE, regions_with="nouns"))
    assert whole - learnt(net, nouns["loss"]) == {"word_prompt"}


def test_a_map_of_one_row_varies_along_it_alone():
    row = torch.tensor([[[0.0, 1.0, 3.0]]], requires_grad=True)
    assert losses.total_variation(row).item() == losses.total_variation(row.transpose(1, 2)).item() == 1.5
    losses.total_variation(row).backward()
    assert row.grad.isfinite().all()
    assert losses.total_variation(torch.ones(2, 1, 1)).item() == 0


def test_the_total_is_equation_3_8():
    net, batch = net_of("code"), batch_of(3)
    told = code.loss(net, batch, config=CODE)
    image = 0.1 * (told["image"] + told["map"]) + 0.4 * (told["area"] + told["area_negative"]) + told["smooth"]
    total = 8 * told["knowledge"] + image + told["words"] + 0.5 * told["aligned"]
    torch.testing.assert_close(told["loss"], total)
    half = code.loss(net, batch, config=changed(CODE, knowledge="cosine"))
    torch.testing.assert_close(half["knowledge"] * 2, told["knowledge"])


def test_regions_are_contrasted_with_the_word_segments_of_their_own_image_and_noun():
    net, batch = net_of("code"), batch_of(3)
    told = code.loss(net, batch, config=CODE)["aligned"]
    dense, caption = net.segmenter(*net.clip.trunk(batch["image"])), batch["caption"]
    words = net.clip.word_embedding(caption)
    features = F.normalize(net.text_segmenter(net.clip.text_hidden(words)), dim=-1)
    nouns = torch.stack([net.noun_prompt(net.clip, batch["nouns"][:, noun]) for noun in range(2)])
    odds = (net.text_segmenter.scale * torch.einsum("bld,jbd->jbl", features, nouns) + net.text_segmenter.shift).exp()
    contrasts = []
    for noun in range(2):
        mask = odds[noun] / (1 + odds.sum(0))
        mask[:, 0], mask[:, 6:] = 1, 1
        text = words * mask[..., None] + net.word_prompt * (1 - mask[..., None])
        segments = F.normalize(net.clip.text_embedding(text, torch.tensor([6, 6, 6])), dim=-1)
        soft = torch.stack([net.segmenter.logits(dense, nouns[noun])[image, image].sigmoid() for image in range(3)])
        soft = soft.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
        shown = batch["image"] * soft + net.region_prompt * (1 - soft)
        cosines = F.normalize(net.clip.image_embedding(shown), dim=-1) @ segments.T
        logits = cosines * net.log_scales["highlighted"].exp()
        contrasts.append((F.cross_entropy(logits, torch.arange(3)) + F.cross_entropy(logits.T, torch.arange(3))) / 2)
    torch.testing.assert_close(told, torch.stack(contrasts).mean())


@pytest.mark.parametrize("settings", [
    {"pairs": "all"}, {"text_labels": "match"}, {"dense": "unit"}, {"area_prior": 0.25}, {"regions_with": "nouns"},
    {"region_mask": "hard"}])
def test_each_setting_changes_the_loss(settings):
    net, batch = net_of("code"), batch_of(3)
    torch.manual_seed(3)
    other = code.loss(net, batch, config=changed(CODE, **settings))["loss"]
    assert torch.isfinite(other)
    assert not torch.allclose(other, code.loss(net, batch, config=CODE)["loss"])


@pytest.mark.parametrize("pairs", ["noun", "all"])
def test_a_noun_that_is_not_there_has_no_say(pairs):
    net, there = net_of("code"), [[True, True], [True, False], [True, True]]
    batch, config = batch_of(3, there), changed(CODE, pairs=pairs)
    other = {**batch, "nouns": batch["nouns"].clone(), "guides": batch["guides"].clone()}
    other["nouns"][1, 1, 1], other["guides"][1, 1, 1:3] = 399, 398
    first, second = (code.loss(net, one, config=config) for one in (batch, other))
    assert set(first) == set(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], msg=name)
    everything = code.loss(net, {**other, "there": torch.ones(3, 2, dtype=torch.bool)}, config=config)
    assert not torch.allclose(everything["loss"], first["loss"])


def test_captions_of_one_noun_each():
    net = net_of("code")
    told = code.loss(net, batch_of(2, [[True, False]] * 2), config=CODE)
    assert all(torch.isfinite(value) for value in told.values())
    learnt(net, told["loss"])


def test_words_without_a_noun_are_no_words():
    logits = torch.tensor([[[0.0] * 5, [1, -1, 2, 3, 4.0]]])
    assert code.own_labels(logits, torch.tensor([3])).tolist() == [[-1, 0, 1, -1, -1]]


def test_words_that_weigh_nothing_have_no_loss():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    none, noun = torch.tensor([[-1, 0, 0]]), torch.tensor([[-1, 0, 1]])
    loss = losses.word_loss(logits, none, 0.0)
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().sum() == 0
    torch.testing.assert_close(losses.word_loss(logits, noun, 0.0), torch.tensor(2.0).log())


def test_a_text_tower_of_another_width_is_refused():
    clip = {**CLIP, "embed_dim": 8}
    net_of("tcl", clip=clip)
    with pytest.raises(UsageError, match="text tower is 16 wide and the embedding 8"):
        net_of("code", clip=clip)


def test_the_context_can_stand_behind_the_noun():
    before, after = (net_of("code", noun_place=place) for place in ("before", "after"))
    tokens = batch_of(1)["nouns"][0]
    prompts = [net.noun_prompt.prompts(net.clip, tokens) for net in (before, after)]
    words = before.clip.word_embedding(tokens)
    for (found, ends), first in zip(prompts, (5, 1), strict=True):
        assert ends.tolist() == [6, 6]
        torch.testing.assert_close(found[:, first], words[:, 1])
        torch.testing.assert_close(found[:, 6], words[:, 2])
    torch.testing.assert_close(prompts[1][0][0, 2:6], after.noun_prompt.context)


@pytest.mark.parametrize("head", ["tcl", "code"])
def test_a_trained_net_finds_words(head):
    net = net_of(head)
    own, kept = net.word_vectors(["dog", "a red car"], ["{}", "two {}"])
    dense, map_of_clip = net.maps(batch_of(2)["image"])
    masks = net.masks(dense, own)
    assert masks.shape == (2, 2, 8, 8) and map_of_clip.shape == (2, 16, 2, 2)
    assert (masks > 0).all() and (masks < 1).all()
    torch.testing.assert_close(own.norm(dim=-1), torch.ones(2))
    assert torch.equal(own, kept) == (head == "tcl")


def test_templates_are_averaged_as_each_released_code_has_it():
    tcl, code_net = net_of("tcl"), net_of("code")
    tokens = tcl.tokenizer(["dog", "two dog"])
    plain = tcl.clip.text_embedding(tcl.clip.word_embedding(tokens), tokens.argmax(-1))
    wanted = {"tcl": plain.mean(0), "code": F.normalize(plain, dim=-1).mean(0)}
    for name, net in (("tcl", tcl), ("code", code_net)):
        _, kept = net.word_vectors(["dog"], ["{}", "two {}"])
        torch.testing.assert_close(kept[0], F.normalize(wanted[name], dim=-1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(F.normalize(wanted["tcl"], dim=-1), F.normalize(wanted["code"], dim=-1), atol=1e-4)


def test_words_that_do_not_fit_behind_the_context():
    net = net_of("code")
    assert net.noun_vectors(["one two three four five six seven eight"]).shape == (1, 16)
    with pytest.raises(BadData, match="have 11 tokens, the net reads 10"):
        net.noun_vectors(["dog", "one two three four five six seven eight nine"])


def test_half_precision_on_a_cpu():
    net = net_of("code")
    whole = code.loss(net, batch_of(3), config=CODE)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = code.loss(net, batch_of(3), config=CODE)["loss"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0.05, atol=0.05)
    half.backward()


CASES = {"tcl": ("tcl", TCL), "noun": ("code", CODE), "all": ("code", changed(CODE, pairs="all", dense="unit"))}


def _gradients(rank: int, world: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return the gradients of a process's share of a batch of four, by case and name."""
    found = {}
    for case, (method, config) in CASES.items():
        net, batch, share = net_of(method), batch_of(4), 4 // world
        own = {name: tensor[share * rank:share * (rank + 1)] for name, tensor in batch.items()}
        METHODS[method][0](net, own, config=config)["loss"].backward()
        found[case] = {name: one.grad for name, one in net.named_parameters() if one.grad is not None}
    return found


def _share(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(_gradients(rank, 2), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_the_gradient_of_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    multiprocessing.spawn(_share, (str(tmp_path),), nprocs=2)
    first, second, alone = torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt"), _gradients(0, 1)
    for case, wanted in alone.items():
        assert set(first[case]) == set(second[case]) == set(wanted)
        for name, gradient in wanted.items():
            both = (first[case][name] + second[case][name]) / 2
            torch.testing.assert_close(both, gradient, rtol=1e-3, atol=1e-5, msg=f"{case}: {name}")


def test_gates_and_scales_decay_and_vectors_do_not():
    net = net_of("tcl")
    optimiser = build_optimiser(net, [], TclConfig(device="cpu"))
    decays = {id(one): group["weight_decay"] for group in optimiser.param_groups for one in group["params"]}
    for name, one in net.named_parameters():
        if one.requires_grad:
            assert decays[id(one)] == (0 if one.ndim == 1 else 0.05), name
    assert {group["eps"] for group in optimiser.param_groups} == {1e-6}
    assert build_optimiser(net, [], LoopConfig(optimizer="adamw")).param_groups[0]["eps"] == 1e-8


def test_defaults_are_those_of_the_thesis():
    config = CodeConfig()
    assert (config.lambda_kg, config.lambda_image, config.lambda_text, config.lambda_hcl) == (8.0, 1.0, 1.0, 0.5)
    assert (config.lr, config.steps, config.warmup, config.batch_size) == (5e-6, 50_000, 15_000, 16)
    assert (config.weight_decay, config.n_nouns, config.crop_size) == (0.05, 2, 224)
    assert TclConfig().area_prior == 0.4
