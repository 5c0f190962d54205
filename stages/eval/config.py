"""Settings of `wsss eval`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class EvalConfig:
    """Settings of `eval`."""

    background: str = setting("sweep", "Background score for CAMs without a background: constant:V, power:A (larger "
                              "values: less background), from:EVAL.json, or the best one on the ground truth (sweep: "
                              "constant, sweep-power: power).")
    rule: str = setting("either", "Classes over which the mIoU is averaged. either: those in the ground truth or the "
                        "predictions (IRN); truth: those in the ground truth (DeepLab, SC-CAM); all: every class, with "
                        "IoU 0 for absent ones (MCTformer, SEAM).", choices=("either", "truth", "all"))
    ignore_predicted: bool = setting(False, "Skip pixels that are predicted as 255 (ignored) instead of counting them "
                                     "as misses.")
    skip_missing: bool = setting(False, "Skip images without a prediction instead of counting them as background.")
    draws: int = setting(2000, "Samples of the images from which intervals are computed, when runs are compared.",
                         low=100, high=1000000)
    seed: int = setting(0, "Seed of these samples.", low=0)
    interval: float = setting(0.95, "Share of the samples that an interval holds.", low=0.5, high=0.999)
    boundary: bool = setting(False, "Also compute the boundary IoU: the IoU of the pixels close to the contours of a "
                             "class.")
    boundary_width: float = setting(0.02, "How close to a contour these pixels are, as a share of the image's "
                                    "diagonal.", low=0.0001, high=0.5, source="Cheng et al., CVPR 2021")
    calibration: bool = setting(False, "Also compute the expected calibration error of the scores, and how often "
                                "pixels of each score are right. For CAMs, and masks with a confidence.")
    worst: int = setting(0, "List the ids of this many images with the lowest mIoU, or of several runs, with the "
                         "largest loss from the first run to the last. `wsss show --ids` takes them.", low=0)
