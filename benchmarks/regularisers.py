"""How strong the regularisers of training on mixed samples are beside the classification, from a head of zeros on.

    python benchmarks/regularisers.py INDEX WEIGHTS [--steps 0,1,5,10,15,20,29,58,87]

Trains the plain classifier in bfloat16 (torchvision's mobilenet_v2 at stride 16, input mean and standard deviation
0.5; otherwise the defaults of `wsss train-cls mixup`, without mixing). At each of the steps it measures in float64, on
the batch to come, the norms of the gradients of each regulariser times its default weight, as ratios to the
classification's: on the head's weights, on the backbone's final maps of the batch, and on those of one image, where
each is largest.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from stages.data.augment import ClassificationView, classification_view
from stages.data.source import ImageSource
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.nets.weights import import_weights, read_state_dict
from stages.shards import Run
from stages.train_cls.config import MixupConfig
from stages.train_cls.regularisers import CONCENTRATIONS, ENTROPIES, concentration, self_entropy
from stages.training.optimiser import build_optimiser, hold_batch_norm, set_rate
from stages.training.order import batch_positions, stacked, steps_per_epoch

CONFIG = MixupConfig(stride=16, freeze="features.3", crop_size=257)
HALF = (0.5, 0.5, 0.5)


class Batches:
    """The batches of a training, by its steps."""

    def __init__(self, index: str) -> None:
        """Read the images of `index` whose tags are known."""
        source = ImageSource(Run([index], "index").first)
        self.source, self.n_classes = source, len(source.classes) - 1
        usable = [one for one in source.index.ids if one not in source.index.errors]
        self.ids = [one for one in usable if source.labels(one) is not None]
        self.per_epoch = steps_per_epoch(len(self.ids), CONFIG.batch_size, 1)
        self.view = ClassificationView(crop=CONFIG.crop_size, long_side=(CONFIG.long_side[0], CONFIG.long_side[1]),
                                       brightness=0.3, contrast=0.0, saturation=0.0, hue=0.0, mean=HALF, std=HALF)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, S, S) and labels (B, C), float32."""
        epoch, place = divmod(step, self.per_epoch)
        chosen = batch_positions(len(self.ids), CONFIG.batch_size, 0, epoch, place, 0, 1)
        batch = stacked([self._sample(position, np.random.default_rng([0, epoch, position])) for position in chosen])
        return batch["image"], batch["labels"]

    def _sample(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        labels = np.zeros(self.n_classes, dtype=np.float32)
        labels[np.array(self.source.labels(self.ids[position]), dtype=int) - 1] = 1
        return {"image": classification_view(self.source.image(self.ids[position]), generator, self.view),
                "labels": labels}


def norms(value: Tensor, head: Tensor, features: Tensor) -> tuple[float, float, float]:
    """Return the norms of the gradient of `value` on the head, on all final maps, and the largest of an image."""
    grads = torch.autograd.grad(value, (head, features), retain_graph=True, allow_unused=True)
    on_head, on_maps = (torch.zeros(1, 1) if one is None else one for one in grads)
    return float(on_head.norm()), float(on_maps.norm()), float(on_maps.flatten(1).norm(dim=1).max())


def measure(net: nn.Module, images: Tensor, labels: Tensor, step: int) -> None:
    """Print a block of ratios."""
    net, images, labels = copy.deepcopy(net).double(), images.double(), labels.double()
    features = net.backbone(images)
    maps, logits = net.classifier(features), net.from_features(features)
    sums = maps.relu().sum((2, 3))[labels > 0].detach()
    plain = F.multilabel_soft_margin_loss(logits, labels)
    base = norms(plain, net.classifier.weight, features)
    print(f"step {step}: classification {float(plain.detach()):.4f}, maps of present classes that are 0 everywhere: "
          f"{float((sums == 0).double().mean()):.2f}, smallest sum of the others "
          f"{float(sums[sums > 0].min()) if (sums > 0).any() else 0:.3g}")
    terms = {f"entropy, {form}": CONFIG.lambda_ent * self_entropy(logits, form) for form in ENTROPIES}
    terms |= {f"concentration, {form}": CONFIG.lambda_con * concentration(maps, labels, form)
              for form in CONCENTRATIONS}
    for name, value in terms.items():
        found = norms(value, net.classifier.weight, features)
        ratios = [one / other if other else 0.0 for one, other in zip(found, base, strict=True)]
        print(f"  {name:22} value {float(value.detach()):.5f}  head {ratios[0]:8.4f}  maps {ratios[1]:8.4f}  "
              f"one image {ratios[2]:8.4f}", flush=True)


def main() -> None:
    """Train up to the last step that is asked for, and measure on the way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("weights")
    parser.add_argument("--steps", default="0,1,5,10,15,20,29,58,87")
    given = parser.parse_args()
    asked = {int(step) for step in given.steps.split(",")}
    torch.manual_seed(0)
    batches = Batches(given.index)
    net = Classifier(build_backbone(CONFIG.net, stride=CONFIG.stride), batches.n_classes)
    import_weights(net, read_state_dict(given.weights), where=given.weights)
    net.backbone.freeze(CONFIG.freeze)
    hold_batch_norm(net, CONFIG.freeze_bn)
    optimiser = build_optimiser(net, net.head_parameters(), CONFIG)
    for step in range(max(asked) + 1):
        images, labels = batches(step)
        if step in asked:
            measure(net, images, labels, step)
        with torch.autocast("cpu", torch.bfloat16):
            value = F.multilabel_soft_margin_loss(net(images).float(), labels)
        set_rate(optimiser, CONFIG, step, batches.per_epoch * CONFIG.epochs)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()


if __name__ == "__main__":
    main()
