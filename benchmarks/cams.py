"""Measure the CAMs of `cams cnn` against the plain way of IRN's released code, in CPU seconds of one thread.

    python benchmarks/cams.py [--size 375,500] [--rounds 5]

MobileNet-v2 at stride 16 with seeded random weights, four scales with their mirrored images, 20 classes, two of them
in the image. Both start from the decoded image and end with CAMs at a quarter of its size. The plain way keeps batch
normalisation, the default memory layout and the default allocator, and runs the image and its mirror as a batch of two;
"reusing" is the same with our allocator settings (`reuse_freed_memory`). Each way has a process of its own; they take
turns, so that other load affects all alike. The maps must agree: in fp32 to 1e-3, in bf16 to 0.05 of a class's maximum.

What was tried and does not help (the fp32 network alone, 1.17 s): the image and its mirror in one batch, 1.36 s (the
maps of two images do not fit the cache); fp32 weights packed in advance, no change to the fused convolutions'
1.07 s; the network converted to bf16 instead of autocast, 0.56 s as with autocast. `torch.jit.optimize_for_inference`
takes 0.96 s, but TorchScript is deprecated, and its graph holds for one network file only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results import Result, record_results

from stages.cams import cnn
from stages.data.inference_views import build_scaled_views
from stages.flow.device import use_threads
from stages.kernels.cam_merge import merge_scales
from stages.nets.activation_fusion import fuse_activations
from stages.nets.batch_norm_folding import fold_batch_norm
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone

SCALES, CLASS_IDS, STRIDE = (0.5, 1.0, 1.5, 2.0), np.array([3, 15]), 16
MIN_SPEEDUPS = {"fp32": 2.0, "bf16": 3.5}
WAYS = ("plain", "plain, reusing", *MIN_SPEEDUPS)
TOLERANCES = {"fp32": 1e-3, "bf16": 0.05}
_prepared: list[Callable[[], Tensor]] = []  # the way of this process


def build_net() -> Classifier:
    """Build MobileNet-v2 with a random head, and statistics that let every BatchNorm change its input."""
    torch.manual_seed(0)
    net = Classifier(build_backbone("torchvision:mobilenet_v2", stride=STRIDE), 20)
    nn.init.normal_(net.classifier.weight, std=0.05)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def draw_image(size: tuple[int, int]) -> np.ndarray:
    """Return a seeded image (H, W, 3) uint8 that is smooth enough to have objects."""
    noise = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, size, mode="bicubic").clamp(0, 1)[0]
    return (smooth.permute(1, 2, 0) * 255).byte().numpy()


@torch.inference_mode()
def compute_plain_cams(net: Classifier, image: np.ndarray) -> Tensor:
    """Return the CAMs (K, h, w) of IRN's way; the merge on one grid is the same, so that maps can be compared."""
    maps = []
    for view in build_scaled_views(image, SCALES, net.mean, net.std):
        pair = np.stack([view, np.flip(view, -1)])
        raw, mirrored = net.classifier(net.backbone(torch.from_numpy(pair))).relu()
        maps += [raw, mirrored.flip(-1)]
    classes = torch.from_numpy(CLASS_IDS) - 1
    scales = [scale for scale in SCALES for _ in range(2)]
    return merge_scales([map_[classes] for map_ in maps], image.shape[:2], scales=scales, stride=STRIDE,
                        mirrored=[False, True] * len(SCALES), first_cell_centre=net.backbone.first_cell_centre)[0]


def compute_our_cams(net: nn.Module, image: np.ndarray, precision: str) -> Tensor:
    """Return the CAMs (K, h, w) as the worker of `cams cnn` computes them."""
    views = (torch.from_numpy(view[None]).to(memory_format=torch.channels_last)
             for view in build_scaled_views(image, SCALES, net.mean, net.std))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        maps, _ = cnn.compute_class_maps(net, views, flip=True)
    cams, _ = cnn.merge_class_maps(
        maps, 0, CLASS_IDS, image.shape[:2], scales=SCALES, flip=True, grid_stride=4, stride=STRIDE,
        alignment="centres", first_cell_centre=net.backbone.first_cell_centre)
    return torch.from_numpy(cams).float()


def start_way(way: str, size: tuple[int, int]) -> None:
    """Prepare `way` in this process: the network, the image and the allocator."""
    torch.set_num_threads(1) if way == "plain" else use_threads(1)
    net, image = build_net(), draw_image(size)
    if way.startswith("plain"):
        _prepared.append(lambda: compute_plain_cams(net, image))
    else:
        fused = fuse_activations(fold_batch_norm(net))
        _prepared.append(lambda: compute_our_cams(fused, image, way))
    _prepared[0]()


def run_once() -> tuple[float, np.ndarray]:
    """Return (CPU seconds, CAMs) of the way of this process."""
    start = time.process_time()
    cams = _prepared[0]()
    return time.process_time() - start, cams.numpy()


def measure(size: tuple[int, int], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the CPU seconds of each way, and the largest difference of its maps from the plain ones."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {way: stack.enter_context(context.Pool(1, start_way, (way, size))) for way in WAYS}
        runs = [{way: pool.apply(run_once) for way, pool in pools.items()} for _ in range(rounds)]
    expected = runs[0]["plain"][1]
    return ({way: statistics.median(run[way][0] for run in runs) for way in WAYS},
            {way: float(np.abs(runs[0][way][1] - expected).max()) for way in WAYS})


def main() -> int:
    """Measure and print a table; return 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="375,500")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    height, width = map(int, arguments.size.split(","))
    seconds, differences = measure((height, width), arguments.rounds)
    print(f"{'':15} {'CPU s':>6} {'times faster':>12} {'bound':>6} {'difference':>11}")
    for name, value in seconds.items():
        print(f"{name:15} {value:6.3f} {seconds['plain'] / value:12.2f} {MIN_SPEEDUPS.get(name, 1):6.1f} "
              f"{differences[name]:11.1e}")
    return record_results(*(result for name, goal in MIN_SPEEDUPS.items() for result in (
        Result(f"cams cnn {name}, CPU seconds", seconds[name], "CPU s"),
        Result(f"cams cnn {name}, times faster than IRN's way", seconds["plain"] / seconds[name], "x", goal,
               higher_is_better=True),
        Result(f"cams cnn {name}, difference of the maps", differences[name], "of 1", TOLERANCES[name]))))


if __name__ == "__main__":
    sys.exit(main())
