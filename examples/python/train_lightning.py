"""Train a multi-label classifier with Lightning on the tags of an index: python train_lightning.py photos.h5

Needs `pip install lightning`. Any other trainer takes the same data set.
"""

from __future__ import annotations

import sys

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.models import mobilenet_v3_small
from torchvision.transforms import v2

import wsss


class TagClassifier(lightning.LightningModule):
    """A MobileNet with one output per class; images whose tags are unknown have no loss."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.net = mobilenet_v3_small(weights=None, num_classes=num_classes)

    def training_step(self, batch: dict, _index: int) -> torch.Tensor:
        is_known = ~batch["labels"].isnan().any(dim=1)
        logits = self.net(batch["image"])[is_known]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"][is_known])
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-4)


def main(index: str, epochs: int = 10) -> None:
    transform = v2.Compose([v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(),
                            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)])
    data = wsss.torch_dataset(index, transform=transform)
    loader = DataLoader(data, batch_size=4, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="auto", logger=False, enable_checkpointing=False)
    trainer.fit(TagClassifier(len(data.classes) - 1), loader)
    print({name: float(value) for name, value in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
