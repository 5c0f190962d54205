"""Settings of `wsss report`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting

SORT_KEYS = ("id", "iou", "disagreement", "score")
SAMPLES = ("even", "first", "random", "worst")


@dataclass(frozen=True)
class ReportConfig:
    """Settings of `report`. Scores are always over all images; these settings choose those of the gallery."""

    ids: tuple[str, ...] = setting((), "Ids of the images in the gallery, or a text file with one id per line; if "
                                   "empty, --limit and --sample choose them.")
    limit: int = setting(100, "Largest number of images in the gallery; 0 for all.", low=0)
    sample: str = setting("even", "How --limit chooses images: evenly spread over the run (even), the first ones, at "
                          "random, or the worst by --sort.", choices=SAMPLES)
    sort: str = setting("", "First order of the gallery, the worst image first: id, iou (lowest mean IoU of the first "
                        "run), disagreement (lowest mean IoU between the first two runs) or score (lowest score of the "
                        "best class). If empty, iou if there is ground truth, and id otherwise.",
                        choices=("", *SORT_KEYS))
    seed: int = setting(0, "Seed of --sample random and of the confidence intervals.", low=0)
    background: str = setting("sweep", "Background score for CAMs without a background: constant:V, power:A, "
                              "from:EVAL.json, or the best constant on the ground truth (sweep). Without ground truth, "
                              "sweep leaves them heat maps.")
    title: str = setting("", "Heading of the page; if empty, the names of the runs.")
    titles: tuple[str, ...] = setting((), "Title of each run, in their order; if empty, the names of the runs.")
    max_side: int = setting(360, "Longest side of a photograph in the page. The size of the page depends on it.",
                            unit="pixels", low=32, high=2000)
    draws: int = setting(2000, "Number of bootstrap samples of the images for the 95 % confidence intervals; 0 for "
                         "none.", low=0, high=100_000)
