"""Which words a CLIP is shown for the classes and for the background: presets, files, WordNet.

The presets are those of CLIP-ES (appendix G and its released code): names of VOC and COCO with their synonyms, and
the background words that go with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.data.tables import read_text
from stages.data.word_checks import compare_classes, drop_from_background, drop_repeats
from stages.errors import BadData, Unavailable, UsageError

PRESETS = ("voc", "coco")
# Of the evaluation of SCLIP and those after it; a list of classes may fit several, the first counts.
SCLIP = ("sclip-voc", "sclip-object", "sclip-context", "sclip-cityscapes", "sclip-stuff", "sclip-ade")
# The released code's slip, so that its numbers can be met.
_RELEASED = {"snowboard": ("sknowboard",)}
_OTHER_WORDS = "make them one class, or give other words by --names FILE.toml, or the names by --names none"
_PRESET_FILES = Path(__file__).parent / "words"


@dataclass(frozen=True)
class ClassWords:
    """The classes 1..C with the synonyms of each, the background words, and from where: a preset's name or a file."""

    source: str
    names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    background: tuple[str, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def as_plain(self) -> dict[str, Any]:
        """Return what the provenance records."""
        return {"source": self.source, "classes": [list(words) for words in self.classes],
                "background": list(self.background)}


def class_words(names: str, classes: tuple[str, ...], *, as_released: bool = False,
                presets: tuple[str, ...] = PRESETS) -> ClassWords:
    """Return the words for `classes` (position 0 is the background) by `auto|none|wordnet|FILE.toml` or a preset.

    `auto` is the first of `presets` whose classes include all of these, else the raw names with VOC's background words.
    Background words that are also a class or a synonym of one are dropped, with a note. `as_released` has the
    released code's spelling, and SCLIP's presets keep those words. A class that has a word twice, and classes that
    share one, get a note. Raises UsageError also for two classes with the same words, MissingInput, BadData for a file
    that can't be meant so, and Unavailable for WordNet without nltk's data.
    """
    own = classes[1:]
    source = _preset_of(own, presets) if names == "auto" else names
    known, background = _known(source, own, as_released)
    notes = [f"class names: {f'preset {source}' if source in (*PRESETS, *SCLIP) else source}"]
    others = [name for name in known if name not in own]
    if others and source.endswith(".toml"):
        notes.append(f"{source} has words for {', '.join(others[:5])}, which are no classes here")
    words, repeats = drop_repeats(own, [known.get(name, (name,)) for name in own])
    keeps = as_released and source in SCLIP
    kept, dropped = (background, []) if keeps else drop_from_background(background, own, words)
    warnings = [*repeats, *compare_classes(own, words, f"--names {source}", _OTHER_WORDS), *dropped]
    return ClassWords(Path(source).name, own, words, kept, (*notes, *warnings))


def words_alone(names: str, *, as_released: bool = False) -> ClassWords:
    """Return the words of a preset or file whose own classes are meant, where no index says which there are.

    Raises UsageError for what names no classes of its own.
    """
    if names not in (*PRESETS, *SCLIP) and not names.endswith(".toml"):
        raise UsageError("image files alone have no classes", "give --names voc, coco or a FILE.toml")
    known = _known(names, (), as_released)[0]
    if not known:
        raise BadData("has no table [classes]", "write one line a class", where=names)
    # COCO's preset has some classes under VOC's names too, behind its own 80.
    own = list(known)[:80] if names == "coco" else list(known)
    return class_words(names, ("background", *own), as_released=as_released)


def _known(source: str, own: tuple[str, ...], as_released: bool) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return (synonyms by class name, background words)."""
    if source.endswith(".toml"):
        return read_words(Path(source))
    presets = (*PRESETS, *SCLIP)
    if source not in (*presets, "none", "wordnet"):
        raise UsageError(f"--names {source} is not auto, {', '.join(presets)}, none, wordnet or a FILE.toml")
    known, background = read_words(_PRESET_FILES / f"{source if source in presets else 'voc'}.toml")
    if source not in presets:
        return {name: wordnet_synonyms(name) for name in own} if source == "wordnet" else {}, background
    return {**known, **(_RELEASED if as_released and source == "coco" else {})}, background


def read_words(file: Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return (synonyms by class, background words) of a TOML file; VOC's background words where it has none.

    Raises MissingInput and BadData.
    """
    told = _toml(file)
    known, background = told.get("classes", {}), told.get("background")
    extra = sorted(set(told) - {"classes", "background"})
    if extra or not isinstance(known, Mapping) or not (background is None or _are_words(background)):
        raise BadData(f"has {extra[0]!r}" if extra else "has no list of words where one is needed",
                      'write background = ["sky"] and a table [classes] with name = ["word", "synonym"]',
                      where=str(file))
    for name, words in known.items():
        if not (isinstance(words, str) and words.strip()) and not (_are_words(words) and words):
            raise BadData(f"the words of {name!r} are no text and no list of texts", where=str(file))
    as_lists = {name: (words,) if isinstance(words, str) else tuple(words) for name, words in known.items()}
    if background is None:
        background = read_words(_PRESET_FILES / "voc.toml")[1]
    return as_lists, tuple(background)


def wordnet_synonyms(name: str) -> tuple[str, ...]:
    """Return `name` and the other lemmas of its first noun sense in WordNet. Raises Unavailable without the data."""
    from nltk.corpus import wordnet

    try:
        senses = wordnet.synsets(name.replace(" ", "_"), pos="n")
    except LookupError:
        raise Unavailable("WordNet is not on this machine", "bring nltk's data: python -m nltk.downloader wordnet, or "
                          "unpack corpora/wordnet.zip below a folder and set NLTK_DATA to that") from None
    lemmas = senses[0].lemma_names() if senses else []
    others = (lemma.replace("_", " ") for lemma in lemmas)
    return (name, *dict.fromkeys(other for other in others if _plain(other) != _plain(name)))


def preset_names(preset: str) -> tuple[str, ...]:
    """Return the names of a preset's classes, in the order of the benchmark's ids."""
    return tuple(read_words(_PRESET_FILES / f"{preset}.toml")[0])


def _preset_of(own: Iterable[str], presets: Iterable[str]) -> str:
    wanted = set(own)
    return next((name for name in presets if wanted <= set(read_words(_PRESET_FILES / f"{name}.toml")[0])), "none")


def _toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(read_text(file))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadData(f"is no TOML ({error})", where=str(file)) from None


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word.strip() for word in value)


def _plain(word: str) -> str:
    return "".join(word.lower().split())
