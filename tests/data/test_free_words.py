"""Words that a user types for the classes."""

from __future__ import annotations

import pytest

from stages.data.class_words import SCLIP, class_words, words_alone
from stages.data.free_words import free_words, other_scripts
from stages.errors import BadData, MissingInput, UsageError


def test_phrases_and_their_words():
    words = free_words("a dog, sitting; wet  grass = grass, lawn;cat")
    assert words.names == ("a dog, sitting", "wet grass", "cat")
    assert words.classes == (("a dog, sitting",), ("grass", "lawn"), ("cat",))
    assert "grass" not in words.background and "sky" in words.background
    assert free_words("cat, dog").names == ("cat", "dog")
    assert free_words("cat|dog").names == ("cat", "dog")
    assert free_words("red car").names == ("red car",)
    assert free_words("cat = cat, kitten").classes == (("cat", "kitten"),)


def test_the_background_has_words_of_its_own():
    words = free_words("cat; background = sky, snow")
    assert words.names == ("cat",)
    assert words.background == ("sky", "snow")


def test_a_file_of_words(tmp_path):
    (tmp_path / "words.txt").write_text("# mine\ncat\ndog = dog, puppy\n", encoding="utf-8-sig")
    words = free_words(str(tmp_path / "words.txt"))
    assert words.classes == (("cat",), ("dog", "puppy"))
    (tmp_path / "words.toml").write_text('[classes]\ndog = ["dog", "puppy"]\n')
    assert free_words(str(tmp_path / "words.toml")).names == ("dog",)
    of_index = free_words(str(tmp_path / "words.toml"), ("background", "cat", "dog"))
    assert of_index.classes == (("cat",), ("dog", "puppy"))
    with pytest.raises(MissingInput, match=r"nowhere\.txt"):
        free_words(str(tmp_path / "nowhere.txt"))


def test_a_list_of_the_index_s_own_classes_keeps_their_order():
    classes = ("background", "cat", "dog")
    assert free_words("dog; cat", classes).names == ("cat", "dog")
    assert free_words("dog; cat = kitten", classes).classes == (("kitten",), ("dog",))
    assert free_words("dog; grass", classes).names == ("dog", "grass")


@pytest.mark.parametrize(("told", "kind", "text"), [
    ("", UsageError, "no word"), (" ; ", UsageError, "no word"), ("cat; cat", UsageError, "twice"),
    ("background = sky", UsageError, "no class"), ("cat; --", BadData, "no letter"), ("cat = , ", BadData, "no letter"),
    ("\u200b; cat", BadData, "no letter")])
def test_what_can_not_be_meant(told, kind, text):
    with pytest.raises(kind, match=text):
        free_words(told)


def test_other_scripts_are_found():
    assert other_scripts(free_words("cat; 猫; café; кот; 7up")) == ["猫", "кот"]


def test_the_presets_of_sclip():
    counts = {name: len(words_alone(name).names) for name in SCLIP}
    assert counts == {"sclip-voc": 20, "sclip-object": 80, "sclip-context": 59, "sclip-cityscapes": 19,
                      "sclip-stuff": 171, "sclip-ade": 150}
    words = class_words("auto", ("background", "person", "boat"), presets=SCLIP)
    assert words.source == "sclip-voc"
    assert words.classes[0][:2] == ("person", "person in shirt") and words.classes[1] == ("ship",)
    assert len(words.background) == 26
    everything = class_words("sclip-object", ("background", *words_alone("sclip-object").names))
    assert "bed" not in everything.background
    assert "bed" in class_words("sclip-object", ("background", "bed"), as_released=True).background
