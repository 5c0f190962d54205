"""A CLIP with seeded weights: the recipe by which the reference values of CLIP-ES were made.

Every tensor is drawn from PCG64 seeded with [seed, crc32(name)], scaled by the kind of layer, and rounded through
float16, so that its values are the same in both types. Names are those of OpenAI's release.
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
class Recipe:
    """Sizes and seed of a model; `scale` is the factor of the cosines."""

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
        """Return the model config as open_clip reads it."""
        return {
            "embed_dim": self.embed, "quick_gelu": True,
            "vision_cfg": {"image_size": SIDE, "layers": self.layers, "width": self.width, "patch_size": PATCH,
                           "head_width": self.width // self.heads},
            "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": self.text_width,
                         "heads": self.text_heads, "layers": self.text_layers}}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor by name."""
        cells = (SIDE // PATCH) ** 2
        found: dict[str, tuple[int, ...]] = {
            "visual.class_embedding": (self.width,), "visual.positional_embedding": (cells + 1, self.width),
            "visual.proj": (self.width, self.embed), "visual.conv1.weight": (self.width, 3, PATCH, PATCH),
            "token_embedding.weight": (VOCABULARY, self.text_width),
            "positional_embedding": (CONTEXT, self.text_width),
            "text_projection": (self.text_width, self.embed), "logit_scale": ()}
        for norm, width in (("visual.ln_pre", self.width), ("visual.ln_post", self.width),
                            ("ln_final", self.text_width)):
            found |= _norm(norm, width)
        for prefix, width, layers in (("visual.", self.width, self.layers), ("", self.text_width, self.text_layers)):
            for layer in range(layers):
                found |= _block(f"{prefix}transformer.resblocks.{layer}.", width)
        return found

    def state(self) -> dict[str, torch.Tensor]:
        """Return the weights by name."""
        return {name: self._tensor(name, shape) for name, shape in self.shapes().items()}

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write CONFIG.json and the weights into `folder`, and return both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        config, weights = folder / "seeded.json", folder / "seeded.pt"
        config.write_text(json.dumps(self.config()))
        torch.save(self.state(), weights)
        return config, weights

    def _tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if not shape:
            return torch.tensor(np.float32(np.float16(math.log(self.scale))))
        spread, mean = _spread(name, shape)
        generator = np.random.Generator(np.random.PCG64([self.seed, zlib.crc32(name.encode())]))
        drawn = generator.standard_normal(shape, dtype=np.float32) * np.float32(spread) + np.float32(mean)
        return torch.from_numpy(drawn.astype(np.float16).astype(np.float32))


RECIPES = {
    "tiny4": Recipe(1234, 64, 4, 4, 32, 64, 4, 4),
    "tiny10": Recipe(4321, 64, 10, 4, 32, 64, 2, 4, 1 / 0.07),
    "vitb16": Recipe(777, 768, 12, 12, 512, 512, 12, 8),
}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}attn.in_proj_weight": (3 * width, width), f"{prefix}attn.in_proj_bias": (3 * width,),
        f"{prefix}attn.out_proj.weight": (width, width), f"{prefix}attn.out_proj.bias": (width,),
        f"{prefix}mlp.c_fc.weight": (4 * width, width), f"{prefix}mlp.c_fc.bias": (4 * width,),
        f"{prefix}mlp.c_proj.weight": (width, 4 * width), f"{prefix}mlp.c_proj.bias": (width,),
        **_norm(f"{prefix}ln_1", width), **_norm(f"{prefix}ln_2", width)}


def _spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return (standard deviation, mean) of a tensor's draws."""
    layer = name.rpartition(".")[0].rpartition(".")[2]
    if layer.startswith("ln_"):
        return (0.1, 1.0) if name.endswith("weight") else (0.02, 0.0)
    if name.endswith("bias"):
        return 0.02, 0.0
    fixed = {"visual.class_embedding": 0.5, "visual.positional_embedding": 0.5, "token_embedding.weight": 0.06,
             "positional_embedding": 0.12, "visual.conv1.weight": 1.5 * (3 * PATCH * PATCH) ** -0.5}
    if name in fixed:
        return fixed[name], 0.0
    if name in ("visual.proj", "text_projection"):
        return shape[0] ** -0.5, 0.0
    factor = 1.6 if name.endswith("in_proj_weight") else 1.0 if layer == "c_fc" else 0.7
    return factor * shape[1] ** -0.5, 0.0
