"""Parsing the words that a user types for the classes."""

from __future__ import annotations

import pytest

from stages.data.class_vocabulary import SCLIP_PRESETS, load_class_words, load_words_without_index
from stages.data.words_option import find_non_latin_words, parse_words_option
from stages.errors import BadData, MissingInput, UsageError


def test_phrases_and_their_words():
    words = parse_words_option("a dog, sitting; wet  grass = grass, lawn;cat")
    assert words.names == ("a dog, sitting", "wet grass", "cat")
    assert words.classes == (("a dog, sitting",), ("grass", "lawn"), ("cat",))
    assert "grass" not in words.background and "sky" in words.background
    assert parse_words_option("cat, dog").names == ("cat", "dog")
    assert parse_words_option("cat|dog").names == ("cat", "dog")
    assert parse_words_option("red car").names == ("red car",)
    assert parse_words_option("cat = cat, kitten").classes == (("cat", "kitten"),)


def test_background_words_of_the_user():
    words = parse_words_option("cat; background = sky, snow")
    assert words.names == ("cat",)
    assert words.background == ("sky", "snow")


def test_words_from_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("# mine\ncat\ndog = dog, puppy\n", encoding="utf-8-sig")
    words = parse_words_option(str(tmp_path / "words.txt"))
    assert words.classes == (("cat",), ("dog", "puppy"))
    (tmp_path / "words.toml").write_text('[classes]\ndog = ["dog", "puppy"]\n')
    assert parse_words_option(str(tmp_path / "words.toml")).names == ("dog",)
    index_words = parse_words_option(str(tmp_path / "words.toml"), ("background", "cat", "dog"))
    assert index_words.classes == (("cat",), ("dog", "puppy"))
    with pytest.raises(MissingInput, match=r"nowhere\.txt"):
        parse_words_option(str(tmp_path / "nowhere.txt"))


def test_a_list_of_the_classes_of_the_index_keeps_their_order():
    classes = ("background", "cat", "dog")
    assert parse_words_option("dog; cat", classes).names == ("cat", "dog")
    assert parse_words_option("dog; cat = kitten", classes).classes == (("kitten",), ("dog",))
    assert parse_words_option("dog; grass", classes).names == ("dog", "grass")


@pytest.mark.parametrize(("text", "error", "message"), [
    ("", UsageError, "no word"), (" ; ", UsageError, "no word"), ("cat; cat", UsageError, "twice"),
    ("background = sky", UsageError, "no class"), ("cat; --", BadData, "no letter"), ("cat = , ", BadData, "no letter"),
    ("\u200b; cat", BadData, "no letter")])
def test_malformed_words_are_rejected(text, error, message):
    with pytest.raises(error, match=message):
        parse_words_option(text)


def test_words_in_other_scripts_are_found():
    assert find_non_latin_words(parse_words_option("cat; 猫; café; кот; 7up")) == ["猫", "кот"]


def test_the_presets_of_sclip():
    counts = {name: len(load_words_without_index(name).names) for name in SCLIP_PRESETS}
    assert counts == {"sclip-voc": 20, "sclip-object": 80, "sclip-context": 59, "sclip-cityscapes": 19,
                      "sclip-stuff": 171, "sclip-ade": 150}
    words = load_class_words("auto", ("background", "person", "boat"), presets=SCLIP_PRESETS)
    assert words.source == "sclip-voc"
    assert words.classes[0][:2] == ("person", "person in shirt") and words.classes[1] == ("ship",)
    assert len(words.background) == 26
    everything = load_class_words("sclip-object", ("background", *load_words_without_index("sclip-object").names))
    assert "bed" not in everything.background
    assert "bed" in load_class_words("sclip-object", ("background", "bed"), as_released=True).background
