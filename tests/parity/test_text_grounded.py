"""TCL's segmenter, CoDe's text segmenter and KgCoOp's noun prompts against reference values, on a tiny CLIP."""

from __future__ import annotations

from math import isqrt

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.nets.frozen_clip import FrozenClip, find_text_ends, run_block
from stages.nets.image_segmenter import ImageSegmenter, compute_cosine_similarity
from stages.nets.noun_prompt import NounPrompt
from stages.nets.text_segmenter import TextSegmenter
from tiny_clip import build_clip_config, list_image_sizes

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def values(reference):
    tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in reference("image-text/clip_dense").items()}
    if "sd.token_embedding.weight" not in tensors:
        pytest.skip("the copy of clip_dense in this repository has only the image tower; set WSSS_ORACLES")
    return tensors


@pytest.fixture(scope="module")
def clip(values):
    from open_clip.model import CLIP

    state = {name[3:]: tensor for name, tensor in values.items() if name.startswith("sd.")}
    model = CLIP(**build_clip_config(state))
    model.load_state_dict(state)
    return FrozenClip(model)


def translate_name(name: str) -> str:
    """Translate the name of a tensor of TCL's decoder to ours."""
    name = name.removeprefix("dec.").replace("image_proj.ln.", "norm.").replace("image_proj.proj", "projection")
    name = name.replace("decoder.net.", "decoder.").replace(".conv2.", ".1.", 1).replace(".gate.gate", ".gate")
    parts = name.split(".")
    if parts[0] == "decoder" and parts[2] == "conv":
        parts[2] = "0"
    return ".".join(parts)


def test_image_tower_matches(values, clip):
    for size in list_image_sizes(values):
        images = values[f"image_{size}"]
        tokens, grid = clip.forward_trunk(images)
        torch.testing.assert_close(clip.encode_patches(tokens, grid), values[f"maskclip_dense_{size}"], **CLOSE)
        torch.testing.assert_close(clip.encode_image(images), values[f"cls_{size}"], **CLOSE)


@pytest.mark.parametrize("name", ["single", "double"])
def test_image_segmenter_of_tcl_matches(values, clip, reference, name):
    stored = {key: torch.from_numpy(np.asarray(array))
              for key, array in reference(f"image-text/tcl_segmenter_{name}").items()}
    segmenter = ImageSegmenter(clip, 2 if name == "double" else 1)
    tokens, grid = clip.forward_trunk(stored["image"])
    torch.testing.assert_close(tokens.transpose(0, 1), stored["enc_feat_block2_LNC"], **CLOSE)
    weights = {translate_name(key): tensor for key, tensor in stored.items() if key.startswith("dec.")}
    assert len(weights) == sum(key.startswith("dec.") for key in stored)
    missing = segmenter.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("last_block.") or key in ("scale", "shift") for key in missing.missing_keys)
    dense = segmenter(tokens, grid)
    torch.testing.assert_close(dense, stored["image_emb_gate05"], **CLOSE)
    torch.testing.assert_close(compute_cosine_similarity(dense, stored["text_emb"]), stored["simmap"], **CLOSE)
    soft = segmenter.logits(dense, stored["text_emb"]).sigmoid()
    torch.testing.assert_close(soft, stored["soft"], rtol=0, atol=1e-5)
    for parameter_name, parameter in segmenter.named_parameters():
        if parameter_name.endswith("gate"):
            parameter.data.zero_()
    torch.testing.assert_close(segmenter(tokens, grid), stored["image_emb_at_init_gate0"], **CLOSE)


def test_text_tower_matches(values, clip):
    tokens = values["tokens"]
    words = clip.embed_tokens(tokens)
    torch.testing.assert_close(words, values["word_emb_BLC"], **CLOSE)
    hidden = clip.run_text_blocks(words)
    torch.testing.assert_close(hidden.transpose(0, 1), values["text_hidden_last_LBC"], **CLOSE)
    ends = find_text_ends(tokens)
    torch.testing.assert_close(ends, values["eos_index"])
    torch.testing.assert_close(clip.encode_text(words, ends), values["text_emb"], **CLOSE)
    torch.testing.assert_close(clip.encode_text(values["hl_tokens_BLC"], ends), values["hl_text_emb"], **CLOSE)


def test_text_segmenter_of_code_matches(values, clip):
    weights = {key.replace("td.resblocks.", ""): tensor for key, tensor in values.items() if key.startswith("td.")}
    segmenter = TextSegmenter(clip.text_width, heads=4)
    segmenter.layers.load_state_dict(weights)
    hidden = clip.run_text_blocks(clip.embed_tokens(values["tokens"]))
    torch.testing.assert_close(segmenter(hidden).transpose(0, 1), values["text_decoder_out_LBC"], **CLOSE)
    separate = TextSegmenter(clip.text_width, "attention", heads=4)
    attention_weights = {key: tensor for key, tensor in weights.items() if ".mlp." not in key and ".ln_2." not in key}
    separate.layers.load_state_dict(attention_weights)
    assert not torch.allclose(separate(hidden), segmenter(hidden))


def test_noun_prompts_of_kgcoop_match(values, clip):
    tokens = values["prompter_noun_tokens"]
    prompt = NounPrompt(clip, values["prompter_init_tokens"][0, 1:1 + int(values["prompter_n_ctx"])], "before")
    prompt.context.data = values["prompter_ctx"]
    prompts, ends = prompt.build_prompts(clip, tokens)
    torch.testing.assert_close(prompts, values["prompter_prompts"], **CLOSE)
    torch.testing.assert_close(ends, values["prompter_eos"])
    torch.testing.assert_close(clip.encode_text(prompts, ends), values["prompter_emb_raw"], **CLOSE)
    torch.testing.assert_close(prompt(clip, tokens), values["prompter_emb"], **CLOSE)
    plain = values["prompter_wo_tokens"]
    guides = F.normalize(clip.encode_text(clip.embed_tokens(plain), find_text_ends(plain)), dim=-1)
    torch.testing.assert_close(guides, values["prompter_wo_emb"], **CLOSE)


def test_gradients_match_finite_differences_and_reach_only_trained_parameters(values, clip):
    double = FrozenClip(clip.model.double())
    try:
        patches, channels = values["sd.visual.positional_embedding"].shape
        segmenter, tokens = ImageSegmenter(double, 1).double(), torch.randn(1, patches, channels).double()
        for parameter_name, parameter in segmenter.named_parameters():
            if parameter_name.endswith("gate"):
                parameter.data += 0.3
        tokens.requires_grad_()
        grid = (isqrt(patches - 1),) * 2
        texts = torch.randn(2, values["text_emb"].shape[1]).double()
        assert torch.autograd.gradcheck(lambda tokens: segmenter.logits(segmenter(tokens, grid), texts).sum((2, 3)),
                                        tokens, fast_mode=True)
        segmenter.logits(segmenter(tokens, grid), texts).sum().backward()
        text_segmenter = TextSegmenter(clip.text_width, heads=4).double()
        words = torch.randn(1, 5, clip.text_width).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda words: text_segmenter(double.run_text_blocks(words)), words,
                                        fast_mode=True)
    finally:
        clip.model.float()
    unused = [name for name, parameter in segmenter.named_parameters() if parameter.grad is None]
    assert not unused
    assert all(parameter.grad is None for parameter in double.parameters())


def test_self_only_block_equals_a_block_with_a_diagonal_mask(clip):
    torch.manual_seed(1)
    block = clip.model.visual.transformer.resblocks[-1]
    tokens = torch.randn(2, 9, len(block.ln_1.weight))
    mask = torch.full((9, 9), -torch.inf).fill_diagonal_(0)
    actual, expected = run_block(block, tokens, self_only=True), run_block(block, tokens, mask)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
