"""Settings of `wsss train-cls`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """Settings of every classifier."""

    long_side: tuple[int, ...] = setting((224, 400), "Resize the long side to a size drawn from this range.",
                                         unit="pixels", source="PSA: 256,512; IRN: 320,640",
                                         counts=(2,), ascending=True)
    crop_area: tuple[float, ...] = setting((), "Resize a part of so large a share of the image, drawn from this range, "
                                           "to the crop, whatever --long-side says; empty: do not.", low=0.001, high=1,
                                           source="DeiT: 0.08,1", counts=(0, 2), ascending=True)
    rand_augment: float = setting(0.0, "Magnitude of RandAugment; 0: none.", low=0, high=10, source="DeiT: 9")
    erase: float = setting(0.0, "Share of the views in which a rectangle is erased.", low=0, high=1,
                           source="DeiT: 0.25")


@dataclass(frozen=True)
class MapConfig(ClassifierConfig):
    """Settings of every multi-label classifier whose weights are its class activation maps."""

    dropout: float = setting(0.0, "Drop whole channels before pooling.", low=0, high=0.95, source="PSA: 0.5")


@dataclass(frozen=True)
class CamConfig(MapConfig):
    """Settings of `train-cls cam`."""

    pool: str = setting("mean", "What the classifier reads: the mean of the last map, as maps of classes need it; or a "
                        "vision transformer's class token, as the teacher of sub-categories does.",
                        choices=("mean", "class-token"), source="CAM; Sub-category Teaching: class-token")


@dataclass(frozen=True)
class MixConfig(MapConfig):
    """Settings of every training on mixed samples."""

    lambda_ent: float = setting(0.02, "Weight of the self-entropy of the predictions.", low=0, source="Mixup-CAM")
    entropy: str = setting("binary", "Entropy of each class present or not, or -sum p log p.",
                           choices=("binary", "sum"), source="Mixup-CAM's code; its formula")
    lambda_con: float = setting(2e-4, "Weight of the concentration of the maps.", low=0, source="Mixup-CAM")
    concentration: str = setting("scops", "Its form: softmax over classes in coordinates from -1 to 1, or maps as they "
                                 "are in cells, which can overpower the classification.", choices=("scops", "paper"))


@dataclass(frozen=True)
class MixupConfig(MixConfig):
    """Settings of `train-cls mixup`."""

    alpha: float = setting(0.2, "lambda is drawn from Beta(alpha, alpha).", low=0.01, source="Mixup-CAM")


@dataclass(frozen=True)
class FmixConfig(MixConfig):
    """Settings of `train-cls fmix`."""

    alpha: float = setting(1.0, "lambda is drawn from Beta(alpha, alpha).", low=0.01, source="FMix")
    decay: float = setting(3.0, "Power by which the noise falls with its frequency.", low=0, high=20, source="FMix")
    fmix_spectrum: str = setting("paper", "The noise in two dimensions, or with the released code's slip: bands.",
                                 choices=("paper", "released"))


@dataclass(frozen=True)
class ManifoldConfig(MixConfig):
    """Settings of `train-cls manifold-mixup`."""

    alpha: float = setting(0.2, "lambda is drawn from Beta(alpha, alpha).", low=0.01, source="Manifold Mixup-CAM")
    mix_at: str = setting("", "Where to mix, drawn anew for each batch: comma list of input and blocks of the "
                          "backbone; empty: input and all blocks but the last.", source="Manifold Mixup")


@dataclass(frozen=True)
class SubcategoryConfig(MapConfig):
    """Settings of `train-cls subcategory`."""

    subcategory_weight: float = setting(1.0, "Weight of the loss of the sub-categories.", low=0,
                                        source="Sub-category Teaching; SC-CAM: 5")


@dataclass(frozen=True)
class MctformerConfig(ClassifierConfig):
    """Settings of `train-cls mctformer`; the defaults are those of V2."""

    version: str = setting("v2", "v1: class tokens alone; v2: and a classifier of the patches; plus: pooled by rank, "
                           "with contrastive class tokens.", choices=("v1", "v2", "plus"), source="MCTformer")
    drop_path: float = setting(0.1, "Drop residual branches with a probability that rises to this in the last layer.",
                               low=0, high=0.9, source="MCTformer")
    contrast: float = setting(1.0, "Weight of the contrast between class tokens, in plus.", low=0,
                              source="public code on MCTformer+")
    contrast_layers: int = setting(0, "Last layers whose class tokens it compares; 0: all.", low=0,
                                   source="public code on MCTformer+")
    position_size: int = setting(0, "Side of the images whose patches have one learnt position each; for other sizes "
                                 "these are resized. 0: the network's own side.", low=0, high=4096, unit="pixels",
                                 source="MCTformer+: 448, its crop")
    as_released: bool = setting(False, "Resize positions as the released code: v1 and v2 read them up to a tenth of a "
                                "patch beside their places; plus resizes none in training, so its --position-size has "
                                "to be --crop-size.")
    net: str = setting("timm:deit_small_patch16_224", "The vision transformer, as timm:NAME.", source="MCTformer")
    epochs: int = setting(60, "Passes over the images.", low=1, source="MCTformer; plus: 45")
    batch_size: int = setting(64, "Images in a batch, in each process.", low=1, source="MCTformer; plus: 32")
    lr: float = setting(6.25e-5, "Learning rate.", low=0, high=1000, source="MCTformer: 5e-4 x batch / 512")
    head_lr_factor: float = setting(1.0, "Times --lr for layers that start anew.", low=0, source="MCTformer")
    optimizer: str = setting("adamw", "The optimiser.", choices=("sgd", "adamw"), source="MCTformer")
    weight_decay: float = setting(0.05, "Weight decay.", low=0, source="MCTformer")
    decay: str = setting("matrices", "What decays: all, or kernels and matrices without biases, norms, tokens and "
                         "positions.", choices=("all", "matrices"), source="MCTformer")
    schedule: str = setting("cosine", "poly: (1 - step / steps) ^ 0.9; cosine: half a wave from --lr to --lr-floor; "
                            "or constant.", choices=("poly", "cosine", "constant"), source="MCTformer")
    lr_floor: float = setting(1e-5, "Rate at which the cosine ends.", low=0, high=1000, source="MCTformer")
    crop_size: int = setting(224, "Side of the square that the network sees.", low=16, unit="pixels",
                             source="MCTformer; plus: 448")
    crop_area: tuple[float, ...] = setting((0.08, 1.0), "Resize a part of so large a share of the image, drawn from "
                                           "this range, to the crop, whatever --long-side says; empty: do not.",
                                           low=0.001, high=1, source="DeiT", counts=(0, 2), ascending=True)
    rand_augment: float = setting(9.0, "Magnitude of RandAugment; 0: none.", low=0, high=10, source="MCTformer")
    erase: float = setting(0.25, "Share of the views in which a rectangle is erased.", low=0, high=1,
                           source="MCTformer")
    colour_jitter: tuple[float, ...] = setting((), "Jitter of brightness, contrast, saturation, hue; empty for none.",
                                               source="MCTformer names 0.4, which timm drops beside RandAugment",
                                               counts=(0, 4))


def _base(default: str) -> str:
    return setting(default, "The classifier that learns: that of train-cls cam (IRN's, PSA's), or of train-cls "
                   "mctformer.", choices=("cam", "mctformer"))


def _reduction(default: str, source: str) -> str:
    return setting(default, "Sum over the cells of each pair, then mean over the pairs; or mean over all cells.",
                   choices=("sum", "mean"), source=source)


@dataclass(frozen=True)
class CsdSettings:
    """What `train-cls csd` adds to the settings of its base."""

    lambda_fg: float = setting(0.01, "Weight of the consistency on pasted objects.", low=0, source="CSD: lambda_1")
    lambda_bg: float = setting(0.1, "Weight of the consistency on pasted backgrounds.", low=0, source="CSD: lambda_2")
    reduction: str = _reduction("sum", "CSD, eq. 3 and 5")
    constant: float = setting(0.1, "The background's dummy score M'.", low=0, source="CSD's development code")
    constant_of: str = setting("auto", "What M' is a share of: one, or the largest saliency of the single-label image; "
                               "auto is one for the refined maps of mctformer, to whose scale 0.1 belongs, and largest "
                               "for all others.", choices=("auto", "one", "largest"))
    saliency: str = setting("sum", "What the dummy score competes with: the sum of all classes' maps, or each map.",
                            choices=("sum", "per-class"), source="CSD, eq. 4; its development code: per-class")
    terms: str = setting("all", "Terms of the divergences: of all channels, or of the pasted class (the dummy score) "
                         "alone.", choices=("all", "own"), source="CSD; its development code: own")
    temperature: float = setting(1.0, "Divide the scores by this before every softmax.", low=0.001, source="CSD")
    background_gain: float = setting(1.0, "Times the scores of pasted backgrounds before their softmax.", low=0.001,
                                     source="CSD; its development code: 10")
    resampling: str = setting("cooc", "Which single-label image: of a class drawn by co-occurrence; any of them alike "
                              "(off); or of any class alike.", choices=("cooc", "off", "classes"),
                              source="CSD, table 2: cooc and off")
    targets: str = setting("drawn", "Into which images: a multi-label one drawn for every sample; the sample itself "
                           "where it is one (own); or any image with a class.", choices=("drawn", "own", "any"),
                           source="CSD; its development code: any")
    short_side: int = setting(0, "Short side of the images that are pasted, before they are cropped; 0: 8/7 of "
                              "--crop-size.", low=0, unit="pixels", source="CSD's development code: 256 for 224")
    placement: str = setting("same", "Where an object is pasted: where it was, or anywhere.",
                             choices=("same", "random"), source="CSD's development code; CDA: random")
    paste_scale: tuple[float, ...] = setting((1.0, 1.0), "Scale pasted objects by a factor from this range.", low=0.05,
                                             high=4, source="CSD's development code: 0.6,1 as an option; CDA: 0.7",
                                             counts=(2,), ascending=True)
    paste_rotation: float = setting(0.0, "Turn pasted objects by up to so much.", low=0, high=180, unit="degrees",
                                    source="CDA: 90")


@dataclass(frozen=True)
class CsdCamConfig(CsdSettings, MapConfig):
    """Settings of `train-cls csd --base cam`."""

    base: str = _base("cam")
    reduction: str = _reduction("mean", "measured: see stages/train_cls/csd.py; CSD, eq. 3 and 5: sum")


@dataclass(frozen=True)
class CsdMctformerConfig(CsdSettings, MctformerConfig):
    """Settings of `train-cls csd --base mctformer`."""

    base: str = _base("mctformer")
    csd_maps: str = setting("refined", "Maps that are compared: the class attention times the patch classifier's maps, "
                            "refined by the attention between patches of all layers; the same before it (fused); or "
                            "the logits of the patch classifier (v2 and plus).",
                            choices=("refined", "fused", "patch-logits"),
                            source="CSD's development code; its paper has the last output feature maps")
    csd_layers: int = setting(3, "Last layers whose class attention makes the refined and the fused maps.", low=1,
                              source="MCTformer")
