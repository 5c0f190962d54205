"""Words that do not distinguish classes."""

from __future__ import annotations

import pytest

from stages.data.class_vocabulary import load_class_words
from stages.data.word_checks import (
    check_class_words,
    drop_repeated_words,
    filter_background_words,
    find_singular,
    normalise_spelling,
)
from stages.data.words_option import parse_words_option
from stages.errors import UsageError


def join_warnings(text: str) -> str:
    """Return the warnings about words, without the note that lists the classes."""
    return " | ".join(parse_words_option(text).notes[1:])


@pytest.mark.parametrize("text", ["cat; feline = cat", "Cat; cat", "cat = cat; felix = CAT ", "a = cat, cat; b = cat",
                                  "wet  grass; x = Wet grass", "a = cat, dog; b = Dog, cat",
                                  "t = rock\u2019n; u = rock'n"])
def test_classes_with_the_same_words_are_rejected(text):
    with pytest.raises(UsageError, match=r"the classes '.+' and '.+' have the same words .*Merge them into one class"):
        parse_words_option(text)


@pytest.mark.parametrize(("text", "expected"), [
    ("cat; feline = cat, lynx", "cat and feline share the word 'cat'"),
    ("cat; cats", "nearly the same word (cat, cats)"), ("bus; buses", "nearly"), ("city; Cities", "nearly"),
    ("t-shirt; t shirt", "nearly"), ("wet_grass; wet grass", "nearly"), ("box; boxes", "nearly"),
    ("cat = cat, Cat; dog", "Class cat has the same word twice; it is used once: cat."),
    ("cat; sky; background = sky, wall", "Dropped background words that are also words of classes: sky."),
    ("cat = kitten; pet = cat", "pet has the word 'cat', which is the name of another class")])
def test_warnings(text, expected):
    assert expected in join_warnings(text), join_warnings(text)


@pytest.mark.parametrize("text", ["cat; dog", "glass; glasses case", "cat; catfish", "plan; plane", "bass; base",
                                  "cat = cat, kitten; dog = dog, puppy; background = sky, wall", "sky; grass"])
def test_different_words_have_no_warnings(text):
    assert join_warnings(text) == ""


def test_repeated_and_shared_words_are_dropped():
    words = parse_words_option("cat = cat, Cat, kitten; Background = sky, cat, wall")
    assert words.names == ("cat",)
    assert words.classes == (("cat", "kitten"),)
    assert words.background == ("sky", "wall")


def test_class_names_of_an_index():
    with pytest.raises(UsageError, match=r"--names none: the classes 'Cat' and 'cat'"):
        load_class_words("none", ("background", "Cat", "cat"))
    with pytest.raises(UsageError, match=r"'couch' and 'sofa'.*--names none"):
        load_class_words("auto", ("background", "couch", "sofa", "zebra"))
    assert load_class_words("none", ("background", "couch", "sofa")).names == ("couch", "sofa")


def test_words_from_a_file(tmp_path):
    (tmp_path / "words.toml").write_text('background = ["sky"]\n[classes]\na = ["cat", "lynx"]\nb = ["Cat"]\n')
    words = load_class_words(str(tmp_path / "words.toml"), ("background", "a", "b"))
    assert any("a and b share the word 'cat'" in note for note in words.notes)


def test_spelling_singulars_and_filters():
    assert normalise_spelling("  Wet\tGrass ") == "wet grass"
    candidates = ("cat", "axe", "church", "city", "bus", "plan")
    words = ("cats", "axes", "churches", "cities", "buses", "plane", "bus")
    singulars = ["cat", "axe", "church", "city", "bus", "plane", "bus"]
    assert [find_singular(word, candidates) for word in words] == singulars
    assert drop_repeated_words(["a"], [["x", "y", "X"]])[0] == (("x", "y"),)
    assert filter_background_words(["Dining Table", "sky"], ["diningtable"], [["table"]])[0] == ("sky",)
    assert check_class_words(["a", "b"], [["x"], ["y"]], "", "") == []
