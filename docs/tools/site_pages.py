"""A hook of MkDocs (`hooks` in mkdocs.yml): brings pages from outside docs/ into the site and adapts their links.

The Markdown is written for a forge, where links lead to any file of the repository. On the site

* the pages of OUTSIDE_PAGES, and the README and RESULTS pages of examples/, are pages of the site;
* any other file that a page links to is copied below source/, as text;
* links to folders lose their link.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "stages/shards/FORMAT.md": "file-format.md",
}
_IMAGES = {".png", ".jpg", ".svg"}
_CODE = re.compile(r"(^( *)```.*?^\2```|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(<?([^)\s>]+)>?\)")


def example_pages() -> dict[str, str]:
    """Return the pages of examples/, by their path in the repository and on the site."""
    paths = [path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("*/*.md")]
    return {path: path.replace("/README.md", "/about.md") for path in sorted(paths)}


def site_path(source: str) -> str | None:
    """Return where a file of the repository is on the site; None for a folder, and for what does not exist."""
    page = {**OUTSIDE_PAGES, **example_pages()}.get(source)
    if page is not None:
        return page
    if source == "docs/README.md":
        return "index.md"
    if source.startswith("docs/") and source.endswith((".md", *_IMAGES)):
        return source.removeprefix("docs/")
    if (ROOT / source).is_file():
        return f"source/{source}" + ("" if Path(source).suffix in _IMAGES else ".txt")
    return None


def linked_file(source: str, target: str) -> str | None:
    """Return the file of the repository that a link in `source` leads to; None for another host or an anchor."""
    if re.match(r"[a-z]+:|#", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target.partition("#")[0]))


def rewrite_links(text: str, source: str, page: str | None) -> str:
    """Return the Markdown of the file `source` with its links as they are on the site, where it is at `page`."""
    folder = posixpath.dirname(page or "")

    def rewrite(match: re.Match[str]) -> str:
        file = linked_file(source, match[3])
        if file is None:
            return match[0]
        place = site_path(file)
        if place is None:
            return match[2]
        _, mark, anchor = match[3].partition("#")
        return f"{match[1]}[{match[2]}]({posixpath.relpath(place, folder or '.')}{mark}{anchor})"

    pieces = _CODE.split(text)
    # Each match of _CODE adds its text and its indentation to the pieces.
    kept = []
    for index, piece in enumerate(pieces):
        if index % 3 == 0:
            kept.append(_LINK.sub(rewrite, piece))
        elif index % 3 == 1:
            kept.append(piece)
    return "".join(kept)


def copied_files() -> set[str]:
    """Return the files outside docs/ that pages link to and that are no pages of the site."""
    pages = {**{path.relative_to(ROOT).as_posix(): "" for path in (ROOT / "docs").rglob("*.md")}, **OUTSIDE_PAGES,
             **example_pages()}
    copied = set()
    for page in pages:
        prose = _CODE.sub("", (ROOT / page).read_text(encoding="utf-8"))
        for match in _LINK.finditer(prose):
            file = linked_file(page, match[3])
            if file is not None and (site_path(file) or "").startswith("source/"):
                copied.add(file)
    return copied


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/, and copies of the files that pages link to."""
    from mkdocs.structure.files import File

    for source, page in {**OUTSIDE_PAGES, **example_pages()}.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=rewrite_links(text, source, page)))
    for source in sorted(copied_files()):
        place = site_path(source)
        if place is not None:
            files.append(File.generated(config, place, content=(ROOT / source).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Adapt the links of a page of docs/."""
    if page.file.generated_by is not None:
        return markdown
    source = f"docs/{page.file.src_uri}"
    return rewrite_links(markdown, source, page.file.src_uri)
