"""Print the items of a `cams` or `masks` shard at the size of their images: python read_shard.py FILE.h5"""
import sys

import h5py
import numpy as np


def interpolate(out, cells, covers):  # weights (out, cells) of cells that span `covers` pixels
    positions = np.clip((np.arange(out) + 0.5) * cells / covers - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - abs(positions[:, None] - np.arange(cells)))
def resize_to_image(item):  # CAMs (K, H, W) in [0, 1], one per item["class_ids"]; masks unchanged
    if "mask" in item:
        return item["mask"][()]
    cam, covers, height, width = item["cam"][()], *map(item.attrs.get, ("covers", "height", "width"))
    cam = cam / (255 if cam.dtype == np.uint8 else 1)
    return interpolate(height, cam.shape[1], covers[0]) @ cam @ interpolate(width, cam.shape[2], covers[1]).T
with h5py.File(sys.argv[1], "r", locking=False) as file:
    for group, item in file["items"].items():
        name = group.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")
        print(name, resize_to_image(item).shape, sep="\t")
