"""Choose the words that CLIP is shown for the classes and the background: presets, files, WordNet.

The presets are those of CLIP-ES (appendix G and its released code): names of VOC and COCO with their synonyms, and
the background words that go with them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.data.tables import read_text_file
from stages.data.word_checks import check_class_words, drop_repeated_words, filter_background_words
from stages.errors import BadData, Unavailable, UsageError

CLIP_ES_PRESETS = ("voc", "coco")
# From the evaluation of SCLIP and later papers. Some classes fit several presets; the first one in this order is used.
SCLIP_PRESETS = ("sclip-voc", "sclip-object", "sclip-context", "sclip-cityscapes", "sclip-stuff", "sclip-ade")
# A typing error of the released code, kept so that its numbers can be reproduced.
_RELEASED_SPELLING = {"snowboard": ("sknowboard",)}
_SAME_WORDS_REMEDY = ("Merge them into one class, or give them different words with --names FILE.toml or --names none "
                      "(the class names themselves)")
_PRESET_FOLDER = Path(__file__).parent / "words"


@dataclass(frozen=True)
class ClassWords:
    """The classes 1..C with the synonyms of each, the background words, and their source: a preset's name or a file."""

    source: str
    names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    background: tuple[str, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_json_dict(self) -> dict[str, Any]:
        """Return what the provenance records."""
        return {"source": self.source, "classes": [list(words) for words in self.classes],
                "background": list(self.background)}


def load_class_words(names: str, classes: tuple[str, ...], *, as_released: bool = False,
                     presets: tuple[str, ...] = CLIP_ES_PRESETS) -> ClassWords:
    """Load the words of `classes` (position 0 is the background) from `auto|none|wordnet|FILE.toml` or a preset.

    `auto` is the first of `presets` that has all of these classes, else the plain class names with VOC's background
    words. Background words that are also a class or a synonym of one are dropped, with a note. `as_released` uses the
    spelling of the released code, and keeps those background words for SCLIP_PRESETS. A class that has a word twice
    and classes that share a word get a note. Raises UsageError (also for two classes with the same words),
    MissingInput, BadData for a malformed file, and Unavailable for WordNet without nltk's data.
    """
    class_names = classes[1:]
    source = _find_preset(class_names, presets) if names == "auto" else names
    synonyms, background = _load_synonyms(source, class_names, as_released)
    is_preset = source in (*CLIP_ES_PRESETS, *SCLIP_PRESETS)
    notes = [f"Words for the classes: {f'preset {source}' if is_preset else source}."]
    unused_names = [name for name in synonyms if name not in class_names]
    if unused_names and source.endswith(".toml"):
        more = f" and {len(unused_names) - 5} more" if len(unused_names) > 5 else ""
        notes.append(f"{source} has words for {', '.join(unused_names[:5])}{more}, which are not classes of the index.")
    words, repeats = drop_repeated_words(class_names, [synonyms.get(name, (name,)) for name in class_names])
    warnings = [*repeats, *check_class_words(class_names, words, f"--names {source}", _SAME_WORDS_REMEDY)]
    if not (as_released and source in SCLIP_PRESETS):
        background, dropped = filter_background_words(background, class_names, words)
        warnings += dropped
    return ClassWords(Path(source).name, class_names, words, background, (*notes, *warnings))


def load_words_without_index(names: str, *, as_released: bool = False) -> ClassWords:
    """Load the words of a preset or file together with its own classes, when there is no index to define them.

    Raises UsageError if `names` does not define classes.
    """
    if names not in (*CLIP_ES_PRESETS, *SCLIP_PRESETS) and not names.endswith(".toml"):
        raise UsageError(f"image files have no classes of their own, and --names {names} does not define any",
                         "Use --names voc, --names coco or --names FILE.toml")
    synonyms = _load_synonyms(names, (), as_released)[0]
    if not synonyms:
        raise BadData("the table [classes] is missing",
                      'Add [classes] with one line per class, for example cat = ["cat", "kitten"]', where=names)
    # After its own 80 classes COCO's preset lists some of them again under VOC's names.
    class_names = list(synonyms)[:80] if names == "coco" else list(synonyms)
    return load_class_words(names, ("background", *class_names), as_released=as_released)


def _load_synonyms(source: str, class_names: tuple[str, ...],
                   as_released: bool) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return (synonyms by class name, background words)."""
    if source.endswith(".toml"):
        return read_words_file(Path(source))
    presets = (*CLIP_ES_PRESETS, *SCLIP_PRESETS)
    if source not in (*presets, "none", "wordnet"):
        raise UsageError(f"--names {source} is not a known source of class words",
                         f"Use --names with auto, {', '.join(presets)}, none, wordnet or a FILE.toml")
    synonyms, background = read_words_file(_PRESET_FOLDER / f"{source if source in presets else 'voc'}.toml")
    if source not in presets:
        return {name: find_wordnet_synonyms(name) for name in class_names} if source == "wordnet" else {}, background
    return {**synonyms, **(_RELEASED_SPELLING if as_released and source == "coco" else {})}, background


def read_words_file(file: Path) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Read (synonyms by class, background words) from a TOML file; without background words they are VOC's.

    Raises MissingInput and BadData.
    """
    content = _read_toml(file)
    classes, background = content.get("classes", {}), content.get("background")
    unknown_keys = sorted(set(content) - {"classes", "background"})
    remedy = 'Write background = ["sky"] and a table [classes] with lines such as cat = ["cat", "kitten"]'
    if unknown_keys:
        raise BadData(f"the key {unknown_keys[0]!r} is not known", remedy, where=str(file))
    if not isinstance(classes, Mapping):
        raise BadData("[classes] is not a table", remedy, where=str(file))
    if not (background is None or _is_word_list(background)):
        raise BadData("background is not a list of words", remedy, where=str(file))
    for name, words in classes.items():
        if not (isinstance(words, str) and words.strip()) and not (_is_word_list(words) and words):
            raise BadData(f"the class {name!r} has neither a word nor a list of words", remedy, where=str(file))
    synonyms = {name: (words,) if isinstance(words, str) else tuple(words) for name, words in classes.items()}
    if background is None:
        background = read_words_file(_PRESET_FOLDER / "voc.toml")[1]
    return synonyms, tuple(background)


def find_wordnet_synonyms(name: str) -> tuple[str, ...]:
    """Find the lemmas of the first noun sense of `name` in WordNet; `name` itself comes first.

    Raises Unavailable if nltk's data are missing.
    """
    from nltk.corpus import wordnet

    try:
        senses = wordnet.synsets(name.replace(" ", "_"), pos="n")
    except LookupError:
        raise Unavailable("nltk's WordNet data are not on this machine", "Run `python -m nltk.downloader wordnet`, or "
                          "unpack corpora/wordnet.zip in a folder and set NLTK_DATA to that folder") from None
    lemmas = senses[0].lemma_names() if senses else []
    synonyms = (lemma.replace("_", " ") for lemma in lemmas)
    return (name, *dict.fromkeys(synonym for synonym in synonyms if _strip_blanks(synonym) != _strip_blanks(name)))


def read_preset_class_names(preset: str) -> tuple[str, ...]:
    """Read the class names of a preset, in the order of the benchmark's class ids."""
    return tuple(read_words_file(_PRESET_FOLDER / f"{preset}.toml")[0])


def _find_preset(class_names: Iterable[str], presets: Iterable[str]) -> str:
    """Return the first of `presets` that has all these classes, else "none"."""
    wanted = set(class_names)
    return next((preset for preset in presets if wanted <= set(read_preset_class_names(preset))), "none")


def _read_toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(read_text_file(file))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadData(f"the file is not valid TOML ({error})", "Correct it, or give another file", where=str(file)
                      ) from None


def _is_word_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word.strip() for word in value)


def _strip_blanks(word: str) -> str:
    return "".join(word.lower().split())
