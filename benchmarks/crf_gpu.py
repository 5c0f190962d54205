"""What the dense CRF costs on a GPU: measured if there is one, else from the bytes that its operations read and write.

`python benchmarks/crf_gpu.py [--data FOLDER] [--batch 16] [--preset clip-es]`, where FOLDER has JPEGImages as VOC 2012
does; without photographs it draws images. All are computed at 500 x 375 pixels with three labels. Prints one JSON line.

Bytes are counted on a simulated GPU: each operation reads its inputs and writes its outputs, a gather reads as much as
it writes, and a sort of 64-bit keys with their indices makes eight passes. Caches are not taken into account.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.kernels.dense_crf import CRF_PRESETS, dense_crf_batch, unary_from_labels, unary_from_scores

GOAL = 2.0  # milliseconds per image in a batch
BANDWIDTH, EFFICIENCY = 4.8e12, 0.4  # bytes per second of an H200 as stated by its maker; an assumed share of it
LAUNCH = 5e-6  # seconds that the host needs for one kernel
GATHERS = ("aten::index_select", "aten::index")
ALLOCATIONS = ("aten::empty", "aten::empty_like", "aten::new_empty", "aten::detach", "aten::_unsafe_view")
SORT_PASSES = 8


def read_images(folder: Path, count: int) -> list[np.ndarray]:
    """Return `count` images (375, 500, 3) uint8: photographs, or drawn ones if there are none."""
    paths = sorted((folder / "JPEGImages").glob("*.jpg"))
    if not paths:
        generator = np.random.default_rng(0)
        noise = [gaussian_filter(generator.normal(0, 1, (375, 500, 3)), (8, 8, 0)) for _ in range(count)]
        return [(128 + 1500 * image + generator.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
                for image in noise]
    paths = paths[::max(1, len(paths) // count)][:count]
    return [np.array(Image.open(path).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC)) for path in paths]


def draw_unary(image: np.ndarray, preset: str) -> np.ndarray:
    """Return the energies (3, 375, 500) of seeded smooth scores."""
    generator = np.random.default_rng(int(image.sum()))
    scores = np.stack([gaussian_filter(generator.random(image.shape[:2], np.float32), 30) for _ in range(3)])
    scores = (scores - scores.min()) / np.ptp(scores)
    return unary_from_labels(scores.argmax(axis=0), 3) if preset == "irn" else unary_from_scores(scores)


class TrafficCounter(TorchDispatchMode):
    """Counts the operations that start a kernel, the bytes that they read and write, and the numbers they compute."""

    def __init__(self) -> None:
        super().__init__()
        self.num_kernels = self.num_bytes = self.num_results = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = (_list_tensors(values) for values in ((args, kwargs), result))
        if func.is_view or not outputs or func._schema.name in ALLOCATIONS:  # nothing is computed
            return result
        written = sum(map(_count_bytes, outputs))
        if func._schema.name in GATHERS:
            traffic = 2 * written + sum(map(_count_bytes, inputs[1:]))
        elif func._schema.name == "aten::sort":
            traffic = 2 * SORT_PASSES * written
        else:
            traffic = written + sum(map(_count_bytes, inputs))
        self.num_kernels += 1
        self.num_bytes += traffic
        self.num_results += sum(tensor.numel() for tensor in inputs or outputs if tensor.is_floating_point())
        return result


def _list_tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def _count_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def count_traffic(images: list[np.ndarray], unaries: list[np.ndarray], preset: str) -> dict[str, float]:
    """Return kernels per batch, and bytes, numbers and estimated milliseconds per image."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from gpu_stand_in import simulate_gpu

    with simulate_gpu(), TrafficCounter() as counter:
        dense_crf_batch(images, unaries, CRF_PRESETS[preset], "torch", "cuda")
    num_bytes, launches = counter.num_bytes / len(images), LAUNCH * counter.num_kernels / len(images)
    return {"kernels_per_batch": counter.num_kernels, "megabytes": round(num_bytes / 1e6, 1),
            "million_numbers": round(counter.num_results / len(images) / 1e6, 1),
            "ms_at_full_bandwidth": round(1000 * num_bytes / BANDWIDTH, 2),
            "ms_at_40_percent": round(1000 * num_bytes / BANDWIDTH / EFFICIENCY, 2),
            "ms_of_launches": round(1000 * launches, 2)}


def measure_time(images: list[np.ndarray], unaries: list[np.ndarray], preset: str) -> dict[str, float]:
    """Return the best of five times, in milliseconds per image, with copies to and from the GPU."""
    times = []
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        dense_crf_batch(images, unaries, CRF_PRESETS[preset], "torch", "cuda")
        times.append(time.perf_counter() - start)
    return {"measured_ms": round(1000 * min(times[1:]) / len(images), 2),
            "peak_megabytes": round(torch.cuda.max_memory_allocated() / 1e6)}


def main() -> int:
    """Print the counts or the time; return 1 if a measured time misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/voc920"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--preset", choices=tuple(CRF_PRESETS), default="clip-es")
    options = parser.parse_args()
    images = read_images(options.data, options.batch)
    unaries = [draw_unary(image, options.preset) for image in images]
    has_gpu = torch.cuda.is_available()
    row = (measure_time if has_gpu else count_traffic)(images, unaries, options.preset)
    print(json.dumps({"preset": options.preset, "batch": len(images), "goal_ms": GOAL,
                      "device": torch.cuda.get_device_name() if has_gpu else "none: counted, not measured", **row}))
    return int(has_gpu and row["measured_ms"] > GOAL)


if __name__ == "__main__":
    sys.exit(main())
