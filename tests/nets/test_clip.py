"""Find and load CLIP models, run their towers, and encode prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from seeded_clip import ClipRecipe
from stages.errors import BadData, MissingInput, Unavailable, UsageError
from stages.nets.clip import build_random_clip, build_text_tokenizer, find_clip, load_clip, load_open_clip_model
from stages.nets.clip_config import find_models_by_size, load_config_by_name
from stages.nets.clip_hooked import HookedTower
from stages.nets.clip_text import TextTower
from stages.nets.prompt_encoding import compute_variant_weights, encode_classes, encode_words, load_templates

RECIPE = ClipRecipe(seed=5, width=32, layers=2, heads=4, embed=12, text_width=64, text_layers=2, text_heads=1)
CPU = torch.device("cpu")
# What OpenAI's archives, and state dicts saved from them, hold in addition to the weights.
OPENAI_NUMBERS = {name: torch.tensor(number) for name, number in
            (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408))}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Return the paths of CONFIG.json and the weights."""
    return RECIPE.write(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(files):
    """Return the loaded model."""
    return load_clip(find_clip(str(files[0]), str(files[1])), device=CPU)


def test_cutting_prompts_to_the_longest_is_exact(clip):
    prompts = ["a cat", "a clean origami person with clothes,people,human.", "x " * 60]
    model, tokenizer = clip.text._model, clip.text._tokenizer
    with torch.inference_mode():
        expected = F.normalize(model.encode_text(tokenizer(prompts)), dim=-1)
    torch.testing.assert_close(clip.text.encode(prompts), expected, rtol=0, atol=1e-6)


def test_each_prompt_is_encoded_once(clip, monkeypatch):
    text = TextTower(clip.text._model, clip.text._tokenizer)
    batch_sizes = []
    encode_tokens = text._encode_tokens
    monkeypatch.setattr(
        text, "_encode_tokens", lambda tokens: batch_sizes.append(len(tokens)) or encode_tokens(tokens))
    first = text.encode(["one", "two", "one"])
    torch.testing.assert_close(text.encode(["two", "three"])[0], first[1])
    assert batch_sizes == [2, 1]


def test_prompt_beyond_the_context_length_is_an_error(clip):
    with pytest.raises(BadData, match="the text tower reads at most 77"):
        clip.text.encode(["word " * 90])


def test_weights_load_with_and_without_a_custom_text_tower(files, tmp_path, clip):
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


def test_openai_state_dict_needs_no_config(tmp_path):
    recipe = ClipRecipe(seed=5, width=64, layers=2, heads=1, embed=12, text_width=64, text_layers=1, text_heads=1)
    torch.save({**recipe.state(), **OPENAI_NUMBERS}, tmp_path / "openai.pt")
    inferred = load_clip(find_clip(str(tmp_path / "openai.pt"), None), device=CPU)
    config, weights = recipe.write(tmp_path / "both")
    configured = load_clip(find_clip(str(config), str(weights)), device=CPU)
    images = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(inferred.vision.embed(images).embedding,
                                   configured.vision.embed(images).embedding)


class Archive(torch.nn.Module):
    """The tensors of a CLIP in a TorchScript archive whose code does not use them."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            _register_tensor(self, name, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class QuickArchive(Archive):
    """An archive whose code contains the quick GELU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class ExactArchive(Archive):
    """An archive whose code contains the exact GELU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


@pytest.mark.parametrize(("kind", "state", "gelu"), [
    (Archive, OPENAI_NUMBERS, "quick"), (QuickArchive, {}, "quick"), (ExactArchive, {}, "exact"), (Archive, {}, "")])
def test_archive_runs_with_the_gelu_that_its_code_shows(tmp_path, files, kind, state, gelu):
    torch.jit.script(kind({**RECIPE.state(), **state})).save(str(tmp_path / "archive.pt"))
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for configured in (False, True):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**RECIPE.config(), "quick_gelu": configured}))
        source = find_clip(str(path), str(tmp_path / "archive.pt"))
        expected = {"quick": True, "exact": False, "": configured}[gelu]
        assert bool(source.architecture.get("quick_gelu")) == expected
        assert any(f"the {gelu} GELU" in note for note in source.notes) == (expected != configured)
        path.write_text(json.dumps({**RECIPE.config(), "quick_gelu": expected}))
        reference = load_clip(find_clip(str(path), str(files[1])), device=CPU)
        with torch.inference_mode():
            torch.testing.assert_close(load_clip(source, device=CPU).vision.embed(images).embedding,
                                       reference.vision.embed(images).embedding)


def test_architecture_of_tensors_alone_is_ambiguous(tmp_path, files):
    """LAION's ViT-B-16 has the exact GELU and OpenAI's the quick one: their tensors have the same names and shapes."""
    with pytest.raises(UsageError, match=r"exact or quick.*Use --clip NAME or CONFIG.json with --weights"):
        find_clip(str(files[1]), None)
    with torch.device("meta"):
        state = build_random_clip(load_config_by_name("ViT-B-16")).state_dict()
    assert {"ViT-B-16", "ViT-B-16-quickgelu"} <= set(find_models_by_size(state))
    assert not set(find_models_by_size(state)) & {"ViT-B-32", "ViT-B-16-plus-240", "ViT-L-14"}
    custom_state = {name if name.startswith(("visual.", "logit_")) else f"text.{name}": state[name] for name in state}
    assert find_models_by_size(custom_state) == find_models_by_size(state)
    assert find_models_by_size({"conv1.weight": torch.zeros(1)}) == []


def _register_tensor(module: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(module, parent):
            module.add_module(parent, torch.nn.Module())
        module = getattr(module, parent)
    if tensor.is_floating_point():
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    else:
        module.register_buffer(last, tensor)


def test_half_precision_is_close_to_full_precision(files):
    source = find_clip(*map(str, files))
    images = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact, half = (load_clip(source, device=CPU, dtype=dtype).vision.embed(images, num_attention_layers=2)
                       for dtype in (torch.float32, torch.bfloat16))
    assert half.embedding.dtype == half.attention.dtype == torch.float32
    assert 0 < (half.embedding - exact.embedding).norm() / exact.embedding.norm() < 0.05
    assert (half.attention - exact.attention).abs().max() < 0.01


@pytest.mark.parametrize(("clip", "weights", "error", "message"), [
    ("ViT-B-61", "openai", UsageError, "Use a similar name such as ViT-B-16"),
    ("ViT-B-16", None, UsageError, "--weights FILE or one of the tags openai"),
    ("ViT-B-16", "no_such_tag", UsageError, "open_clip's ViT-B-16 has no such tag"),
    ("ViT-B-16", "none/here.pt", MissingInput, "the file does not exist"),
    ("none.json", "openai", MissingInput, "the file does not exist"),
    ("none.pt", None, MissingInput, "the file does not exist")])
def test_unknown_names_tags_and_files_are_errors(clip, weights, error, message):
    with pytest.raises(error, match=message):
        find_clip(clip, weights)


@pytest.mark.parametrize("options", [("ViT-B-16", "openai"), (None, None)])
def test_offline_error_names_the_file_to_copy(monkeypatch, tmp_path, options):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match=r"Download .*vit_base_patch16_clip_224.openai.* and use "
                       "--clip ViT-B-16-quickgelu --weights FILE"):
        find_clip(*options)


@pytest.mark.parametrize("options", [("ViT-B-16-quickgelu", "openai"), ("ViT-B/16", "laion2b_s34b_b88k")])
def test_offline_error_names_no_other_model_when_the_gelu_matches(monkeypatch, tmp_path, options):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unavailable, match="and use --weights FILE"):
        find_clip(*options)


def test_note_about_the_gelu_for_a_file_that_does_not_show_it(tmp_path):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "w.safetensors")
    source = find_clip("ViT-B/16", str(tmp_path / "w.safetensors"))
    assert not source.architecture.get("quick_gelu") and source.name == "ViT-B-16"
    assert source.notes == (
        "ViT-B-16 runs with the exact GELU. Weights trained by OpenAI need --clip ViT-B-16-quickgelu.",)
    quick = find_clip("ViT-B-16-quickgelu", str(tmp_path / "w.safetensors"))
    assert quick.architecture["quick_gelu"] and quick.notes == ()


SMALL_CONFIG = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}


@pytest.mark.parametrize(("section", "change", "message"), [
    ("vision_cfg", [], "the value of vision_cfg is invalid"),
    ("vision_cfg", "ViT", "the value of vision_cfg is invalid"),
    ("text_cfg", [], "the value of text_cfg is invalid"),
    ("preprocess_cfg", [], "the value of preprocess_cfg is invalid"),
    ("preprocess_cfg", {"std": 0}, "the value of std is invalid"),
    ("preprocess_cfg", {"mean": [0, 0]}, "the value of mean is invalid"),
    ("preprocess_cfg", {"std": [1, 1, 0]}, "the value of std is invalid"),
    ("vision_cfg", {"layers": 0}, "the value of layers is invalid"),
    ("vision_cfg", {"patch_size": 0}, "the value of patch_size is invalid"),
    ("vision_cfg", {"patch_size": [16, 8]}, "the value of patch_size is invalid"),
    ("vision_cfg", {"width": 63}, "open_clip cannot build this model"),
    ("text_cfg", {"heads": 3}, "open_clip cannot build this model"),
    ("text_cfg", {"vocab_size": 100}, "the vocab_size of the model config, 100, is smaller than the 49408")])
def test_config_with_an_invalid_value_is_an_error(tmp_path, section, change, message):
    config = {**SMALL_CONFIG,
              section: {**SMALL_CONFIG.get(section, {}), **change} if isinstance(change, dict) else change}
    preprocess = {"preprocess_cfg": config.pop("preprocess_cfg")} if section == "preprocess_cfg" else {}
    (tmp_path / "c.json").write_text(json.dumps({"model_cfg": config, **preprocess} if preprocess else config))
    with pytest.raises(BadData, match=message):
        load_clip(find_clip(str(tmp_path / "c.json"), "random"), device=torch.device("cpu"))


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not valid JSON"), ("[1]", "not a model config"), ('{"embed_dim": 4}', "not a model config")])
def test_file_that_is_not_a_config_is_an_error(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadData, match=message):
        find_clip(str(tmp_path / "config.json"), "random")


def test_weights_of_another_network_are_an_error(files, tmp_path):
    torch.save({**RECIPE.state(), "visual.proj": torch.zeros(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(BadData, match=r"visual.proj has shape \(3, 3\) in the file but has shape"):
        load_clip(find_clip(str(files[0]), str(tmp_path / "other.pt")), device=CPU)


TIMM = {"image_size": 224, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "none"}
OTHER_TOWERS = {
    "pooled by attention": {"attentional_pool": True, "attn_pooler_heads": 4},
    "norms of queries": {"qk_norm": True, "scale_heads": True},
    "timm": TIMM,
    "timm pooled by attention": {**TIMM, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"},
    "rotary": {**TIMM, "timm_model_name": "eva02_tiny_patch14_224"},
}


@pytest.mark.parametrize("kind", OTHER_TOWERS)
def test_other_towers_give_features_attention_and_gradients(tmp_path, kind):
    config, vision_config = RECIPE.config(), OTHER_TOWERS[kind]
    if "timm_model_name" in vision_config:
        config["vision_cfg"] = vision_config
        config["embed_dim"] = 768 if "siglip" in vision_config["timm_model_name"] else 192
    else:
        config["vision_cfg"] |= vision_config
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = find_clip(str(tmp_path / "config.json"), "random")
    clip = load_clip(source, device=CPU)
    assert isinstance(clip.vision, HookedTower)
    cell, embed_dim = clip.vision.cell, config["embed_dim"]
    fused_attention = F.scaled_dot_product_attention
    for grid in ((2, 3), (4, 1), (2, 3)):
        images = torch.randn(2, 3, cell * grid[0], cell * grid[1], generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            features = clip.vision.embed(images, num_attention_layers=2)
            weights = clip.vision.compute_channel_weights(features, torch.ones(2, 3, embed_dim))
        num_cells = grid[0] * grid[1]
        assert (features.grid, features.embedding.shape) == (grid, (2, embed_dim))
        assert features.attention.shape == (2, num_cells, num_cells)
        assert weights.shape == (2, 3, features.patches.shape[-1])
        assert weights.abs().max() > 0
        assert features.attention.sum(-1).max() <= 1 + 1e-5
    assert F.scaled_dot_product_attention is fused_attention
    with pytest.raises(UsageError, match="fp32 only"):
        load_clip(source, device=CPU, dtype=torch.bfloat16)


def test_unsupported_image_tower_is_an_error(tmp_path):
    config = RECIPE.config()
    config["vision_cfg"] = {**TIMM, "timm_model_name": "convnext_atto", "timm_pool": "avg"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "embed_dim": 320}))
    with pytest.raises(Unavailable, match="ConvNeXt"):
        load_clip(find_clip(str(tmp_path / "config.json"), "random"), device=CPU)


def test_missing_tokenizer_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = RECIPE.config()
    config["text_cfg"] |= {"hf_tokenizer_name": "nobody/nothing"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unavailable, match="nobody/nothing"):
        load_clip(find_clip(str(tmp_path / "config.json"), "random"), device=CPU)


def test_layer_scale_and_norm_after_pooling_match_open_clip(tmp_path):
    config = RECIPE.config()
    config["vision_cfg"] |= {"ls_init_value": 0.3, "final_ln_after_pool": True, "pool_type": "avg"}
    config["quick_gelu"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    clip = load_clip(find_clip(str(tmp_path / "config.json"), "random"), device=CPU)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(clip.vision.embed(images).embedding, clip.text._model.visual(images), rtol=1e-4,
                                   atol=1e-5)


def test_loads_templates_from_a_preset_or_a_file(tmp_path):
    assert load_templates("a {} here") == ("a {} here",)
    assert len(load_templates("imagenet")) == 80
    (tmp_path / "list.txt").write_text("\ufeff# mine\na {}.\n\nthe {}\n")
    assert load_templates(str(tmp_path / "list.txt")) == ("a {}.", "the {}")
    (tmp_path / "bad.txt").write_text("a {}\nnothing\n")
    with pytest.raises(BadData, match="'nothing'"):
        load_templates(str(tmp_path / "bad.txt"))
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 {}".encode("latin-1"))
    with pytest.raises(BadData, match="is not UTF-8"):
        load_templates(str(tmp_path / "latin.txt"))
    with pytest.raises(MissingInput, match="neither a template"):
        load_templates("a photo")


def test_fusions_of_synonyms_and_templates(clip):
    synonyms, templates = (("person", "people"), ("cat",)), ("a {}.", "the {}.")
    words = encode_words(clip.text, ["person", "people", "cat"], templates)
    prompt_vectors = clip.text.encode(["a person.", "the person."])
    torch.testing.assert_close(words[0], F.normalize(prompt_vectors.mean(0), dim=-1))
    feature = encode_classes(clip.text, synonyms, templates, "feature")
    torch.testing.assert_close(feature[0, 0], F.normalize(words[:2].mean(0), dim=-1))
    cam = encode_classes(clip.text, synonyms, templates, "cam")
    torch.testing.assert_close(cam, torch.stack([words[[0, 2]], words[[1, 2]]]))
    assert compute_variant_weights(synonyms, "cam").tolist() == [[0.5, 1], [0.5, 0]]
    assert compute_variant_weights(synonyms, "feature").tolist() == [[1, 1]]
    sentence = encode_classes(clip.text, synonyms, templates, "sentence")
    torch.testing.assert_close(sentence[0, 0], encode_words(clip.text, ["person,people"], templates)[0])


def test_config_inferred_from_openai_weights_builds_the_same_model(tmp_path):
    recipe = ClipRecipe(5, 64, 3, 1, 32, 64, 2, 1)
    config, weights = recipe.write(tmp_path)
    torch.save({**torch.load(weights), **OPENAI_NUMBERS}, weights)
    model, inferred_config = load_open_clip_model(find_clip(str(weights), None))
    expected_config = json.loads(config.read_text())
    # The width of a head is CLIP's default of 64 and may be omitted.
    expected_config["vision_cfg"].pop("head_width")
    assert inferred_config == expected_config
    rebuilt = build_random_clip(inferred_config)
    rebuilt.load_state_dict(model.state_dict())
    tokens = build_text_tokenizer(inferred_config)(["a dog"])
    torch.testing.assert_close(rebuilt.encode_text(tokens), model.encode_text(tokens))


def test_weights_under_openai_names_are_not_rounded(tmp_path):
    """A state dict with OpenAI's names that was trained further in float32 keeps its values."""
    recipe = ClipRecipe(5, 64, 2, 1, 32, 64, 1, 1)
    state = {name: tensor * 1.0001 for name, tensor in recipe.state().items()}
    torch.save({**state, **OPENAI_NUMBERS}, tmp_path / "w.pt")
    model, _ = load_open_clip_model(find_clip(str(tmp_path / "w.pt"), None))
    weights = model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("has_counters", [True, False])
def test_resnet_released_by_openai_matches_open_clip(tmp_path, has_counters):
    config = {"embed_dim": 64, "quick_gelu": True, "text_cfg": {**SMALL_CONFIG["text_cfg"], "width": 64, "heads": 1},
              "vision_cfg": {"image_size": 96, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}}
    model = build_random_clip(config)
    state = {name: tensor for name, tensor in model.state_dict().items()
             if has_counters or not name.endswith("num_batches_tracked")}
    torch.save({**state, **OPENAI_NUMBERS}, tmp_path / "rn.pt")
    source = find_clip(str(tmp_path / "rn.pt"), None)
    assert source.is_resnet
    clip = load_clip(source, device=CPU)
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.eval().visual(images)
        torch.testing.assert_close(clip.vision.embed(images).embedding, expected, rtol=1e-4, atol=1e-5)
    assert load_open_clip_model(source)[1] == config


def test_logit_scale_that_is_not_finite_is_an_error(files, tmp_path):
    torch.save({**RECIPE.state(), "logit_scale": torch.tensor(1000.0)}, tmp_path / "w.pt")
    with pytest.raises(BadData, match=r"w\.pt: the exponential of its logit_scale 1000, .* is not finite"):
        load_clip(find_clip(str(files[0]), str(tmp_path / "w.pt")), device=CPU)
