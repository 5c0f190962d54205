"""What a sample of `train-cls csd` holds: the ordinary view, and the pair as the loss wants it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cli.runner import index_table
from pictures import make_folder
from stages.data.augment import ClassificationView, normalise
from stages.data.source import sources_of
from stages.shards import Run
from stages.train_cls.workers import PairedSamples

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.125)
FILL = (51, 102, 153)
SETTINGS = {"resampling": "off", "targets": "drawn", "crop_size": 56, "short_side": 0, "flip": False,
            "placement": "same", "paste_scale": (1.0, 1.0), "paste_rotation": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Run:
    """Return an index of pictures (48, 64) with masks. Not to be changed."""
    folder = tmp_path_factory.mktemp("pictures")
    make_folder(folder, 12)
    assert index_table(folder, folder / "index.h5").code == 0
    return Run([folder / "index.h5"], "index")


@pytest.fixture
def paired(index):
    """Return what makes samples of the index and its own masks, with other settings."""
    source, = sources_of(index, None)
    samples = SimpleNamespace(chosen=[(source, item_id) for item_id in index.ids],
                              view=ClassificationView(mean=MEAN, std=STD),
                              draw=lambda position, _generator: {"image": np.full((3, 2, 2), position, np.float32)})

    def made(**more) -> PairedSamples:
        return PairedSamples(samples, index, None, None, SimpleNamespace(**{**SETTINGS, **more}), MEAN)

    return made


def test_each_view_stands_under_its_name(paired):
    """Where the object was pasted and where the background was, the views are the single-label image; not elsewhere."""
    one = paired()
    sources = set()
    for position in range(8):
        sample = one.draw(position, np.random.default_rng(position))
        assert (sample["image"] == position).all() and sample["paired"] == 1
        there, around = (sample[name].astype(bool) for name in ("object", "surroundings"))
        assert there.any() and around.any() and not (there & around).any()
        for name, mask in (("pasted_object", there), ("pasted_background", around)):
            same = (sample[name] == sample["single"]).all(0)
            assert same[mask].all() and not same[~mask].all()
        other = ~there & ~around
        np.testing.assert_array_equal(sample["pasted_object"][:, other], sample["pasted_background"][:, other])
        sources.add(int(sample["source"]))
        wanted = one.sources.of_class[int(sample["source"])]
        assert all(single.class_ids == (int(sample["source"]),) for single in wanted)
    assert sources == {1, 2}


def test_views_have_the_statistics_and_the_size_of_the_training(paired):
    """Images whose short side is less than the crop lie on the mean colour; that side is 8/7 of the crop by itself."""
    sample = paired(short_side=28).draw(0, np.random.default_rng(0))
    ground = normalise(np.array(FILL, np.uint8)[None, None], MEAN, STD)[:, 0, 0]
    np.testing.assert_allclose(ground, 0, atol=1e-6)
    assert sample["single"].shape == (3, 56, 56)
    assert (np.abs(sample["single"]).max(0) < 1e-6).mean() > 0.3
    assert paired().view.short_side == 64 and paired(short_side=28).view.short_side == 28
    assert (paired().view.flip, paired(flip=True).view.flip) == (0.0, 0.5)
    assert paired().view.fill == FILL


def test_a_sample_of_one_class_has_no_pair_of_its_own(paired):
    own = paired(targets="own")
    found = [int(own.draw(place, np.random.default_rng(0))["paired"]) for place in range(len(own.samples.chosen))]
    assert found == [int(len(source.labels(item_id)) > 1) for source, item_id in own.samples.chosen]
