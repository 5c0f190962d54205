"""Settings of `wsss init`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting

METHODS = ("cam", "affinity", "clip-es")


@dataclass(frozen=True)
class InitConfig:
    """Settings of `init`: what the Makefile does."""

    method: str = setting("cam", "How maps are made: cam, with a classifier trained on the tags; affinity, with that "
                          "and a network that learns which pixels belong together; or clip-es, with CLIP and no "
                          "classifier.", choices=METHODS)
    holdout: float = setting(0.2, "Share of the photographs that nothing is trained on, to judge the network by; 0 "
                             "keeps none back.", low=0.0, high=0.9)
    mean: tuple[float, ...] = setting((), "Mean of the input that the file --weights expects, in [0, 1]; empty takes "
                                      "that of torchvision's weights.", lengths=(0, 3))
    std: tuple[float, ...] = setting((), "Standard deviation of that input; empty takes that of torchvision's weights.",
                                     lengths=(0, 3))
    seed: int = setting(0, "Seed of the division and of the trainings.", low=0)
