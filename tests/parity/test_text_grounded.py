"""TCL's segmenter, CoDe's text segmenter and KgCoOp's nouns against reference values, on a tiny CLIP."""

from __future__ import annotations

from math import isqrt

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.nets.frozen_clip import FrozenClip, ends_of, run_block
from stages.nets.image_segmenter import ImageSegmenter, similarity
from stages.nets.noun_prompt import NounPrompt
from stages.nets.text_segmenter import TextSegmenter
from tiny_clip import clip_config, sizes_of

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def values(reference):
    found = {name: torch.from_numpy(np.asarray(array)) for name, array in reference("image-text/clip_dense").items()}
    if "sd.token_embedding.weight" not in found:
        pytest.skip("the copy of clip_dense holds the image tower alone; set WSSS_ORACLES")
    return found


@pytest.fixture(scope="module")
def clip(values):
    from open_clip.model import CLIP

    state = {name[3:]: tensor for name, tensor in values.items() if name.startswith("sd.")}
    model = CLIP(**clip_config(state))
    model.load_state_dict(state)
    return FrozenClip(model)


def renamed(name: str) -> str:
    """Return our name of a tensor of TCL's decoder."""
    name = name.removeprefix("dec.").replace("image_proj.ln.", "norm.").replace("image_proj.proj", "projection")
    name = name.replace("decoder.net.", "decoder.").replace(".conv2.", ".1.", 1).replace(".gate.gate", ".gate")
    parts = name.split(".")
    if parts[0] == "decoder" and parts[2] == "conv":
        parts[2] = "0"
    return ".".join(parts)


def test_the_image_tower(values, clip):
    for size in sizes_of(values):
        images = values[f"image_{size}"]
        rows, grid = clip.trunk(images)
        torch.testing.assert_close(clip.dense_embedding(rows, grid), values[f"maskclip_dense_{size}"], **CLOSE)
        torch.testing.assert_close(clip.image_embedding(images), values[f"cls_{size}"], **CLOSE)


@pytest.mark.parametrize("name", ["single", "double"])
def test_the_segmenter_of_tcl(values, clip, reference, name):
    stored = {key: torch.from_numpy(np.asarray(array))
              for key, array in reference(f"image-text/tcl_segmenter_{name}").items()}
    segmenter = ImageSegmenter(clip, 2 if name == "double" else 1)
    rows, grid = clip.trunk(stored["image"])
    torch.testing.assert_close(rows.transpose(0, 1), stored["enc_feat_block2_LNC"], **CLOSE)
    weights = {renamed(key): tensor for key, tensor in stored.items() if key.startswith("dec.")}
    assert len(weights) == sum(key.startswith("dec.") for key in stored)
    missing = segmenter.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("last_block.") or key in ("scale", "shift") for key in missing.missing_keys)
    dense = segmenter(rows, grid)
    torch.testing.assert_close(dense, stored["image_emb_gate05"], **CLOSE)
    torch.testing.assert_close(similarity(dense, stored["text_emb"]), stored["simmap"], **CLOSE)
    soft = segmenter.logits(dense, stored["text_emb"]).sigmoid()
    torch.testing.assert_close(soft, stored["soft"], rtol=0, atol=1e-5)
    for parameter_name, parameter in segmenter.named_parameters():
        if parameter_name.endswith("gate"):
            parameter.data.zero_()
    torch.testing.assert_close(segmenter(rows, grid), stored["image_emb_at_init_gate0"], **CLOSE)


def test_the_text_tower(values, clip):
    tokens = values["tokens"]
    words = clip.word_embedding(tokens)
    torch.testing.assert_close(words, values["word_emb_BLC"], **CLOSE)
    hidden = clip.text_hidden(words)
    torch.testing.assert_close(hidden.transpose(0, 1), values["text_hidden_last_LBC"], **CLOSE)
    ends = ends_of(tokens)
    torch.testing.assert_close(ends, values["eos_index"])
    torch.testing.assert_close(clip.text_embedding(words, ends), values["text_emb"], **CLOSE)
    torch.testing.assert_close(clip.text_embedding(values["hl_tokens_BLC"], ends), values["hl_text_emb"], **CLOSE)


def test_the_text_segmenter_of_code(values, clip):
    weights = {key.replace("td.resblocks.", ""): tensor for key, tensor in values.items() if key.startswith("td.")}
    segmenter = TextSegmenter(clip.width, heads=4)
    segmenter.layers.load_state_dict(weights)
    hidden = clip.text_hidden(clip.word_embedding(values["tokens"]))
    torch.testing.assert_close(segmenter(hidden).transpose(0, 1), values["text_decoder_out_LBC"], **CLOSE)
    alone = TextSegmenter(clip.width, "attention", heads=4)
    kept = {key: tensor for key, tensor in weights.items() if ".mlp." not in key and ".ln_2." not in key}
    alone.layers.load_state_dict(kept)
    assert not torch.allclose(alone(hidden), segmenter(hidden))


def test_the_nouns_of_kgcoop(values, clip):
    tokens = values["prompter_noun_tokens"]
    prompt = NounPrompt(clip, values["prompter_init_tokens"][0, 1:1 + int(values["prompter_n_ctx"])], "before")
    prompt.context.data = values["prompter_ctx"]
    prompts, ends = prompt.prompts(clip, tokens)
    torch.testing.assert_close(prompts, values["prompter_prompts"], **CLOSE)
    torch.testing.assert_close(ends, values["prompter_eos"])
    torch.testing.assert_close(clip.text_embedding(prompts, ends), values["prompter_emb_raw"], **CLOSE)
    torch.testing.assert_close(prompt(clip, tokens), values["prompter_emb"], **CLOSE)
    plain = values["prompter_wo_tokens"]
    guides = F.normalize(clip.text_embedding(clip.word_embedding(plain), ends_of(plain)), dim=-1)
    torch.testing.assert_close(guides, values["prompter_wo_emb"], **CLOSE)


def test_gradients_in_double_reach_what_learns_and_nothing_else(values, clip):
    double = FrozenClip(clip.model.double())
    try:
        patches, channels = values["sd.visual.positional_embedding"].shape
        segmenter, rows = ImageSegmenter(double, 1).double(), torch.randn(1, patches, channels).double()
        for parameter_name, parameter in segmenter.named_parameters():
            if parameter_name.endswith("gate"):
                parameter.data += 0.3
        rows.requires_grad_()
        grid = (isqrt(patches - 1),) * 2
        texts = torch.randn(2, values["text_emb"].shape[1]).double()
        assert torch.autograd.gradcheck(lambda rows: segmenter.logits(segmenter(rows, grid), texts).sum((2, 3)), rows,
                                        fast_mode=True)
        segmenter.logits(segmenter(rows, grid), texts).sum().backward()
        text_segmenter = TextSegmenter(clip.width, heads=4).double()
        words = torch.randn(1, 5, clip.width).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda words: text_segmenter(double.text_hidden(words)), words, fast_mode=True)
    finally:
        clip.model.float()
    unused = [name for name, one in segmenter.named_parameters() if one.grad is None]
    assert not unused
    assert all(one.grad is None for one in double.parameters())


def test_a_block_of_which_each_token_sees_itself_alone(clip):
    torch.manual_seed(1)
    block = clip.model.visual.transformer.resblocks[-1]
    rows = torch.randn(2, 9, len(block.ln_1.weight))
    mask = torch.full((9, 9), -torch.inf).fill_diagonal_(0)
    torch.testing.assert_close(run_block(block, rows, alone=True), run_block(block, rows, mask), rtol=1e-5, atol=1e-5)
