"""Words that do not tell classes apart."""

from __future__ import annotations

import pytest

from stages.data.class_words import class_words
from stages.data.free_words import free_words
from stages.data.word_checks import compare_classes, drop_from_background, drop_repeats, singular_of, spelling
from stages.errors import UsageError


def notes(told: str) -> str:
    """Return what is said of words, without the line that lists the classes."""
    return " | ".join(free_words(told).notes[1:])


@pytest.mark.parametrize("told", ["cat; feline = cat", "Cat; cat", "cat = cat; felix = CAT ", "a = cat, cat; b = cat",
                                  "wet  grass; x = Wet grass", "a = cat, dog; b = Dog, cat",
                                  "t = rock\u2019n; u = rock'n"])
def test_two_classes_with_the_same_words(told):
    with pytest.raises(UsageError, match=r"'.+' and '.+' are shown to CLIP as the same words .*; make them one class"):
        free_words(told)


@pytest.mark.parametrize(("told", "expected"), [
    ("cat; feline = cat, lynx", "cat and feline share the word 'cat'"),
    ("cat; cats", "nearly the same word (cat, cats)"), ("bus; buses", "nearly"), ("city; Cities", "nearly"),
    ("t-shirt; t shirt", "nearly"), ("wet_grass; wet grass", "nearly"), ("box; boxes", "nearly"),
    ("cat = cat, Cat; dog", "cat has a word twice, which counts once: cat"),
    ("cat; sky; background = sky, wall", "background words that are also classes are left out: sky"),
    ("cat = kitten; pet = cat", "pet has the word 'cat', which is the name of another class")])
def test_warnings(told, expected):
    assert expected in notes(told), notes(told)


@pytest.mark.parametrize("told", ["cat; dog", "glass; glasses case", "cat; catfish", "plan; plane", "bass; base",
                                  "cat = cat, kitten; dog = dog, puppy; background = sky, wall", "sky; grass"])
def test_words_that_are_different(told):
    assert notes(told) == ""


def test_what_counts_in_the_end():
    words = free_words("cat = cat, Cat, kitten; Background = sky, cat, wall")
    assert words.names == ("cat",)
    assert words.classes == (("cat", "kitten"),)
    assert words.background == ("sky", "wall")


def test_names_of_an_index():
    with pytest.raises(UsageError, match=r"--names none: 'Cat' and 'cat'"):
        class_words("none", ("background", "Cat", "cat"))
    with pytest.raises(UsageError, match=r"'couch' and 'sofa'.*--names none"):
        class_words("auto", ("background", "couch", "sofa", "zebra"))
    assert class_words("none", ("background", "couch", "sofa")).names == ("couch", "sofa")


def test_words_of_a_file(tmp_path):
    (tmp_path / "words.toml").write_text('background = ["sky"]\n[classes]\na = ["cat", "lynx"]\nb = ["Cat"]\n')
    found = class_words(str(tmp_path / "words.toml"), ("background", "a", "b"))
    assert any("a and b share the word 'cat'" in note for note in found.notes)


def test_the_parts():
    assert spelling("  Wet\tGrass ") == "wet grass"
    known = ("cat", "axe", "church", "city", "bus", "plan")
    assert [singular_of(word, known) for word in ("cats", "axes", "churches", "cities", "buses", "plane", "bus")] == [
        "cat", "axe", "church", "city", "bus", "plane", "bus"]
    assert drop_repeats(["a"], [["x", "y", "X"]])[0] == (("x", "y"),)
    assert drop_from_background(["Dining Table", "sky"], ["diningtable"], [["table"]])[0] == ("sky",)
    assert compare_classes(["a", "b"], [["x"], ["y"]], "", "") == []
