"""Estimates how long the steps of the Makefile take on this machine, from costs measured once and a short calibration.

The costs are seconds of one core per photograph of 0.1 megapixels, with MobileNet-v2 at stride 16, on a machine that
ran the calibration in `_REFERENCE_SECONDS`. They are good to a factor of two: caches and vector units differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

_REFERENCE_SECONDS = 0.04
_PIXELS = 0.1e6
# Trainings see crops of one size, whatever the size of the photographs.
_SECONDS_PER_CROP = {"classifier": 0.1, "affinity": 0.15, "network": 0.12}
_SECONDS_PER_IMAGE = {"maps": 0.6, "clip": 4.0, "refine": 0.18, "walk": 0.5, "masks": 0.01, "segment": 0.1}


def measure_calibration() -> float:
    """Return the seconds that a fixed convolution takes on one thread, the fastest of several runs."""
    import torch
    from torch.nn.functional import conv2d

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image, kernel = torch.ones(1, 64, 128, 128), torch.ones(64, 64, 3, 3)
        return min(_time(lambda: [conv2d(image, kernel, padding=1) for _ in range(2)]) for _ in range(5))
    finally:
        torch.set_num_threads(num_threads)


def _time(action: object) -> float:
    started = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - started


def estimate_minutes(counts: Mapping[str, int], num_pixels: float, calibration: float,
                     num_cores: int) -> dict[str, float]:
    """Return the minutes of each step, given how many crops or photographs it computes and the pixels of one."""
    speed = calibration / _REFERENCE_SECONDS / 60
    # Maps are made by a process per core. Trainings used two cores 1.35 and 1.0 times as well as one.
    return {step: count * speed * (_SECONDS_PER_CROP[step] / math.sqrt(num_cores) if step in _SECONDS_PER_CROP
                                   else _SECONDS_PER_IMAGE[step] * num_pixels / _PIXELS / num_cores)
            for step, count in counts.items()}
