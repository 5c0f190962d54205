"""Settings of `wsss regions superpixels`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.settings import max_side_setting, setting


@dataclass(frozen=True)
class SuperpixelsConfig:
    """Settings of `regions superpixels`."""

    segments: int = setting(400, "Approximate number of superpixels in an image.", low=1, source="scikit-image: 100")
    compactness: float = setting(20.0, "Weight of nearness against similar colours: superpixels are nearly square if "
                                 "it is large, and follow edges more closely if it is small.", low=0.001, high=1e6,
                                 source="Achanta et al., PAMI 2012: 1 to 40; scikit-image: 10")
    sigma: float = setting(0.0, "Standard deviation of the Gaussian that smooths the image first; 0 does not smooth.",
                           low=0, high=100, unit="pixels", source="scikit-image: 0")
    max_side: int = max_side_setting(note="Superpixels are enlarged to the size of the image.")
    shard_size: int = setting(256, "Number of images in a shard.", low=1)
