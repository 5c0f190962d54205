"""Draw the samples of `train-cls csd` in its worker threads: an image, and a pair of images pasted into each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from stages.data.augment import normalise
from stages.data.copy_paste import PastedPair, PasteSettings, paste_pair
from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.errors import BadData
from stages.flow.item_arrays import extract_mask
from stages.shards import Run
from stages.train_cls.pairing import SingleLabelSampler
from stages.train_cls.preview import draw_pair_sheet


class ClassificationSamples(Protocol):
    """The samples of a training without pairs."""

    labelled_images: list[tuple[ImageSource, str]]
    view: Any

    def draw(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one sample."""


class _TaggedImage(NamedTuple):
    """An image and its class ids, sorted and without repeats."""

    source: ImageSource
    id: str
    class_ids: tuple[int, ...]


class PairedSamples:
    """Draw the samples of a training, each with a single-label image pasted into a multi-label one."""

    def __init__(self, samples: ClassificationSamples, index: Run, masks: Run | None, cooc: Run | None, config: Any,
                 mean: tuple[float, ...]) -> None:
        """Sort the images of `samples` into sources and targets; `warnings` says which can't be paired.

        With `masks` None the masks are the index's own. Single-label images need a mask, the targets that they are
        pasted into do not. Raises BadData when no pair can be made.
        """
        self.samples, self.index, self.masks, self.config = samples, index, masks, config
        self.warnings: list[str] = []
        images = [_TaggedImage(source, item_id, tuple(sorted(set(source.read_labels(item_id) or ()))))
                  for source, item_id in samples.labelled_images]
        self.source_sampler = self._build_source_sampler([image for image in images if len(image.class_ids) == 1], cooc)
        min_classes = 1 if config.targets == "any" else 2
        self.targets = self._select_targets([image for image in images if len(image.class_ids) >= min_classes])
        self._targets_by_id = {target.id: target for target in self.targets} if config.targets == "own" else {}
        self.view = PasteSettings(
            crop=config.crop_size, short_side=config.short_side or round(config.crop_size * 8 / 7),
            flip=0.5 if config.flip else 0.0, placement=config.placement, scale=config.paste_scale,
            rotation=config.paste_rotation, fill=tuple(round(255 * value) for value in mean))

    def draw(self, position: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """Return one sample and its pair, as `stages.train_cls.csd.loss` expects it; zeros when it has no pair."""
        sample = self.samples.draw(position, generator)
        target = self._draw_target(position, generator)
        if target is None:
            return {**sample, **self._build_empty_pair()}
        pair, class_id, _ = self._draw_pair(target, generator)
        images = {"single": pair.single, "pasted_object": pair.foreground, "pasted_background": pair.background}
        view = self.samples.view
        return {**sample, **{name: normalise(image, view.mean, view.std) for name, image in images.items()},
                "object": pair.object_mask.astype(np.uint8), "surroundings": pair.background_mask.astype(np.uint8),
                "pasted_class": np.int64(class_id), "inverse_affine": pair.inverse_affine, "paired": np.uint8(1)}

    def draw_sheet(self, num_pairs: int) -> np.ndarray:
        """Return a contact sheet (H, W, 3) uint8 of `num_pairs` pairs; a training draws others of the same kind."""
        pairs, titles, classes = [], [], self.index.classes
        for number in range(num_pairs):
            generator = np.random.default_rng([self.config.seed, number])
            target = self.targets[int(generator.integers(len(self.targets)))]
            pair, class_id, source = self._draw_pair(target, generator)
            pairs.append((pair, class_id))
            target_classes = ", ".join(classes[target_class] for target_class in target.class_ids)
            titles.append(f"{classes[class_id]} ({source.id}) into {target_classes} ({target.id})")
        return draw_pair_sheet(pairs, titles, classes)

    def _build_empty_pair(self) -> dict[str, Any]:
        size = (self.view.crop, self.view.crop)
        images = dict.fromkeys(("single", "pasted_object", "pasted_background"), np.zeros((3, *size), np.float32))
        masks = dict.fromkeys(("object", "surroundings"), np.zeros(size, np.uint8))
        return {**images, **masks, "pasted_class": np.int64(1), "inverse_affine": np.zeros((2, 3), np.float32),
                "paired": np.uint8(0)}

    def _draw_target(self, position: int, generator: np.random.Generator) -> _TaggedImage | None:
        if self.config.targets == "own":
            return self._targets_by_id.get(self.samples.labelled_images[position][1])
        return self.targets[int(generator.integers(len(self.targets)))]

    def _draw_pair(self, target: _TaggedImage,
                   generator: np.random.Generator) -> tuple[PastedPair, int, _TaggedImage]:
        """Return (pair, class id of the pasted object, single-label image)."""
        class_id, single = self.source_sampler.draw(target.class_ids, generator)
        multi = self._read_with_mask(target) if self._has_mask(target) else _read_as_background(target)
        pair = paste_pair(self._read_with_mask(single), multi, class_id, generator, self.view)
        return pair, class_id, single

    def _read_with_mask(self, tagged: _TaggedImage) -> tuple[np.ndarray, np.ndarray]:
        image = tagged.source.read_image(tagged.id)
        mask = (tagged.source.read_mask(tagged.id) if self.masks is None
                else extract_mask(self.masks.item(tagged.id), len(self.masks.classes) - 1))
        size = tagged.source.read_size(tagged.id)
        if size != mask.shape:
            raise BadData(f"the mask has {mask.shape[0]}x{mask.shape[1]} pixels (height x width), but the image has "
                          f"{size[0]}x{size[1]}", "Make the masks again from this index", where=tagged.id)
        return image, resize_labels(mask, image.shape[:2])

    def _has_mask(self, image: _TaggedImage) -> bool:
        return image.source.has_mask(image.id) if self.masks is None else image.id in self.masks

    def _build_source_sampler(self, single_label: list[_TaggedImage],
                              cooc: Run | None) -> SingleLabelSampler[_TaggedImage]:
        """Return a sampler of the single-label images that have a mask."""
        classes = self.index.classes
        if not single_label:
            raise BadData("no image of the index has exactly one class, so there is no object to paste",
                          "Add such images to the index (`wsss index split --single` selects them)",
                          where=str(self.index.first.path))
        usable = self._select_with_mask(single_label)
        images_by_class = {class_id: [image for image in usable if image.class_ids == (class_id,)]
                           for class_id in range(1, len(classes))}
        missing = [classes[class_id] for class_id, images in images_by_class.items() if not images]
        if missing:
            self.warnings.append(f"warning: {len(missing)} classes have no single-label image with a mask and are "
                                 f"never pasted ({', '.join(missing)}).")
        probability = cooc.first.read_root("probability") if cooc else None
        if cooc and not (np.isfinite(probability).all() and np.min(probability, initial=0) >= 0):
            raise BadData("the co-occurrence probabilities are not all finite and 0 or more",
                          "Make the shard again with `wsss cooc`", where=str(cooc.first.path))
        return SingleLabelSampler(images_by_class, len(classes) - 1, self.config.resampling, probability)

    def _select_targets(self, candidates: list[_TaggedImage]) -> list[_TaggedImage]:
        """Return the images to paste into: those for which a class to paste can be drawn."""
        kind = "tagged" if self.config.targets == "any" else "multi-label"
        where = str(self.index.first.path)
        if not candidates:
            raise BadData("no image of the index has more than one class, so there is nothing to paste into",
                          "Add such images to the index, or use --targets any", where=where)
        targets = [candidate for candidate in candidates
                   if self.source_sampler.compute_class_probabilities(candidate.class_ids).any()]
        if len(targets) < len(candidates):
            self.warnings.append(f"Skipping {len(candidates) - len(targets)} {kind} images as targets: no class that "
                                 "co-occurs with theirs has a single-label image.")
        if not targets:
            raise BadData("no class that co-occurs with the classes of a multi-label image has a single-label image",
                          "Use --resampling off, or make the --cooc shard with `wsss cooc --diagonal single`",
                          where=where)
        num_without_mask = sum(not self._has_mask(target) for target in targets)
        if num_without_mask:
            self.warnings.append(f"warning: {num_without_mask} of {len(targets)} {kind} images have no mask: "
                                 "backgrounds are pasted over their objects too.")
        return targets

    def _select_with_mask(self, single_label: list[_TaggedImage]) -> list[_TaggedImage]:
        usable = [image for image in single_label if self._has_mask(image)]
        where = str(self.masks.first.path if self.masks else self.index.first.path)
        if not usable:
            raise BadData(f"none of the {len(single_label)} single-label images of the index has a mask",
                          "Make masks of the images of this index with `wsss pseudo`", where=where)
        if len(usable) < len(single_label):
            self.warnings.append(f"Skipping {len(single_label) - len(usable)} of {len(single_label)} single-label "
                                 "images: they have no mask.")
        return usable


def _read_as_background(tagged: _TaggedImage) -> tuple[np.ndarray, np.ndarray]:
    """Return an image without a mask, and a mask (H, W) that is all background."""
    image = tagged.source.read_image(tagged.id)
    return image, np.zeros(image.shape[:2], np.uint8)
