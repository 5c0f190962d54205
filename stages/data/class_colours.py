"""The colours that show classes in drawings: overlays of masks, CAMs of several classes in one picture, legends.

They are not the VOC palette, which exported masks have: that palette contains black, greys and colours as dark as a
photograph at night. The colours here were chosen one after the other from all sRGB colours on a grid in OKLCH with a
CIELAB lightness of 48 to 88 and a chroma of at least 30: each is the one whose smallest distance to all before it is
largest. The distance is the smaller of the Euclidean distance in OKLab and twice that distance after the simulation of
deuteranopia by Machado et al. (IEEE TVCG 2009). Thus the first classes differ most, in lightness too, since lightness
is what a deuteranope and a grey print keep. Among the first 25 the smallest distance is 20 in CIELAB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_HEX_COLOURS = (
    "e63b29 42fd3b 2269fc f8c7fe fa10f3 54ae9d a055aa e49e22 aae5b5 31862d fc829d 8eb4fb "
    "63b420 e70891 2892cf bf7b67 b586ca b55bf9 3fdef6 0ae48f b2d10f fed397 b55269 666ec2 "
    "9abb6d fd70dc e1a5cf 7c8b4b ad620c 218373 31f4d8 d253ca d4c26b 28b8e5 c019f6 fb6062 "
    "35bd7c 915adb 9274ad 6cd8b9 e5518a 27a1fe a2e37c c64197 07c8bc d0750a e898f3 e7e074 "
    "f74ebb 289a64 c66ca1 2579ab f38651 877fe6 e7a08b c822c1 ab94fd 969c46 fdb0ac 52d44c "
    "6164e4 fb659d 60a1dc c04e3e fdbb07 d46050 feaef6 11a1b4 7ed377 b0a604 517f4e e22edb "
    "d9717b 87e445 7486c0 b150d7 956391 a56450 b09bd8 e58b88 77f397 ca8bae 687c02 70ebeb "
    "e380c9 bc9e49 b7d393 d03c79 d566ba 759f2a 3077cd bcc442 52cfd9 6dc1a8 91cb9c dc6bed "
)
CLASS_COLOURS = np.array([tuple(bytes.fromhex(text)) for text in _HEX_COLOURS.split()], dtype=np.uint8)
BACKGROUND_COLOUR = (0, 0, 0)


def class_colours(class_ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the colours of class ids, an array of any shape, as (..., 3) uint8.

    A class id always has the same colour. Ids above 96 start again at the first colour; 0 is black.
    """
    ids = np.asarray(class_ids, dtype=np.int64)
    colours = CLASS_COLOURS[(ids - 1) % len(CLASS_COLOURS)]
    colours[ids <= 0] = BACKGROUND_COLOUR
    return colours
