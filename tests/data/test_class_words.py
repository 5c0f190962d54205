"""Words for classes and background: presets, files, what is dropped, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.data.class_words import class_words, wordnet_synonyms, words_alone
from stages.errors import BadData, MissingInput, Unavailable, UsageError


def test_auto_takes_the_preset_that_knows_all_classes():
    few = class_words("auto", ("background", "person", "bird"))
    assert (few.source, few.classes) == ("voc", (("person with clothes", "people", "human"), ("bird avian",)))
    assert len(few.background) == 25
    coco = class_words("auto", ("background", "couch", "zebra"))
    assert (coco.source, coco.classes) == ("coco", (("sofa",), ("zebra",)))
    assert len(coco.background) == 23
    other = class_words("auto", ("background", "person", "walrus"))
    assert (other.source, other.classes) == ("none", (("person",), ("walrus",)))
    assert len(other.background) == 25


def test_background_words_that_are_classes_are_left_out_and_told():
    words = class_words("auto", ("background", "Sky", "river bed", "tree"))
    assert not {"sky", "tree"} & set(words.background)
    assert "river" in words.background
    assert any("sky, tree" in note or "tree, sky" in note for note in words.notes)


def test_the_slip_of_the_released_code_is_only_as_released():
    classes = ("background", "snowboard", "skis")
    assert class_words("coco", classes).classes[0] == ("snowboard",)
    assert class_words("coco", classes, as_released=True).classes[0] == ("sknowboard",)


def test_presets_alone_have_their_own_classes():
    assert len(words_alone("voc").names) == 20
    assert len(words_alone("coco").names) == len(words_alone("coco").classes) == 80
    assert words_alone("coco").names[:3] == ("person", "bicycle", "car")
    with pytest.raises(UsageError, match="--names"):
        words_alone("auto")


@pytest.fixture
def toml(tmp_path: Path):
    """Return a writer of FILE.toml that gives its path."""
    def write(text: str) -> str:
        path = tmp_path / "names.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_file(toml):
    path = toml('\ufeffbackground = ["snow"]\n[classes]\nwalrus = ["walrus", "seal"]\ncat = "kitten"\ncow = "cow"\n')
    words = class_words(path, ("background", "cat", "walrus", "dog"))
    assert words.classes == (("kitten",), ("walrus", "seal"), ("dog",))
    assert words.background == ("snow",)
    assert any("cow" in note for note in words.notes)
    assert words_alone(path).names == ("walrus", "cat", "cow")


@pytest.mark.parametrize(("text", "told"), [
    ("[classes", "no TOML"), ("sky = 1\n", "has 'sky'"), ('background = "sky"\n', "list of words"),
    ("[classes]\ncat = 3\n", "'cat'"), ("[classes]\ncat = []\n", "'cat'"), ('[classes]\ncat = ["", "x"]\n', "'cat'")])
def test_files_that_can_not_be_meant_so(toml, text, told):
    with pytest.raises(BadData, match=told) as caught:
        class_words(toml(text), ("background", "cat"))
    assert "names.toml" in str(caught.value)


def test_what_is_no_source():
    with pytest.raises(UsageError, match="pascal"):
        class_words("pascal", ("background", "cat"))
    with pytest.raises(MissingInput):
        class_words("nowhere.toml", ("background", "cat"))


class _Sense:
    def lemma_names(self) -> list[str]:
        return ["airplane", "Aeroplane", "plane", "jet_plane"]


class _WordNet:
    def synsets(self, name: str, pos: str) -> list[_Sense]:
        return [_Sense()] if (name, pos) == ("aeroplane", "n") else []


def test_wordnet(monkeypatch):
    monkeypatch.setattr("nltk.corpus.wordnet", _WordNet())
    assert wordnet_synonyms("aeroplane") == ("aeroplane", "airplane", "plane", "jet plane")
    assert class_words("wordnet", ("background", "aeroplane", "widget")).classes[1] == ("widget",)


def test_wordnet_without_its_data(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(Unavailable, match="NLTK_DATA"):
        wordnet_synonyms("walrus")
