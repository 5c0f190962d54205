"""The classifier whose weights are also the class activation maps (Zhou et al., CAM, 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.backbone import Backbone
from stages.nets.class_token import class_token, has_class_token


class Classifier(nn.Module):
    """A backbone, global average pooling, and a 1x1 convolution without bias to C classes.

    `dropout` is the probability of Dropout2d before the pooling: 0.5 in PSA, none in IRN. The layer is
    named as in IRN's checkpoints (`classifier.weight`). It starts from zeros, so that no seed enters here; PSA has
    Xavier's initialisation. On 471 photographs of VOC with MobileNet-v2 the maps differ by no more than noise
    (mIoU 40.8 and 40.4 on one seed after 8 epochs, 37.2 and 35.9 on another after 12).
    """

    task = "classification"
    head = "cam"
    head_keys = ("classifier",)

    def __init__(self, backbone: Backbone, n_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_outputs = n_classes
        self.dropout_rate = dropout
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(backbone.channels, n_classes, 1, bias=False)
        nn.init.zeros_(self.classifier.weight)
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.from_features(self.backbone(images))

    def from_features(self, features: Tensor) -> Tensor:
        """Return logits (B, C) of the backbone's final map (B, D, h, w)."""
        pooled = self.dropout(features).mean((2, 3), keepdim=True)
        return self.classifier(pooled).flatten(1)

    def maps(self, images: Tensor) -> Tensor:
        """Return the activation maps (B, C, h, w) before ReLU; their mean over (h, w) is the logit."""
        return self.classifier(self.backbone(images))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.classifier.parameters()


class ClassTokenClassifier(nn.Module):
    """A classifier that reads the class token of a vision transformer, as timm's own do.

    The teacher of Sub-category Teaching is such a one. It has no class activation maps: no patch is classified. Unlike
    timm's the layer has no bias, as the token comes from a norm with one. It starts from zeros.
    """

    task = "classification"
    head = "class-token"
    head_keys = ("classifier",)

    def __init__(self, backbone: Backbone, n_classes: int, *, dropout: float = 0.0) -> None:
        """Take a backbone with a class token. Raises UsageError for another."""
        super().__init__()
        if not has_class_token(backbone):
            raise UsageError(f"--pool class-token: {backbone.name} has no class token",
                             "give --pool mean, or a network such as timm:vit_base_patch16_224")
        self.backbone = backbone
        self.n_outputs = n_classes
        self.dropout_rate = dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.channels, n_classes, bias=False)
        nn.init.zeros_(self.classifier.weight)
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.classifier(self.dropout(class_token(self.backbone, images)))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.classifier.parameters()

    @property
    def watched_layer(self) -> str:
        """The last layer whose patches still reach the class token: where Grad-CAM looks by default."""
        return f"blocks.{len(self.backbone.model.blocks) - 1}.norm1"


class SubcategoryClassifier(Classifier):
    """A classifier with a second head, for the sub-categories of its classes.

    Chang et al., "Weakly-Supervised Semantic Segmentation via Sub-Category Exploration" (CVPR 2020). The maps of a
    class come from the first head; the second's are kept as well, since its file is the only place for them.
    """

    head_keys = ("classifier", "subcategories")

    def __init__(self, backbone: Backbone, n_classes: int, n_subcategories: Sequence[int], *,
                 dropout: float = 0.0) -> None:
        """Take the number of sub-categories of each of the C classes; S is their sum. Raises ValueError for others."""
        super().__init__(backbone, n_classes, dropout=dropout)
        self.n_subcategories = tuple(int(count) for count in n_subcategories)
        if len(self.n_subcategories) != n_classes or min(self.n_subcategories, default=0) < 0:
            raise ValueError(f"{len(self.n_subcategories)} numbers of sub-categories for {n_classes} classes")
        self.subcategories = nn.Conv2d(backbone.channels, sum(self.n_subcategories), 1, bias=False)
        nn.init.zeros_(self.subcategories.weight)

    @property
    def architecture_options(self) -> dict[str, list[int]]:
        """What its file tells besides: `n_subcategories` of each class."""
        return {"n_subcategories": list(self.n_subcategories)}

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of classes (B, C) and of sub-categories (B, S) of images (B, 3, H, W)."""
        pooled = self.dropout(self.backbone(images)).mean((2, 3), keepdim=True)
        return self.classifier(pooled).flatten(1), self.subcategories(pooled).flatten(1)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        yield from self.classifier.parameters()
        yield from self.subcategories.parameters()
