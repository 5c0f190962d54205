"""Regions and word segments of a caption: tokens to words, values to what the net itself says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.data.augment import normalise
from stages.data.marked_text import Mark, marked_text
from stages.data.sheet import PANEL
from stages.nets.text_segmenter import word_logits, word_masks
from stages.show.captions import Decomposed, caption_row, decomposed, places_of
from stages.show.stage import _next_of_each
from train_text.small import net_of

NOUNS = ("dog", "lawn")


@pytest.fixture(scope="module")
def net():
    """Return a small net of CoDe whose input is not shifted."""
    made = net_of("code").eval()
    made.mean, made.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return made


def test_values_are_those_of_the_net(net):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    caption = "A qzxish dog on the lawn"
    found = decomposed(net, image, caption, NOUNS)
    assert found.words == ("a", "qzxish", "dog", "on", "the", "lawn")
    vectors = net.noun_vectors(NOUNS)
    view = torch.from_numpy(normalise(image, net.mean, net.std))[None]
    masks = F.interpolate(net.masks(net.maps(view)[0], vectors), (16, 24), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found.regions, masks[0].detach(), atol=1e-5)
    tokens = net.tokenizer([caption])
    with torch.no_grad():
        features = net.text_segmenter(net.clip.text_hidden(net.clip.word_embedding(tokens)))
        shares = word_masks(word_logits(net.text_segmenter.logits(features, vectors[None])))[0].numpy()
    pieces = len(net.tokenizer.encode("qzxish"))
    assert pieces > 1
    after = 2 + pieces
    wanted = np.stack([shares[:, 1], shares[:, 2:after].mean(1), *shares.T[after:after + 4]], axis=1)
    np.testing.assert_allclose(found.segments, wanted, atol=1e-5)


def test_a_caption_that_is_too_long_is_shown_as_far_as_it_is_read(net):
    found = decomposed(net, np.zeros((16, 16, 3), np.uint8), "dog " * 40, ["dog"])
    assert found.words == ("dog",) * 12 and found.segments.shape == (1, 12)


def test_where_a_noun_stands(net):
    words = ("a", "hot", "dog", "and", "a", "dog", "bed")
    assert places_of(net.tokenizer, words, "dog") == {2, 5}
    assert places_of(net.tokenizer, words, "hot dog") == {1, 2}
    assert places_of(net.tokenizer, words, "dogs") == set()


def test_a_row_has_a_region_for_each_noun_and_words_in_their_colours():
    image = np.full((20, 30, 3), 90, np.uint8)
    regions = np.zeros((2, 20, 30), np.float32)
    regions[0, :, :10], regions[1, :, 20:] = 0.02, 0.9
    found = Decomposed(("dog", "lawn"), np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), regions)
    shown, first, second, words = caption_row(image, found, NOUNS, [{0}, {1}], 200)
    assert shown is image
    assert first[0, 0, 0] > first[0, 15, 0] and first[0, 0, 1] < first[0, 0, 0]
    assert second[0, 25, 1] > second[0, 5, 1] and second[0, 25, 0] < second[0, 25, 1]
    seen = {tuple(colour) for colour in words.reshape(-1, 3).tolist()}
    assert {(128, 0, 0), (0, 128, 0), PANEL} <= seen


def test_marks_are_as_strong_as_their_share():
    def ground(share):
        panel = marked_text([[Mark("word", fill=(255, 0, 0), share=share)]], (40, 80))
        return tuple(panel[9, 8].tolist())

    assert ground(0.0) == PANEL and ground(1.0) == (255, 0, 0)
    assert PANEL[1] > ground(0.5)[1] > 0


def test_text_goes_on_in_lines_and_makes_the_panel_higher():
    assert marked_text([[Mark("word")] * 3], (60, 200)).shape == (60, 200, 3)
    assert marked_text([[Mark("word")] * 40], (60, 100)).shape[0] > 200
    assert marked_text([[Mark("w" * 500)]], (60, 100)).shape == (60, 100, 3)


def test_from_each_place_on_the_next_that_can_be_shown_and_no_more_is_looked_at():
    looked_at: list[int] = []

    def told(item_id: str) -> str | None:
        looked_at.append(int(item_id))
        return f"caption {item_id}" if int(item_id) % 10 == 3 else None

    ids = [str(number) for number in range(100)]
    assert dict(_next_of_each(ids, 2, told)) == {"3": "caption 3", "13": "caption 13"}
    assert looked_at == [0, 1, 2, 3, 99, *range(4, 14)]
    assert len(dict(_next_of_each(ids, 50, told))) == 10
    assert dict(_next_of_each(ids, 2, lambda _: None)) == {}
