"""Any timm network as a backbone, with timm's own weight names."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from stages.errors import UsageError
from stages.nets.backbone import PROBE_SIZE, Backbone, estimate_stride, measure_first_cell_centre

WIDE_PROBE_SIZE = (75, 389)  # pixels: Inception needs at least this height, and no stride divides either side
# Containers whose children are the blocks that can be frozen separately.
BLOCK_CONTAINERS = ("blocks", "stages", "layers", "features")
# Options that let a network accept images of other sizes; the first that it supports is used.
ANY_SIZE_OPTIONS: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False, "dynamic_mask": True},
    {"strict_img_size": False},
    {},
)


class TimmBackbone(Backbone):
    """A timm network without classifier; tokens and channels-last maps are converted to (B, D, h, w).

    A `stride` other than the native one is timm's `output_stride`, which dilates convolutions (IRN and
    `TorchvisionBackbone` do not). Raises UsageError if the network does not support it.
    """

    def __init__(self, name: str, *, stride: int | None = None) -> None:
        super().__init__()
        self.name = f"timm:{name}"
        self.pyramid_indices: list[int] = []
        self._register_state_dict_hook(_strip_model_prefix)
        self._register_load_state_dict_pre_hook(_add_model_prefix)
        self._set_model(create_timm_backbone(name))
        if stride not in (None, self.stride):
            self._set_model(_create_with_stride(name, int(stride), self.stride))
            if self.stride != stride:
                raise UsageError(f"--stride {stride}: {self.name} has stride {self.stride}", "Leave out --stride")

    def _set_model(self, model: nn.Module) -> None:
        self.model = model
        self.mean = tuple(model.pretrained_cfg["mean"])
        self.std = tuple(model.pretrained_cfg["std"])
        self.blocks = tuple(_list_blocks(model))
        self.block_prefixes = {block: (f"model.{block}",) for block in self.blocks}
        # Parameters outside any module (a ViT's positions) belong to the first block.
        direct_parameters = tuple(f"model.{name}" for name, _ in model.named_parameters(recurse=False))
        self.block_prefixes[self.blocks[0]] += direct_parameters
        self._measure()

    @torch.no_grad()
    def _measure(self) -> None:
        """Measure strides and channels of the maps by a forward pass of an all-zero image."""
        self.eval()
        self._needs_whole_cells = False
        images = torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE)
        try:
            features = self.model.forward_features(self._pad_to_whole_cells(images))
            self.has_token_output = features.ndim == 3
            final = self._to_map(features, images)
        except (AssertionError, RuntimeError, AttributeError) as error:
            raise self._build_fixed_size_error() from error
        self.channels = final.shape[1]
        measured_stride = estimate_stride(PROBE_SIZE, final.shape[-1])
        self.stride = self._get_patch_size()[1] if self.has_token_output else measured_stride
        self._measure_wide(final.shape[-1])
        self._measure_levels(images)
        self.first_cell_centre = measure_first_cell_centre(
            self.model, lambda: self.model.forward_features(self._pad_to_whole_cells(images)), self.stride)
        self.train()

    def _measure_wide(self, num_cells: int) -> None:
        """Measure the true stride, and whether images must be whole cells, with a wide image whose sides are not.

        `num_cells` is the number of columns of the square image's map: layers without padding (Inception) leave fewer
        than its size implies, so only the additional columns of a wider image give the stride. Networks that add maps
        of several strides need whole cells. Raises UsageError if the network still accepts its own size only.
        """
        images = self._pad_to_whole_cells(torch.zeros(1, 3, *WIDE_PROBE_SIZE))
        try:
            features = self.model.forward_features(images)
        except (AssertionError, RuntimeError) as error:
            if self._needs_whole_cells:
                raise self._build_fixed_size_error() from error
            self._needs_whole_cells = True
            return self._measure_wide(num_cells)
        if not self.has_token_output:
            num_more_cells = self._to_map(features, images).shape[-1] - num_cells
            self.stride = estimate_stride(images.shape[-1] - PROBE_SIZE, num_more_cells)

    def _build_fixed_size_error(self) -> UsageError:
        size = self.model.pretrained_cfg["input_size"]
        return UsageError(
            f"--net {self.name}: this network gives no map for images of any size (it was built for "
            f"{size[1]} x {size[2]} pixels)", "Choose another network for --net")

    def _measure_levels(self, images: Tensor) -> None:
        levels, pyramid = {}, {}
        if hasattr(self.model, "forward_intermediates"):
            maps = self.model.forward_intermediates(
                self._pad_to_whole_cells(images), intermediates_only=True, output_fmt="NCHW"
            )
            for index, inner in enumerate(maps):
                stride = estimate_stride(PROBE_SIZE, inner.shape[-1])
                if 4 <= stride < self.stride:
                    levels[stride] = (index, inner.shape[1])
                if 2 <= stride < self.stride:
                    pyramid[stride] = (index, inner.shape[1])
        self.level_indices = [index for index, _ in levels.values()]
        self.level_strides = (*levels, self.stride)
        self.level_channels = (*(channels for _, channels in levels.values()), self.channels)
        if not self.pyramid_indices:  # measured at the native stride first; a lowered stride keeps the same stages
            self.pyramid_indices = [index for index, _ in pyramid.values()]
            self._pyramid_channels = (*(channels for _, channels in pyramid.values()), self.channels)

    def _to_map(self, features: Tensor, images: Tensor) -> Tensor:
        if self.has_token_output:
            tokens = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            height, width = self._compute_patch_grid(images)
            return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features

    def _get_patch_size(self) -> tuple[int, int]:
        size = getattr(getattr(self.model, "patch_embed", None), "patch_size", 1)
        return (size, size) if isinstance(size, int) else tuple(size)

    def _compute_patch_grid(self, images: Tensor) -> tuple[int, int]:
        """Return (h, w), the grid of patches of an image, including those cut by the border."""
        height, width = self._get_patch_size()
        return -(-images.shape[2] // height), -(-images.shape[3] // width)

    def _pad_to_whole_cells(self, images: Tensor) -> Tensor:
        """Pad images with zeros (the mean colour) at the right and the bottom up to whole patches, or cells."""
        height, width = (self.stride, self.stride) if self._needs_whole_cells else self._get_patch_size()
        if height == width == 1:
            return images
        return pad(images, (0, -images.shape[3] % width, 0, -images.shape[2] % height))

    def pad_images(self, images: Tensor) -> Tensor:
        """Pad images (B, 3, H, W) with the mean colour up to whole patches, or cells."""
        return self._pad_to_whole_cells(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return the final map (B, D, h, w) of images (B, 3, H, W)."""
        return self._to_map(self.model.forward_features(self._pad_to_whole_cells(images)), images)

    def forward_levels(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W) at each stride from 4 up; the last is the final map."""
        return self._forward_indices(self.level_indices, images)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """The numbers of channels of the maps of `forward_pyramid`."""
        return self._pyramid_channels

    def forward_pyramid(self, images: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W) at each native stride from 2 up; the last is the final map."""
        return self._forward_indices(self.pyramid_indices, images)

    def _forward_indices(self, indices: list[int], images: Tensor) -> list[Tensor]:
        if not indices:
            return [self(images)]
        padded = self._pad_to_whole_cells(images)
        final, maps = self.model.forward_intermediates(padded, indices=indices, output_fmt="NCHW")
        return [*maps, self._to_map(final, images)]


def _strip_model_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: dict) -> None:
    """Save weights under timm's own names, without our prefix `model.`."""
    for key in [key for key in state if key.startswith(f"{prefix}model.")]:
        state[prefix + key[len(prefix) + len("model.") :]] = state.pop(key)


def _add_model_prefix(state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load weights from timm's own names, which lack our prefix `model.`."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}model.{key[len(prefix) :]}"] = state.pop(key)


def create_timm_backbone(name: str, **options: Any) -> nn.Module:
    """Create a timm network without classifier, with fresh weights, for images of any size if it supports that."""
    import timm

    for any_size_options in ANY_SIZE_OPTIONS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return timm.create_model(name, pretrained=False, num_classes=0, **any_size_options, **options)
        except TypeError:
            if not any_size_options:
                raise
    raise AssertionError("the last entry of ANY_SIZE_OPTIONS is empty")


def _create_with_stride(name: str, stride: int, native_stride: int) -> nn.Module:
    try:
        return create_timm_backbone(name, output_stride=stride)
    except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
        raise UsageError(
            f"--stride {stride}: timm:{name} has stride {native_stride} and supports no other",
            f"Leave out --stride, or use --stride {native_stride}"
        ) from error


def _list_blocks(model: nn.Module) -> list[str]:
    blocks = []
    for name, child in model.named_children():
        if name in BLOCK_CONTAINERS:
            blocks += [f"{name}.{inner}" for inner, _ in child.named_children()]
        elif any(True for _ in child.parameters()):
            blocks.append(name)
    return blocks
