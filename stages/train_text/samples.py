"""Draw the samples of a training on captions: a view of an image, one of its captions, some of its nouns."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stages.data.augment import ClassificationViewSettings, sample_classification_view
from stages.data.image_source import ImageSource
from stages.data.noun_rules import count_function_words, is_latin
from stages.data.nouns import NounSelector
from stages.train_text.noun_labels import label_noun_tokens

_NUM_LANGUAGE_CHECK_CAPTIONS = 1000


class Captions:
    """The captions to train on. Only the positions of their images in the index are stored, not the texts.

    `num_captions` counts all captions. `num_with_one_noun` and `num_without_nouns` count those with one noun and those
    without, which are skipped; `num_foreign_without_nouns` of the latter have letters of a script other than Latin.
    `num_images_without_captions` counts images. `num_words` and `num_english_words` count the words, and the English
    function words, of the first captions.
    """

    def __init__(self, sources: Sequence[ImageSource], selector: NounSelector | None,
                 after_image: Callable[[], None]) -> None:
        """Read the captions of the indexes of `sources`; `after_image` is called after each image."""
        self.num_captions = self.num_with_one_noun = self.num_without_nouns = self.num_foreign_without_nouns = 0
        self.num_images_without_captions = self.num_words = self.num_english_words = 0
        self._sources, self._selector = sources, selector
        # Eight bytes per image: for 14 million captions, the texts alone would take gigabytes in every process.
        self._source_numbers, self._index_positions = array("I"), array("I")
        for source_number, source in enumerate(sources):
            index = source.index
            positions = (position for position, item_id in enumerate(index.ids) if item_id not in index.errors)
            for position, (item_id, stored) in zip(positions, index.iterate_datasets("captions"), strict=True):
                captions = _decode_captions(stored)
                self.num_images_without_captions += not captions
                if sum(self._count_caption(item_id, caption) for caption in captions):
                    self._source_numbers.append(source_number)
                    self._index_positions.append(position)
                after_image()

    def __len__(self) -> int:
        """Return the number of images with captions to train on."""
        return len(self._index_positions)

    def list_image_ids(self) -> list[str]:
        """Return the ids of the images with captions to train on."""
        return [self._sources[source].index.ids[position]
                for source, position in zip(self._source_numbers, self._index_positions, strict=True)]

    def __getitem__(self, position: int) -> tuple[ImageSource, str, tuple[str, ...]]:
        """Return an image's source, its id, and those of its captions that have nouns."""
        source = self._sources[self._source_numbers[position]]
        item_id = source.index.ids[self._index_positions[position]]
        captions = _decode_captions(source.read_entry(item_id).datasets["captions"])
        if self._selector is None:
            return source, item_id, captions
        return source, item_id, tuple(
            caption for caption in captions if self._selector.select_nouns(item_id, caption))

    def _count_caption(self, item_id: str, caption: str) -> bool:
        """Count a caption; return whether it can be trained on, because it has nouns or none are needed."""
        self.num_captions += 1
        selector = self._selector
        if selector is None:
            return True
        num_nouns = len(selector.select_nouns(item_id, caption))
        self.num_with_one_noun += num_nouns == 1
        self.num_without_nouns += num_nouns == 0
        if selector.is_english_only:
            self.num_foreign_without_nouns += num_nouns == 0 and not is_latin(caption)
            if self.num_captions <= _NUM_LANGUAGE_CHECK_CAPTIONS:
                num_words, num_english_words = count_function_words(caption)
                self.num_words += num_words
                self.num_english_words += num_english_words
        return num_nouns != 0


def _decode_captions(stored: np.ndarray | None) -> tuple[str, ...]:
    """Return the captions of an image as the index stores them, without empty ones."""
    encoded_captions = [] if stored is None else stored.tolist()
    return tuple(caption for encoded in encoded_captions if (caption := encoded.decode().strip()))


class CaptionSamples:
    """Draw augmented views, each with one of the captions of its image."""

    def __init__(self, captions: Captions, encoder: CaptionEncoder, config: Any) -> None:
        self.captions, self.encoder = captions, encoder
        self.view = ClassificationViewSettings(
            crop=config.crop_size, flip=0.5 if config.flip else 0.0, brightness=0.0, contrast=0.0, saturation=0.0,
            hue=0.0, mean=config.mean, std=config.std, area=config.crop_area, rand_augment=config.rand_augment,
            erase=config.erase)

    def draw(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one sample: `image` (3, S, S) float32, and the tokens that `CaptionEncoder` makes of a caption."""
        source, item_id, captions = self.captions[position]
        caption = captions[int(generator.integers(len(captions)))]
        tokens = self.encoder(item_id, caption, generator)
        return {"image": sample_classification_view(source.read_image(item_id), generator, self.view), **tokens}


class CaptionEncoder:
    """Encode captions, and nouns drawn from them, as the token ids that the network reads."""

    def __init__(self, selector: NounSelector | None, tokenizer: Any, context_length: int, config: Any,
                 templates: Sequence[str]) -> None:
        self.selector, self.tokenizer, self.context_length = selector, tokenizer, context_length
        self.config, self.templates = config, templates

    def __call__(self, item_id: str, caption: str, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return `caption` (L,), and with a selector `nouns` (J, T), `guides` (J, L), `valid` (J,), `labels` (L,).

        When a caption has fewer than J nouns, the first one is repeated, and `valid` is False for the repeats.
        """
        tokens = self._tokenize([caption], self.context_length)[0]
        if self.selector is None:
            return {"caption": tokens}
        nouns, num_drawn = self.selector.select_nouns(item_id, caption), self.config.n_nouns
        drawn = [nouns[index] for index in generator.permutation(len(nouns))[:num_drawn]]
        valid = np.arange(num_drawn) < len(drawn)
        padded = [*drawn, *[drawn[0]] * (num_drawn - len(drawn))]
        guides = [str(generator.choice(self.templates)).replace("{}", noun) for noun in padded]
        noun_tokens = {noun: self.tokenizer.encode(noun) for noun in nouns}
        labels = label_noun_tokens(tokens, [noun_tokens[noun] for noun in drawn], list(noun_tokens.values()))
        return {"caption": tokens, "nouns": self._tokenize(padded, self.context_length - self.config.n_context),
                "guides": self._tokenize(guides, self.context_length), "valid": valid, "labels": labels}

    def _tokenize(self, texts: list[str], length: int) -> np.ndarray:
        return self.tokenizer(texts, context_length=length).numpy()
