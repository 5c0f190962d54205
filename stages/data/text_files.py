"""Read text files in the encodings that people's programs write: UTF-8, UTF-16 and Windows-1252."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from stages.data.archive_files import check_not_archive
from stages.errors import BadData, MissingInput

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                     (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# The first bytes of files that people pass in place of a text file, and what such a file is called.
BINARY_KINDS = (
    (b"%PDF", "a PDF"), (b"\xd0\xcf\x11\xe0", "a spreadsheet of the old Excel format (.xls)"),
    (b"\x89HDF", "an HDF5 file, such as a shard"), (b"ARROW1", "an Arrow or Feather file"),
    (b"SQLite format 3", "an SQLite database"), (b"\x89PNG", "an image"), (b"\xff\xd8\xff", "an image"),
    (b"{\\rtf", "a text document (RTF)"))
_UTF8_REMEDY = "Save the file as UTF-8"
# What Windows-1252 has besides letters and is common in names and sentences.
_WESTERN_MARKS = "‘’“”„‚–—…€°·´«»§©®™¿¡\u00a0\u00ad"


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises MissingInput if it does not exist or is a folder."""
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInput("there is no such file", "Check the path", where=str(path)) from error
    except IsADirectoryError as error:
        raise MissingInput("this is a folder, but a file is required", "Pass a file", where=str(path)) from error


def read_text_file(path: Path) -> str:
    """Read a text file of UTF-8 or UTF-16, without BOM. Raises MissingInput, or BadData for archives and other text."""
    data = read_bytes(path)
    _check_is_text(data, path)
    encoding = _find_unicode_encoding(data)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise BadData(f"byte {error.start} is not {name}", _UTF8_REMEDY, where=str(path)) from error


def find_binary_kind(data: bytes) -> str:
    """Return what a file is called that is known to be no plain text, "" for others."""
    return next((kind for start, kind in BINARY_KINDS if data.startswith(start)), "")


def decode_text(data: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return (the text without BOM, notes): text that is not Unicode is read as Windows-1252, and the note says so.

    Raises BadData for text that is neither; words of other alphabets would become senseless letters. Raises it for an
    archive too.
    """
    _check_is_text(data, path)
    encoding = _find_unicode_encoding(data)
    try:
        return data.decode(encoding), ()
    except UnicodeDecodeError as error:
        position = error.start
    text = data.decode("cp1252", "replace")
    if encoding != "utf-8" or not _is_western(text):
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        raise BadData(f"byte {position} is not {name}, and the text is not Windows-1252 either", _UTF8_REMEDY,
                      where=str(path))
    return text, (f"{path.name} is not UTF-8 and was read as Windows-1252 (Latin-1). If names look wrong, save it as "
                  "UTF-8.",)


def _check_is_text(data: bytes, path: Path) -> None:
    """Raise BadData for archives and other files that are known to be no text."""
    check_not_archive(path, data)
    kind = find_binary_kind(data)
    if kind:
        raise BadData(f"this is {kind}, but a text file is required",
                      "The help of the command says which file it expects", where=str(path))


def split_lines(text: str) -> list[tuple[int, str]]:
    """Return (line number, stripped text) of the lines that are not blank; lines end with LF, CR LF or CR."""
    return [(number, line.strip()) for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1) if line.strip()]


def read_nonblank_lines(path: Path) -> list[tuple[int, str]]:
    """Read (line number, stripped text) of the lines that are not blank."""
    return split_lines(read_text_file(path))


def _find_unicode_encoding(data: bytes) -> str:
    """Return the encoding by the BOM, else UTF-16 if the first characters have a NUL in every second byte."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            # utf-16 consists of pairs of bytes, so an odd length says that FF FE is something else.
            if encoding == "utf-16" and len(data) % 2:
                continue
            return encoding
    start = data[:8]
    if len(start) >= 4 and len(data) % 2 == 0:
        if not any(start[1::2]) and all(start[::2]):
            return "utf-16-le"
        if not any(start[::2]) and all(start[1::2]):
            return "utf-16-be"
    return "utf-8"


def _is_western(text: str) -> bool:
    """Return whether text decoded as Windows-1252 makes sense: accented letters, of which no three follow each other.

    Text of other alphabets is almost entirely made of bytes above 127, in any order.
    """
    if "\0" in text or "ÿþ" in text or "þÿ" in text:  # the latter are BOMs of UTF-16
        return False
    special = [character for character in text if ord(character) > 127]
    return (all(character.isalpha() or character in _WESTERN_MARKS for character in special)
            and not re.search("[^\\W\\d_a-zA-Z]{3}", text))
