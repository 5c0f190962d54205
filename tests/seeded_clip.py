"""A CLIP with seeded weights, as in the reference values of CLIP-ES.

Every tensor is drawn from PCG64 seeded with [seed, crc32(name)], scaled by the kind of layer, and rounded to float16,
so that its values are the same in float16 and float32. Names are those of OpenAI's release.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

VOCABULARY, CONTEXT, PATCH, SIDE = 49408, 77, 16, 224


@dataclass(frozen=True)
class ClipRecipe:
    """The sizes and the seed of a model; `scale` is the factor that turns cosines into logits."""

    seed: int
    width: int
    layers: int
    heads: int
    embed: int
    text_width: int
    text_layers: int
    text_heads: int
    scale: float = 100.0

    def config(self) -> dict[str, Any]:
        """Return the model config for open_clip."""
        return {
            "embed_dim": self.embed, "quick_gelu": True,
            "vision_cfg": {"image_size": SIDE, "layers": self.layers, "width": self.width, "patch_size": PATCH,
                           "head_width": self.width // self.heads},
            "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": self.text_width,
                         "heads": self.text_heads, "layers": self.text_layers}}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor by name."""
        num_patches = (SIDE // PATCH) ** 2
        shapes: dict[str, tuple[int, ...]] = {
            "visual.class_embedding": (self.width,), "visual.positional_embedding": (num_patches + 1, self.width),
            "visual.proj": (self.width, self.embed), "visual.conv1.weight": (self.width, 3, PATCH, PATCH),
            "token_embedding.weight": (VOCABULARY, self.text_width),
            "positional_embedding": (CONTEXT, self.text_width),
            "text_projection": (self.text_width, self.embed), "logit_scale": ()}
        for norm, width in (("visual.ln_pre", self.width), ("visual.ln_post", self.width),
                            ("ln_final", self.text_width)):
            shapes |= _list_norm_shapes(norm, width)
        for prefix, width, layers in (("visual.", self.width, self.layers), ("", self.text_width, self.text_layers)):
            for layer in range(layers):
                shapes |= _list_block_shapes(f"{prefix}transformer.resblocks.{layer}.", width)
        return shapes

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights by name."""
        return {name: self._draw_tensor(name, shape) for name, shape in self.shapes().items()}

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write CONFIG.json and the weights into `folder`, and return both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        config, weights = folder / "seeded.json", folder / "seeded.pt"
        config.write_text(json.dumps(self.config()))
        torch.save(self.state(), weights)
        return config, weights

    def _draw_tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if not shape:
            return torch.tensor(np.float32(np.float16(math.log(self.scale))))
        std, mean = _get_distribution(name, shape)
        generator = np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))
        values = generator.standard_normal(shape, dtype=np.float32) * np.float32(std) + np.float32(mean)
        return torch.from_numpy(values.astype(np.float16).astype(np.float32))


CLIP_RECIPES = {
    "tiny4": ClipRecipe(1234, 64, 4, 4, 32, 64, 4, 4),
    "tiny10": ClipRecipe(4321, 64, 10, 4, 32, 64, 2, 4, 1 / 0.07),
    "vitb16": ClipRecipe(777, 768, 12, 12, 512, 512, 12, 8),
}


def _list_norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _list_block_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}attn.in_proj_weight": (3 * width, width), f"{prefix}attn.in_proj_bias": (3 * width,),
        f"{prefix}attn.out_proj.weight": (width, width), f"{prefix}attn.out_proj.bias": (width,),
        f"{prefix}mlp.c_fc.weight": (4 * width, width), f"{prefix}mlp.c_fc.bias": (4 * width,),
        f"{prefix}mlp.c_proj.weight": (width, 4 * width), f"{prefix}mlp.c_proj.bias": (width,),
        **_list_norm_shapes(f"{prefix}ln_1", width), **_list_norm_shapes(f"{prefix}ln_2", width)}


def _get_distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return (standard deviation, mean) of the normal distribution of a tensor's values."""
    layer = name.rpartition(".")[0].rpartition(".")[2]
    if layer.startswith("ln_"):
        return (0.1, 1.0) if name.endswith("weight") else (0.02, 0.0)
    if name.endswith("bias"):
        return 0.02, 0.0
    std_by_name = {"visual.class_embedding": 0.5, "visual.positional_embedding": 0.5, "token_embedding.weight": 0.06,
                   "positional_embedding": 0.12, "visual.conv1.weight": 1.5 * (3 * PATCH * PATCH) ** -0.5}
    if name in std_by_name:
        return std_by_name[name], 0.0
    if name in ("visual.proj", "text_projection"):
        return shape[0] ** -0.5, 0.0
    factor = 1.6 if name.endswith("in_proj_weight") else 1.0 if layer == "c_fc" else 0.7
    return factor * shape[1] ** -0.5, 0.0
