"""What is drawn in a training on captions: a view of an image, one of its captions, some of its nouns."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stages.data.augment import ClassificationView, classification_view
from stages.data.noun_rules import function_words, is_latin
from stages.data.nouns import NounSelector
from stages.data.source import ImageSource
from stages.train_text.nouns import match_labels

_LOOKED_AT = 1000


class Captions:
    """The captions that can be trained on. Of an image with any its place in the index is kept, and no text.

    `total` counts captions, `one` those with one noun, `none` those with none, which are left out, and `foreign` those
    of them that have letters of another script; `images_without` counts images without a caption. `words` and `english`
    count words, and English function words, of the first captions.
    """

    def __init__(self, sources: Sequence[ImageSource], selector: NounSelector | None, seen: Callable[[], None]) -> None:
        """Read the captions of the indexes of `sources`; `seen` is called after each image."""
        self.total = self.one = self.none = self.foreign = self.images_without = self.words = self.english = 0
        self._sources, self._selector = sources, selector
        # Eight bytes an image: of 14 million captions the texts alone would be gigabytes in every process.
        self._numbers, self._places = array("I"), array("I")
        for number, source in enumerate(sources):
            index = source.index
            places = (place for place, item_id in enumerate(index.ids) if item_id not in index.errors)
            for place, (item_id, stored) in zip(places, index.each("captions"), strict=True):
                captions = _texts(stored)
                self.images_without += not captions
                if sum(self._counted(item_id, text) for text in captions):
                    self._numbers.append(number)
                    self._places.append(place)
                seen()

    def __len__(self) -> int:
        """Return how many images have captions to train on."""
        return len(self._places)

    def __getitem__(self, position: int) -> tuple[ImageSource, str, tuple[str, ...]]:
        """Return an image's source, its id, and those of its captions that have nouns."""
        source = self._sources[self._numbers[position]]
        item_id = source.index.ids[self._places[position]]
        captions = _texts(source.entry(item_id).datasets["captions"])
        if self._selector is None:
            return source, item_id, captions
        return source, item_id, tuple(text for text in captions if self._selector.nouns(item_id, text))

    def _counted(self, item_id: str, caption: str) -> bool:
        """Count a caption, and say whether it has nouns."""
        self.total += 1
        selector = self._selector
        if selector is None:
            return True
        count = len(selector.nouns(item_id, caption))
        self.one += count == 1
        self.none += count == 0
        if selector.is_for_english:
            self.foreign += count == 0 and not is_latin(caption)
            if self.total <= _LOOKED_AT:
                words, english = function_words(caption)
                self.words, self.english = self.words + words, self.english + english
        return count != 0


def _texts(stored: np.ndarray | None) -> tuple[str, ...]:
    """Return the captions of an image, without empty ones."""
    return tuple(text for one in ([] if stored is None else stored.tolist()) if (text := one.decode().strip()))


class Samples:
    """Draws augmented views with one of the captions of the image."""

    def __init__(self, captions: Captions, words: Words, config: Any) -> None:
        self.captions, self.words = captions, words
        self.view = ClassificationView(
            crop=config.crop_size, flip=0.5 if config.flip else 0.0, brightness=0.0, contrast=0.0, saturation=0.0,
            hue=0.0, mean=config.mean, std=config.std, area=config.crop_area, rand_augment=config.rand_augment,
            erase=config.erase)

    def draw(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one sample: `image` (3, S, S) float32, and what `Words` makes of a caption."""
        source, item_id, captions = self.captions[position]
        caption = captions[int(generator.integers(len(captions)))]
        words = self.words(item_id, caption, generator)
        return {"image": classification_view(source.image(item_id), generator, self.view), **words}


class Words:
    """Texts to what the network reads of them."""

    def __init__(self, selector: NounSelector | None, tokenizer: Any, context: int, config: Any,
                 templates: Sequence[str]) -> None:
        self.selector, self.tokenizer, self.context = selector, tokenizer, context
        self.config, self.templates = config, templates

    def __call__(self, item_id: str, caption: str, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return `caption` (L,), and with a selector `nouns` (J, T), `guides` (J, L), `there` (J,), `labels` (L,).

        A caption with fewer than J nouns repeats the first in the empty places, which `there` tells.
        """
        tokens = self._tokens([caption], self.context)[0]
        if self.selector is None:
            return {"caption": tokens}
        every, count = self.selector.nouns(item_id, caption), self.config.n_nouns
        chosen = [every[place] for place in generator.permutation(len(every))[:count]]
        there = np.arange(count) < len(chosen)
        filled = [*chosen, *[chosen[0]] * (count - len(chosen))]
        guides = [str(generator.choice(self.templates)).replace("{}", noun) for noun in filled]
        runs = {noun: self.tokenizer.encode(noun) for noun in every}
        labels = match_labels(tokens, [runs[noun] for noun in chosen], list(runs.values()))
        return {"caption": tokens, "nouns": self._tokens(filled, self.context - self.config.n_context),
                "guides": self._tokens(guides, self.context), "there": there, "labels": labels}

    def _tokens(self, texts: list[str], length: int) -> np.ndarray:
        return self.tokenizer(texts, context_length=length).numpy()
