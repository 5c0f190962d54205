"""Weights that are not finite, weights that are ambiguous, and checkpoints in the wrappers of training programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cli.every_command import COMMANDS
from cli.runner import TRAINING, check_error, run, run_ok
from nets.test_clip import Archive
from seeded_clip import ClipRecipe
from stages.nets.classifier import Classifier
from stages.nets.net_files import read_net, serialise_net
from stages.nets.registry import build_backbone
from stages.nets.segmenter import build_segmenter

NAME = "backbone.layer2.0.conv1.weight"
NET_OR_CLIP_FILE = re.compile(r"(?<= )\w+\.(?:safetensors|pt)(?= )")
# `report` reads the description and the log of a network only, `log` as well.
COMMANDS_READING_WEIGHTS = sorted(
    name for name, words in COMMANDS.items()
    if name not in ("report", "log") and NET_OR_CLIP_FILE.search(words.partition("-o")[0] + " "))
COMMANDS_TRAINING_A_BACKBONE = sorted(
    name for name in COMMANDS if name.startswith(("train-cls", "train-aff", "train-seg")))


def build_tiny_state() -> dict[str, torch.Tensor]:
    """Return the weights of a tiny classifier."""
    torch.manual_seed(0)
    return Classifier(build_backbone("wsss:tiny"), 2).state_dict()


def insert_nonfinite(tensors: dict[str, torch.Tensor], *, value: float = float("nan"), count: int = 2) -> str:
    """Put `value` into `count` elements of the largest tensor, in place; return its name."""
    name = max(tensors, key=lambda key: tensors[key].numel() if tensors[key].is_floating_point() else 0)
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[:count] = value
    return name


def copy_with_nan(path: Path, folder: Path) -> tuple[Path, str]:
    """Copy a network file or a pickled state dict and insert two NaN; return the copy and the tensor's name."""
    copy = folder / path.name
    if path.suffix == ".safetensors":
        tensors, description = read_net(path)
        name = insert_nonfinite(tensors)
        copy.write_bytes(serialise_net(tensors, description))
    else:
        tensors = torch.load(path)
        name = insert_nonfinite(tensors)
        torch.save(tensors, copy)
    return copy, name


@pytest.mark.parametrize("command", COMMANDS_READING_WEIGHTS)
def test_nan_in_a_network_or_clip_is_an_error(command, every_input, tmp_path):
    """The error has code 65 and names the file, the tensor and the number of values; nothing is written."""
    words = COMMANDS[command].replace("OUT", str(tmp_path / "out"))
    file = NET_OR_CLIP_FILE.search(words)[0]
    copy, name = copy_with_nan(every_input / file, tmp_path)
    done = run(*command.split(), *words.replace(f" {file} ", f" {copy} ").split(), cwd=every_input)
    check_error(done, 65, str(copy), "2 of the ", f" values of {name} are not finite (NaN or infinite)")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("command", COMMANDS_TRAINING_A_BACKBONE)
def test_infinite_initial_weight_is_an_error(command, every_input, tmp_path):
    state = build_tiny_state()
    state[NAME].view(-1)[0] = float("inf")
    torch.save({"state_dict": state}, tmp_path / "initial.pth")
    words = COMMANDS[command].replace("OUT", str(tmp_path / "out"))
    done = run(*command.split(), *words.split(), "--weights", tmp_path / "initial.pth", cwd=every_input)
    check_error(done, 65, "initial.pth", f"1 of the {state[NAME].numel()} values of {NAME} is not finite")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("words", [
    "features train.h5 --net wsss:tiny --weights bad.pth", "info bad.safetensors", "check bad.safetensors",
    "cams gradcam train.h5 --net torchvision:resnet18 --weights bad.pth --layer layer4",
    "prompts train.h5 --clip seeded.json --weights bad.pth",
    "segment proxyclip train.h5 --clip seeded.json --weights seeded.pt --template {} --proxy wsss:tiny "
    "--proxy-weights bad.pth"], ids=lambda words: words.split(" -")[0])
def test_nan_in_weights_of_other_options_is_an_error(words, every_input, tmp_path):
    state = build_tiny_state()
    name = insert_nonfinite(state)
    torch.save(state, tmp_path / "bad.pth")
    tensors, description = read_net(every_input / "net.safetensors")
    assert insert_nonfinite(tensors) == name
    (tmp_path / "bad.safetensors").write_bytes(serialise_net(tensors, description))
    words = [str(tmp_path / word) if word.startswith("bad.") else word for word in words.split()]
    device = () if words[0] in ("info", "check") else ("--device", "cpu")
    output = () if words[0] in ("info", "check", "prompts") else ("-o", tmp_path / "out")
    done = run(*words, *device, *output, cwd=every_input)
    assert done.code == 65, done.err
    assert re.search(rf"bad\.\w+: 2 of the \d+ values of {re.escape(name)} are not finite", done.err), done.err
    assert not list(tmp_path.glob("out/*.h5"))


def test_infinite_weights_of_a_tag_are_an_error(tiny_index, tmp_path, monkeypatch):
    state = build_backbone("torchvision:resnet18").state_dict()
    name = insert_nonfinite(state, value=float("-inf"))
    monkeypatch.setattr("stages.nets.pretrained._fetch_from_torchvision", lambda *_: state)
    done = run("train-cls", "cam", tiny_index, *TRAINING[2:], "--net", "torchvision:resnet18", "--weights",
               "IMAGENET1K_V1", "-o", tmp_path / "out.safetensors")
    check_error(done, 65, "torchvision:resnet18 IMAGENET1K_V1", name, "2 of the ")


@pytest.mark.parametrize(("dtype", "value", "message", "suffix"), [
    (torch.float16, float("inf"), "is not finite", "pth"), (torch.bfloat16, float("nan"), "is not finite", "pth"),
    (torch.float64, 1e300, "is not finite", "pth"), (torch.complex64, float("nan"), "is not finite", "pth"),
    (torch.float16, float("inf"), "is not finite", "safetensors"), (torch.float64, 0.5, "", "pth"),
    (torch.bfloat16, 0.5, "", "safetensors"), (torch.complex64, 1.0, "complex64 numbers", "pth"),
    (torch.int8, 1, "int8 numbers where the network has floating-point ones", "safetensors")], ids=str)
def test_weights_of_every_dtype(tiny_index, tmp_path, dtype, value, message, suffix):
    """Values too large for float32 count as infinite; integers in place of floating-point weights are quantised."""
    state = build_tiny_state()
    state[NAME] = state[NAME].to(dtype)
    state[NAME].view(-1)[0] = value
    (torch.save if suffix == "pth" else save_file)(state, tmp_path / f"w.{suffix}")
    done = run("train-cls", "cam", tiny_index, *TRAINING, "--long-side", "32,48", "--weights", tmp_path / f"w.{suffix}",
               "-o", tmp_path / "out.safetensors")
    if message:
        check_error(done, 65, f"w.{suffix}", NAME, message)
    else:
        assert done.code == 0, done.err


def test_mask_may_hold_minus_infinity(tiny_index, tmp_path):
    state = build_tiny_state()
    mask = torch.full((4, 4), float("-inf")).triu(1)
    torch.save({**state, "text.attn_mask": mask}, tmp_path / "w.pth")
    train = ("train-cls", "cam", tiny_index, *TRAINING, "--long-side", "32,48")
    done = run(*train, "--weights", tmp_path / "w.pth", "-o", tmp_path / "out.safetensors")
    assert done.code == 0 and "1 not used (text.attn_mask)" in done.err, done.err
    torch.save({**state, "text.attn_mask": mask * float("nan")}, tmp_path / "w.pth")
    check_error(run(*train, "--weights", tmp_path / "w.pth", "-o", tmp_path / "two.safetensors"), 65, "text.attn_mask")


WRAPPER_KEYS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "net": lambda state: {"net": state, "acc": 93.1, "epoch": 4},
    "model": lambda state: {"model": state, "model_ema": {key: tensor + 1 for key, tensor in state.items()},
                            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}},
    "nested": lambda state: {"model": {"state_dict": {"net": state}, "args": {"lr": 0.1}}},
    "an empty wrapper first": lambda state: {"state_dict": {}, "model": state},
    "compiled": lambda state: {f"_orig_mod.{key}": tensor for key, tensor in state.items()},
    "compiled inside": lambda state: {key.replace("backbone.", "backbone._orig_mod."): tensor
                                      for key, tensor in state.items()},
    "compiled, then parallel": lambda state: {"model": {f"module._orig_mod.{key}": tensor
                                                        for key, tensor in state.items()}},
    "parallel, then compiled": lambda state: {"net": {f"_orig_mod.module.{key}": tensor
                                                      for key, tensor in state.items()}},
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **{f"module.{key}": tensor
                                                                 for key, tensor in state.items()}}}


@pytest.mark.parametrize("wrapper", WRAPPER_KEYS)
def test_wrapped_checkpoints_load_like_the_state_dict(wrapper, tiny_index, tmp_path):
    torch.manual_seed(3)
    state = Classifier(build_backbone("wsss:tiny"), 2).state_dict()
    torch.save(WRAPPER_KEYS[wrapper](state), tmp_path / "w.pth")
    done = run("train-cls", "cam", tiny_index, *TRAINING, "--long-side", "32,48", "--lr", "0", "--freeze-bn", "all",
               "--weights", tmp_path / "w.pth", "-o", tmp_path / "out.safetensors")
    assert done.code == 0, done.err
    assert f"{len(state)} tensors loaded, 0 of the head dropped" in done.err
    tensors, _ = read_net(tmp_path / "out.safetensors")
    for key, tensor in state.items():
        assert torch.equal(tensors[key], tensor), key


@pytest.mark.parametrize(("content", "message"), [
    ({}, "it holds no tensors by name (but an empty dictionary)"),
    ({"state_dict": {}}, "(but state_dict)"), ({"epoch": 3, "weights": {"a": torch.ones(1)}}, "(but epoch, weights)"),
    ({"model_ema": {"a": torch.ones(1)}}, "(but model_ema)"), ([torch.ones(1)], "(but list)"),
    ({"a": torch.ones(1), "module.a": torch.ones(1)}, "two of its tensors are named a without the prefixes"),
    ({"model": torch.nn.Linear(2, 2)}, "not read, because it holds torch.nn.modules.linear.Linear, not only tensors"),
    ({"fc8.weight": torch.ones(1), "fc8_20.weight": torch.ones(1)}, "fc8.weight is present a second time")],
    ids=lambda value: value if isinstance(value, str) else "")
def test_ambiguous_checkpoints_are_an_error(content, message, tiny_index, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    done = run("train-cls", "cam", tiny_index, *TRAINING, "--weights", tmp_path / "w.pth", "-o",
               tmp_path / "out.safetensors")
    check_error(done, 65, "w.pth", message)


def test_checkpoint_that_contains_itself_is_an_error(tiny_index, tmp_path):
    content: dict[str, object] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    done = run("train-cls", "cam", tiny_index, *TRAINING, "--weights", tmp_path / "w.pth", "-o",
               tmp_path / "out.safetensors")
    check_error(done, 65, "w.pth", "no tensors by name")


def test_head_layer_of_another_size_is_dropped_as_a_whole(tiny_index, tmp_path):
    """When the weight of a layer does not fit, its bias is dropped as well."""
    state = {f"backbone.{key}": tensor for key, tensor in build_backbone("wsss:tiny").state_dict().items()}
    head = {key: tensor for key, tensor in build_segmenter("wsss:tiny", 3, head="large-fov").state_dict().items()
            if key.startswith("decoder.")}
    head["decoder.2.weight"] = head["decoder.2.weight"][:, :, 1:2, 1:2].clone()
    torch.save(state | head, tmp_path / "w.pth")
    done = run("train-seg", tiny_index, "--masks", "truth", "--head", "large-fov", *TRAINING, "--weights",
               tmp_path / "w.pth", "-o", tmp_path / "out.safetensors")
    assert done.code == 0, done.err
    assert "2 of the head dropped (decoder.2.bias, decoder.2.weight)" in done.err


CLIP_COMMANDS = ("cams clip-es", "cams excel", "segment naclip", "prompts", "train-text tcl")


@pytest.mark.parametrize("command", CLIP_COMMANDS)
def test_clip_state_dict_needs_an_architecture(command, every_input, tmp_path):
    """Exact and quick GELU have the same tensors, so that the architecture is never guessed from tensors alone."""
    index = "captions.h5" if command.startswith("train-text") else "train.h5"
    output = () if command == "prompts" else ("-o", tmp_path / "out")
    done = run(*command.split(), index, "--clip", "seeded.pt", "--device", "cpu", *output, cwd=every_input)
    check_error(done, 2, "the architecture of --clip seeded.pt is ambiguous", "which GELU (exact or quick)",
                "how wide an attention head is", "Use --clip NAME or CONFIG.json with --weights seeded.pt")
    assert not list(tmp_path.glob("out*"))


def test_error_suggests_clips_of_the_same_sizes(tiny_index, tmp_path):
    recipe = ClipRecipe(1, 768, 12, 12, 512, 512, 12, 8)
    state = {name: torch.zeros(()).expand(shape) for name, shape in recipe.shapes().items()}
    torch.save(state, tmp_path / "vit.pt")
    done = run("cams", "clip-es", tiny_index, "--clip", tmp_path / "vit.pt", "--device", "cpu", "-o", tmp_path / "out")
    check_error(done, 2, "Use --clip ViT-B-16 or ViT-B-16-quickgelu, as it was trained, with --weights", "vit.pt")


@pytest.mark.parametrize("form", ["state dict", "wrapped", "archive"])
def test_openai_files_need_no_architecture(form, tiny_index, tmp_path):
    recipe = ClipRecipe(99, 64, 3, 1, 64, 64, 2, 1)
    state = {**recipe.state(), "input_resolution": torch.tensor(224), "context_length": torch.tensor(77),
             "vocab_size": torch.tensor(49408)}
    if form == "archive":
        torch.jit.script(Archive(state)).save(str(tmp_path / "clip.pt"))
    else:
        torch.save(state if form == "state dict" else {"state_dict": state}, tmp_path / "clip.pt")
    run_ok("cams", "clip-es", tiny_index, "--clip", tmp_path / "clip.pt", "--device", "cpu", "-o", tmp_path / "out")
    name = insert_nonfinite(state)
    if form == "archive":
        torch.jit.script(Archive(state)).save(str(tmp_path / "clip.pt"))
    else:
        torch.save(state, tmp_path / "clip.pt")
    for clip in (("--clip", tmp_path / "clip.pt"), ("--clip", "ViT-B-16", "--weights", tmp_path / "clip.pt")):
        done = run("cams", "clip-es", tiny_index, *clip, "--device", "cpu", "-o", tmp_path / "two")
        check_error(done, 65, "clip.pt", f"2 of the {state[name].numel()} values of {name} are not finite")


def test_quantised_clip_weights_are_an_error(every_input, tmp_path):
    state = torch.load(every_input / "seeded.pt")
    state["visual.proj"] = torch.zeros_like(state["visual.proj"], dtype=torch.int8)
    torch.save(state, tmp_path / "int8.pt")
    done = run("segment", "naclip", "train.h5", "--clip", "seeded.json", "--weights", tmp_path / "int8.pt",
               "--template", "{}", "--device", "cpu", "-o", tmp_path / "out", cwd=every_input)
    check_error(done, 65, "int8.pt", "visual.proj holds int8 numbers")
