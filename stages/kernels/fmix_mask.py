"""Masks from low-frequency noise, for mixing two images: FMix.

Harris et al., "FMix: Enhancing Mixed Sample Data Augmentation" (2020), section 4: complex noise whose amplitude falls
with the frequency's power, turned back into a grey image, of which the brightest share lambda is the mask.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

SPECTRA = ("paper", "released")


def fmix_mask(size: tuple[int, int], share: float, rng: Generator, *, decay: float = 3.0, softness: float = 0.0,
              spectrum: str = "paper") -> np.ndarray:
    """Return a mask (H, W) float32, 1 on `share` of the pixels (rounded up or down by a coin), else 0.

    `softness` is the largest share of pixels on each side of the border over which the mask falls from 1 to 0.
    `spectrum` "released" has the released code's slip in reading the noise, which leaves bands instead of blobs.
    """
    noise = rng.standard_normal((*frequencies(size).shape, 2))
    grey = grey_image(noise, size, decay=decay, spectrum=spectrum)
    return brightest(grey, share, up=bool(rng.random() > 0.5), softness=softness)


def frequencies(size: tuple[int, int]) -> np.ndarray:
    """Return the length of each frequency (H, F) of a real image, at least 1 / max(H, W).

    F is W // 2 + 1, and one more for an odd W: the inverse transform leaves it out, but the released slip reads it.
    """
    down, across = np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :size[1] // 2 + 1 + size[1] % 2]
    return np.maximum(np.sqrt(down**2 + across**2), 1 / max(size))


def grey_image(noise: np.ndarray, size: tuple[int, int], *, decay: float, spectrum: str = "paper") -> np.ndarray:
    """Return an image (H, W) between 0 and 1 from `noise` (H, F, 2), real and imaginary parts.

    Raises ValueError for a single row with the "released" slip, which takes the second one for the imaginary parts.
    """
    if spectrum == "released" and size[0] < 2:
        raise ValueError(f"a mask of {size[0]} x {size[1]} has no second row, which the released spectrum reads")
    coloured = noise / frequencies(size)[..., None] ** decay
    if spectrum == "released":
        image = np.fft.irfft2(coloured[0] + 1j * coloured[1], s=size)
    else:
        image = np.fft.irfft2(coloured[..., 0] + 1j * coloured[..., 1], s=size)
    image = image - image.min()
    return image / (image.max() or 1.0)


def brightest(grey: np.ndarray, share: float, *, up: bool, softness: float = 0.0) -> np.ndarray:
    """Return a mask (H, W) float32 of the brightest `share` of the pixels, their number rounded up or down."""
    order = grey.reshape(-1).argsort()[::-1]
    count = int(np.ceil(share * grey.size) if up else np.floor(share * grey.size))
    margin = int(grey.size * min(softness, share, 1 - share))
    mask = np.zeros(grey.size, dtype=np.float32)
    mask[order[:count - margin]] = 1
    mask[order[count - margin:count + margin]] = np.linspace(1, 0, 2 * margin)
    return mask.reshape(grey.shape)
