"""Measure the gradients of the regularisers of training on mixed samples, relative to those of the classification.

    python benchmarks/regularisers.py INDEX WEIGHTS [--steps 0,1,5,10,15,20,29,58,87]

Trains the plain classifier in bfloat16 from a head of zeros (torchvision's mobilenet_v2 at stride 16, input mean and
standard deviation 0.5; otherwise the defaults of `wsss train-cls mixup`, without mixing). At each of the given steps it
measures in float64, on the next batch, the gradient norm of each regulariser times its default weight, divided by that
of the classification: on the weights of the head, on the final maps of the backbone, and the largest of one image.
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

from stages.data.augment import ClassificationViewSettings, sample_classification_view
from stages.data.image_source import ImageSource
from stages.nets.classifier import Classifier
from stages.nets.registry import build_backbone
from stages.nets.weights import import_weights, read_state_dict
from stages.shards import Run
from stages.train_cls.config import MixupConfig
from stages.train_cls.regularisers import CONCENTRATIONS, ENTROPIES, concentration, self_entropy
from stages.training.batching import collate_samples, count_steps_per_epoch, select_batch_indices
from stages.training.optimiser import build_optimiser, set_learning_rates, set_training_mode

CONFIG = MixupConfig(stride=16, freeze="features.3", crop_size=257)
HALF = (0.5, 0.5, 0.5)


class Batches:
    """The training batches, by step."""

    def __init__(self, index: str) -> None:
        """Open the images of `index` whose tags are known."""
        source = ImageSource(Run([index], "index").first)
        self.source, self.num_classes = source, len(source.classes) - 1
        valid_ids = [item_id for item_id in source.index.ids if item_id not in source.index.errors]
        self.ids = [item_id for item_id in valid_ids if source.read_labels(item_id) is not None]
        self.per_epoch = count_steps_per_epoch(len(self.ids), CONFIG.batch_size, 1)
        self.view = ClassificationViewSettings(
            crop=CONFIG.crop_size, long_side=(CONFIG.long_side[0], CONFIG.long_side[1]), brightness=0.3, contrast=0.0,
            saturation=0.0, hue=0.0, mean=HALF, std=HALF)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, S, S) and labels (B, C), float32."""
        epoch, step_in_epoch = divmod(step, self.per_epoch)
        indices = select_batch_indices(len(self.ids), CONFIG.batch_size, 0, epoch, step_in_epoch, 0, 1)
        batch = collate_samples([self._sample(position, np.random.default_rng([0, epoch, position]))
                                 for position in indices])
        return batch["image"], batch["labels"]

    def _sample(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        labels = np.zeros(self.num_classes, dtype=np.float32)
        labels[np.array(self.source.read_labels(self.ids[position]), dtype=int) - 1] = 1
        return {"image": sample_classification_view(self.source.read_image(self.ids[position]), generator, self.view),
                "labels": labels}


def compute_gradient_norms(value: Tensor, head: Tensor, features: Tensor) -> tuple[float, float, float]:
    """Return the gradient norms of `value`: on the head, on all final maps, and the largest on the maps of an image."""
    grads = torch.autograd.grad(value, (head, features), retain_graph=True, allow_unused=True)
    on_head, on_maps = (torch.zeros(1, 1) if grad is None else grad for grad in grads)
    return float(on_head.norm()), float(on_maps.norm()), float(on_maps.flatten(1).norm(dim=1).max())


def print_ratios(net: nn.Module, images: Tensor, labels: Tensor, step: int) -> None:
    """Print the ratios of all regularisers at a step."""
    net, images, labels = copy.deepcopy(net).double(), images.double(), labels.double()
    features = net.backbone(images)
    maps, logits = net.classifier(features), net.forward_head(features)
    sums = maps.relu().sum((2, 3))[labels > 0].detach()
    plain = F.multilabel_soft_margin_loss(logits, labels)
    base_norms = compute_gradient_norms(plain, net.classifier.weight, features)
    print(f"step {step}: classification {float(plain.detach()):.4f}, maps of present classes that are 0 everywhere: "
          f"{float((sums == 0).double().mean()):.2f}, smallest sum of the others "
          f"{float(sums[sums > 0].min()) if (sums > 0).any() else 0:.3g}")
    terms = {f"entropy, {form}": CONFIG.lambda_ent * self_entropy(logits, form) for form in ENTROPIES}
    terms |= {f"concentration, {form}": CONFIG.lambda_con * concentration(maps, labels, form)
              for form in CONCENTRATIONS}
    for name, value in terms.items():
        norms = compute_gradient_norms(value, net.classifier.weight, features)
        ratios = [norm / base_norm if base_norm else 0.0 for norm, base_norm in zip(norms, base_norms, strict=True)]
        print(f"  {name:22} value {float(value.detach()):.5f}  head {ratios[0]:8.4f}  maps {ratios[1]:8.4f}  "
              f"one image {ratios[2]:8.4f}", flush=True)


def main() -> None:
    """Train up to the last of the given steps and measure at each of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("weights")
    parser.add_argument("--steps", default="0,1,5,10,15,20,29,58,87")
    arguments = parser.parse_args()
    steps = {int(step) for step in arguments.steps.split(",")}
    torch.manual_seed(0)
    batches = Batches(arguments.index)
    net = Classifier(build_backbone(CONFIG.net, stride=CONFIG.stride), batches.num_classes)
    import_weights(net, read_state_dict(arguments.weights), where=arguments.weights)
    net.backbone.freeze(CONFIG.freeze)
    set_training_mode(net, CONFIG.freeze_bn)
    optimiser = build_optimiser(net, net.head_parameters(), CONFIG)
    for step in range(max(steps) + 1):
        images, labels = batches(step)
        if step in steps:
            print_ratios(net, images, labels, step)
        with torch.autocast("cpu", torch.bfloat16):
            value = F.multilabel_soft_margin_loss(net(images).float(), labels)
        set_learning_rates(optimiser, CONFIG, step, batches.per_epoch * CONFIG.epochs)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()


if __name__ == "__main__":
    main()
