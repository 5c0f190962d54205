"""Regions and word segments of a caption: tokens are grouped to words, and values equal those of the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.data.augment import normalise
from stages.data.class_colours import class_colours
from stages.data.contact_sheets import PANEL_COLOUR
from stages.data.highlighted_text import HighlightedWord, render_highlighted_text
from stages.nets.text_segmenter import compute_word_masks, prepend_no_noun_logits
from stages.show.caption_selection import find_next_of_spread_positions
from stages.show.captions import CaptionDecomposition, decompose_caption, draw_caption_row, find_noun_positions
from train_text.small import build_net

NOUNS = ("dog", "lawn")


@pytest.fixture(scope="module")
def net():
    """Return a small CoDe network whose input is normalised with mean and std 0.5."""
    net = build_net("code").eval()
    net.mean, net.std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return net


def test_decomposition_equals_the_network_outputs(net):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    caption = "A qzxish dog on the lawn"
    decomposition = decompose_caption(net, image, caption, NOUNS)
    assert decomposition.words == ("a", "qzxish", "dog", "on", "the", "lawn")
    vectors = net.encode_nouns(NOUNS)
    view = torch.from_numpy(normalise(image, net.mean, net.std))[None]
    masks = F.interpolate(net.masks(net.maps(view)[0], vectors), (16, 24), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(decomposition.regions, masks[0].detach(), atol=1e-5)
    tokens = net.tokenizer([caption])
    with torch.no_grad():
        features = net.text_segmenter(net.clip.run_text_blocks(net.clip.embed_tokens(tokens)))
        logits = net.text_segmenter.logits(features, vectors[None])
        token_weights = compute_word_masks(prepend_no_noun_logits(logits))[0].numpy()
    num_tokens = len(net.tokenizer.encode("qzxish"))
    assert num_tokens > 1
    end = 2 + num_tokens
    expected = np.stack([token_weights[:, 1], token_weights[:, 2:end].mean(1), *token_weights.T[end:end + 4]], axis=1)
    np.testing.assert_allclose(decomposition.segments, expected, atol=1e-5)


def test_a_long_caption_is_truncated_to_the_context_length(net):
    decomposition = decompose_caption(net, np.zeros((16, 16, 3), np.uint8), "dog " * 40, ["dog"])
    assert decomposition.words == ("dog",) * 12 and decomposition.segments.shape == (1, 12)


def test_noun_positions(net):
    words = ("a", "hot", "dog", "and", "a", "dog", "bed")
    assert find_noun_positions(net.tokenizer, words, "dog") == {2, 5}
    assert find_noun_positions(net.tokenizer, words, "hot dog") == {1, 2}
    assert find_noun_positions(net.tokenizer, words, "dogs") == set()


def test_a_row_has_a_region_per_noun_and_words_in_the_colours_of_nouns():
    image = np.full((20, 30, 3), 90, np.uint8)
    regions = np.zeros((2, 20, 30), np.float32)
    regions[0, :, :10], regions[1, :, 20:] = 0.02, 0.9
    decomposition = CaptionDecomposition(("dog", "lawn"), np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), regions)
    shown, first, second, words = draw_caption_row(image, decomposition, NOUNS, [{0}, {1}], 200)
    assert shown is image
    assert first[0, 0, 0] > first[0, 15, 0] and first[0, 0, 1] < first[0, 0, 0]
    assert second[0, 25, 1] > second[0, 5, 1] and second[0, 25, 0] < second[0, 25, 1]
    colours = {tuple(colour) for colour in words.reshape(-1, 3).tolist()}
    assert {*map(tuple, class_colours([1, 2]).tolist()), PANEL_COLOUR} <= colours


def test_background_colour_grows_with_the_share():
    def get_background_colour(share):
        panel = render_highlighted_text([[HighlightedWord("word", fill=(255, 0, 0), share=share)]], (40, 80))
        return tuple(panel[9, 8].tolist())

    assert get_background_colour(0.0) == PANEL_COLOUR and get_background_colour(1.0) == (255, 0, 0)
    assert PANEL_COLOUR[1] > get_background_colour(0.5)[1] > 0


def test_long_text_wraps_and_makes_the_panel_higher():
    assert render_highlighted_text([[HighlightedWord("word")] * 3], (60, 200)).shape == (60, 200, 3)
    assert render_highlighted_text([[HighlightedWord("word")] * 40], (60, 100)).shape[0] > 200
    assert render_highlighted_text([[HighlightedWord("w" * 500)]], (60, 100)).shape == (60, 100, 3)


def test_selection_starts_at_spread_positions_and_examines_no_id_twice():
    examined: list[int] = []

    def select_caption(item_id: str) -> str | None:
        examined.append(int(item_id))
        return f"caption {item_id}" if int(item_id) % 10 == 3 else None

    ids = [str(number) for number in range(100)]
    assert dict(find_next_of_spread_positions(ids, 2, select_caption)) == {"3": "caption 3", "13": "caption 13"}
    assert examined == [0, 1, 2, 3, 99, *range(4, 14)]
    assert len(dict(find_next_of_spread_positions(ids, 50, select_caption))) == 10
    assert dict(find_next_of_spread_positions(ids, 2, lambda _: None)) == {}
