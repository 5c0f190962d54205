"""The documentation matches the program: stages, commands, options, links, code; and no file names a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cli.runner import run
from markdown_blocks import (
    blocks,
    check_command,
    forge_anchor,
    headings,
    links,
    site_anchor,
    wsss_commands,
)
from stages import STAGES, errors
from wsss_cli.app import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "tools"))
import command_reference  # noqa: E402
import site_pages  # noqa: E402

PRESENT = [stage for stage in STAGES if any((ROOT / "stages" / stage.folder).glob("[a-z]*.py"))]
ARTEFACTS = {"index", "features", "clusters", "cooc", "cams", "masks", "net"}
# The names are put together, so that this file does not find itself.
MACHINE_PATHS = re.compile(r"(?<![\w./}$*)>-])/(?:" + "|".join(("work", "home", "root")) + r")(?=[/\s\"'`),;]|$)")
REGISTRIES = re.compile("|".join((r"\bpypi" + r"\.org", "pythonhosted" + r"\.org", r"download\.pytorch" + r"\.org",
                                  r"anaconda" + r"\.org", r"registry\.npm" + "js", "--(?:extra-)?index" + "-url",
                                  r"//[\w.-]*(?:artifactory|nexus)" + r"[\w.-]*\.")))
# What the root command answers itself; tests/cli/test_help.py runs it.
ANSWERED_BY_ROOT = {"help", "--version", "--install-completion", "--show-completion"}


def project_files() -> list[Path]:
    """Return the tracked files and those that a commit would add."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return sorted(path for path in paths if path.is_file())


def pages() -> list[Path]:
    """Return all Markdown files of the project."""
    return [path for path in project_files() if path.suffix == ".md"]


def text_of(path: Path) -> str:
    """Return the text of a file; empty for a binary file."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


def broken_links(path: Path, text: str) -> list[str]:
    """Return the link targets in `text` whose file does not exist, or whose anchor differs between forge and site."""
    broken = []
    for target in links(text):
        file, _, anchor = target.partition("#")
        place = path.parent / file if file else path
        if file and not place.exists():
            broken.append(target)
        elif anchor:
            titles = headings(text if place == path else text_of(place))
            if anchor not in {forge_anchor(title) for title in titles} & {site_anchor(title) for title in titles}:
                broken.append(target)
    return broken


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    """Return `file:line: text` of all lines in the project's text files that match."""
    return [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}" for path in project_files()
            for number, line in enumerate(text_of(path).splitlines(), 1) if pattern.search(line)]


def methods_in(help_text: str) -> list[str]:
    """Return the names listed under `Commands` in a help text, with or without a frame of rich."""
    _, _, listed = help_text.partition("Commands")
    return re.findall(r"^[│|\s]{1,4}([a-z][a-z0-9-]*)(?:\s{2,}|\s*$)", listed, flags=re.MULTILINE)


def artefacts(text: str) -> set[str]:
    """Return the kinds of artefact that a row of the table of stages names."""
    return set(re.findall(r"[a-z]+", text)) & ARTEFACTS


def table_rows(page: str, columns: int) -> list[list[str]]:
    """Return the cells of all table rows of a page in docs/ that have so many columns."""
    lines = text_of(DOCS / page).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return [row for row in rows if len(row) == columns]


@pytest.mark.parametrize("stage", PRESENT, ids=lambda stage: stage.name)
def test_help_has_an_example_and_names_what_is_read_and_written(stage):
    overview = run(stage.name, "--help")
    assert overview.code == 0, overview.err
    methods = methods_in(overview.out)
    for words in [(stage.name, method) for method in methods] or [(stage.name,)]:
        answer = run(*words, "--help")
        assert answer.code == 0, answer.err
        assert "Example" in answer.out, f"wsss {' '.join(words)} --help has no example"
        named = set(re.findall(r"[a-z]+", answer.out.lower()))
        named |= {"net"} if named & {"network", "clip"} else set()
        missing = artefacts(stage.reads) | artefacts(stage.writes)
        assert missing <= named, f"wsss {' '.join(words)} --help does not name {sorted(missing - named)}"


def test_help_lists_the_stages_in_the_order_of_the_work():
    answer = run("--help")
    assert answer.code == 0, answer.err
    listed = [name for name in methods_in(answer.out) if name in {stage.name for stage in PRESENT}]
    assert listed == [stage.name for stage in PRESENT]


def test_the_reference_equals_the_program():
    assert command_reference.stale_pages() == [], "run make docs-reference"


def test_the_reference_has_every_command():
    overview = text_of(DOCS / "reference" / "README.md")
    names = [name for stage, command in command_reference.stage_commands().items()
             for name, _ in command_reference.leaf_commands(command, f"wsss {stage}")]
    assert len(names) >= len(STAGES)
    assert [name for name in names if f"[`{name}`]" not in overview] == []


def test_the_table_of_stages():
    outputs = {"map": "one per shard", "reduce": "one"}
    rows = [row for row in table_rows("how-it-works.md", 5) if row[0].startswith("[`")]
    assert rows == [[f"[`{stage.name}`](reference/wsss-{stage.name}.md)", stage.description, stage.reads, stage.writes,
                     outputs[stage.kind]] for stage in STAGES]


def test_every_exit_code_is_explained():
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    explained = {row[0] for row in table_rows("troubleshooting.md", 3)}
    assert {str(code) for code in codes | {0, 130, 141}} <= explained


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= 110


def test_every_page_is_listed_for_the_forge_and_for_the_site():
    contents, site = text_of(DOCS / "README.md"), text_of(ROOT / "mkdocs.yml")
    names = [path.name for path in DOCS.glob("*.md") if path.name != "README.md"]
    assert [name for name in names if f"({name})" not in contents] == []
    reference = [f"reference/{path.name}" for path in (DOCS / "reference").glob("*.md")]
    outside = [*site_pages.OUTSIDE_PAGES.values(), *site_pages.example_pages().values()]
    assert [name for name in [*names, *reference, *outside]
            if not re.search(rf"[ :]{re.escape(name)}$", site, flags=re.MULTILINE)] == []


def test_links_and_anchors_resolve():
    broken = [f"{page.relative_to(ROOT)}: {target}" for page in pages() for target in broken_links(page, text_of(page))]
    assert not broken, "\n" + "\n".join(broken)


def test_paths_named_in_the_pages_exist():
    """In development.md every path in a code span; a pattern such as layout_*.py needs one file."""
    named = re.findall(r"`((?:stages|tests|wsss_cli|docs|examples)/[\w./*-]+)`", text_of(DOCS / "development.md"))
    assert len(named) > 20
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_code_blocks_can_be_parsed(page):
    root = typer.main.get_command(app)
    commands = [words for words in wsss_commands(text_of(page)) if words and words[0] not in ANSWERED_BY_ROOT]
    wrong = [f"wsss {' '.join(words)}: {problem}" for words in commands if (problem := check_command(words, root))]
    assert not wrong, "\n" + "\n".join(wrong)


def test_python_blocks_can_be_parsed():
    """Those of the Python page are run by tests/api/test_python_page.py."""
    for page in DOCS.glob("*.md"):
        for block in blocks(text_of(page)):
            if block.language == "python":
                ast.parse(block.text, f"{page.name}: {block.text[:60]}")


def test_messages_in_the_troubleshooting_page_exist():
    """What stands in italics in a heading or the first cell of a table is a part of a message in the code."""
    source = "".join(text_of(path) for folder in ("stages", "wsss_cli") for path in (ROOT / folder).rglob("*.py"))
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)
    quoted = re.findall(r"^\| \*([^*|]+)\* \|", text_of(DOCS / "troubleshooting.md"), flags=re.MULTILINE)
    assert len(quoted) >= 10
    parts = {part.strip() for message in quoted for part in re.split("…", message) if part.strip()}
    assert sorted(part for part in parts if part not in source) == []


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRIES], ids=["machine paths", "registry hosts"])
def test_no_file_names_a_machine(pattern):
    lines = lines_matching(pattern)
    assert not lines, "\n" + "\n".join(lines)


def test_links_of_the_site():
    """Pages outside docs/ become pages of the site, files become copies, folders lose their link."""
    def rewrite(text: str, source: str) -> str:
        return site_pages.rewrite_links(text, source, site_pages.site_path(source))

    assert rewrite("[a](docs/python.md#x) ![b](docs/a/b.png)", "README.md") == "[a](python.md#x) ![b](a/b.png)"
    assert rewrite("[a](../README.md#methods) `[b](c)`", "docs/python.md") == "[a](index.md#methods) `[b](c)`"
    assert rewrite("[a](README.md)", "docs/python.md") == "[a](index.md)"
    assert rewrite("[a](../../tests/waiting.py)", "stages/shards/FORMAT.md") == "[a](source/tests/waiting.py.txt)"
    assert rewrite("[a](../examples/recipes) [b](https://x.y)", "docs/python.md") == "a [b](https://x.y)"
    assert rewrite("[a](../README.md#x)", "docs/reference/wsss-cams.md") == "[a](../index.md#x)"


def test_the_checks_catch_what_they_are_for(tmp_path):
    (tmp_path / "there.md").write_text("# Part & more\n\n## Part\n")
    text = ("# Here\n[a](there.md#part) [b](gone.md) [c](https://example.org/x) [d](#here) ![e](<gone.png>) "
            "`[f](code.md)` [g](there.md#lost) [h](#lost) [i](there.md#part-more)")
    assert broken_links(tmp_path / "page.md", text) == ["gone.md", "gone.png", "there.md#lost", "#lost",
                                                        "there.md#part-more"]
    for line in ("see /{}/x", "'/{}/x'", "cd /{}", "x=/{}/y"):
        assert all(MACHINE_PATHS.search(line.format(top)) for top in ("work", "home", "root"))
    for line in ("a/{}/x", "./{}/x", "{{}}/{}/x", "/{}ing/x", "items/{}"):
        assert not any(MACHINE_PATHS.search(line.format(top)) for top in ("work", "home", "root"))
    assert REGISTRIES.search("https://py" + "pi.org/simple") and REGISTRIES.search("pip --index" + "-url x")
    framed = "╭─ Commands ───╮\n│ cnn      maps  │\n│ clip-es        │\n╰──╯"
    assert methods_in(framed) == ["cnn", "clip-es"]
    assert methods_in("Usage\n\nCommands:\n  cnn      maps of a net\n  clip-es  maps of CLIP\n") == ["cnn", "clip-es"]


def test_commands_are_found_and_checked():
    page = ("Text\n\n    wsss cams cnn a.h5 --net n -o o |\n      wsss refine crf - -o c > log  # why\n\n"
            "```console\n$ wsss info a.h5\nwsss printed this\n```\n\n```python\nwsss = 1\n```\n"
            "```sh\nX=1 torchrun -m wsss_cli train-cls cam a.h5 \\\n  -o n.safetensors\n```\n")
    assert wsss_commands(page) == [
        ["info", "a.h5"], ["train-cls", "cam", "a.h5", "-o", "n.safetensors"],
        ["cams", "cnn", "a.h5", "--net", "n", "-o", "o"], ["refine", "crf", "-", "-o", "c"]]
    root = typer.main.get_command(app)
    assert check_command(["cams", "cnn", "a.h5", "--net", "n", "-o", "o"], root) == ""
    assert check_command(["cams", "cnn", "--net", "n", "..."], root) == ""
    for line, problem in (("cams nn a.h5", "no command"), ("cams cnn a.h5 --nets n", "no option --nets"),
                          ("cams cnn a.h5 --net n", "output"), ("pseudo a -o b --threads x", "threads"),
                          ("cams cnn a --net n -o o --precision fp31", "is not one of")):
        assert problem in check_command(line.split(), root), line
