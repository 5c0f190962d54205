"""The form of the names of result files: the image id with something before or after it (`{id}_mask.png`)."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from stages.errors import UsageError

ID_FIELD = "{id}"
_EXAMPLE = "Write {id} once where the image id is, such as --pattern '{id}_mask.png'"
_MAX_COMPARED_IDS = 20


@dataclass(frozen=True)
class NamePattern:
    """What is before and after the id in the path of a file, relative to the folder of the results.

    `folder` precedes the id, `prefix` its last part: with `out/pred_{id}`, the id `a/7` has the file `out/a/pred_7`.
    `ending` follows the id. `suffix` is that of the files, "" if any suffix that can be read is meant.
    """

    folder: str = ""
    prefix: str = ""
    ending: str = ""
    suffix: str = ""

    def extract_name(self, stem: str, suffix: str) -> str | None:
        """Return the part {id} of a path that consists of a stem and a suffix, None if it has another form."""
        if self.suffix and suffix.lower() != self.suffix.lower():
            return None
        if not stem.startswith(self.folder) or not stem.endswith(self.ending):
            return None
        folder, base = posixpath.split(stem[len(self.folder):len(stem) - len(self.ending)])
        if not base.startswith(self.prefix) or len(base) == len(self.prefix):
            return None
        return posixpath.join(folder, base[len(self.prefix):])

    def build_file_name(self, name: str) -> str:
        """Return the path of a file whose name without a pattern would be `name`, with its suffix."""
        stem, suffix = posixpath.splitext(name)
        folder, base = posixpath.split(stem)
        return f"{self.folder}{posixpath.join(folder, self.prefix + base)}{self.ending}{self.suffix or suffix}"


PLAIN_NAMES = NamePattern()


def parse_name_pattern(text: str, suffixes: Sequence[str]) -> NamePattern:
    """Return the pattern of `--pattern`, which ends with one of `suffixes` or leaves it open. Raises UsageError."""
    if text.count(ID_FIELD) != 1:
        problem = "does not contain {id}" if ID_FIELD not in text else "contains {id} more than once"
        raise UsageError(f"--pattern {text!r} {problem}", _EXAMPLE)
    rest = text.replace(ID_FIELD, "")
    if any(character in rest for character in "{}*?\0\\"):
        raise UsageError(f"--pattern {text!r} contains other signs than {{id}} that stand for something",
                         "Write the names as they are, with / between folders, and {id} for the image id")
    if text.startswith("/") or ".." in text.split("/"):
        raise UsageError(f"--pattern {text!r} leads out of the folder of the results",
                         "Give another folder, and a pattern that is relative to it")
    before, _, after = text.removeprefix("./").partition(ID_FIELD)
    folder, slash, prefix = before.rpartition("/")
    ending, suffix = posixpath.splitext(after) if after.lower().endswith(tuple(suffixes)) else (after, "")
    if not suffix and after.lower() in suffixes:  # splitext takes ".png" for a name without suffix
        ending, suffix = "", after
    return NamePattern(folder + slash, prefix, ending, suffix)


def suggest_pattern(ids: Collection[str], files: Iterable[str]) -> str:
    """Return the pattern that most of the files follow that contain an id, "" if it fits fewer than half of the ids."""
    by_base_name = [(posixpath.basename(item_id), item_id) for item_id in list(ids)[:_MAX_COMPARED_IDS]]
    listed, patterns = list(files), Counter[str]()
    for file in listed:
        for base, item_id in by_base_name:
            if file.count(base) == 1 and "/" not in item_id:
                patterns[file.replace(base, ID_FIELD)] += 1
    for text, _ in patterns.most_common(3):
        names = set(listed)
        before, _, after = text.partition(ID_FIELD)
        if 2 * sum(f"{before}{item_id}{after}" in names for item_id in ids) >= len(ids) and "{" not in before + after:
            return text
    return ""
