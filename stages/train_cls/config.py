"""Settings of `wsss train-cls`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import setting
from stages.training.config import TrainingConfig


@dataclass(frozen=True)
class ClassifierConfig(TrainingConfig):
    """Settings of every classifier."""

    long_side: tuple[int, ...] = setting((224, 400), "Resize the long side to a random length in this range.",
                                         unit="pixels", source="PSA: 256,512; IRN: 320,640",
                                         lengths=(2,), ascending=True)
    crop_area: tuple[float, ...] = setting((), "Crop a random share of the image area in this range, and resize it to "
                                           "--crop-size; overrides --long-side; empty does not.", low=0.001, high=1,
                                           source="DeiT: 0.08,1", lengths=(0, 2), ascending=True)
    rand_augment: float = setting(0.0, "Magnitude of RandAugment; 0 turns it off.", low=0, high=10, source="DeiT: 9")
    erase: float = setting(0.0, "Probability of erasing a random rectangle of a view.", low=0, high=1,
                           source="DeiT: 0.25")


@dataclass(frozen=True)
class MapConfig(ClassifierConfig):
    """Settings of every multi-label classifier whose weights give its class activation maps."""

    dropout: float = setting(0.0, "Probability of dropping a whole channel before pooling.", low=0, high=0.95,
                             source="PSA: 0.5")


@dataclass(frozen=True)
class CamConfig(MapConfig):
    """Settings of `train-cls cam`."""

    pool: str = setting("mean", "What the classifier is applied to: the mean of the last feature map, as CAMs need it; "
                        "or a vision transformer's class token, as the teacher of sub-categories has it.",
                        choices=("mean", "class-token"), source="CAM; Sub-category Teaching: class-token")


@dataclass(frozen=True)
class MixConfig(MapConfig):
    """Settings of every training on mixed samples."""

    lambda_ent: float = setting(0.02, "Weight of the self-entropy of the predictions.", low=0, source="Mixup-CAM")
    entropy: str = setting("binary", "Form of the self-entropy: binary, of each class's presence; or sum, "
                           "-sum p log p.", choices=("binary", "sum"), source="Mixup-CAM's code; its formula")
    lambda_con: float = setting(2e-4, "Weight of the concentration loss of the CAMs.", low=0, source="Mixup-CAM")
    concentration: str = setting("scops", "Form of the concentration loss: scops, softmax over classes in coordinates "
                                 "from -1 to 1; or paper, the plain CAMs in cells, which can overpower the "
                                 "classification loss.", choices=("scops", "paper"))


@dataclass(frozen=True)
class MixupConfig(MixConfig):
    """Settings of `train-cls mixup`."""

    alpha: float = setting(0.2, "The mixing ratio lambda is drawn from Beta(alpha, alpha).", low=0.01,
                           source="Mixup-CAM")


@dataclass(frozen=True)
class FmixConfig(MixConfig):
    """Settings of `train-cls fmix`."""

    alpha: float = setting(1.0, "The mixing ratio lambda is drawn from Beta(alpha, alpha).", low=0.01, source="FMix")
    decay: float = setting(3.0, "Power by which the noise decays with its frequency: a larger one gives larger "
                           "patches.", low=0, high=20, source="FMix")
    fmix_spectrum: str = setting("paper", "Spectrum of the noise: paper, in two dimensions; or released, with the "
                                 "mistake of the released code, which gives bands.", choices=("paper", "released"))


@dataclass(frozen=True)
class ManifoldConfig(MixConfig):
    """Settings of `train-cls manifold-mixup`."""

    alpha: float = setting(0.2, "The mixing ratio lambda is drawn from Beta(alpha, alpha).", low=0.01,
                           source="Manifold Mixup-CAM")
    mix_at: str = setting("", "Layers to mix at, one of them drawn for each batch: a comma list of input and blocks of "
                          "the backbone; empty takes input and all blocks but the last.", source="Manifold Mixup")


@dataclass(frozen=True)
class SubcategoryConfig(MapConfig):
    """Settings of `train-cls subcategory`."""

    subcategory_weight: float = setting(1.0, "Weight of the loss of the sub-categories.", low=0,
                                        source="Sub-category Teaching; SC-CAM: 5")


@dataclass(frozen=True)
class MctformerConfig(ClassifierConfig):
    """Settings of `train-cls mctformer`; the defaults are those of V2."""

    version: str = setting("v2", "Version: v1 trains class tokens alone; v2 adds a patch classifier; plus pools by "
                           "rank, with a contrastive loss between class tokens.", choices=("v1", "v2", "plus"),
                           source="MCTformer")
    drop_path: float = setting(0.1, "Probability of dropping a residual branch of the last layer; it rises to this "
                               "from 0 in the first.", low=0, high=0.9, source="MCTformer")
    contrast: float = setting(1.0, "Weight of the contrastive loss between class tokens, with --version plus.", low=0,
                              source="public code on MCTformer+")
    contrast_layers: int = setting(0, "Number of last layers whose class tokens the contrastive loss compares; 0 takes "
                                   "all.", low=0, source="public code on MCTformer+")
    position_size: int = setting(0, "Side of the images whose patches each learn a position embedding of their own, "
                                 "which is resized for other sizes; 0 takes the network's own side.", low=0, high=4096,
                                 unit="pixels", source="MCTformer+: 448, its crop")
    as_released: bool = setting(False, "Resize position embeddings as the released code does: v1 and v2 sample them up "
                                "to a tenth of a patch off; plus does not resize them in training, so "
                                "--position-size must equal --crop-size.")
    net: str = setting("timm:deit_small_patch16_224", "Vision transformer, as timm:NAME.", source="MCTformer")
    epochs: int = setting(60, "Number of passes over the images.", low=1, source="MCTformer; plus: 45")
    batch_size: int = setting(64, "Images per batch, in each process.", low=1, source="MCTformer; plus: 32")
    lr: float = setting(6.25e-5, "Learning rate.", low=0, high=1000, source="MCTformer: 5e-4 x batch / 512")
    head_lr_factor: float = setting(1.0, "Factor on --lr for new layers.", low=0, source="MCTformer")
    optimizer: str = setting("adamw", "Optimiser.", choices=("sgd", "adamw"), source="MCTformer")
    weight_decay: float = setting(0.05, "Weight decay.", low=0, source="MCTformer")
    decay: str = setting("matrices", "Parameters with weight decay: all, or matrices (kernels and matrices, but no "
                         "biases, norms, tokens and position embeddings).", choices=("all", "matrices"),
                         source="MCTformer")
    schedule: str = setting("cosine", "Learning rate schedule: poly, (1 - step / steps) ^ 0.9; cosine, a half wave "
                            "from --lr down to --lr-floor; or constant.", choices=("poly", "cosine", "constant"),
                            source="MCTformer")
    lr_floor: float = setting(1e-5, "Learning rate at the end of the cosine schedule.", low=0, high=1000,
                              source="MCTformer")
    crop_size: int = setting(224, "Side of the square crops that the network is trained on.", low=16, unit="pixels",
                             source="MCTformer; plus: 448")
    crop_area: tuple[float, ...] = setting((0.08, 1.0), "Crop a random share of the image area in this range, and "
                                           "resize it to --crop-size; overrides --long-side; empty does not.",
                                           low=0.001, high=1, source="DeiT", lengths=(0, 2), ascending=True)
    rand_augment: float = setting(9.0, "Magnitude of RandAugment; 0 turns it off.", low=0, high=10, source="MCTformer")
    erase: float = setting(0.25, "Probability of erasing a random rectangle of a view.", low=0, high=1,
                           source="MCTformer")
    colour_jitter: tuple[float, ...] = setting((), "Strength of random changes of brightness, contrast, saturation and "
                                               "hue; empty makes none.", source="MCTformer names 0.4, which timm drops "
                                               "beside RandAugment", lengths=(0, 4))


def _base_setting(default: str) -> str:
    return setting(default, "Classifier to train: that of train-cls cam (IRN's, PSA's), or of train-cls mctformer.",
                   choices=("cam", "mctformer"))


def _reduction_setting(default: str, source: str) -> str:
    return setting(default, "Reduction of the consistency: sum over the cells of each pair, then mean over the pairs; "
                   "or mean over all cells.", choices=("sum", "mean"), source=source)


@dataclass(frozen=True)
class CsdSettings:
    """The settings that `train-cls csd` adds to those of its base."""

    lambda_fg: float = setting(0.01, "Weight of the consistency on pasted objects.", low=0, source="CSD: lambda_1")
    lambda_bg: float = setting(0.1, "Weight of the consistency on pasted backgrounds.", low=0, source="CSD: lambda_2")
    reduction: str = _reduction_setting("sum", "CSD, eq. 3 and 5")
    constant: float = setting(0.1, "Dummy score M' of the background.", low=0, source="CSD's development code")
    constant_of: str = setting("auto", "Unit of M': one, or the largest saliency of the single-label image; auto is "
                               "one for the refined maps of mctformer, on whose scale 0.1 was chosen, and largest for "
                               "all others.", choices=("auto", "one", "largest"))
    saliency: str = setting("sum", "What the dummy score competes with: the sum of all classes' maps, or each map.",
                            choices=("sum", "per-class"), source="CSD, eq. 4; its development code: per-class")
    terms: str = setting("all", "Terms of the divergences: those of all channels, or only the pasted class's (for "
                         "backgrounds, the dummy score's).", choices=("all", "own"),
                         source="CSD; its development code: own")
    temperature: float = setting(1.0, "Temperature that divides the scores before every softmax.", low=0.001,
                                 source="CSD")
    background_gain: float = setting(1.0, "Factor on the scores of pasted backgrounds before their softmax.", low=0.001,
                                     source="CSD; its development code: 10")
    resampling: str = setting("cooc", "How to draw single-label images: of a class drawn by co-occurrence (cooc); "
                              "uniformly over images (off); or uniformly over classes.",
                              choices=("cooc", "off", "classes"), source="CSD, table 2: cooc and off")
    targets: str = setting("drawn", "Images to paste into: a random multi-label image for every sample (drawn); the "
                           "sample itself if it is multi-label (own); or any image with a class.",
                           choices=("drawn", "own", "any"), source="CSD; its development code: any")
    short_side: int = setting(0, "Short side to which images are resized for pasting, before they are cropped; 0 is "
                              "8/7 of --crop-size.", low=0, unit="pixels", source="CSD's development code: 256 for 224")
    placement: str = setting("same", "Where to paste an object: where it was, or at a random position.",
                             choices=("same", "random"), source="CSD's development code; CDA: random")
    paste_scale: tuple[float, ...] = setting((1.0, 1.0), "Scale pasted objects by a random factor in this range.",
                                             low=0.05, high=4,
                                             source="CSD's development code: 0.6,1 as an option; CDA: 0.7",
                                             lengths=(2,), ascending=True)
    paste_rotation: float = setting(0.0, "Largest random rotation of pasted objects.", low=0, high=180, unit="degrees",
                                    source="CDA: 90")


@dataclass(frozen=True)
class CsdCamConfig(CsdSettings, MapConfig):
    """Settings of `train-cls csd --base cam`."""

    base: str = _base_setting("cam")
    reduction: str = _reduction_setting("mean", "measured: see stages/train_cls/csd.py; CSD, eq. 3 and 5: sum")


@dataclass(frozen=True)
class CsdMctformerConfig(CsdSettings, MctformerConfig):
    """Settings of `train-cls csd --base mctformer`."""

    base: str = _base_setting("mctformer")
    csd_maps: str = setting("refined", "Maps to compare: the class attention times the patch classifier's maps, "
                            "refined by the attention between patches of all layers (refined); the same without that "
                            "refinement (fused); or the logits of the patch classifier (v2 and plus).",
                            choices=("refined", "fused", "patch-logits"),
                            source="CSD's development code; its paper has the last output feature maps")
    csd_layers: int = setting(3, "Number of last layers whose class attention makes the refined and the fused maps.",
                              low=1, source="MCTformer")
