"""Any network of timm as a backbone, under timm's own names of weights."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from stages.errors import UsageError
from stages.nets.backbone import PROBE, Backbone, centre_of, stride_of

WIDE = (75, 389)  # pixels: Inception takes no fewer in height, and no stride divides either
# Containers whose children are the blocks that can be frozen one by one.
CONTAINERS = ("blocks", "stages", "layers", "features")
# Ways to let a network take pictures of another size than it was trained on; the first that it knows counts.
ANY_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False, "dynamic_mask": True},
    {"strict_img_size": False},
    {},
)


class TimmBackbone(Backbone):
    """A timm network without classifier; tokens and channels-last maps are turned to (B, D, h, w).

    A `stride` other than the native one is timm's `output_stride`, which dilates (IRN and the chains of
    torchvision don't). Raises UsageError when the network doesn't offer it.
    """

    def __init__(self, name: str, *, stride: int | None = None) -> None:
        super().__init__()
        self.name = f"timm:{name}"
        self.pyramid_indices: list[int] = []
        self._register_state_dict_hook(_without_prefix)
        self._register_load_state_dict_pre_hook(_with_prefix)
        self._take(create_model(name))
        if stride not in (None, self.stride):
            self._take(_restride(name, int(stride), self.stride))
            if self.stride != stride:
                raise UsageError(f"--stride {stride}: {self.name} has stride {self.stride}", "leave it out")

    def _take(self, model: nn.Module) -> None:
        self.model = model
        self.mean = tuple(model.pretrained_cfg["mean"])
        self.std = tuple(model.pretrained_cfg["std"])
        self.blocks = tuple(_blocks(model))
        self.block_prefixes = {block: (f"model.{block}",) for block in self.blocks}
        # Parameters outside any module (a ViT's positions) belong to the first block.
        own = tuple(f"model.{name}" for name, _ in model.named_parameters(recurse=False))
        self.block_prefixes[self.blocks[0]] += own
        self._measure()

    @torch.no_grad()
    def _measure(self) -> None:
        """Find strides and channels of the maps by a pass over an empty picture."""
        self.eval()
        self._whole = False
        images = torch.zeros(1, 3, PROBE, PROBE)
        try:
            features = self.model.forward_features(self._padded(images))
            self.gives_tokens = features.ndim == 3
            final = self._as_map(features, images)
        except (AssertionError, RuntimeError, AttributeError) as error:
            raise self._of_one_size() from error
        self.channels = final.shape[1]
        self.stride = self._patch()[1] if self.gives_tokens else stride_of(PROBE, final.shape[-1])
        self._measure_wide(final.shape[-1])
        self._measure_levels(images)
        self.first_centre = centre_of(
            self.model, lambda: self.model.forward_features(self._padded(images)), self.stride)
        self.train()

    def _measure_wide(self, cells: int) -> None:
        """Find the true stride, and whether pictures must be of whole cells, by a wide picture of no such size.

        `cells` is how many the square one has: layers that don't pad (Inception) leave fewer than its size says, and
        only what a wider picture has more tells the stride. Networks that add maps of several strides take whole cells.
        Raises UsageError for a network that takes no other size than its own then either.
        """
        images = self._padded(torch.zeros(1, 3, *WIDE))
        try:
            features = self.model.forward_features(images)
        except (AssertionError, RuntimeError) as error:
            if self._whole:
                raise self._of_one_size() from error
            self._whole = True
            return self._measure_wide(cells)
        if not self.gives_tokens:
            self.stride = stride_of(images.shape[-1] - PROBE, self._as_map(features, images).shape[-1] - cells)

    def _of_one_size(self) -> UsageError:
        size = self.model.pretrained_cfg["input_size"]
        return UsageError(
            f"{self.name} gives no map for pictures of any size (it was made for {size[1]} x {size[2]} pixels)",
            "take another network")

    def _measure_levels(self, images: Tensor) -> None:
        found, finer = {}, {}
        if hasattr(self.model, "forward_intermediates"):
            maps = self.model.forward_intermediates(
                self._padded(images), intermediates_only=True, output_fmt="NCHW"
            )
            for index, inner in enumerate(maps):
                stride = stride_of(PROBE, inner.shape[-1])
                if 4 <= stride < self.stride:
                    found[stride] = (index, inner.shape[1])
                if 2 <= stride < self.stride:
                    finer[stride] = (index, inner.shape[1])
        self.level_indices = [index for index, _ in found.values()]
        self.level_strides = (*found, self.stride)
        self.level_channels = (*(channels for _, channels in found.values()), self.channels)
        if not self.pyramid_indices:  # a lowered stride, measured later, leaves the stages what they are
            self.pyramid_indices = [index for index, _ in finer.values()]
            self._pyramid_channels = (*(channels for _, channels in finer.values()), self.channels)

    def _as_map(self, features: Tensor, images: Tensor) -> Tensor:
        if self.gives_tokens:
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            height, width = self._grid(images)
            return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features

    def _patch(self) -> tuple[int, int]:
        size = getattr(getattr(self.model, "patch_embed", None), "patch_size", 1)
        return (size, size) if isinstance(size, int) else tuple(size)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        """Return (h, w), the grid of patches of an image; those cut by the border count."""
        height, width = self._patch()
        return -(-images.shape[2] // height), -(-images.shape[3] // width)

    def _padded(self, images: Tensor) -> Tensor:
        """Return images with zeros (the mean colour) at the right and the bottom up to whole patches, or cells."""
        height, width = (self.stride, self.stride) if self._whole else self._patch()
        if height == width == 1:
            return images
        return pad(images, (0, -images.shape[3] % width, 0, -images.shape[2] % height))

    def pad_images(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) padded with the mean colour up to whole patches, or cells."""
        return self._padded(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return the final map (B, D, h, w) of images (B, 3, H, W)."""
        return self._as_map(self.model.forward_features(self._padded(images)), images)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W) at each stride from 4 up; the last is the final map."""
        return self._maps_at(self.level_indices, images)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The channels of `pyramid`."""
        return self._pyramid_channels

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W) at each native stride from 2 up; the last is the final map."""
        return self._maps_at(self.pyramid_indices, images)

    def _maps_at(self, indices: list[int], images: Tensor) -> list[Tensor]:
        if not indices:
            return [self(images)]
        final, maps = self.model.forward_intermediates(self._padded(images), indices=indices, output_fmt="NCHW")
        return [*maps, self._as_map(final, images)]


def _without_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict) -> None:
    """Save under timm's own names: `model.` is ours."""
    for key in [key for key in state if key.startswith(f"{prefix}model.")]:
        state[prefix + key[len(prefix) + len("model.") :]] = state.pop(key)


def _with_prefix(state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load from timm's own names."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}model.{key[len(prefix) :]}"] = state.pop(key)


def create_model(name: str, **options: Any) -> nn.Module:
    """Return a timm network without classifier, with fresh weights, for images of any size where it takes these."""
    import timm

    for more in ANY_SIZE:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return timm.create_model(name, pretrained=False, num_classes=0, **more, **options)
        except TypeError:
            if not more:
                raise
    raise AssertionError("the last way has no options of its own")


def _restride(name: str, stride: int, native: int) -> nn.Module:
    try:
        return create_model(name, output_stride=stride)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        raise UsageError(
            f"--stride {stride}: timm:{name} has stride {native} and takes no other", f"leave it out or give {native}"
        ) from error


def _blocks(model: nn.Module) -> list[str]:
    found = []
    for name, child in model.named_children():
        if name in CONTAINERS:
            found += [f"{name}.{inner}" for inner, _ in child.named_children()]
        elif any(True for _ in child.parameters()):
            found.append(name)
    return found
