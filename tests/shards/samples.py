"""Small shards of every kind, for the tests of the container."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.shards import Item, ShardContents, write_shard

CLASSES = ("background", "cat", "chien 犬")
IDS = ("2007_000032", "a/b", "100%", ".", "..", "%2E", "%2F", "猫 und Größe", "ü" * 200, "x" * 200, "-", "~")
PROVENANCE = ({"tool": "wsss", "version": "1", "stage": "made", "config": {"lr": 0.1, "names": ["é"]}, "inputs": {}},)


def _index_item(item_id: str, number: int) -> Item:
    """Return an item with tags of 0 to 2 classes; one in four has no tags."""
    datasets = {} if number % 4 == 3 else {"labels": np.arange(1, 1 + number % 3, dtype=np.uint16)}
    if number % 3 == 0:
        datasets |= {"captions": np.array([b"ein Boot", "船".encode()]),
                     "image": np.frombuffer(b"\xff\xd8 bytes", np.uint8), "mask": np.zeros(0, np.uint8)}
    return Item(item_id, datasets, {"path": f"bild/{number} ö.jpg", "height": 4 + number, "width": 3, "bytes": 77,
                                    "crc32": 0xFFFFFFFF - number})


def _cams_item(item_id: str, number: int) -> Item:
    """Return an item with CAMs of K = 0, 1, 2 rows, float16 or uint8."""
    rows = number % 3
    cam = np.random.default_rng(number).random((rows, 2, 3))
    datasets = {"class_ids": np.arange(1, 1 + rows, dtype=np.uint16),
                "cam": (cam * 255).astype(np.uint8) if number % 2 else cam.astype(np.float16)}
    if number % 4:
        datasets["scores"] = np.linspace(-1, 1, rows, dtype=np.float32)
    return Item(item_id, datasets, {"height": 8, "width": 12, "covers": np.array([8, 12])})


def _masks_item(item_id: str, number: int) -> Item:
    """Return an item with a mask of 8 or 16 bits, with or without confidence."""
    mask = np.random.default_rng(number).integers(0, 3, (3 + number % 2, 5))
    datasets = {"mask": mask.astype(np.uint16 if number % 2 else np.uint8)}
    if number % 3:
        datasets["confidence"] = np.full(mask.shape, 255, np.uint8)
    return Item(item_id, datasets)


def _regions_item(item_id: str, number: int) -> Item:
    """Return an item with labels, one of which has more than 16 bits."""
    return Item(item_id, {"labels": np.array([[0, 70_000, number]], np.int32)})


def _bank_item(item_id: str, number: int) -> Item:
    """Return an item with features of as many classes as `number`, at most two; none for the first."""
    num_classes = min(number, 2)
    return Item(item_id, {"class_ids": np.arange(num_classes, dtype=np.uint16),
                          "features": np.full((num_classes, 4), 0.5, np.float32)})


_ITEMS = {"bank": _bank_item, "index": _index_item, "cams": _cams_item, "masks": _masks_item, "regions": _regions_item}
_ROOT_ATTRS = {"index": {"root": "../photos"}, "cams": {"background": "none"}}


def _build_root_datasets(kind: str, num_images: int) -> dict[str, np.ndarray]:
    if kind == "features":
        return {"features": np.linspace(0, 1, num_images * 4, dtype=np.float32).reshape(num_images, 4),
                "labels": np.ones((num_images, len(CLASSES)), np.uint8)}
    if kind == "clusters":
        return {"assignment": np.full((num_images, len(CLASSES)), -1, np.int32),
                "n_clusters": np.arange(3, dtype=np.int32),
                "partitions": np.zeros((2, num_images, len(CLASSES)), np.int32),
                "n_partitions": np.ones(3, np.int32)}
    if kind == "cooc":
        return {"counts": np.arange(4, dtype=np.int64).reshape(2, 2), "probability": np.eye(2),
                "single_label": np.array([2**40, 0], np.int64)}
    return {}


def build_contents(kind: str, ids: tuple[str, ...] = IDS, *, failed: tuple[str, ...] = (),
                   **fields: object) -> ShardContents:
    """Return the contents of a shard of `kind` with one item for every id; `failed` ids have only an error."""
    items = [Item(item_id, error=f"can't be decoded: {item_id} ☹") if item_id in failed
             else _ITEMS[kind](item_id, number) for number, item_id in enumerate(ids)] if kind in _ITEMS else []
    values = {"kind": kind, "classes": CLASSES, "items": items, "provenance": PROVENANCE,
              "index_digest": "" if kind == "index" else "ab" * 32,
              "index_path": "" if kind == "index" else "../train.h5",
              "root_attrs": _ROOT_ATTRS.get(kind, {}), "root_datasets": _build_root_datasets(kind, len(ids)),
              "ids": None if items else ids, **fields}
    return ShardContents(**values)  # type: ignore[arg-type]


def _small_shard(kind: str, ids: tuple[str, ...], **fields: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_shard(folder / f"{kind}.h5", build_contents(kind, ids, provenance=({"stage": "made"},), **fields))
        return folder / f"{kind}.h5"
    return write


def _write_small_net(folder: Path) -> Path:
    import torch

    from stages.nets.net_files import serialise_net
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2, dtype=torch.float16)}
    (folder / "net.safetensors").write_bytes(serialise_net(tensors, {"task": "classification", "classes": CLASSES}))
    return folder / "net.safetensors"


def _write_small_checkpoint(folder: Path) -> Path:
    import torch

    from stages.training.checkpoint import Checkpoint
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.BatchNorm1d(1))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(2, 2)).sum().backward()
    optimiser.step()
    checkpoint = Checkpoint(folder / "training", {"config": {"lr": 0.1, "names": ["é"]}, "world": 1})
    checkpoint.save(3, net, optimiser, {"1.bias": torch.ones(1)}, {"scale": 2.0}, {"seen": torch.ones(1)},
                    [{"loss": 0.5}])
    checkpoint.release(finished=False)
    return checkpoint.path


# Functions by name that write a file of a few kilobytes to a folder and return its path. In a shard of CAMs the second
# image has one row and the first none; in an index the first image is stored in the shard.
SMALL_FILES: dict[str, Callable[[Path], Path]] = {
    "index": _small_shard("index", ("b",)), "packed index": _small_shard("index", ("a", "b")),
    "features": _small_shard("features", ("a", "b")), "clusters": _small_shard("clusters", ("a", "b")),
    "cooc": _small_shard("cooc", ("a",)), "cams": _small_shard("cams", ("a", "b"), failed=("a",)),
    "cams with background": _small_shard("cams", ("a", "b"), failed=("a",), root_attrs={"background": "included"}),
    "masks": _small_shard("masks", ("a",)), "regions": _small_shard("regions", ("a",)),
    "bank": _small_shard("bank", ("a", "b")),
    "masks with records": _small_shard("masks", ("a",), image_records=np.array([[7, 77, 3, 5, -1]]),
                                       in_training=np.ones(1, np.uint8)),
    "net": _write_small_net, "state of a training": _write_small_checkpoint,
}


def items_equal(first: Item, second: Item) -> bool:
    """Return whether two items are equal, including the types of their values."""
    return ((first.id, first.error) == (second.id, second.error) and _values_equal(first.datasets, second.datasets)
            and _values_equal(first.attrs, second.attrs))


def _values_equal(first: dict, second: dict) -> bool:
    return sorted(first) == sorted(second) and all(
        np.asarray(first[name]).dtype.kind == np.asarray(second[name]).dtype.kind
        and (not isinstance(first[name], np.ndarray) or first[name].dtype == second[name].dtype)
        and np.array_equal(first[name], second[name]) for name in first)
