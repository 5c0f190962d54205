"""Finds a font of the system for characters that Pillow's built-in font lacks, such as those of other scripts."""

from __future__ import annotations

import functools
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import ImageFont, features

# Where systems without fontconfig keep fonts of many scripts.
_FONT_FILES = (
    "/System/Library/Fonts/Hiragino Sans GB.ttc", "/System/Library/Fonts/AppleSDGothicNeo.ttc",
    "/System/Library/Fonts/Supplemental/Arial Unicode.ttf", "/Library/Fonts/Arial Unicode.ttf",
    r"C:\Windows\Fonts\arial.ttf", r"C:\Windows\Fonts\msyh.ttc", r"C:\Windows\Fonts\msgothic.ttc",
    r"C:\Windows\Fonts\malgun.ttf", r"C:\Windows\Fonts\Nirmala.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf")
_MAX_TRIED_FILES = 12
_PATIENCE = 10  # seconds for fontconfig, which reads all fonts at its first start
# Scripts that are written from right to left, or whose letters change with their neighbours.
_SHAPED_DIRECTIONS = ("R", "AL")
_SHAPED_SCRIPTS = ("DEVANAGARI", "BENGALI", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM", "GUJARATI", "GURMUKHI",
                   "SINHALA", "KHMER", "MYANMAR", "TIBETAN", "THAI", "LAO")


@functools.cache
def load_system_font(characters: frozenset[str], size: int) -> ImageFont.FreeTypeFont | None:
    """Return a font of the system, of `size` pixels, that has all `characters`; None if there is none.

    None also for scripts that have to be shaped, such as Arabic, if Pillow lacks the library for it (raqm).
    """
    path = find_font_file(characters)
    return None if path is None else ImageFont.truetype(path, size)


@functools.cache
def find_font_file(characters: frozenset[str]) -> str | None:
    """Return the file of a font that has all `characters`, None if there is none or they cannot be shaped."""
    if any(map(_needs_shaping, characters)) and not features.check("raqm"):
        return None
    return next((path for path in _list_candidates(characters) if _covers(path, characters)), None)


def _needs_shaping(character: str) -> bool:
    return (unicodedata.bidirectional(character) in _SHAPED_DIRECTIONS
            or unicodedata.name(character, "").startswith(_SHAPED_SCRIPTS))


def _list_candidates(characters: Iterable[str]) -> Iterator[str]:
    """Yield files of fonts: upright sans-serif fonts that fontconfig knows to have the characters, then common ones."""
    program = shutil.which("fc-list")
    if program:
        pattern = ":charset=" + " ".join(f"{ord(character):x}" for character in sorted(characters))
        try:
            done = subprocess.run([program, "-f", "%{file}\n", pattern], capture_output=True, text=True,
                                  timeout=_PATIENCE, check=False)
            paths = sorted(set(done.stdout.split("\n")) - {""}, key=_rank_font)
        except (OSError, subprocess.SubprocessError):
            paths = []
        yield from paths[:_MAX_TRIED_FILES]
    yield from (path for path in _FONT_FILES if Path(path).is_file())


def _rank_font(path: str) -> tuple[int, str]:
    name = Path(path).name.lower()
    unusual = sum(word in name for word in ("mono", "serif", "bold", "italic", "oblique", "light", "condensed", "thin"))
    return unusual + ("sans" not in name), path


def _covers(path: str, characters: Iterable[str]) -> bool:
    try:
        font = ImageFont.truetype(path, 16)
        return all(has_glyph(character, font) for character in characters)
    except (OSError, ValueError):  # a damaged file, or a format that FreeType does not read
        return False


def has_glyph(character: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> bool:
    """Return whether a font has a glyph of its own for a character."""
    return bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
