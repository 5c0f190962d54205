"""The fully connected CRF with Gaussian edge potentials.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials"
(NIPS 2011). The cost grows with the number of labels, so callers pass the background and the classes present in the
image, not all classes of the data set.

Three engines compute it: `permutohedral_numba` on a CPU, `mean_field_torch` on a GPU, and pydensecrf, which is
optional. Their posteriors differ by rounding: over 10 iterations by less than 1e-6 on average, and in the best label of
at most 1 pixel of 100,000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_SCORE = 1e-5
ENGINES = ("numba", "torch", "pydensecrf")


@dataclass(frozen=True)
class DenseCrfSettings:
    """Settings of a CRF: the number of mean-field iterations, and the width and weight of its two kernels.

    `*_sxy` are in pixels, `*_srgb` in grey levels of 0..255; the weights multiply a Potts penalty.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_weight: float = 10.0


# The values in the released code of the published systems. CLIP-ES took its values from DeepLab.
CRF_PRESETS = {
    "irn": DenseCrfSettings(10, 3, 3, 50, 5, 10),
    "psa": DenseCrfSettings(10, 3, 3, 80, 13, 10),
    "clip-es": DenseCrfSettings(10, 1, 3, 67, 3, 4),
    "deeplab": DenseCrfSettings(10, 1, 3, 67, 3, 4),
    # For its segmentation network; MCTformer refines its maps with PSA.
    "mctformer": DenseCrfSettings(10, 4, 3, 83, 5, 3),
}


def unary_from_scores(scores: np.ndarray) -> np.ndarray:
    """Return the unary energies of `scores` (L, H, W) in [0, 1]: -log of the scores, clipped at 1e-5.

    The scores are not normalised to sum to 1 over the labels: PSA and CLIP-ES pass [background, maps] as they are,
    and apart from the clipping only ratios between labels matter to the CRF.
    """
    return -np.log(np.clip(np.asarray(scores, dtype=np.float32), MIN_SCORE, 1.0))


def unary_from_labels(labels: np.ndarray, num_labels: int, confidence: float = 0.7) -> np.ndarray:
    """Return the unary energies (L, H, W) of a label map (H, W) that is correct with probability `confidence`.

    The other labels share the remaining probability evenly (IRN, section 3.2 and its released code: `gt_prob` 0.7).
    Raises ValueError for a confidence outside (0, 1) and for labels outside 0..num_labels-1.
    """
    labels = np.asarray(labels)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
        raise ValueError(f"labels {labels.min()}..{labels.max()} are not within 0..{num_labels - 1}")
    if num_labels == 1:
        return np.zeros((1, *labels.shape), dtype=np.float32)
    is_label = labels[None] == np.arange(num_labels).reshape(-1, 1, 1)
    others = -np.log((1.0 - confidence) / (num_labels - 1))
    return np.where(is_label, -np.log(confidence), others).astype(np.float32)


def dense_crf(image: np.ndarray, unary: np.ndarray, settings: DenseCrfSettings, engine: str = "numba",
              device: str = "cpu") -> np.ndarray:
    """Return the posteriors (L, H, W), float32 in [0, 1], after `settings.iterations` iterations of mean field.

    `image` is (H, W, 3) uint8 RGB and `unary` (L, H, W) energies. A single label has posterior 1. CLIP-ES passes its
    mean-subtracted image wrapped to uint8; here the image itself is used (see `convert_image_as_released`).
    `engine` is one of ENGINES; torch computes on `device`, the others on the CPU. Raises ModuleNotFoundError if it is
    pydensecrf and that is not installed, ValueError for mismatched shapes and for energies that are not finite, BadData
    for kernels too narrow for the image.
    """
    return dense_crf_batch([image], [unary], settings, engine, device)[0]


def dense_crf_batch(images: Sequence[np.ndarray], unaries: Sequence[np.ndarray], settings: DenseCrfSettings,
                    engine: str = "numba", device: str = "cpu") -> list[np.ndarray]:
    """Return the posteriors (L, H, W) of each image, as `dense_crf` does; torch computes them together on a GPU."""
    for image, unary in zip(images, unaries, strict=True):
        _check_arrays(image, unary)
    if engine == "torch":
        return _infer_with_torch(images, unaries, settings, device)
    infer = _infer_with_pydensecrf if engine == "pydensecrf" else _infer_with_numba
    return [infer(image, unary, settings) if len(unary) > 1 else _label_everything(unary)
            for image, unary in zip(images, unaries, strict=True)]


def _check_arrays(image: np.ndarray, unary: np.ndarray) -> None:
    if image.shape != (*unary.shape[1:], 3) or image.dtype != np.uint8:
        raise ValueError(f"image {image.dtype} {image.shape} does not fit unary energies {unary.shape}")
    if not np.isfinite(unary).all():
        raise ValueError("the unary energies are not finite")


def _label_everything(unary: np.ndarray) -> np.ndarray:
    """Return the posteriors of the only label."""
    return np.ones((1, *unary.shape[1:]), dtype=np.float32)


def _split_settings(settings: DenseCrfSettings) -> tuple[int, tuple[float, float], tuple[float, float, float]]:
    """Return the number of iterations, and the widths and weight of the smoothness and of the appearance kernel."""
    return (settings.iterations, (settings.gaussian_sxy, settings.gaussian_weight),
            (settings.bilateral_sxy, settings.bilateral_srgb, settings.bilateral_weight))


def _infer_with_numba(image: np.ndarray, unary: np.ndarray, settings: DenseCrfSettings) -> np.ndarray:
    # Imported here because numba takes half a second, which commands without a CRF need not wait for.
    from stages.kernels.permutohedral_numba import infer_posteriors
    return infer_posteriors(image, unary, *_split_settings(settings))


def _infer_with_torch(images: Sequence[np.ndarray], unaries: Sequence[np.ndarray], settings: DenseCrfSettings,
                      device: str) -> list[np.ndarray]:
    # Imported here because torch takes two seconds.
    from stages.kernels.mean_field_torch import infer_posteriors
    posteriors = [_label_everything(unary) for unary in unaries]
    undecided = [index for index, unary in enumerate(unaries) if len(unary) > 1]
    results = infer_posteriors([images[index] for index in undecided], [unaries[index] for index in undecided],
                               *_split_settings(settings), device)
    for index, result in zip(undecided, results, strict=True):
        posteriors[index] = result
    return posteriors


def _infer_with_pydensecrf(image: np.ndarray, unary: np.ndarray, settings: DenseCrfSettings) -> np.ndarray:
    # Imported here because the package is optional: it has to be compiled.
    from pydensecrf import densecrf

    num_labels, height, width = unary.shape
    field = densecrf.DenseCRF2D(width, height, num_labels)
    field.setUnaryEnergy(np.ascontiguousarray(unary.reshape(num_labels, -1), dtype=np.float32))
    field.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=np.ascontiguousarray(image),
        compat=settings.bilateral_weight,
    )
    posteriors = field.inference(settings.iterations)
    return np.array(posteriors, dtype=np.float32).reshape(num_labels, height, width)


def convert_image_as_released(image: np.ndarray) -> np.ndarray:
    """Convert an image (H, W, 3) as CLIP-ES's released code does for the CRF: BGR minus a mean, negatives wrapped.

    The mean is Caffe's (104.008, 116.669, 122.675); a dark pixel's -100 becomes 156.
    """
    shifted = image[..., ::-1].astype(np.float32) - np.array([104.008, 116.669, 122.675], dtype=np.float32)
    return np.ascontiguousarray(np.trunc(shifted).astype(np.int64) % 256).astype(np.uint8)
