"""Print the items of a `cams` or `masks` shard at the size of their images: python read_shard.py FILE.h5"""
import sys

import h5py
import numpy as np


def bilinear(out, cells, covers):  # (out, cells): `cells` spread over `covers` pixels, `out` of them read
    at = np.clip((np.arange(out) + 0.5) * cells / covers - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(cells)))
def full_size(item):  # rows (K, H, W) in [0, 1] of maps, one for each of item["class_ids"]; masks as they are
    if "mask" in item:
        return item["mask"][()]
    cam, covers, height, width = item["cam"][()], *map(item.attrs.get, ("covers", "height", "width"))
    cam = cam / (255 if cam.dtype == np.uint8 else 1)
    return bilinear(height, cam.shape[1], covers[0]) @ cam @ bilinear(width, cam.shape[2], covers[1]).T
with h5py.File(sys.argv[1], "r", locking=False) as file:
    for group, item in file["items"].items():
        name = group.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")
        print(name, full_size(item).shape, sep="\t")
