"""CIELAB and a simulation of deuteranopia, to measure how far drawn colours differ."""

from __future__ import annotations

import numpy as np

_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                 [0.0193339, 0.1191920, 0.9503041]])
_WHITE = np.array([0.95047, 1.0, 1.08883])
# Machado, Oliveira and Fernandes, IEEE TVCG 2009, severity 1.0, for linear RGB.
_DEUTERANOPIA = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                          [-0.011820, 0.042940, 0.968881]])


def to_linear(colours: np.ndarray) -> np.ndarray:
    """Return sRGB values 0..255 as linear RGB in [0, 1]."""
    values = np.asarray(colours, dtype=np.float64) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_cielab(linear: np.ndarray) -> np.ndarray:
    """Return linear RGB (..., 3) as CIELAB under D65."""
    relative = linear @ _XYZ.T / _WHITE
    roots = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def to_cielab(colours: np.ndarray) -> np.ndarray:
    """Return sRGB values 0..255, (..., 3), as CIELAB under D65."""
    return linear_to_cielab(to_linear(colours))


def simulate_deuteranopia(colours: np.ndarray) -> np.ndarray:
    """Return the CIELAB values of sRGB colours 0..255 as a deuteranope sees them."""
    return linear_to_cielab(np.clip(to_linear(colours) @ _DEUTERANOPIA.T, 0, 1))
