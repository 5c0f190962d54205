"""The correction of labels by regions, against values of the released code of CorrCLIP and of SEPL."""

from __future__ import annotations

import numpy as np

from stages.kernels.region_selection import convert_masks, select_regions
from stages.kernels.region_vote import vote_in_regions


def list_cases(values, ending: str) -> list[str]:
    cases = sorted(name.removesuffix(ending) for name in values if name.endswith(ending))
    assert cases
    return cases


def test_votes_of_corrclip_match(reference):
    """The released code leaves out the region with the smallest id, whether it is unsegmented or not."""
    values = reference("beyond/corrclip/vote")
    for case in list_cases(values, "_corrected"):
        regions = values[f"{case}_regions"]
        actual = vote_in_regions(values[f"{case}_label"], regions, skip=int(regions.min()))
        np.testing.assert_array_equal(actual, values[f"{case}_corrected"], err_msg=case)


def test_selected_regions_of_sepl_match(reference):
    values = reference("beyond/corrclip/sepl")
    for case in list_cases(values, "_out"):
        actual = select_regions(values[f"{case}_label"], convert_masks(values[f"{case}_masks"]))
        np.testing.assert_array_equal(actual, values[f"{case}_out"], err_msg=case)
