"""Settings of `wsss refine`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import crf_engine_setting, max_side_setting, setting

DEFAULT_BACKGROUNDS = {"irn": "constant:0.3", "psa": "power:4", "clip-es": "power:1", "deeplab": "constant:0.3",
                       "mctformer": "constant:0.3"}


@dataclass(frozen=True)
class CrfConfig:
    """Settings of `refine crf`; values of None are taken from the preset."""

    preset: str = setting("irn", "System whose kernels and unary potentials are used. irn takes hard labels, the "
                          "others take scores.", choices=("irn", "psa", "clip-es", "deeplab", "mctformer"))
    background: str = setting("", "Background score for the unary potentials: constant:V, power:A or from:EVAL.json. "
                              "If empty, the preset's: constant:0.3 for irn, deeplab and mctformer, power:4 for psa "
                              "and power:1 for clip-es.")
    unary: str = setting("auto", "Unary potentials from hard labels or from scores; auto follows the preset.",
                         choices=("auto", "labels", "scores"))
    label_confidence: float = setting(0.7, "Probability that a hard label is correct. Lower values let the CRF change "
                                      "more labels.", low=0.01, high=0.999, source="IRN")
    iterations: int = setting(10, "Number of mean-field iterations.", low=1, high=1000)
    gaussian_sxy: float | None = setting(None, "Width of the smoothness kernel. By default the preset's.",
                                         unit="pixels", low=0.1)
    gaussian_weight: float | None = setting(None, "Weight of the smoothness kernel; larger values remove more small "
                                            "regions. By default the preset's.", low=0)
    bilateral_sxy: float | None = setting(None, "Spatial width of the appearance kernel. By default the preset's.",
                                          unit="pixels", low=0.1)
    bilateral_srgb: float | None = setting(None, "Colour width of the appearance kernel; smaller values follow weaker "
                                           "edges. By default the preset's.", unit="grey levels of 0..255", low=0.1)
    bilateral_weight: float | None = setting(None, "Weight of the appearance kernel; larger values follow the image "
                                             "more closely. By default the preset's.", low=0)
    as_released: bool = setting(False, "Give the CRF the image as in CLIP-ES's released code: BGR minus a mean, with "
                                "negative values wrapped to bright ones.")
    max_side: int = max_side_setting(note="The widths of the kernels are in pixels of the reduced image.")
    engine: str = crf_engine_setting()
    batch_size: int = setting(16, "Number of images of any size that are computed at once on a GPU.", low=1)
    device: str = setting("auto", "Device to run on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)


@dataclass(frozen=True)
class IrnConfig:
    """Settings of `refine irn`."""

    beta: float = setting(10.0, "Exponent of the affinities. Larger values keep the walk inside regions of high "
                          "affinity.", low=0.01, high=1000, source="IRN")
    steps: int = setting(256, "Number of steps of the random walk. More steps spread the CAMs further.", low=0,
                         high=100000, source="IRN: 2^8")
    radius: int = setting(5, "Largest distance of one step (exclusive), whatever the network was trained with.", low=2,
                          high=64, unit="cells", source="IRN")
    flip: bool = setting(True, "Average the boundaries with those of the mirrored image.", source="IRN")
    max_side: int = max_side_setting()
    batch_size: int = setting(1, "Number of images of equal size per batch of the network.", low=1)
    precision: str = setting("fp32", "Floating-point format of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to run on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)


@dataclass(frozen=True)
class PsaConfig:
    """Settings of `refine psa`."""

    background: str = setting("power:16", "Background score that takes part in the random walk: power:A or constant:V. "
                              "With none only the classes walk, and a background can be chosen later.",
                              source="PSA; MCTformer: constant:0.39")
    beta: float = setting(8.0, "Exponent of the affinities. Larger values keep the walk inside regions of high "
                          "affinity.", low=0.01, high=1000, source="PSA")
    steps: int = setting(256, "Number of steps of the random walk. More steps spread the CAMs further.", low=0,
                         high=100000, source="PSA: 2^8; MCTformer: 2^6")
    max_side: int = max_side_setting()
    batch_size: int = setting(1, "Number of images of equal padded size per batch of the network.", low=1)
    precision: str = setting("fp32", "Floating-point format of the network.", choices=("fp32", "bf16", "fp16"))
    device: str = setting("auto", "Device to run on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)


@dataclass(frozen=True)
class PamrConfig:
    """Settings of `refine pamr`."""

    dilations: tuple[int, ...] = setting((1, 2, 4, 8, 12, 24), "Distances of the neighbours over which the CAMs are "
                                         "averaged.", low=1, high=512, unit="cells of the grid",
                                         source="Araslanov and Roth")
    iterations: int = setting(10, "Number of rounds of averaging. More rounds follow the image more closely.", low=0,
                              high=1000, source="Araslanov and Roth")
    softness: float = setting(0.1, "Tolerance for colour differences, in standard deviations of the neighbourhood. "
                              "Larger values average across weaker edges.", low=0.001, high=100,
                              source="Araslanov and Roth")
    grid_stride: int = setting(1, "Stride of the refined CAMs; 1 is the size of the image. Larger values are faster "
                               "and give smaller shards.", low=1, high=64, unit="pixels",
                               source="Araslanov and Roth; TCL: 4")
    background: str = setting("none", "Background score that is refined together with the classes: constant:V or "
                              "power:A. With none only the classes are refined, and a background can be chosen later.")
    max_side: int = max_side_setting(note="Distances are in cells of the reduced image.")
    device: str = setting("auto", "Device to run on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)


@dataclass(frozen=True)
class ParConfig:
    """Settings of `refine par`."""

    dilations: tuple[int, ...] = setting((1, 2, 4, 8, 12, 24), "Distances of the neighbours over which the CAMs are "
                                         "averaged.", low=1, high=512, unit="cells of the grid", source="AFA, WeCLIP")
    iterations: int = setting(20, "Number of rounds of averaging. More rounds follow the image more closely.", low=0,
                              high=1000, source="WeCLIP, ExCEL")
    colour_scale: float = setting(0.3, "Tolerance for colour differences, in standard deviations of the neighbours. "
                                  "Larger values average across weaker edges.", low=0.001, high=100,
                                  source="AFA, WeCLIP")
    position_weight: float = setting(0.01, "Weight of the neighbours that depends on their distance only, whatever "
                                     "their colour. The weights by colour sum to 1.", low=0, high=1,
                                     source="AFA, WeCLIP")
    grid_stride: int = setting(1, "Stride of the refined CAMs; 1 is the size of the image. Larger values are faster "
                               "and give smaller shards.", low=1, high=64, unit="pixels", source="ExCEL")
    background: str = setting("none", "Background score that is refined together with the classes: constant:V or "
                              "power:A. With none only the classes are refined, and a background can be chosen later.",
                              source="ExCEL: power:1")
    max_side: int = max_side_setting(note="Distances are in cells of the reduced image.")
    device: str = setting("auto", "Device to run on: auto, cpu, cuda or cuda:N.")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)


@dataclass(frozen=True)
class RegionsConfig:
    """Settings of `refine regions`."""

    rule: str = setting("mean", "What a region gets: mean reads CAMs, and gives each class its mean score; vote and "
                        "sepl read masks. vote gives the most frequent class, sepl lets classes choose the regions "
                        "that lie mostly in them or cover most of them.", choices=("mean", "vote", "sepl"),
                        source="CorrCLIP: vote; SEPL: sepl")
    threads: int = setting(1, "Number of CPU threads per worker process.", low=1)
