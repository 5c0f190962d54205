"""Words for classes and background: presets, files, dropped words and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.data.class_vocabulary import find_wordnet_synonyms, load_class_words, load_words_without_index
from stages.errors import BadData, MissingInput, Unavailable, UsageError


def test_auto_uses_the_first_preset_with_all_classes():
    few = load_class_words("auto", ("background", "person", "bird"))
    assert (few.source, few.classes) == ("voc", (("person with clothes", "people", "human"), ("bird avian",)))
    assert len(few.background) == 25
    coco = load_class_words("auto", ("background", "couch", "zebra"))
    assert (coco.source, coco.classes) == ("coco", (("sofa",), ("zebra",)))
    assert len(coco.background) == 23
    other = load_class_words("auto", ("background", "person", "walrus"))
    assert (other.source, other.classes) == ("none", (("person",), ("walrus",)))
    assert len(other.background) == 25


def test_background_words_that_are_classes_are_dropped_with_a_note():
    words = load_class_words("auto", ("background", "Sky", "river bed", "tree"))
    assert not {"sky", "tree"} & set(words.background)
    assert "river" in words.background
    assert any("sky, tree" in note or "tree, sky" in note for note in words.notes)


def test_the_typing_error_of_the_released_code_is_opt_in():
    classes = ("background", "snowboard", "skis")
    assert load_class_words("coco", classes).classes[0] == ("snowboard",)
    assert load_class_words("coco", classes, as_released=True).classes[0] == ("sknowboard",)


def test_presets_without_index_have_their_own_classes():
    assert len(load_words_without_index("voc").names) == 20
    assert len(load_words_without_index("coco").names) == len(load_words_without_index("coco").classes) == 80
    assert load_words_without_index("coco").names[:3] == ("person", "bicycle", "car")
    with pytest.raises(UsageError, match="--names"):
        load_words_without_index("auto")


@pytest.fixture
def toml(tmp_path: Path):
    """Return a function that writes FILE.toml and returns its path."""
    def write(text: str) -> str:
        path = tmp_path / "names.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_words_from_a_file(toml):
    path = toml('\ufeffbackground = ["snow"]\n[classes]\nwalrus = ["walrus", "seal"]\ncat = "kitten"\ncow = "cow"\n')
    words = load_class_words(path, ("background", "cat", "walrus", "dog"))
    assert words.classes == (("kitten",), ("walrus", "seal"), ("dog",))
    assert words.background == ("snow",)
    assert any("cow" in note for note in words.notes)
    assert load_words_without_index(path).names == ("walrus", "cat", "cow")


@pytest.mark.parametrize(("text", "message"), [
    ("[classes", "is not valid TOML"), ("sky = 1\n", "the key 'sky' is not known"),
    ('background = "sky"\n', "background is not a list of words"), ('classes = "cat"\n', "classes. is not a table"),
    ("[classes]\ncat = 3\n", "'cat'"), ("[classes]\ncat = []\n", "'cat'"), ('[classes]\ncat = ["", "x"]\n', "'cat'")])
def test_malformed_files_are_rejected(toml, text, message):
    with pytest.raises(BadData, match=message) as error:
        load_class_words(toml(text), ("background", "cat"))
    assert "names.toml" in str(error.value)


def test_unknown_sources_are_rejected():
    with pytest.raises(UsageError, match="pascal"):
        load_class_words("pascal", ("background", "cat"))
    with pytest.raises(MissingInput):
        load_class_words("nowhere.toml", ("background", "cat"))


class _Sense:
    def lemma_names(self) -> list[str]:
        return ["airplane", "Aeroplane", "plane", "jet_plane"]


class _WordNet:
    def synsets(self, name: str, pos: str) -> list[_Sense]:
        return [_Sense()] if (name, pos) == ("aeroplane", "n") else []


def test_wordnet_synonyms(monkeypatch):
    monkeypatch.setattr("nltk.corpus.wordnet", _WordNet())
    assert find_wordnet_synonyms("aeroplane") == ("aeroplane", "airplane", "plane", "jet plane")
    assert load_class_words("wordnet", ("background", "aeroplane", "widget")).classes[1] == ("widget",)


def test_wordnet_without_its_data(monkeypatch, tmp_path):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(Unavailable, match="NLTK_DATA"):
        find_wordnet_synonyms("walrus")
