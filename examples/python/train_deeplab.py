"""Train a DeepLabV3 of torchvision on an index and masks of wsss, and write the masks that it predicts as a run.

    python train_deeplab.py photos.h5 --masks masks --steps 2000 --backbone-weights IMAGENET1K_V1 -o deeplab
    wsss eval deeplab
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large
from torchvision.transforms import v2

import wsss

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build_transform(crop_size: int, ignore_index: int) -> v2.Transform:
    """Return the augmentation of a sample: a mirrored crop, padded with unknown pixels, and normalised colours."""
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: ignore_index}
    return v2.Compose([
        v2.RandomHorizontalFlip(), v2.RandomCrop(crop_size, pad_if_needed=True, fill=fill),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True), v2.Normalize(MEAN, STD)])


def repeat(loader: DataLoader) -> Iterator[dict]:
    """Yield batches for ever."""
    while True:
        yield from loader


def train(net: nn.Module, loader: DataLoader, steps: int, ignore_index: int) -> list[float]:
    """Train for a number of batches; return the losses."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    compute_loss, losses = nn.CrossEntropyLoss(ignore_index=ignore_index), []
    net.train()
    for step, batch in zip(range(steps), repeat(loader), strict=False):
        device = next(net.parameters()).device
        loss = compute_loss(net(batch["image"].to(device))["out"], batch["mask"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % max(1, steps // 10) == 0:
            print(f"step {step}: loss {losses[-1]:.4f}")
    return losses


@torch.inference_mode()
def predict(net: nn.Module, run: wsss.Run) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (id, mask) of every image of an index, at its own size."""
    net.eval()
    device = next(net.parameters()).device
    normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    for item in run:
        image = torch.from_numpy(run.read_image(item.id)).permute(2, 0, 1)
        yield item.id, net(normalise(image)[None].to(device))["out"][0].argmax(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("--masks", help="a run of masks; without it, the ground truth of the index")
    parser.add_argument("-o", "--output", required=True, help="run folder for the predicted masks")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop-size", type=int, default=321)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backbone-weights", help="such as IMAGENET1K_V1; random if left out")
    options = parser.parse_args()
    torch.manual_seed(0)
    data = wsss.torch_dataset(options.index, masks=options.masks, truth=options.masks is None)
    data.transform = build_transform(options.crop_size, data.ignore_index)
    loader = DataLoader(data, options.batch_size, shuffle=True, drop_last=True, num_workers=options.workers)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=options.backbone_weights,
                                       num_classes=len(data.classes)).to(device)
    losses = train(net, loader, options.steps, data.ignore_index)
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} on {len(data)} images")
    result = wsss.write_masks(options.output, predict(net, wsss.open_run(options.index)), index=options.index,
                              note=f"DeepLabV3 of torchvision, {options.steps} steps")
    print(*result.messages, *result.paths, sep="\n")


if __name__ == "__main__":
    main()
