"""MCTformer and its backbone with class tokens: weights, attention, positions at any size, and the network file."""

from __future__ import annotations

from functools import lru_cache

import pytest
import timm
import torch
from torch import Tensor

from small_vit import small_vit
from stages.errors import BadData, UsageError
from stages.kernels.attention import attend
from stages.kernels.class_attention import average_class_attention, fuse_class_maps
from stages.nets import net_files
from stages.nets.class_token_backbone import ClassTokenBackbone, resize_patch_positions
from stages.nets.feature_extractor import PooledNet
from stages.nets.library_classifier import OutputTap, find_layer, reshape_to_maps
from stages.nets.mctformer import MCTFORMER_VERSIONS, MCTformer
from stages.nets.position_embedding import resize_position_grid
from stages.nets.weights import import_weights

NAME = "vit_tiny_patch16_224"


@lru_cache(maxsize=4)
def build_vit(name: str = NAME) -> torch.nn.Module:
    """Build a timm ViT with seeded weights as large as trained ones. Tests must not change it."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net.requires_grad_(False)


def build_mctformer(version: str = "v2", num_classes: int = 3, name: str = NAME, **options) -> MCTformer:
    """Build an MCTformer with the weights of `build_vit`, in evaluation mode."""
    torch.manual_seed(1)
    net = MCTformer(ClassTokenBackbone(f"timm:{name}", num_classes, **options), version).eval()
    import_weights(net, build_vit(name).state_dict())
    return net


def create_images(*size: int) -> Tensor:
    """Return two seeded random images (2, 3, H, W)."""
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_one_class_gives_the_tokens_of_the_vit():
    net, images = build_mctformer("v1", 1), create_images(224, 224)
    tokens, block_outputs = net.backbone.forward_tokens(images).tokens, []
    handle = build_vit().blocks[-1].register_forward_hook(
        lambda _module, _inputs, output: block_outputs.append(output))
    normed = build_vit().forward_features(images)
    handle.remove()
    torch.testing.assert_close(tokens, block_outputs[0])
    torch.testing.assert_close(net(images), tokens[:, :1].mean(-1))
    assert not torch.allclose(tokens, normed, atol=0.1), "the final norm must be removed"


@pytest.mark.parametrize(("name", "num_positions"), [
    (NAME, 197), ("vit_tiny_patch16_384", 577), ("deit_tiny_distilled_patch16_224", 198),
    ("vit_small_patch14_reg4_dinov2", 1369)])  # fmt: skip
def test_every_class_starts_from_the_class_token_and_its_position(name, num_positions):
    source = build_vit(name).state_dict()
    assert source["pos_embed"].shape[1] == num_positions
    net = build_mctformer(name=name)
    state = net.backbone.state_dict()
    class_position = source["pos_embed"][:, :1] if num_positions != 1369 else 0  # DINOv2 has none for the class token
    start = state["cls_token"] + state["pos_embed"][:, :3]
    torch.testing.assert_close(start, (source["cls_token"] + class_position).expand(1, 3, -1))
    num_cells = net.backbone.grid[0] ** 2
    assert torch.equal(state["pos_embed"][:, 3:], source["pos_embed"][:, num_positions - num_cells:])
    for key in ("patch_embed.proj.weight", "blocks.3.attn.qkv.weight"):
        assert torch.equal(state[key], source[key])
    assert not [key for key in state if key.startswith(("norm.", "fc_norm."))]
    with torch.no_grad():
        side = net.stride * 2
        assert net(create_images(side, 2 * side)).shape == (2, 3)


def test_positions_of_another_grid_are_resized_and_another_patch_size_is_an_error():
    backbone = ClassTokenBackbone(f"timm:{NAME}", 2)
    larger_vit = build_vit("vit_tiny_patch16_384")
    adapted = backbone.adapt_state_dict(larger_vit.state_dict())["pos_embed"]
    expected = resize_patch_positions(larger_vit.pos_embed[:, 1:], (24, 24), (14, 14))
    torch.testing.assert_close(adapted[:, 2:], expected)
    with pytest.raises(BadData, match="another network"):
        import_weights(build_mctformer(), build_vit("vit_small_patch14_reg4_dinov2").state_dict())


def test_loads_weights_under_our_names_and_under_the_released_names():
    net = build_mctformer()
    with torch.no_grad():
        net.backbone.model.cls_token.normal_()
    state = dict(net.state_dict())
    from_ours = MCTformer(ClassTokenBackbone(f"timm:{NAME}", 3), "v2").eval()
    assert len(import_weights(from_ours, state).loaded) == len(state)
    released = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    positions = released.pop("pos_embed")
    released |= {"pos_embed_cls": positions[:, :3], "pos_embed_pat": positions[:, 3:],
                 "head.weight": released.pop("patch_head.weight"), "head.bias": released.pop("patch_head.bias")}
    from_released = MCTformer(ClassTokenBackbone(f"timm:{NAME}", 3), "v2").eval()
    assert len(import_weights(from_released, released).loaded) == len(state)
    for loaded in (from_ours, from_released):
        assert all(torch.equal(state[name], tensor) for name, tensor in loaded.state_dict().items())
    other = MCTformer(ClassTokenBackbone(f"timm:{NAME}", 4), "v2")
    with pytest.raises(BadData, match="cls_token"):
        import_weights(other, state)


@pytest.mark.parametrize("name", ["timm:resnet18", "wsss:tiny", "timm:swin_tiny_patch4_window7_224",
                                  "timm:vit_medium_patch16_gap_256"])
def test_networks_without_a_class_token_are_an_error(name):
    with pytest.raises(UsageError, match="vision transformer"):
        ClassTokenBackbone(name, 2)


@pytest.mark.parametrize(("pool", "norm"), [("token", "norm"), ("avg", "fc_norm")])
def test_final_norm_is_removed_before_or_after_the_pooling(pool, norm):
    name = small_vit(pool=pool)
    source = timm.create_model(name.removeprefix("timm:"), num_classes=7)
    assert f"{norm}.weight" in source.state_dict()
    net = MCTformer(ClassTokenBackbone(name, 3), "v1").eval()
    report = import_weights(net, source.state_dict())
    assert set(report.unused) == {f"{norm}.weight", f"{norm}.bias"} and f"({norm}.bias, {norm}.weight)" in str(report)
    with torch.no_grad():
        outputs = net.backbone.forward_tokens(create_images(64, 64))
    assert torch.equal(outputs.tokens[:, :3], outputs.class_tokens[-1])
    assert norm not in net.backbone.blocks
    with pytest.raises(UsageError, match="patch_embed"):
        net.backbone.freeze(norm)


def test_position_size_sets_the_grid_of_positions():
    net = MCTformer(ClassTokenBackbone(small_vit(), 3, position_size=96), "plus")
    assert net.backbone.grid == (6, 6) and net.backbone.model.pos_embed.shape == (1, 3 + 36, 48)
    assert net_files.describe_architecture(net)["position_size"] == 96
    source = timm.create_model(small_vit().removeprefix("timm:"), num_classes=0)
    import_weights(net, source.state_dict())
    expected = resize_patch_positions(source.pos_embed[:, 1:], (4, 4), (6, 6))
    assert torch.equal(net.backbone.model.pos_embed[:, 3:], expected)
    for size, message in ((40, "16 pixels"), (-16, "out of range"), (8192, "out of range")):
        with pytest.raises(UsageError, match=message):
            ClassTokenBackbone(small_vit(), 3, position_size=size)


def test_another_stride_is_an_error():
    with pytest.raises(UsageError, match="supports only stride 16"):
        ClassTokenBackbone(f"timm:{NAME}", 2, stride=8)


@torch.no_grad()
def test_attention_is_the_softmax_of_queries_and_keys():
    net, images = build_mctformer(), create_images(48, 80)
    attention = net.forward_attention(images)
    assert attention.shape == (12, 2, 3, 18, 18)
    block, tokens = net.backbone.model.blocks[0], net.backbone._embed_images(images)
    query, key, _ = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(attention[0], (query @ key.mT / 8).softmax(-1))
    torch.testing.assert_close(net.forward_with_attention(images).attention, attention.mean(2))
    torch.testing.assert_close(net.forward_with_attention(images, 2).attention, attention[-2:].mean(2))


@torch.no_grad()
@pytest.mark.parametrize("version", ["v2", "plus"])
def test_attention_head_by_head_gives_the_same_outputs(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = build_mctformer(version), create_images(48, 80)
    expected = net.forward_with_attention(images)
    calls = []
    monkeypatch.setattr("stages.kernels.attention.MAX_SCORES", 0)
    monkeypatch.setattr("stages.nets.attention_record.attend", lambda *heads: calls.append(1) or attend(*heads))
    outputs = net.forward_with_attention(images)
    assert len(calls) == 12
    for value, expected_value in zip(outputs[:3], expected[:3], strict=True):
        torch.testing.assert_close(value, expected_value, rtol=1e-4, atol=1e-5)
    with torch.enable_grad():
        assert net.forward_with_attention(images).attention.requires_grad and len(calls) == 12


@torch.no_grad()
def test_recording_attention_changes_nothing_and_is_undone():
    net, images = build_mctformer("plus"), create_images(48, 80)
    fused_flags = [block.attn.fused_attn for block in net.backbone.model.blocks]
    torch.testing.assert_close(net.forward_with_attention(images).logits, net(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="stop"), net.backbone.record_attention():
        raise ValueError("stop")
    assert [block.attn.fused_attn for block in net.backbone.model.blocks] == fused_flags
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in net.backbone.model.blocks)
    assert not any("forward" in vars(block.attn) for block in net.backbone.model.blocks)


def compute_cubic_kernel(distance: float) -> float:
    """Return Keys' cubic convolution kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def build_resize_matrix(new: int, old: int, scale: float) -> Tensor:
    """Return the matrix (new, old) that resizes a line bicubically, with its edges repeated."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for index in range(new):
        centre = (index + 0.5) * scale - 0.5
        for tap in range(int(centre // 1) - 1, int(centre // 1) + 3):
            matrix[index, min(max(tap, 0), old - 1)] += compute_cubic_kernel(centre - tap)
    return matrix


@pytest.mark.parametrize("interpolate_offset", [0.0, 0.1])
def test_positions_are_resized_bicubically_around_the_patch_centres(interpolate_offset):
    old, new = (14, 14), (9, 31)
    positions = torch.randn(1, 196, 5, dtype=torch.float64)
    matrices = [build_resize_matrix(new_side, old_side, old_side / (new_side + interpolate_offset))
                for new_side, old_side in zip(new, old, strict=True)]
    expected = torch.einsum("yr,xc,brcd->byxd", *matrices, positions.unflatten(1, old)).flatten(1, 2)
    resized = resize_patch_positions(positions, old, new, interpolate_offset=interpolate_offset)
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-12)


def test_resizing_by_size_equals_resizing_by_factor_unless_rounding_loses_a_cell():
    """The released code of plus scales by h / h0, which gives the same positions when floor(h0 * (h / h0)) is h."""
    table = torch.randn(1, 5, 14, 14, dtype=torch.float64)
    for grid in ((28, 28), (9, 31), (20, 14), (10, 17)):
        scaled = torch.nn.functional.interpolate(table, scale_factor=tuple(side / 14 for side in grid), mode="bicubic")
        torch.testing.assert_close(resize_position_grid(table, grid, "bicubic"), scaled, rtol=0, atol=1e-12)
    # For 976 pixels the released code loses the last cell and fails.
    scaled = torch.nn.functional.interpolate(table, scale_factor=(61 / 14, 1.0), mode="bicubic")
    assert scaled.shape[-2:] == (60, 14) and resize_position_grid(table, (61, 14), "bicubic").shape[-2:] == (61, 14)


@pytest.mark.parametrize(("version", "interpolate_offset"), [("v1", 0.1), ("v2", 0.1), ("plus", 0.0)])
def test_released_positions_of_each_version(version, interpolate_offset):
    backbone = MCTformer(ClassTokenBackbone(small_vit(), 2), version).backbone
    backbone.exact_positions = False
    expected = resize_patch_positions(backbone.model.pos_embed[:, 2:], (4, 4), (6, 3),
                                      interpolate_offset=interpolate_offset)
    assert torch.equal(backbone.get_positions((6, 3))[:, 2:], expected)


def test_attribute_selects_exact_or_released_positions():
    backbone = ClassTokenBackbone(f"timm:{NAME}", 2)
    exact = backbone.get_positions((20, 14))
    backbone.exact_positions = False
    released = backbone.get_positions((20, 14))
    assert torch.equal(exact[:, :2], released[:, :2]) and not torch.equal(exact, released)
    assert backbone.get_positions((14, 14)) is backbone.model.pos_embed


@pytest.mark.parametrize("version", MCTFORMER_VERSIONS)
def test_maps_are_fused_class_and_patch_maps_with_a_gradient(version):
    net, images = build_mctformer(version), create_images(48, 80)
    maps = net.maps(images)
    assert maps.shape == (2, 3, 3, 5) and float(maps.min()) >= 0
    with torch.no_grad():
        outputs = net.forward_with_attention(images)
        class_attention = average_class_attention(outputs.attention[-3:], 3, (3, 5))
        expected = fuse_class_maps(version, "fused", class_attention, outputs.patch, 3)
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)
        if version != "v1":
            torch.testing.assert_close(net.maps(images, kind="patch"), net.patch_head(net.backbone(images)).relu(),
                                       rtol=1e-4, atol=1e-5)
    maps.sum().backward()
    parameters = {name: parameter for name, parameter in net.named_parameters() if parameter.grad is not None}
    trained = {name for name, parameter in parameters.items() if parameter.grad.any()}
    assert {"backbone.model.cls_token", "backbone.model.pos_embed", "backbone.model.patch_embed.proj.weight"} <= trained
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters.values())


@torch.no_grad()
def test_logits_are_means_of_class_tokens_and_of_patch_maps():
    images = create_images(48, 80)
    v2, plus = build_mctformer("v2"), build_mctformer("plus")
    outputs = v2.forward_outputs(images)
    assert torch.equal(v2(images), outputs.class_logits) and outputs.class_tokens.shape == (12, 2, 3, 192)
    torch.testing.assert_close(outputs.class_logits, v2.backbone.forward_tokens(images).tokens[:, :3].mean(-1))
    torch.testing.assert_close(outputs.patch_logits, v2.patch_head(v2.backbone(images)).mean((2, 3)))
    assert torch.equal(outputs.class_tokens[-1], v2.backbone.forward_tokens(images).tokens[:, :3])
    plus_outputs = plus.forward_outputs(images)
    torch.testing.assert_close(plus(images), (plus_outputs.class_logits + plus_outputs.patch_logits) / 2)
    assert build_mctformer("v1").forward_outputs(images).patch_logits is None


def test_class_tokens_are_trained_when_the_stem_is_frozen():
    net = build_mctformer()
    net.backbone.freeze("patch_embed")
    assert net.backbone.model.cls_token.requires_grad
    assert not net.backbone.model.patch_embed.proj.weight.requires_grad
    assert not net.backbone.model.pos_embed.requires_grad


@torch.no_grad()
def test_drop_path_is_active_in_training_only():
    net, images = build_mctformer(drop_path=0.5), create_images(32, 32)
    assert torch.equal(net(images), net(images)) and torch.equal(net(images), build_mctformer()(images))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in net.backbone.model.blocks]
    assert rates == pytest.approx([0.5 * index / 11 for index in range(12)])
    net.train()
    assert not torch.equal(net(images), net(images))


@pytest.mark.parametrize("version", MCTFORMER_VERSIONS)
@torch.no_grad()
def test_network_file_restores_the_network(version, tmp_path):
    net = build_mctformer(version)
    path = tmp_path / "net.safetensors"
    description = net_files.describe_net(net, classes=["background", "a", "b", "c"], supervision="tags", provenance=[],
                                         initial_weights={"name": "none", "sha256": ""})
    path.write_bytes(net_files.serialise_net(net.state_dict(), description))
    loaded, description = net_files.load_net(path)
    assert description["architecture"] == {"backbone": f"timm:{NAME}", "head": f"mctformer-{version}", "stride": 16,
                                           "n_outputs": 3, "dropout": 0.0, "final_norm": False}
    assert "backbone.blocks.0.attn.qkv.weight" in net_files.read_net(path)[0]
    images = create_images(32, 64)
    assert torch.equal(loaded(images), net(images)) and torch.equal(loaded.maps(images), net.maps(images))
    features = PooledNet(loaded.backbone)(images)
    torch.testing.assert_close(features, loaded.backbone.forward_tokens(images).tokens[:, 3:].mean(1))


@pytest.mark.parametrize("version", MCTFORMER_VERSIONS)
def test_default_cam_layer_is_the_last_whose_patches_have_a_gradient(version):
    """After it only the class tokens reach the logits, so that patches have no gradient."""
    torch.manual_seed(1)
    net, max_gradients = MCTformer(ClassTokenBackbone(small_vit(), 3), version), {}
    for name in (net.default_cam_layer, "blocks.3"):
        with OutputTap(find_layer(net, name)) as tap:
            logits = net.forward_outputs(create_images(64, 64)).class_logits
        gradient, = torch.autograd.grad(logits.sum(), tap.output)
        max_gradients[name] = float(gradient[:, 3:].abs().max())
    assert net.default_cam_layer == "blocks.3.norm1"
    assert max_gradients["blocks.3.norm1"] > 0 and max_gradients["blocks.3"] == 0


@torch.no_grad()
def test_layer_outputs_reshape_to_maps_of_the_patches():
    net, images = build_mctformer(), create_images(32, 64)
    outputs = []
    find_layer(net, net.default_cam_layer).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output))
    net(images)
    maps = reshape_to_maps(outputs[0], net, (32, 64))
    assert maps.shape == (2, 192, 2, 4)
    assert torch.equal(maps[1, :, 1, 2], outputs[0][1, 3 + 4 + 2])
