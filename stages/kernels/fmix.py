"""FMix masks: random masks from low-frequency noise, for mixing two images.

Harris et al., "FMix: Enhancing Mixed Sample Data Augmentation" (2020), section 4: the amplitude of complex noise is
reduced by a power of the frequency, the inverse transform gives a grey image, and its brightest share lambda is the
mask.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

SPECTRA = ("paper", "released")


def sample_fmix_mask(size: tuple[int, int], share: float, rng: Generator, *, decay: float = 3.0, softness: float = 0.0,
                     spectrum: str = "paper") -> np.ndarray:
    """Draw a mask (H, W) float32, 1 on `share` of the pixels (rounded up or down at random), 0 elsewhere.

    `softness` is the largest share of pixels on each side of the border over which the mask falls from 1 to 0.
    `spectrum` "released" reproduces the released code's mistake in reading the noise, which gives bands, not blobs.
    """
    noise = rng.standard_normal((*compute_frequencies(size).shape, 2))
    grey = build_grey_image(noise, size, decay=decay, spectrum=spectrum)
    return build_brightest_mask(grey, share, round_up=bool(rng.random() > 0.5), softness=softness)


def compute_frequencies(size: tuple[int, int]) -> np.ndarray:
    """Return the magnitude of each frequency (H, F) of a real image, at least 1 / max(H, W).

    F is W // 2 + 1, plus one for an odd W: the inverse transform ignores the last, but the "released" spectrum reads
    it.
    """
    down, across = np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :size[1] // 2 + 1 + size[1] % 2]
    return np.maximum(np.sqrt(down**2 + across**2), 1 / max(size))


def build_grey_image(noise: np.ndarray, size: tuple[int, int], *, decay: float, spectrum: str = "paper") -> np.ndarray:
    """Build an image (H, W) between 0 and 1 from `noise` (H, F, 2), its real and imaginary parts.

    Raises ValueError for a single row with the "released" spectrum, which takes the second row for the imaginary
    parts.
    """
    if spectrum == "released" and size[0] < 2:
        raise ValueError(f"a mask of {size[0]} x {size[1]} has no second row, but the released spectrum reads it")
    coloured = noise / compute_frequencies(size)[..., None] ** decay
    if spectrum == "released":
        image = np.fft.irfft2(coloured[0] + 1j * coloured[1], s=size)
    else:
        image = np.fft.irfft2(coloured[..., 0] + 1j * coloured[..., 1], s=size)
    image = image - image.min()
    return image / (image.max() or 1.0)


def build_brightest_mask(grey: np.ndarray, share: float, *, round_up: bool, softness: float = 0.0) -> np.ndarray:
    """Build a mask (H, W) float32 of the brightest `share` of the pixels, with their number rounded up or down."""
    order = grey.reshape(-1).argsort()[::-1]
    num_pixels = int(np.ceil(share * grey.size) if round_up else np.floor(share * grey.size))
    margin = int(grey.size * min(softness, share, 1 - share))
    mask = np.zeros(grey.size, dtype=np.float32)
    mask[order[:num_pixels - margin]] = 1
    mask[order[num_pixels - margin:num_pixels + margin]] = np.linspace(1, 0, 2 * margin)
    return mask.reshape(grey.shape)
