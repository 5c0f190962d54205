"""The dense CRF in torch against the one in numba: photographs, batches, and a simulated GPU."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpu_stand_in import simulate_gpu
from kernels.test_permutohedral_numba import CASES, draw_photograph
from stages.errors import BadData
from stages.kernels.dense_crf import (
    CRF_PRESETS,
    DenseCrfSettings,
    dense_crf,
    dense_crf_batch,
    unary_from_labels,
    unary_from_scores,
)
from stages.kernels.mean_field_torch import infer_batch, infer_posteriors
from stages.kernels.permutohedral_torch import split_segments, sum_products, sum_segments

PSA = CRF_PRESETS["psa"]
# One iteration of float32 sums, whose messages are up to 14: a wrong vertex or norm shows as 1e-3 or more.
ONE_ITERATION = 2e-5


def infer_together(images: list[np.ndarray], unaries: list[np.ndarray], device: str = "cpu") -> list[np.ndarray]:
    """Return the posteriors of images with the same number of labels, computed in one batch."""
    return infer_batch(images, unaries, 10, (PSA.gaussian_sxy, PSA.gaussian_weight),
                       (PSA.bilateral_sxy, PSA.bilateral_srgb, PSA.bilateral_weight), torch.device(device))


@pytest.mark.parametrize("preset", ["irn", "psa", "clip-es"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_posteriors_equal_those_of_numba(case, preset):
    image, scores = draw_photograph(*case)
    unary = unary_from_scores(scores)
    for iterations, largest in ((0, 1e-6), (1, ONE_ITERATION)):
        settings = replace(CRF_PRESETS[preset], iterations=iterations)
        actual, expected = dense_crf(image, unary, settings, "torch"), dense_crf(image, unary, settings)
        np.testing.assert_allclose(actual, expected, atol=largest, rtol=0)
    check_difference(dense_crf(image, unary, CRF_PRESETS[preset], "torch"),
                     dense_crf(image, unary, CRF_PRESETS[preset]))


def check_difference(actual: np.ndarray, expected: np.ndarray) -> None:
    """Check that posteriors (L, H, W) differ by 1e-6 on average, and 0.001 % of the pixels in their best label."""
    assert actual.dtype == np.float32 and actual.flags["C_CONTIGUOUS"]
    assert np.abs(actual - expected).mean() <= 1e-6
    assert (actual.argmax(axis=0) != expected.argmax(axis=0)).mean() <= 1e-5


# All remainders of the number of pixels modulo 4: 160 x 213, 159 x 213, 158 x 213 and 159 x 211.
@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (2, 0), (1, 2)], ids=str)
@pytest.mark.parametrize("preset", list(CRF_PRESETS))
def test_posteriors_of_a_photograph(preset, cut, reference):
    values = reference("clip-es/unit_crf")
    height, width = values["image"].shape[0] - cut[0], values["image"].shape[1] - cut[1]
    image, scores = values["image"][:height, :width], values["prob"][:, :height, :width]
    unary = unary_from_labels(scores.argmax(axis=0), 3) if preset == "irn" else unary_from_scores(scores)
    check_difference(dense_crf(image, unary, CRF_PRESETS[preset], "torch"),
                     dense_crf(image, unary, CRF_PRESETS[preset]))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_do_not_change_a_bit(device):
    examples = [draw_photograph(*case) for case in ((37, 53, 3, 3.0), (48, 64, 3, 30.0), (1, 29, 3, 5.0))]
    images, unaries = [image for image, _ in examples], [unary_from_scores(scores) for _, scores in examples]
    images.append(np.full((40, 70, 3), 90, np.uint8))  # even: thousands of pixels touch a vertex
    unaries.append(np.random.default_rng(0).random((3, 40, 70), dtype=np.float32))
    with simulate_gpu() if device == "cuda" else nullcontext():
        together, again = (infer_together(images, unaries, device) for _ in range(2))
        alone = [infer_together([image], [unary], device)[0] for image, unary in zip(images, unaries, strict=True)]
    for posteriors, *others in zip(together, again, alone, strict=True):
        assert all(posteriors.tobytes() == other.tobytes() for other in others)


def test_images_with_any_number_of_labels():
    examples = [draw_photograph(*case) for case in ((20, 24, 4, 3.0), (24, 20, 2, 9.0), (19, 23, 4, 30.0))]
    images, unaries = [image for image, _ in examples], [unary_from_scores(scores) for _, scores in examples]
    images.insert(1, images[0])
    unaries.insert(1, np.ones((1, 20, 24), np.float32))
    with simulate_gpu():
        batch = dense_crf_batch(images, unaries, PSA, "torch", "cuda")
    np.testing.assert_array_equal(batch[1], np.ones((1, 20, 24)))
    for image, unary, posteriors in zip(images, unaries, batch, strict=True):
        check_difference(posteriors, dense_crf(image, unary, PSA))
    assert dense_crf_batch([], [], PSA, "torch") == []


def test_sums_on_a_gpu_equal_those_on_a_cpu():
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([0, 3, 64, 65, 5000, 0, 1, 200, 0])
    num_products = int(counts.sum())
    values = torch.rand(300, 2, generator=generator)
    rows = torch.randint(300, (num_products,), generator=generator, dtype=torch.int32)
    weights = torch.rand(num_products, generator=generator)
    levels = split_segments(counts)
    assert all(int(offsets.diff().max()) <= 64 for offsets in levels) and len(levels) == 3
    products = values.double()[rows.long()] * weights[:, None].double()
    expected = torch.stack([segment.sum(0) for segment in products.split(counts.tolist())]).float()

    def compute_sums(*arrays: torch.Tensor) -> torch.Tensor:
        sums = sum_products(*arrays, levels[0].to(arrays[0].device))
        for offsets in levels[1:]:
            sums = sum_segments(sums, offsets.to(sums.device))
        return sums.cpu()

    # Three sums of up to 64 positive products: at most 200 roundings of 6e-8.
    torch.testing.assert_close(compute_sums(values, rows, weights), expected, rtol=1.2e-5, atol=0)
    with simulate_gpu():
        on_gpu = compute_sums(*(tensor.to("cuda") for tensor in (values, rows, weights)))
    torch.testing.assert_close(on_gpu, expected, rtol=1.2e-5, atol=0)


def test_keys_of_62_bits_and_the_number_of_the_image():
    examples = [draw_photograph(20, 24, 2, texture) for texture in (30.0, 3.0)]
    images, unaries = [image for image, _ in examples], [unary_from_scores(scores) for _, scores in examples]
    narrow = DenseCrfSettings(bilateral_sxy=0.1, bilateral_srgb=0.15)
    with simulate_gpu():
        batch = dense_crf_batch(images, unaries, narrow, "torch", "cuda")
    for image, unary, posteriors in zip(images, unaries, batch, strict=True):
        check_difference(posteriors, dense_crf(image, unary, narrow))


def test_narrow_kernels_are_computed_or_rejected():
    image, scores = draw_photograph(20, 24, 2, 30.0)
    unary = unary_from_scores(scores)
    narrow = DenseCrfSettings(bilateral_sxy=0.1, bilateral_srgb=0.1, gaussian_weight=0.0)
    check_difference(dense_crf(image, unary, narrow, "torch"), dense_crf(image, unary, narrow))
    wide_image, wide_unary = np.zeros((2, 60_000, 3), np.uint8), np.zeros((2, 2, 60_000), np.float32)
    with pytest.raises(BadData, match="60000 x 2"):
        dense_crf(wide_image, wide_unary, narrow, "torch")


def test_keys_without_room_for_the_number_of_the_image_make_smaller_batches(monkeypatch):
    sizes = []

    def record_size(images: list[np.ndarray], unaries: list[np.ndarray], *rest: object) -> list[np.ndarray]:
        sizes.append(len(images))
        return [unary + 1 for unary in unaries]

    monkeypatch.setattr("stages.kernels.mean_field_torch.infer_batch", record_size)
    images = [np.zeros((20, 24, 3), np.uint8)] * 5
    unaries = [np.full((2, 20, 24), number, np.float32) for number in range(5)]
    # Keys of 39, 62 and 63 bits without the number of the image.
    for bilateral, expected in (((67.0, 3.0, 4.0), [5]), ((0.1, 0.15, 4.0), [2, 2, 1]), ((0.1, 0.1, 4.0), [1] * 5)):
        sizes.clear()
        results = infer_posteriors(images, unaries, 10, (1.0, 3.0), bilateral, "cuda")
        assert sizes == expected
        assert [result[0, 0, 0] for result in results] == [1, 2, 3, 4, 5]
