"""The names of the columns of tables: which hold ids, paths, tags and captions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

ID_COLUMNS = ("id", "image_id", "img_id", "photo_id", "photo", "key")
PATH_COLUMNS = ("path", "file_name", "filename", "file", "filepath", "file_path", "image_path", "img_path",
                "image_file", "image_filename", "image_name", "image", "img", "picture")
TAG_COLUMNS = ("labels", "label", "tags", "tag", "classes", "class", "category", "categories", "class_name",
               "class_names", "label_name", "label_names", "tag_name", "tag_names", "category_name", "category_names",
               "keywords", "keyword", "objects")
CAPTION_COLUMNS = ("caption", "captions")
SCORE_COLUMNS = ("score", "confidence", "probability")


def normalise_column(name: str) -> str:
    """Return the form in which names of columns are compared: lower case, with "_" for blanks and hyphens."""
    text = unicodedata.normalize("NFC", name).strip("\ufeff\u200b \t\u00a0").casefold()
    return re.sub(r"[\s-]+", "_", text)


def find_columns(columns: Iterable[str], names: tuple[str, ...]) -> list[str]:
    """Return the columns whose names are among `names`; the first of `names` come first.

    Letter case, blanks, hyphens and underscores do not count: ClassName is class_name.
    """
    normalised = [(normalise_column(column).replace("_", ""), column) for column in columns]
    return list(dict.fromkeys(column for name in names for known, column in normalised
                              if known == name.replace("_", "")))
