"""Loading CLIPs, and the text tower on prompts that are cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from seeded_clip import Recipe
from stages.errors import BadData, MissingInput, Unavailable, UsageError
from stages.nets.clip import empty_model, find_clip, load_clip, open_model, text_tokenizer
from stages.nets.clip_config import config_by_name, names_of_sizes
from stages.nets.clip_text import TextTower
from stages.nets.clip_watched import WatchedTower
from stages.nets.prompts import class_features, templates_of, variant_shares, word_features

RECIPE = Recipe(seed=5, width=32, layers=2, heads=4, embed=12, text_width=64, text_layers=2, text_heads=1)
CPU = torch.device("cpu")
# What OpenAI's archives, and the state dicts made of them, hold besides the weights.
RELEASED = {name: torch.tensor(number) for name, number in
            (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408))}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Return CONFIG.json and weights."""
    return RECIPE.write(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(files):
    """Return the loaded model."""
    return load_clip(find_clip(str(files[0]), str(files[1])), device=CPU)


def test_cut_prompts_are_exact(clip):
    prompts = ["a cat", "a clean origami person with clothes,people,human.", "x " * 60]
    model, tokenizer = clip.text._model, clip.text._tokenizer
    with torch.inference_mode():
        expected = F.normalize(model.encode_text(tokenizer(prompts)), dim=-1)
    torch.testing.assert_close(clip.text.encode(prompts), expected, rtol=0, atol=1e-6)


def test_prompts_are_encoded_once(clip, monkeypatch):
    text = TextTower(clip.text._model, clip.text._tokenizer)
    lengths = []
    encoded = text._encoded
    monkeypatch.setattr(text, "_encoded", lambda tokens: lengths.append(len(tokens)) or encoded(tokens))
    first = text.encode(["one", "two", "one"])
    torch.testing.assert_close(text.encode(["two", "three"])[0], first[1])
    assert lengths == [2, 1]


def test_a_prompt_beyond_the_context_is_refused(clip):
    with pytest.raises(BadData, match="the text tower reads 77"):
        clip.text.encode(["word " * 90])


def test_weights_of_a_custom_text_model_are_the_same_model(files, tmp_path, clip):
    state = {name if name.startswith(("visual", "logit")) else f"text.{name}": tensor
             for name, tensor in RECIPE.state().items()}
    torch.save(state, tmp_path / "custom.pt")
    for config in (RECIPE.config(), {**RECIPE.config(), "custom_text": True}):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}))
        for weights in (tmp_path / "custom.pt", files[1]):
            other = load_clip(find_clip(str(path), str(weights)), device=CPU)
            torch.testing.assert_close(other.text.encode(["a dog"]), clip.text.encode(["a dog"]))
            assert other.mean == (0.5, 0.5, 0.5)


def test_an_openai_state_dict_tells_its_own_architecture(tmp_path):
    recipe = Recipe(seed=5, width=64, layers=2, heads=1, embed=12, text_width=64, text_layers=1, text_heads=1)
    torch.save({**recipe.state(), **RELEASED}, tmp_path / "openai.pt")
    own = load_clip(find_clip(str(tmp_path / "openai.pt"), None), device=CPU)
    config, weights = recipe.write(tmp_path / "both")
    named = load_clip(find_clip(str(config), str(weights)), device=CPU)
    images = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(own.vision.embed(images).embedding, named.vision.embed(images).embedding)


class Archive(torch.nn.Module):
    """The tensors of a CLIP as an archive holds them, whose code computes nothing with them."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            _put(self, name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class QuickArchive(Archive):
    """One whose code has the quick GELU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class ExactArchive(Archive):
    """One whose code has the exact GELU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


@pytest.mark.parametrize(("kind", "state", "gelu"), [
    (Archive, RELEASED, "quick"), (QuickArchive, {}, "quick"), (ExactArchive, {}, "exact"), (Archive, {}, "")])
def test_an_archive_runs_with_the_gelu_that_it_tells(tmp_path, files, kind, state, gelu):
    torch.jit.script(kind({**RECIPE.state(), **state})).save(str(tmp_path / "archive.pt"))
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for named in (False, True):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**RECIPE.config(), "quick_gelu": named}))
        source = find_clip(str(path), str(tmp_path / "archive.pt"))
        wanted = {"quick": True, "exact": False, "": named}[gelu]
        assert bool(source.architecture.get("quick_gelu")) == wanted
        assert any(f"the {gelu} GELU" in note for note in source.notes) == (wanted != named)
        path.write_text(json.dumps({**RECIPE.config(), "quick_gelu": wanted}))
        plain = load_clip(find_clip(str(path), str(files[1])), device=CPU)
        with torch.inference_mode():
            torch.testing.assert_close(load_clip(source, device=CPU).vision.embed(images).embedding,
                                       plain.vision.embed(images).embedding)


def test_tensors_alone_do_not_tell_the_architecture(tmp_path, files):
    """LAION's ViT-B-16 has the exact GELU and OpenAI's the quick one: their tensors have the same names and shapes."""
    with pytest.raises(UsageError, match=r"exact or quick.*give --clip NAME or CONFIG.json with --weights"):
        find_clip(str(files[1]), None)
    with torch.device("meta"):
        state = empty_model(config_by_name("ViT-B-16")).state_dict()
    assert {"ViT-B-16", "ViT-B-16-quickgelu"} <= set(names_of_sizes(state))
    assert not set(names_of_sizes(state)) & {"ViT-B-32", "ViT-B-16-plus-240", "ViT-L-14"}
    custom = {name if name.startswith(("visual.", "logit_")) else f"text.{name}": state[name] for name in state}
    assert names_of_sizes(custom) == names_of_sizes(state)
    assert names_of_sizes({"conv1.weight": torch.zeros(1)}) == []


def _put(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    *folders, last = name.split(".")
    for folder in folders:
        if not hasattr(module, folder):
            module.add_module(folder, torch.nn.Module())
        module = getattr(module, folder)
    if tensor.is_floating_point():
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    else:
        module.register_buffer(last, tensor)


def test_half_precision_stays_close(files):
    source = find_clip(*map(str, files))
    images = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact, half = (load_clip(source, device=CPU, dtype=dtype).vision.embed(images, capture=2)
                       for dtype in (torch.float32, torch.bfloat16))
    assert half.embedding.dtype == half.attention.dtype == torch.float32
    assert 0 < (half.embedding - exact.embedding).norm() / exact.embedding.norm() < 0.05
    assert (half.attention - exact.attention).abs().max() < 0.01


@pytest.mark.parametrize(("clip", "weights", "error", "told"), [
    ("ViT-B-61", "openai", UsageError, "did you mean ViT-B-16"),
    ("ViT-B-16", None, UsageError, "--weights FILE or one of openai"),
    ("ViT-B-16", "no_such_tag", UsageError, "no tag of open_clip's ViT-B-16"),
    ("ViT-B-16", "none/here.pt", MissingInput, "no such file"),
    ("none.json", "openai", MissingInput, "no such file"),
    ("none.pt", None, MissingInput, "no such file")])
def test_what_is_not_there(clip, weights, error, told):
    with pytest.raises(error, match=told):
        find_clip(clip, weights)


@pytest.mark.parametrize("given", [("ViT-B-16", "openai"), (None, None)])
def test_offline_names_the_file_to_bring(monkeypatch, tmp_path, given):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match=r"bring the file .*vit_base_patch16_clip_224.openai.* and give "
                       "--clip ViT-B-16-quickgelu --weights FILE"):
        find_clip(*given)


@pytest.mark.parametrize("given", [("ViT-B-16-quickgelu", "openai"), ("ViT-B/16", "laion2b_s34b_b88k")])
def test_a_file_for_the_gelu_of_its_model_needs_no_other_name(monkeypatch, tmp_path, given):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match="and give --weights FILE"):
        find_clip(*given)


def test_a_file_says_nothing_of_its_gelu_and_that_is_told(tmp_path):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "w.safetensors")
    source = find_clip("ViT-B/16", str(tmp_path / "w.safetensors"))
    assert not source.architecture.get("quick_gelu") and source.name == "ViT-B-16"
    assert source.notes == (
        "ViT-B-16 runs with the exact GELU; weights that OpenAI trained need --clip ViT-B-16-quickgelu",)
    quick = find_clip("ViT-B-16-quickgelu", str(tmp_path / "w.safetensors"))
    assert quick.architecture["quick_gelu"] and quick.notes == ()


SMALL = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
         "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}


@pytest.mark.parametrize(("of", "changed", "told"), [
    ("vision_cfg", [], "its vision_cfg makes no sense"), ("vision_cfg", "ViT", "its vision_cfg makes no sense"),
    ("text_cfg", [], "its text_cfg makes no sense"), ("preprocess_cfg", [], "its preprocess_cfg makes no sense"),
    ("preprocess_cfg", {"std": 0}, "its std makes no sense"), ("preprocess_cfg", {"mean": [0, 0]}, "its mean makes"),
    ("preprocess_cfg", {"std": [1, 1, 0]}, "its std makes"), ("vision_cfg", {"layers": 0}, "its layers makes"),
    ("vision_cfg", {"patch_size": 0}, "its patch_size makes"),
    ("vision_cfg", {"patch_size": [16, 8]}, "its patch_size makes"),
    ("vision_cfg", {"width": 63}, "open_clip can't build it"), ("text_cfg", {"heads": 3}, "open_clip can't build it"),
    ("text_cfg", {"vocab_size": 100}, "its vocab_size 100 is below the 49408")])
def test_configs_that_make_no_sense(tmp_path, of, changed, told):
    config = {**SMALL, of: {**SMALL.get(of, {}), **changed} if isinstance(changed, dict) else changed}
    preprocess = {"preprocess_cfg": config.pop("preprocess_cfg")} if of == "preprocess_cfg" else {}
    (tmp_path / "c.json").write_text(json.dumps({"model_cfg": config, **preprocess} if preprocess else config))
    with pytest.raises(BadData, match=told):
        load_clip(find_clip(str(tmp_path / "c.json"), "random"), device=torch.device("cpu"))


@pytest.mark.parametrize(("text", "told"), [("{", "no JSON"), ("[1]", "no model config"),
                                            ('{"embed_dim": 4}', "no model config")])
def test_configs_that_are_none(tmp_path, text, told):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadData, match=told):
        find_clip(str(tmp_path / "config.json"), "random")


def test_weights_of_another_network(files, tmp_path):
    torch.save({**RECIPE.state(), "visual.proj": torch.zeros(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(BadData, match=r"visual.proj is of shape \(3, 3\)"):
        load_clip(find_clip(str(files[0]), str(tmp_path / "other.pt")), device=CPU)


TIMM = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "none"}
WATCHED = {
    "pooled by attention": {"attentional_pool": True, "attn_pooler_heads": 4},
    "norms of queries": {"qk_norm": True, "scale_heads": True},
    "timm": TIMM,
    "timm pooled by attention": {**TIMM, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"},
    "rotary": {**TIMM, "timm_model_name": "eva02_tiny_patch14_224"},
}


@pytest.mark.parametrize("kind", WATCHED)
def test_towers_of_other_parts_are_watched(tmp_path, kind):
    config, own = RECIPE.config(), WATCHED[kind]
    timm = "timm_model_name" in own
    config["vision_cfg"] = own if timm else {**config["vision_cfg"], **own}
    config["embed_dim"] = (768 if "siglip" in own["timm_model_name"] else 192) if timm else config["embed_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = find_clip(str(tmp_path / "config.json"), "random")
    clip = load_clip(source, device=CPU)
    assert isinstance(clip.vision, WatchedTower)
    cell, embed = clip.vision.cell, config["embed_dim"]
    fused = F.scaled_dot_product_attention
    for grid in ((2, 3), (4, 1), (2, 3)):
        images = torch.randn(2, 3, cell * grid[0], cell * grid[1], generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found = clip.vision.embed(images, capture=2)
            weights = clip.vision.channel_weights(found, torch.ones(2, 3, embed))
        cells = grid[0] * grid[1]
        assert (found.grid, found.embedding.shape, found.attention.shape) == (grid, (2, embed), (2, cells, cells))
        assert weights.shape == (2, 3, found.patches.shape[-1])
        assert weights.abs().max() > 0
        assert found.attention.sum(-1).max() <= 1 + 1e-5
    assert F.scaled_dot_product_attention is fused
    with pytest.raises(UsageError, match="fp32 only"):
        load_clip(source, device=CPU, dtype=torch.bfloat16)


def test_a_tower_that_is_no_vision_transformer(tmp_path):
    config = RECIPE.config()
    config["vision_cfg"] = {**TIMM, "timm_model_name": "convnext_atto", "timm_pool": "avg"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "embed_dim": 320}))
    with pytest.raises(Unavailable, match="ConvNeXt"):
        load_clip(find_clip(str(tmp_path / "config.json"), "random"), device=CPU)


def test_a_tokenizer_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = RECIPE.config()
    config["text_cfg"] |= {"hf_tokenizer_name": "nobody/nothing"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unavailable, match="nobody/nothing"):
        load_clip(find_clip(str(tmp_path / "config.json"), "random"), device=CPU)


def test_layer_scale_and_norm_after_pooling_are_open_clips(tmp_path):
    config = RECIPE.config()
    config["vision_cfg"] |= {"ls_init_value": 0.3, "final_ln_after_pool": True, "pool_type": "avg"}
    config["quick_gelu"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    clip = load_clip(find_clip(str(tmp_path / "config.json"), "random"), device=CPU)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(clip.vision.embed(images).embedding, clip.text._model.visual(images), rtol=1e-4,
                                   atol=1e-5)


def test_templates(tmp_path):
    assert templates_of("a {} here") == ("a {} here",)
    assert len(templates_of("imagenet")) == 80
    (tmp_path / "list.txt").write_text("\ufeff# mine\na {}.\n\nthe {}\n")
    assert templates_of(str(tmp_path / "list.txt")) == ("a {}.", "the {}")
    (tmp_path / "bad.txt").write_text("a {}\nnothing\n")
    with pytest.raises(BadData, match="'nothing'"):
        templates_of(str(tmp_path / "bad.txt"))
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 {}".encode("latin-1"))
    with pytest.raises(BadData, match="is not UTF-8"):
        templates_of(str(tmp_path / "latin.txt"))
    with pytest.raises(MissingInput, match="no template"):
        templates_of("a photo")


def test_fusions(clip):
    synonyms, templates = (("person", "people"), ("cat",)), ("a {}.", "the {}.")
    words = word_features(clip.text, ["person", "people", "cat"], templates)
    each = clip.text.encode(["a person.", "the person."])
    torch.testing.assert_close(words[0], F.normalize(each.mean(0), dim=-1))
    feature = class_features(clip.text, synonyms, templates, "feature")
    torch.testing.assert_close(feature[0, 0], F.normalize(words[:2].mean(0), dim=-1))
    cam = class_features(clip.text, synonyms, templates, "cam")
    torch.testing.assert_close(cam, torch.stack([words[[0, 2]], words[[1, 2]]]))
    assert variant_shares(synonyms, "cam").tolist() == [[0.5, 1], [0.5, 0]]
    assert variant_shares(synonyms, "feature").tolist() == [[1, 1]]
    sentence = class_features(clip.text, synonyms, templates, "sentence")
    torch.testing.assert_close(sentence[0, 0], word_features(clip.text, ["person,people"], templates)[0])


def test_the_config_of_an_archive_of_openai_builds_the_same_model(tmp_path):
    recipe = Recipe(5, 64, 3, 1, 32, 64, 2, 1)
    config, weights = recipe.write(tmp_path)
    torch.save({**torch.load(weights), **RELEASED}, weights)
    model, told = open_model(find_clip(str(weights), None))
    wanted = json.loads(config.read_text())
    # A width of one head need not be told where it is CLIP's.
    wanted["vision_cfg"].pop("head_width")
    assert told == wanted
    again = empty_model(told)
    again.load_state_dict(model.state_dict())
    tokens = text_tokenizer(told)(["a dog"])
    torch.testing.assert_close(again.encode_text(tokens), model.encode_text(tokens))


def test_weights_of_openais_names_are_not_rounded(tmp_path):
    """A state dict of OpenAI's names that was trained on in float32 keeps its values."""
    recipe = Recipe(5, 64, 2, 1, 32, 64, 1, 1)
    state = {name: tensor * 1.0001 for name, tensor in recipe.state().items()}
    torch.save({**state, **RELEASED}, tmp_path / "w.pt")
    model, _ = open_model(find_clip(str(tmp_path / "w.pt"), None))
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("counters", [True, False])
def test_a_resnet_of_openais_release(tmp_path, counters):
    config = {"embed_dim": 64, "quick_gelu": True, "text_cfg": {**SMALL["text_cfg"], "width": 64, "heads": 1},
              "vision_cfg": {"image_size": 96, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}}
    model = empty_model(config)
    state = {name: tensor for name, tensor in model.state_dict().items()
             if counters or not name.endswith("num_batches_tracked")}
    torch.save({**state, **RELEASED}, tmp_path / "rn.pt")
    source = find_clip(str(tmp_path / "rn.pt"), None)
    assert source.is_resnet
    clip = load_clip(source, device=CPU)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.eval().visual(images)
        torch.testing.assert_close(clip.vision.embed(images).embedding, expected, rtol=1e-4, atol=1e-5)
    assert open_model(source)[1] == config


def test_a_scale_that_is_not_finite(files, tmp_path):
    torch.save({**RECIPE.state(), "logit_scale": torch.tensor(1000.0)}, tmp_path / "w.pt")
    with pytest.raises(BadData, match=r"w\.pt: its logit_scale 1000 gives a scale of cosines that is not finite"):
        load_clip(find_clip(str(files[0]), str(tmp_path / "w.pt")), device=CPU)
