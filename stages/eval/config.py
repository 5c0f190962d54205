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
