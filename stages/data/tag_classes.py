"""Find the classes of a table without a list of classes: the names of its tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from stages.data.name_forms import clean_name, fold_name
from stages.data.printed_values import is_printed_value
from stages.data.tag_parsing import KIND_OF_SEPARATOR, TagParser, is_background, split_pieces


def collect_class_names(cells: Iterable[tuple[Any, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (the classes in the tags of (cell, where) pairs, sorted, behind a background; notes for the user).

    Names that differ only in letter case or Unicode form are one class, in the spelling that occurs most often.
    """
    cells = list(cells)
    spellings: dict[str, Counter[str]] = {}
    certain = [pair for pair in cells if not _is_ambiguous(pair[0])]
    for group in (certain, [pair for pair in cells if _is_ambiguous(pair[0])]):
        parser = TagParser(("background", *(names.most_common(1)[0][0] for names in spellings.values())))
        for cell, where in group:
            for name in _list_spellings(parser, cell, where):
                spellings.setdefault(fold_name(name), Counter())[name] += 1
    names = [counts.most_common(1)[0][0] for counts in spellings.values()]
    merged = [counts for counts in spellings.values() if len(counts) > 1]
    notes = tuple(f"{_join_names([repr(name) for name, _ in counts.most_common()])} are one class, "
                  f"{counts.most_common(1)[0][0]!r}." for counts in merged)
    return ("background", *sorted(names)), notes + _describe_doubts(sorted(names))


def _describe_doubts(names: Sequence[str]) -> tuple[str, ...]:
    """Return notes on classes that may not be meant: numbers, and names with blanks that share words."""
    if names and all(name.isdecimal() for name in names):
        return (f"The tags are numbers, and each is a class{', also 0' if '0' in names else ''}. To give them names, "
                "write names in the table.",)
    words = Counter(word for name in names if " " in name for word in set(fold_name(name).split()))
    doubtful = [name for name in names if " " in name and any(words[word] > 1 for word in fold_name(name).split())]
    if len(doubtful) < 2:
        return ()
    return (f"{doubtful[0]!r} and {doubtful[1]!r} are one class each. If blanks separate tags, list the classes with "
            "--class-names.",)


def _list_spellings(parser: TagParser, cell: Any, where: str) -> list[str]:
    return [clean_name(name) for name in parser.list_names(cell, where) or () if not is_background(name)]


def _is_ambiguous(cell: Any) -> bool:
    """Return whether the names of a cell depend on the classes: it has blanks, or separators of several kinds."""
    if not isinstance(cell, str) or is_printed_value(clean_name(cell)):
        return False
    kinds = {KIND_OF_SEPARATOR[separator] for separator in split_pieces(cell)[1]}
    return len(kinds) > 1 or (not kinds and " " in clean_name(cell))


def _join_names(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
