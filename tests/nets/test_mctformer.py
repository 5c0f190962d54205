"""A ViT with class tokens: its weights, its attention, its positions at any size, its net file."""

from __future__ import annotations

from functools import lru_cache

import pytest
import timm
import torch
from torch import Tensor

from small_vit import small_vit
from stages.errors import BadData, UsageError
from stages.kernels.class_attention import class_to_patch, fuse
from stages.nets import files
from stages.nets.class_tokens import ClassTokenBackbone, resized_positions
from stages.nets.mctformer import VERSIONS, MCTformer
from stages.nets.plain_classifier import Tap, as_maps, layer_of
from stages.nets.pooled import Pooled
from stages.nets.positions import resized_cells
from stages.nets.weights import import_weights

NAME = "vit_tiny_patch16_224"


@lru_cache(maxsize=4)
def vit(name: str = NAME) -> torch.nn.Module:
    """Return a ViT with seeded weights of a trained one's size. Not to be changed."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return net.requires_grad_(False)


def mctformer(version: str = "v2", n_classes: int = 3, name: str = NAME, **more) -> MCTformer:
    torch.manual_seed(1)
    net = MCTformer(ClassTokenBackbone(f"timm:{name}", n_classes, **more), version).eval()
    import_weights(net, vit(name).state_dict())
    return net


def pictures(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_with_one_class_it_is_the_vit():
    net, images = mctformer("v1", 1), pictures(224, 224)
    tokens, kept = net.backbone.run(images).tokens, []
    handle = vit().blocks[-1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    normed = vit().forward_features(images)
    handle.remove()
    torch.testing.assert_close(tokens, kept[0])
    torch.testing.assert_close(net(images), tokens[:, :1].mean(-1))
    assert not torch.allclose(tokens, normed, atol=0.1), "the final norm is left out"


@pytest.mark.parametrize(("name", "positions"), [
    (NAME, 197), ("vit_tiny_patch16_384", 577), ("deit_tiny_distilled_patch16_224", 198),
    ("vit_small_patch14_reg4_dinov2", 1369)])  # fmt: skip
def test_every_class_starts_from_the_class_token_and_its_position(name, positions):
    source = vit(name).state_dict()
    assert source["pos_embed"].shape[1] == positions
    net = mctformer(name=name)
    ours = net.backbone.state_dict()
    own = source["pos_embed"][:, :1] if positions != 1369 else 0  # DINOv2 has none for it
    start = ours["cls_token"] + ours["pos_embed"][:, :3]
    torch.testing.assert_close(start, (source["cls_token"] + own).expand(1, 3, -1))
    cells = net.backbone.grid[0] ** 2
    assert torch.equal(ours["pos_embed"][:, 3:], source["pos_embed"][:, positions - cells:])
    for key in ("patch_embed.proj.weight", "blocks.3.attn.qkv.weight"):
        assert torch.equal(ours[key], source[key])
    assert not [key for key in ours if key.startswith(("norm.", "fc_norm."))]
    with torch.no_grad():
        side = net.stride * 2
        assert net(pictures(side, 2 * side)).shape == (2, 3)


def test_weights_of_another_size_are_resized_and_others_refused():
    small = ClassTokenBackbone(f"timm:{NAME}", 2)
    adapted = small.adapted(vit("vit_tiny_patch16_384").state_dict())["pos_embed"]
    torch.testing.assert_close(adapted[:, 2:], resized_positions(vit("vit_tiny_patch16_384").pos_embed[:, 1:],
                                                                 (24, 24), (14, 14)))
    with pytest.raises(BadData, match="another network"):
        import_weights(mctformer(), vit("vit_small_patch14_reg4_dinov2").state_dict())


def test_nets_of_ours_and_checkpoints_of_the_released_code_come_back():
    net = mctformer()
    with torch.no_grad():
        net.backbone.model.cls_token.normal_()
    state = dict(net.state_dict())
    again = MCTformer(ClassTokenBackbone(f"timm:{NAME}", 3), "v2").eval()
    assert len(import_weights(again, state).loaded) == len(state)
    released = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    positions = released.pop("pos_embed")
    released |= {"pos_embed_cls": positions[:, :3], "pos_embed_pat": positions[:, 3:],
                 "head.weight": released.pop("patch_head.weight"), "head.bias": released.pop("patch_head.bias")}
    third = MCTformer(ClassTokenBackbone(f"timm:{NAME}", 3), "v2").eval()
    assert len(import_weights(third, released).loaded) == len(state)
    for one in (again, third):
        assert all(torch.equal(state[name], tensor) for name, tensor in one.state_dict().items())
    other = MCTformer(ClassTokenBackbone(f"timm:{NAME}", 4), "v2")
    with pytest.raises(BadData, match="cls_token"):
        import_weights(other, state)


@pytest.mark.parametrize("name", ["timm:resnet18", "wsss:tiny", "timm:swin_tiny_patch4_window7_224",
                                  "timm:vit_medium_patch16_gap_256"])
def test_networks_without_a_class_token_are_refused(name):
    with pytest.raises(UsageError, match="vision transformer"):
        ClassTokenBackbone(name, 2)


@pytest.mark.parametrize(("pool", "norm"), [("token", "norm"), ("avg", "fc_norm")])
def test_the_final_norm_is_left_out_wherever_it_stands(pool, norm):
    name = small_vit(pool=pool)
    source = timm.create_model(name.removeprefix("timm:"), num_classes=7)
    assert f"{norm}.weight" in source.state_dict()
    net = MCTformer(ClassTokenBackbone(name, 3), "v1").eval()
    report = import_weights(net, source.state_dict())
    assert set(report.unused) == {f"{norm}.weight", f"{norm}.bias"} and f"({norm}.bias, {norm}.weight)" in str(report)
    with torch.no_grad():
        seen = net.backbone.run(pictures(64, 64))
    assert torch.equal(seen.tokens[:, :3], seen.class_tokens[-1])
    assert norm not in net.backbone.blocks
    with pytest.raises(UsageError, match="patch_embed"):
        net.backbone.freeze(norm)


def test_a_table_of_positions_of_another_size():
    net = MCTformer(ClassTokenBackbone(small_vit(), 3, position_size=96), "plus")
    assert net.backbone.grid == (6, 6) and net.backbone.model.pos_embed.shape == (1, 3 + 36, 48)
    assert files.architecture_of(net)["position_size"] == 96
    source = timm.create_model(small_vit().removeprefix("timm:"), num_classes=0)
    import_weights(net, source.state_dict())
    wanted = resized_positions(source.pos_embed[:, 1:], (4, 4), (6, 6))
    assert torch.equal(net.backbone.model.pos_embed[:, 3:], wanted)
    for size, told in ((40, "16 pixels"), (-16, "out of range"), (8192, "out of range")):
        with pytest.raises(UsageError, match=told):
            ClassTokenBackbone(small_vit(), 3, position_size=size)


def test_another_stride_is_refused():
    with pytest.raises(UsageError, match="stride 16 only"):
        ClassTokenBackbone(f"timm:{NAME}", 2, stride=8)


@torch.no_grad()
def test_the_attention_is_the_softmax_of_queries_and_keys():
    net, images = mctformer(), pictures(48, 80)
    found = net.attention(images)
    assert found.shape == (12, 2, 3, 18, 18)
    block, tokens = net.backbone.model.blocks[0], net.backbone._embedded(images)
    query, key, _ = block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(found[0], (query @ key.mT / 8).softmax(-1))
    torch.testing.assert_close(net.attended(images).attention, found.mean(2))
    torch.testing.assert_close(net.attended(images, 2).attention, found[-2:].mean(2))


@torch.no_grad()
def test_watching_changes_nothing_and_ends():
    net, images = mctformer("plus"), pictures(48, 80)
    fused = [block.attn.fused_attn for block in net.backbone.model.blocks]
    torch.testing.assert_close(net.attended(images).logits, net(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="stop"), net.backbone.watched():
        raise ValueError("stop")
    assert [block.attn.fused_attn for block in net.backbone.model.blocks] == fused
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in net.backbone.model.blocks)


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def bicubic_line(new: int, old: int, scale: float) -> Tensor:
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for place in range(new):
        centre = (place + 0.5) * scale - 0.5
        for tap in range(int(centre // 1) - 1, int(centre // 1) + 3):
            matrix[place, min(max(tap, 0), old - 1)] += cubic(centre - tap)
    return matrix


@pytest.mark.parametrize("beside", [0.0, 0.1])
def test_positions_are_resized_bicubically_and_lie_where_the_patches_do(beside):
    old, new = (14, 14), (9, 31)
    known = torch.randn(1, 196, 5, dtype=torch.float64)
    lines = [bicubic_line(n, o, o / (n + beside)) for n, o in zip(new, old, strict=True)]
    wanted = torch.einsum("yr,xc,brcd->byxd", *lines, known.unflatten(1, old)).flatten(1, 2)
    torch.testing.assert_close(resized_positions(known, old, new, beside=beside), wanted, rtol=0, atol=1e-12)


def test_an_exact_scale_factor_is_the_size_unless_rounding_takes_a_cell():
    """The released code of plus scales by h / h0: the same positions as by size, where floor(h0 * (h / h0)) is h."""
    table = torch.randn(1, 5, 14, 14, dtype=torch.float64)
    for grid in ((28, 28), (9, 31), (20, 14), (10, 17)):
        scaled = torch.nn.functional.interpolate(table, scale_factor=tuple(side / 14 for side in grid), mode="bicubic")
        torch.testing.assert_close(resized_cells(table, grid, "bicubic"), scaled, rtol=0, atol=1e-12)
    # 976 pixels: the released code loses the last cell, and stops.
    scaled = torch.nn.functional.interpolate(table, scale_factor=(61 / 14, 1.0), mode="bicubic")
    assert scaled.shape[-2:] == (60, 14) and resized_cells(table, (61, 14), "bicubic").shape[-2:] == (61, 14)


@pytest.mark.parametrize(("version", "beside"), [("v1", 0.1), ("v2", 0.1), ("plus", 0.0)])
def test_released_positions_of_each_version(version, beside):
    backbone = MCTformer(ClassTokenBackbone(small_vit(), 2), version).backbone
    backbone.exact_positions = False
    wanted = resized_positions(backbone.model.pos_embed[:, 2:], (4, 4), (6, 3), beside=beside)
    assert torch.equal(backbone.positions((6, 3))[:, 2:], wanted)


def test_the_released_positions_are_an_attribute():
    backbone = ClassTokenBackbone(f"timm:{NAME}", 2)
    exact = backbone.positions((20, 14))
    backbone.exact_positions = False
    released = backbone.positions((20, 14))
    assert torch.equal(exact[:, :2], released[:, :2]) and not torch.equal(exact, released)
    assert backbone.positions((14, 14)) is backbone.model.pos_embed


@pytest.mark.parametrize("version", VERSIONS)
def test_maps_are_the_fused_ones_with_a_gradient(version):
    net, images = mctformer(version), pictures(48, 80)
    maps = net.maps(images)
    assert maps.shape == (2, 3, 3, 5) and float(maps.min()) >= 0
    with torch.no_grad():
        seen = net.attended(images)
        attended = class_to_patch(seen.attention[-3:], 3, (3, 5))
        torch.testing.assert_close(maps, fuse(version, "fused", attended, seen.patch, 3), rtol=1e-4, atol=1e-6)
        if version != "v1":
            torch.testing.assert_close(net.maps(images, kind="patch"), net.patch_head(net.backbone(images)).relu(),
                                       rtol=1e-4, atol=1e-5)
    maps.sum().backward()
    learns = {name for name, one in net.named_parameters() if one.grad is not None and one.grad.any()}
    assert {"backbone.model.cls_token", "backbone.model.pos_embed", "backbone.model.patch_embed.proj.weight"} <= learns
    assert all(torch.isfinite(one.grad).all() for one in net.parameters() if one.grad is not None)


@torch.no_grad()
def test_logits_are_means_of_tokens_and_pooled_maps():
    images = pictures(48, 80)
    v2, plus = mctformer("v2"), mctformer("plus")
    found = v2.outputs(images)
    assert torch.equal(v2(images), found.class_logits) and found.class_tokens.shape == (12, 2, 3, 192)
    torch.testing.assert_close(found.class_logits, v2.backbone.run(images).tokens[:, :3].mean(-1))
    torch.testing.assert_close(found.patch_logits, v2.patch_head(v2.backbone(images)).mean((2, 3)))
    assert torch.equal(found.class_tokens[-1], v2.backbone.run(images).tokens[:, :3])
    both = plus.outputs(images)
    torch.testing.assert_close(plus(images), (both.class_logits + both.patch_logits) / 2)
    assert mctformer("v1").outputs(images).patch_logits is None


def test_class_tokens_learn_under_a_frozen_stem():
    net = mctformer()
    net.backbone.freeze("patch_embed")
    assert net.backbone.model.cls_token.requires_grad
    assert not net.backbone.model.patch_embed.proj.weight.requires_grad
    assert not net.backbone.model.pos_embed.requires_grad


@torch.no_grad()
def test_drop_path_is_for_training():
    net, images = mctformer(drop_path=0.5), pictures(32, 32)
    assert torch.equal(net(images), net(images)) and torch.equal(net(images), mctformer()(images))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in net.backbone.model.blocks]
    assert rates == pytest.approx([0.5 * place / 11 for place in range(12)])
    net.train()
    assert not torch.equal(net(images), net(images))


@pytest.mark.parametrize("version", VERSIONS)
@torch.no_grad()
def test_a_net_comes_back_as_it_was(version, tmp_path):
    net = mctformer(version)
    path = tmp_path / "net.safetensors"
    described = files.describe_net(net, classes=["background", "a", "b", "c"], supervision="tags", provenance=[],
                                   initial_weights={"name": "none", "sha256": ""})
    path.write_bytes(files.net_bytes(net.state_dict(), described))
    again, description = files.load_net(path)
    assert description["architecture"] == {"backbone": f"timm:{NAME}", "head": f"mctformer-{version}", "stride": 16,
                                           "n_outputs": 3, "dropout": 0.0, "final_norm": False}
    assert "backbone.blocks.0.attn.qkv.weight" in files.read_net(path)[0]
    images = pictures(32, 64)
    assert torch.equal(again(images), net(images)) and torch.equal(again.maps(images), net.maps(images))
    features = Pooled(again.backbone)(images)
    torch.testing.assert_close(features, again.backbone.run(images).tokens[:, 3:].mean(1))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_watched_layer_is_the_last_whose_patches_have_a_gradient(version):
    """Behind it the class tokens of the last block are the logits, and no patch reaches them any more."""
    torch.manual_seed(1)
    net, sizes = MCTformer(ClassTokenBackbone(small_vit(), 3), version), {}
    for name in (net.watched_layer, "blocks.3"):
        with Tap(layer_of(net, name)) as tap:
            logits = net.outputs(pictures(64, 64)).class_logits
        gradient, = torch.autograd.grad(logits.sum(), tap.output)
        sizes[name] = float(gradient[:, 3:].abs().max())
    assert net.watched_layer == "blocks.3.norm1" and sizes["blocks.3.norm1"] > 0 and sizes["blocks.3"] == 0


@torch.no_grad()
def test_its_layers_are_maps_of_the_patches():
    net, images = mctformer(), pictures(32, 64)
    kept = []
    layer_of(net, net.watched_layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    net(images)
    maps = as_maps(kept[0], net, (32, 64))
    assert maps.shape == (2, 192, 2, 4)
    assert torch.equal(maps[1, :, 1, 2], kept[0][1, 3 + 4 + 2])
