"""Renders the page: data and sections in, HTML out. The page needs no other file and no network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

_TEMPLATES = Path(__file__).with_name("templates")
_SCRIPTS = ("pictures.js", "panels.js", "gallery.js", "viewer.js", "page.js")
_REQUEST = re.compile(r'<meta name="wsss-request" content="([^"]*)">')
_HEAD_BYTES = 1 << 20
_BLOCK_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Section:
    """A part of the page below the gallery: its heading, a sentence about it, and trusted HTML."""

    id: str
    title: str
    introduction: str
    html: str


@dataclass(frozen=True)
class PageContents:
    """What the page consists of, besides the images: sentences, rows of a table, sections.

    `describe_data` returns what the scripts read; it is called after the last image was encoded.
    """

    title: str
    summary: Sequence[str]
    notes: Sequence[str]
    scores: Sequence[dict[str, str]]
    sections: Sequence[Section]
    describe_data: Callable[[], dict[str, Any]]
    request: dict[str, Any]


def render_page(contents: PageContents, chunks: Iterable[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Yield the page in blocks of bytes; `chunks` are the images, encoded one chunk after the other."""
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True)
    template = environment.get_template("report.html")
    style = _read("report.css")
    scripts = "\n".join(map(_read, _SCRIPTS))
    pieces = template.generate(contents=contents, style=style, scripts=scripts, chunks=map(format_json, chunks),
                               request=json.dumps(contents.request),
                               format_data=lambda: format_json(contents.describe_data()))
    yield from join_pieces(pieces)


def join_pieces(pieces: Iterable[str]) -> Iterator[bytes]:
    """Join pieces of text to blocks of about a megabyte; each of the thousands of pieces would be a call to write."""
    block, num_characters = [], 0
    for piece in pieces:
        block.append(piece)
        num_characters += len(piece)
        if num_characters >= _BLOCK_CHARACTERS:
            yield "".join(block).encode()
            block, num_characters = [], 0
    yield "".join(block).encode()


def format_json(value: Any) -> str:
    """Return JSON that can stand in a script element, whatever names the user chose: without any `<`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def find_request(path: Path) -> dict[str, Any] | None:
    """Return the request that a page was made with; None if the file is no page of this command."""
    with path.open("rb") as file:
        match = _REQUEST.search(file.read(_HEAD_BYTES).decode("utf-8", "replace"))
    try:
        request = json.loads(unescape(match[1])) if match else None
    except ValueError:
        return None
    return request if isinstance(request, dict) else None


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
