"""Boundary IoU: the IoU of the pixels of a class that are close to its contour (Cheng et al., CVPR 2021).

For a class with mask G in the truth and P in the prediction, G_d and P_d are the pixels of each that are within a
distance d of its contour: the mask without its erosion by a square of 2 d + 1 pixels, where what lies outside of the
image is no part of a mask. The score is |G_d and P_d| / |G_d or P_d|. d is 2 % of the diagonal of the image, at least
one pixel. Unlike the IoU, it does not forgive a coarse contour of a large object.
"""

from __future__ import annotations

import numpy as np

from stages.kernels.mean_iou import PixelCounts, confusion_matrix, count_pixels

BOUNDARY_SHARE = 0.02


def compute_boundary_width(height: int, width: int, share: float = BOUNDARY_SHARE) -> int:
    """Return the distance d in pixels for an image: `share` of its diagonal, rounded, at least 1."""
    return max(1, round(share * float(np.hypot(height, width))))


def find_boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """Return bool (H, W): whether a pixel is in its class's mask but not in the erosion of that mask.

    One test serves all classes of a mask (H, W): a pixel is inside of its class if the largest and the smallest id
    within `distance` rows and columns are equal, and the window does not leave the image.
    """
    from scipy import ndimage  # here, because it takes a tenth of a second and few callers count boundaries
    size = 2 * distance + 1
    is_boundary = ndimage.maximum_filter(mask, size, mode="nearest") != ndimage.minimum_filter(mask, size,
                                                                                              mode="nearest")
    height, width = mask.shape
    is_boundary[:distance] = is_boundary[max(0, height - distance):] = True
    is_boundary[:, :distance] = is_boundary[:, max(0, width - distance):] = True
    return is_boundary


def count_boundary_pixels(truth: np.ndarray, prediction: np.ndarray, num_classes: int, *, ignore: int = 255,
                          share: float = BOUNDARY_SHARE) -> PixelCounts:
    """Return the counts (C,) of which `iou_per_class` is the boundary IoU; counts of several images can be added.

    `truth` and `prediction` are (H, W) class ids below `num_classes`, or `ignore`. Pixels that the truth ignores are
    taken out of both masks, so that a prediction that agrees elsewhere has the same contours as the truth.
    Raises ValueError for different shapes and for ids that are not classes.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    for name, mask in (("truth", truth), ("prediction", prediction)):
        if (invalid := mask[(mask >= num_classes) & (mask != ignore)]).size:
            raise ValueError(f"the {name} has the value {invalid[0]}, which is not a class (0..{num_classes - 1})")
    is_ignored = truth == ignore
    distance = compute_boundary_width(*truth.shape, share)
    ids, dtype = [], np.min_scalar_type(num_classes + 1)
    # Two more ids stand for "not on the contour" and "ignored", so that pixels are counted as those of any two masks.
    for mask in (truth, np.where(is_ignored, truth, prediction)):
        contour_ids = np.where(find_boundary(mask, distance), mask.astype(dtype), dtype.type(num_classes))
        contour_ids[is_ignored | ((mask == ignore) & (contour_ids != num_classes))] = num_classes + 1
        ids.append(contour_ids)
    counts = count_pixels(confusion_matrix(*ids, num_classes + 1, ignore=num_classes + 1))
    return PixelCounts(*(pixels[:num_classes] for pixels in counts))
