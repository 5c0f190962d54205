"""`bank` and `segment retrieve`: the classes of regions by the features of training masks."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from cli.runner import check_error, run, run_ok
from stages.shards import Run

BANK = ("--erosion", "1", "--min-area", "4", "--device", "cpu")
RETRIEVE = ("--neighbours", "1", "--min-area", "4", "--device", "cpu", "-j", "1")


@pytest.fixture(scope="module")
def truth(tiny_dataset, tiny_index, tmp_path_factory):
    """Return the true masks, the masks as regions, and the bank of the true masks."""
    folder = tmp_path_factory.mktemp("retrieve")
    masks = tiny_dataset.root / "SegmentationClass"
    run_ok("import", "masks", masks, "--index", tiny_index, "-o", folder / "masks")
    run_ok("import", "regions", masks, "--index", tiny_index, "--none-value", "255", "-o",
           folder / "regions")
    return folder


@pytest.fixture(scope="module")
def bank(truth, tiny_net):
    run_ok("bank", truth / "masks", "--net", tiny_net, *BANK, "-o", truth / "bank")
    return truth / "bank"


def test_the_bank_has_a_unit_vector_of_each_class_of_a_mask(truth, bank):
    masks, vectors = Run([truth / "masks"]), Run([bank], "bank")
    for item_id in vectors.ids:
        item, mask = vectors.item(item_id).datasets, masks.item(item_id).datasets["mask"]
        assert set(item["class_ids"]) <= set(np.unique(mask)) - {255}
        np.testing.assert_allclose(np.linalg.norm(item["features"], axis=1), 1, atol=1e-5)
    assert len({tuple(vectors.item(item_id).datasets["class_ids"]) for item_id in vectors.ids}) > 1


def test_regions_of_the_same_images_find_their_own_class(truth, bank, tiny_index, tiny_net, tmp_path):
    """A bank without erosion and outliers has the very vectors of the regions, each of which is its own nearest."""
    run_ok("bank", truth / "masks", "--net", tiny_net, *BANK, "--erosion", "0", "-o", tmp_path / "bank")
    done = run("segment", "retrieve", tiny_index, "--regions", truth / "regions", "--bank", tmp_path / "bank", "--net",
               tiny_net, *RETRIEVE, "--drop", "0", "-o", tmp_path / "masks")
    assert done.code == 0, done.err
    masks, true_masks = Run([tmp_path / "masks"], "masks"), Run([truth / "masks"], "masks")
    for item_id in masks.ids:
        item, true_mask = masks.item(item_id).datasets, true_masks.item(item_id).datasets["mask"]
        is_known = true_mask != 255
        assert np.array_equal(item["mask"][is_known], true_mask[is_known])
        assert item["confidence"][true_mask == 1].min(initial=255) >= 254
        assert not item["confidence"][true_mask == 0].any(), "pixels without a region"


def test_warns_of_classes_that_hardly_win_a_vote(truth, bank, tiny_index, tiny_net, tmp_path):
    words = ("segment", "retrieve", tiny_index, "--regions", truth / "regions", "--bank", bank, "--net", tiny_net,
             *RETRIEVE, "-o", tmp_path / "masks")
    assert "warning" not in run(*words).err
    done = run(*words, "--neighbours", "60", "--force")
    assert done.code == 0
    assert "Lower --neighbours" in done.err


def test_wrong_inputs_are_named(truth, bank, tiny_index, tiny_net, maps, tmp_path):
    words = {"--regions": truth / "regions", "--bank": bank, "--net": tiny_net}

    def retrieve(**changed):
        options = {**words, **{f"--{name}": value for name, value in changed.items()}}
        return run("segment", "retrieve", tiny_index, *(word for pair in options.items() for word in pair), *RETRIEVE,
                   "-o", tmp_path / "out")

    check_error(retrieve(regions=maps), 65, "cams")
    check_error(retrieve(bank=truth / "masks"), 65, "masks")
    check_error(retrieve(net="wsss:tiny"), 2, "--weights")
    check_error(retrieve(net="wsss:tiny", weights="random"), 65, "another network")
    check_error(retrieve(bank=tmp_path / "none"), 66, "none")
    run_ok("bank", truth / "masks", "--net", tiny_net, *BANK, "--min-area", "100000", "-o", tmp_path / "empty")
    check_error(retrieve(bank=tmp_path / "empty"), 65, "the bank is empty", "--min-area")


def test_an_image_without_regions_fails_alone(truth, bank, tiny_dataset, tiny_index, tiny_net, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(tiny_dataset.root / "SegmentationClass", folder)
    (folder / f"{tiny_dataset.ids[3]}.png").unlink()
    run("import", "regions", folder, "--index", tiny_index, "--none-value", "255", "--allow-errors", "1", "-o",
        tmp_path / "regions")
    done = run("segment", "retrieve", tiny_index, "--regions", tmp_path / "regions", "--bank", bank, "--net", tiny_net,
               *RETRIEVE, "--allow-errors", "1", "-o", tmp_path / "masks")
    assert done.code == 0, done.err
    assert tiny_dataset.ids[3] in done.err
    masks = Run([tmp_path / "masks"], "masks")
    assert [item_id for item_id in masks.ids if masks.item(item_id).error] == [tiny_dataset.ids[3]]
