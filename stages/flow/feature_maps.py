"""Computes the maps of a frozen network on the images of a part, for `bank` and `segment retrieve`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stages.data.augment import normalise
from stages.flow.finite import check_finite
from stages.flow.map_work import MapWork
from stages.nets.map_network import load_map_network
from stages.nets.precision import DTYPES


class FeatureMaps:
    """A frozen network on its device. Images are not resized; the network pads them to whole cells."""

    def __init__(self, work: MapWork, mean: Sequence[float], std: Sequence[float]) -> None:
        """Load the network `work.shared["net"]` on the device and for the precision that the settings name.

        `mean` and `std` normalise the images; empty: those of the network.
        """
        self.device = torch.device(work.config.device if ":" in work.config.device else work.config_dict["device"])
        self._network = load_map_network(work.shared["net"], self.device)
        self._mean, self._std = tuple(mean) or self._network.mean, tuple(std) or self._network.std
        self._precision, self.stride = work.config.precision, self._network.stride

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W, 3) uint8 as the network's input (3, H, W)."""
        return normalise(image, self._mean, self._std)

    def compute(self, views: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        """Return the maps (B, D, h, w) float32 of inputs of equal size. Raises BadData for values not finite."""
        images = torch.from_numpy(np.stack(views)).to(self.device)
        cast: Any = torch.autocast(self.device.type, DTYPES[self._precision], enabled=self._precision != "fp32")
        with torch.inference_mode(), cast:
            maps = self._network.net(images).float().cpu().numpy()
        for name, item_maps in zip(names, maps, strict=True):
            check_finite(item_maps, "features", name)
        return maps
