"""Samples of `train-cls csd`: the plain view, and the pair for the loss."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cli.runner import index_table
from stages.data.augment import ClassificationViewSettings, normalise
from stages.data.image_source import open_image_sources
from stages.shards import Run
from stages.train_cls.workers import PairedSamples
from tiny_datasets import create_dataset

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.25, 0.125)
FILL = (51, 102, 153)
SETTINGS = {"resampling": "off", "targets": "drawn", "crop_size": 56, "short_side": 0, "flip": False,
            "placement": "same", "paste_scale": (1.0, 1.0), "paste_rotation": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Run:
    """Return an index of images of 48x64 pixels with masks. Read only."""
    folder = tmp_path_factory.mktemp("images")
    create_dataset(folder, 12)
    assert index_table(folder, folder / "index.h5").code == 0
    return Run([folder / "index.h5"], "index")


@pytest.fixture
def build_samples(index):
    """Return a function that builds the samples of the index and its own masks with other settings."""
    source, = open_image_sources(index, None)
    samples = SimpleNamespace(labelled_images=[(source, item_id) for item_id in index.ids],
                              view=ClassificationViewSettings(mean=MEAN, std=STD),
                              draw=lambda position, _generator: {"image": np.full((3, 2, 2), position, np.float32)})

    def build(**settings) -> PairedSamples:
        return PairedSamples(samples, index, None, None, SimpleNamespace(**{**SETTINGS, **settings}), MEAN)

    return build


def test_pasted_views_equal_the_single_label_image_inside_the_masks(build_samples):
    """Inside the pasted object or background, the views are the single-label image; elsewhere they are not."""
    samples = build_samples()
    pasted_classes = set()
    for position in range(8):
        sample = samples.draw(position, np.random.default_rng(position))
        assert (sample["image"] == position).all() and sample["paired"] == 1
        is_object, is_background = (sample[name].astype(bool) for name in ("object", "surroundings"))
        assert is_object.any() and is_background.any() and not (is_object & is_background).any()
        for name, mask in (("pasted_object", is_object), ("pasted_background", is_background)):
            is_same = (sample[name] == sample["single"]).all(0)
            assert is_same[mask].all() and not is_same[~mask].all()
        is_neither = ~is_object & ~is_background
        np.testing.assert_array_equal(sample["pasted_object"][:, is_neither],
                                      sample["pasted_background"][:, is_neither])
        pasted_class = int(sample["pasted_class"])
        pasted_classes.add(pasted_class)
        assert all(image.class_ids == (pasted_class,)
                   for image in samples.source_sampler.images_by_class[pasted_class])
    assert pasted_classes == {1, 2}


def test_views_have_the_normalisation_and_size_of_the_settings(build_samples):
    """Images smaller than the crop lie on the mean colour; the default short side is 8/7 of the crop."""
    sample = build_samples(short_side=28).draw(0, np.random.default_rng(0))
    background = normalise(np.array(FILL, np.uint8)[None, None], MEAN, STD)[:, 0, 0]
    np.testing.assert_allclose(background, 0, atol=1e-6)
    assert sample["single"].shape == (3, 56, 56)
    assert (np.abs(sample["single"]).max(0) < 1e-6).mean() > 0.3
    assert build_samples().view.short_side == 64 and build_samples(short_side=28).view.short_side == 28
    assert (build_samples().view.flip, build_samples(flip=True).view.flip) == (0.0, 0.5)
    assert build_samples().view.fill == FILL


def test_single_label_sample_has_no_pair_with_targets_own(build_samples):
    samples = build_samples(targets="own")
    images = samples.samples.labelled_images
    paired = [int(samples.draw(position, np.random.default_rng(0))["paired"]) for position in range(len(images))]
    assert paired == [int(len(source.read_labels(item_id)) > 1) for source, item_id in images]
