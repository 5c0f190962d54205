"""Mean field of a dense CRF in torch, over batches of images of any size, on a CPU or on a GPU.

Computes what `permutohedral_numba` computes, with equal vertices and weights, and float32 sums in another order. As
there, the last label is never filtered: its message is that of the constant 1 less those of the other labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stages.kernels.permutohedral_keys import (
    KEY_BITS,
    compute_positions,
    compute_scales,
    raise_too_narrow,
    scale_colours,
    scale_positions,
)
from stages.kernels.permutohedral_torch import Lattice, build_lattice, filter_values, scale_weights

_LANES = 4  # pydensecrf fills its last group of four pixels with black ones at (0, 0), whose vertices pass values on


def infer_posteriors(images: Sequence[np.ndarray], unaries: Sequence[np.ndarray], iterations: int,
                     gaussian: tuple[float, float], bilateral: tuple[float, float, float],
                     device: str = "cpu") -> list[np.ndarray]:
    """Return the posteriors (L, H, W) float32 of each image (H, W, 3) uint8 and its energies (L, H, W), L > 1.

    `gaussian` is (sxy, weight) and `bilateral` is (sxy, srgb, weight). On a GPU all images with the same number of
    labels are computed at once; on a CPU one after the other, whose arrays fit its cache better. Raises BadData if the
    bilateral kernel is too narrow for the size of an image.
    """
    most = 1 if torch.device(device).type == "cpu" else len(images)
    posteriors: list[np.ndarray] = [np.empty(0)] * len(images)
    for batch in _group_images(unaries, bilateral, most):
        results = infer_batch([images[index] for index in batch], [unaries[index] for index in batch], iterations,
                              gaussian, bilateral, torch.device(device))
        for index, result in zip(batch, results, strict=True):
            posteriors[index] = result
    return posteriors


def _group_images(unaries: Sequence[np.ndarray], bilateral: tuple[float, float, float],
                  most: int) -> Iterator[list[int]]:
    """Yield the indices of at most `most` images with equal numbers of labels, whose keys fit into 63 bits."""
    for num_labels in sorted({len(unary) for unary in unaries}):
        group = [index for index, unary in enumerate(unaries) if len(unary) == num_labels]
        height, width = (max(unaries[index].shape[axis] for index in group) for axis in (1, 2))
        free_bits = KEY_BITS - _position_bilateral_keys(width, height, bilateral)[-1]
        size = min(most, 1 << max(free_bits, 0))
        yield from (group[start:start + size] for start in range(0, len(group), size))


def _position_bilateral_keys(width: int, height: int, bilateral: tuple[float, float, float]) -> list[int]:
    scales = compute_scales(5)
    columns, rows = scale_positions(width, height, bilateral[0], scales)
    return compute_positions([float(table.max()) for table in (columns, rows, *scale_colours(bilateral[1], scales))])


@torch.inference_mode()
def infer_batch(images: Sequence[np.ndarray], unaries: Sequence[np.ndarray], iterations: int,
                gaussian: tuple[float, float], bilateral: tuple[float, float, float],
                device: torch.device) -> list[np.ndarray]:
    """Return the posteriors (L, H, W) of images with the same number of labels, computed at once on `device`.

    The arguments are those of `infer_posteriors`.
    """
    sizes = [image.shape[:2] for image in images]
    pixels = Pixels(sizes, device)
    smooth = normalise_kernel(pixels.build_gaussian_lattice(gaussian[0]), gaussian[1])
    colours = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images])).to(device)
    appearance = normalise_kernel(pixels.build_bilateral_lattice(colours, *bilateral[:2]), bilateral[2])
    flat = np.concatenate([np.asarray(unary, np.float32).reshape(len(unary), -1).T for unary in unaries])
    posteriors = iterate_mean_field(torch.from_numpy(flat).to(device), smooth, appearance, iterations)
    parts = posteriors.cpu().numpy().T
    return [np.ascontiguousarray(part).reshape(-1, *size)
            for part, size in zip(np.split(parts, pixels.ends[:-1], axis=1), sizes, strict=True)]


class Pixels:
    """The positions of the pixels of all images of a batch, one image after the other."""

    def __init__(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> None:
        self.height, self.width = (max(size[axis] for size in sizes) for axis in (0, 1))
        self.ends = np.cumsum([height * width for height, width in sizes])
        self.count, self.device = int(self.ends[-1]), device
        counts, widths = (torch.tensor(values, device=device) for values in (
            [height * width for height, width in sizes], [width for _, width in sizes]))
        self.image_numbers = torch.repeat_interleave(counts, output_size=self.count)
        in_image = torch.arange(self.count, device=device) - (counts.cumsum(0) - counts)[self.image_numbers]
        self.rows = in_image // widths[self.image_numbers]
        self.columns = in_image - self.rows * widths[self.image_numbers]
        self.incomplete = [number for number, (height, width) in enumerate(sizes) if height * width % _LANES]

    def build_gaussian_lattice(self, sxy: float) -> Lattice:
        """Build the lattice of the positions alone."""
        tables = scale_positions(self.width, self.height, sxy, compute_scales(2))
        positions = compute_positions([float(table.max()) for table in tables])
        return build_lattice(self._scale_features(tables), self.image_numbers, positions, self.count)

    def build_bilateral_lattice(self, colours: Tensor, sxy: float, srgb: float) -> Lattice:
        """Build the lattice of the positions and `colours` (N, 3) uint8. Raises BadData if the kernel is too narrow."""
        scales = compute_scales(5)
        tables, colour_tables = scale_positions(self.width, self.height, sxy, scales), scale_colours(srgb, scales)
        positions = compute_positions([float(table.max()) for table in (*tables, *colour_tables)])
        if positions[-1] > KEY_BITS:
            raise_too_narrow(self.width, self.height)
        levels = [torch.from_numpy(table).to(self.device)[colours[:, channel].long()]
                  for channel, table in enumerate(colour_tables)]
        features = torch.cat([self._scale_features(tables), torch.stack(levels, dim=1)], dim=1)
        features = torch.cat([features, features.new_zeros(len(self.incomplete), 5)])
        added = torch.tensor(self.incomplete, dtype=torch.int64, device=self.device)
        return build_lattice(features, torch.cat([self.image_numbers, added]), positions, self.count)

    def _scale_features(self, tables: tuple[np.ndarray, np.ndarray]) -> Tensor:
        columns, rows = (torch.from_numpy(table).to(self.device) for table in tables)
        return torch.stack([columns[self.columns], rows[self.rows]], dim=1)


def normalise_kernel(lattice: Lattice, weight: float) -> Lattice:
    """Return the lattice of a normalised kernel times `weight`: the messages of values are what it makes of them."""
    alpha = 1 / (1 + 2.0 ** (1 - len(lattice.neighbours)))
    ones = torch.ones_like(lattice.offsets[1:], dtype=torch.float32)
    norms = (filter_values(lattice, ones[:, None])[:, 0] * alpha + 1e-20).sqrt().reciprocal()
    return scale_weights(lattice, norms, norms * (weight * alpha))


def iterate_mean_field(unary: Tensor, smooth: Lattice, appearance: Lattice, iterations: int) -> Tensor:
    """Return the posteriors (N, L) of energies `unary` (N, L) after parallel updates with both kernels."""
    ones = torch.ones_like(unary[:, :1])
    of_all_labels = filter_values(smooth, ones) + filter_values(appearance, ones)
    posteriors = (-unary).softmax(dim=1)
    for _ in range(iterations):
        filtered = posteriors[:, :-1].contiguous()
        messages = filter_values(smooth, filtered) + filter_values(appearance, filtered)
        last = of_all_labels - messages.sum(dim=1, keepdim=True)
        posteriors = (torch.cat([messages, last], dim=1) - unary).softmax(dim=1)
    return posteriors
