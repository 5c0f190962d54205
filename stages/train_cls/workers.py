"""What `train-cls csd` draws in its worker threads: a sample, and beside it a pair of images with one pasted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from stages.data.augment import normalise
from stages.data.paste import Pair, PasteView, paste_pair
from stages.data.source import ImageSource
from stages.errors import BadData
from stages.flow.maps import mask_ids
from stages.shards import Run
from stages.train_cls.pairing import Sources
from stages.train_cls.preview import pairs_sheet


class Samples(Protocol):
    """The ordinary samples of a training."""

    chosen: list[tuple[ImageSource, str]]
    view: Any

    def draw(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one sample."""


class _Tagged(NamedTuple):
    """An image and its class ids, each once."""

    source: ImageSource
    id: str
    class_ids: tuple[int, ...]


class PairedSamples:
    """Draws the samples of a training, and with each the paste of a single-label image into a multi-label one."""

    def __init__(self, samples: Samples, index: Run, masks: Run | None, cooc: Run | None, config: Any,
                 mean: tuple[float, ...]) -> None:
        """Sort the images of `samples`; `told` says what can't be paired.

        `masks` None are the index's own; single-label images need one, what is pasted into does not. Raises BadData
        where no pair can be made.
        """
        self.samples, self.index, self.masks, self.config = samples, index, masks, config
        self.told: list[str] = []
        tagged = [_Tagged(source, item_id, tuple(sorted(set(source.labels(item_id) or ()))))
                  for source, item_id in samples.chosen]
        self.sources = self._sources([one for one in tagged if len(one.class_ids) == 1], cooc)
        at_least = 1 if config.targets == "any" else 2
        self.targets = self._targets([one for one in tagged if len(one.class_ids) >= at_least])
        self._own = {one.id: one for one in self.targets} if config.targets == "own" else {}
        self.view = PasteView(
            crop=config.crop_size, short_side=config.short_side or round(config.crop_size * 8 / 7),
            flip=0.5 if config.flip else 0.0, placement=config.placement, scale=config.paste_scale,
            rotation=config.paste_rotation, fill=tuple(round(255 * one) for one in mean))

    def draw(self, position: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """Return one sample, and its pair as `stages.train_cls.csd.loss` wants it; zeros where it has none."""
        sample = self.samples.draw(position, generator)
        target = self._target(position, generator)
        if target is None:
            size = (self.view.crop, self.view.crop)
            empty = dict.fromkeys(("single", "pasted_object", "pasted_background"), np.zeros((3, *size), np.float32))
            nowhere = dict.fromkeys(("object", "surroundings"), np.zeros(size, np.uint8))
            return {**sample, **empty, **nowhere, "source": np.int64(1), "back": np.zeros((2, 3), np.float32),
                    "paired": np.uint8(0)}
        pair, class_id, _ = self._pair(target, generator)
        images = {"single": pair.single, "pasted_object": pair.foreground, "pasted_background": pair.background}
        view = self.samples.view
        return {**sample, **{name: normalise(image, view.mean, view.std) for name, image in images.items()},
                "object": pair.object.astype(np.uint8), "surroundings": pair.surroundings.astype(np.uint8),
                "source": np.int64(class_id), "back": pair.back, "paired": np.uint8(1)}

    def sheet(self, count: int) -> np.ndarray:
        """Return a picture (H, W, 3) uint8 of `count` pairs, drawn as for a training, of other random numbers."""
        pairs, titles, names = [], [], self.index.classes
        for number in range(count):
            generator = np.random.default_rng([self.config.seed, number])
            target = self.targets[int(generator.integers(len(self.targets)))]
            pair, class_id, source = self._pair(target, generator)
            pairs.append((pair, class_id))
            titles.append(f"{names[class_id]} ({source.id}) into {', '.join(names[one] for one in target.class_ids)} "
                          f"({target.id})")
        return pairs_sheet(pairs, titles, names)

    def _target(self, position: int, generator: np.random.Generator) -> _Tagged | None:
        if self.config.targets == "own":
            return self._own.get(self.samples.chosen[position][1])
        return self.targets[int(generator.integers(len(self.targets)))]

    def _pair(self, target: _Tagged, generator: np.random.Generator) -> tuple[Pair, int, _Tagged]:
        class_id, single = self.sources.draw(target.class_ids, generator)
        into = self._with_mask(target) if self._has_mask(target) else _all_background(target)
        pair = paste_pair(self._with_mask(single), into, class_id, generator, self.view)
        return pair, class_id, single

    def _with_mask(self, one: _Tagged) -> tuple[np.ndarray, np.ndarray]:
        image = one.source.image(one.id)
        mask = (one.source.mask(one.id) if self.masks is None
                else mask_ids(self.masks.item(one.id), len(self.masks.classes) - 1))
        if image.shape[:2] != mask.shape:
            raise BadData(f"the mask is {mask.shape}, the image {image.shape[:2]}", "make the masks again",
                          where=one.id)
        return image, mask

    def _has_mask(self, one: _Tagged) -> bool:
        return one.source.has_mask(one.id) if self.masks is None else one.id in self.masks

    def _sources(self, single: list[_Tagged], cooc: Run | None) -> Sources[_Tagged]:
        """Return the single-label images that have a mask, by class."""
        classes = self.index.classes
        if not single:
            raise BadData("no image bears exactly one class, so there is nothing to paste",
                          "index some: see wsss index split --single", where=str(self.index.first.path))
        usable = self._masked(single)
        of_class = {class_id: [one for one in usable if one.class_ids == (class_id,)]
                    for class_id in range(1, len(classes))}
        lost = [classes[class_id] for class_id, images in of_class.items() if not images]
        if lost:
            self.told.append(f"classes without a single-label image with a mask, never pasted: {len(lost)} "
                             f"({', '.join(lost)})")
        probability = cooc.first.root("probability") if cooc else None
        if cooc and not (np.isfinite(probability).all() and np.min(probability, initial=0) >= 0):
            raise BadData("its probabilities are not all finite and 0 or more", "make it again by wsss cooc",
                          where=str(cooc.first.path))
        return Sources(of_class, len(classes) - 1, self.config.resampling, probability)

    def _targets(self, several: list[_Tagged]) -> list[_Tagged]:
        """Return the images to paste into: those with a class that can be drawn for them."""
        what = "tagged" if self.config.targets == "any" else "multi-label"
        if not several:
            raise BadData("no image bears more than one class, so there is nothing to paste into",
                          "index some, or give --targets any", where=str(self.index.first.path))
        found = [one for one in several if self.sources.weights(one.class_ids).any()]
        if len(found) < len(several):
            self.told.append(f"{len(several) - len(found)} {what} images are left out: no class that appears with "
                             "theirs has a single-label image")
        if not found:
            raise BadData("no class that appears with those of a multi-label image has a single-label image",
                          "give --resampling off, or a cooc with --diagonal single", where=str(self.index.first.path))
        bare = sum(not self._has_mask(one) for one in found)
        if bare:
            self.told.append(f"{bare} of {len(found)} {what} images have no mask: backgrounds are pasted over their "
                             "objects too")
        return found

    def _masked(self, single: list[_Tagged]) -> list[_Tagged]:
        usable = [one for one in single if self._has_mask(one)]
        where = str(self.masks.first.path if self.masks else self.index.first.path)
        if not usable:
            raise BadData(f"none of the {len(single)} single-label images of the index has a mask",
                          "make masks of this index with wsss pseudo", where=where)
        if len(usable) < len(single):
            self.told.append(f"{len(single) - len(usable)} of {len(single)} single-label images have no mask and are "
                             "left out")
        return usable


def _all_background(one: _Tagged) -> tuple[np.ndarray, np.ndarray]:
    """Return an image whose objects nobody knows, and a mask (H, W) without any."""
    image = one.source.image(one.id)
    return image, np.zeros(image.shape[:2], np.uint8)
