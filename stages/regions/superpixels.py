"""SLIC superpixels: k-means over colour and position, with centres on a grid (Achanta et al., PAMI 2012)."""

from __future__ import annotations

import numpy as np

from stages.errors import Unavailable

_REMEDY = "Install it with `pip install 'wsss[superpixels]'`"


def require_scikit_image() -> None:
    """Raise Unavailable with instructions if scikit-image is not installed or can't be loaded."""
    try:
        from skimage.segmentation import slic  # noqa: F401
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"can't be loaded ({error})"
        raise Unavailable(f"superpixels need the package scikit-image, which {reason}", _REMEDY) from None


def compute_superpixels(image: np.ndarray, segments: int, compactness: float, sigma: float) -> np.ndarray:
    """Return the superpixels of an image (H, W, 3) uint8 as labels (H, W) int32, numbered from 1 without gaps.

    Each is connected (by its pixels' sides). There are about `segments` of them, fewer in a small or noisy image:
    pieces smaller than half the average superpixel are joined to a neighbour. Computed by scikit-image in CIELAB, after
    the values of the image are stretched to [0, 1].
    """
    from skimage.segmentation import slic
    return slic(image, n_segments=segments, compactness=compactness, sigma=sigma, start_label=1,
                enforce_connectivity=True, channel_axis=-1).astype(np.int32)
