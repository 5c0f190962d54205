"""Image classifiers: the CAM classifier (Zhou et al., CVPR 2016), with sub-categories, and on a class token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from stages.errors import UsageError
from stages.nets.backbone import Backbone
from stages.nets.timm_class_token import compute_class_token, has_class_token


class Classifier(nn.Module):
    """A backbone, global average pooling, and a 1x1 convolution without bias to C classes.

    Applied without pooling, the classification layer gives the class activation maps (CAMs). `dropout` is the
    probability of Dropout2d before the pooling: 0.5 in PSA, 0 in IRN. The layer has the same name as in IRN's
    checkpoints (`classifier.weight`). It is initialised with zeros, so that it does not depend on the seed; PSA uses
    Xavier initialisation. On 471 VOC images with MobileNet-v2 the two differ by no more than noise (mIoU 40.8 and 40.4
    with one seed after 8 epochs, 37.2 and 35.9 with another after 12).
    """

    task = "classification"
    head = "cam"
    head_keys = ("classifier",)

    def __init__(self, backbone: Backbone, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_outputs = num_classes
        self.dropout_rate = dropout
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(backbone.channels, num_classes, 1, bias=False)
        nn.init.zeros_(self.classifier.weight)
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.forward_head(self.backbone(images))

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (B, C) of the backbone's final map (B, D, h, w)."""
        pooled = self.dropout(features).mean((2, 3), keepdim=True)
        return self.classifier(pooled).flatten(1)

    def maps(self, images: Tensor) -> Tensor:
        """Return the class activation maps (B, C, h, w) before ReLU; their mean over (h, w) is the logit."""
        return self.classifier(self.backbone(images))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.classifier.parameters()


class ClassTokenClassifier(nn.Module):
    """A classifier on the class token of a vision transformer, as in timm's own classifiers.

    It serves as the teacher of Sub-category Teaching. It has no class activation maps, since it classifies no patch.
    Unlike timm's, the layer has no bias, because the token comes from a norm that has one. It is initialised with
    zeros.
    """

    task = "classification"
    head = "class-token"
    head_keys = ("classifier",)

    def __init__(self, backbone: Backbone, num_classes: int, *, dropout: float = 0.0) -> None:
        """Build the classifier. Raises UsageError for a backbone without a class token."""
        super().__init__()
        if not has_class_token(backbone):
            raise UsageError(f"--pool class-token: {backbone.name} has no class token",
                             "Use --pool mean, or a network with a class token such as --net timm:vit_base_patch16_224")
        self.backbone = backbone
        self.n_outputs = num_classes
        self.dropout_rate = dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(backbone.channels, num_classes, bias=False)
        nn.init.zeros_(self.classifier.weight)
        self.mean, self.std, self.stride = backbone.mean, backbone.std, backbone.stride

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W)."""
        return self.classifier(self.dropout(compute_class_token(self.backbone, images)))

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return self.classifier.parameters()

    @property
    def default_cam_layer(self) -> str:
        """The layer that Grad-CAM uses by default: the last one whose patch tokens still influence the class token."""
        return f"blocks.{len(self.backbone.model.blocks) - 1}.norm1"


class SubcategoryClassifier(Classifier):
    """A classifier with a second head for the sub-categories of its classes.

    Chang et al., "Weakly-Supervised Semantic Segmentation via Sub-Category Exploration" (CVPR 2020). CAMs come
    from the first head. The second head is saved as well, since no other file holds its weights.
    """

    head_keys = ("classifier", "subcategories")

    def __init__(self, backbone: Backbone, num_classes: int, n_subcategories: Sequence[int], *,
                 dropout: float = 0.0) -> None:
        """Build both heads, given the number of sub-categories of each of the C classes; S is their sum.

        Raises ValueError when there is not one number from 0 up per class.
        """
        super().__init__(backbone, num_classes, dropout=dropout)
        self.n_subcategories = tuple(int(count) for count in n_subcategories)
        if len(self.n_subcategories) != num_classes or min(self.n_subcategories, default=0) < 0:
            raise ValueError(f"{len(self.n_subcategories)} numbers of sub-categories given for {num_classes} classes")
        self.subcategories = nn.Conv2d(backbone.channels, sum(self.n_subcategories), 1, bias=False)
        nn.init.zeros_(self.subcategories.weight)

    @property
    def architecture_options(self) -> dict[str, list[int]]:
        """The settings that the network file needs in addition: `n_subcategories` of each class."""
        return {"n_subcategories": list(self.n_subcategories)}

    def forward_both_heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of classes (B, C) and of sub-categories (B, S) of images (B, 3, H, W)."""
        pooled = self.dropout(self.backbone(images)).mean((2, 3), keepdim=True)
        return self.classifier(pooled).flatten(1), self.subcategories(pooled).flatten(1)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        yield from self.classifier.parameters()
        yield from self.subcategories.parameters()
