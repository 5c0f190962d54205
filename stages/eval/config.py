"""Settings of `wsss eval`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting


@dataclass(frozen=True)
class EvalConfig:
    """Settings of `eval`."""

    background: str = setting("sweep", "For maps without background: constant:V, power:A, from:EVAL.json; or sweep "
                              "(constant) and sweep-power, which look at the ground truth.")
    rule: str = setting("either", "Classes that count: in truth or prediction (IRN), in the truth (DeepLab, SC-CAM), "
                        "or all, absent ones as 0 (MCTformer, SEAM).", choices=("either", "truth", "all"))
    ignore_predicted: bool = setting(False, "Skip pixels predicted as 255, instead of counting them as misses.")
    skip_missing: bool = setting(False, "Leave out images without prediction, instead of counting background.")
