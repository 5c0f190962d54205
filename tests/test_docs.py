"""The documentation keeps up: every stage, every command's help, every link; and nothing names a machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from cli.runner import run
from stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
PRESENT = [stage for stage in STAGES if any((ROOT / "stages" / stage.folder).glob("[a-z]*.py"))]
ARTEFACTS = {"index", "features", "clusters", "cooc", "cams", "masks", "net"}
# The names are put together, so that this file does not find itself.
MACHINE_PATHS = re.compile(r"(?<![\w./}$*)>-])/(?:" + "|".join(("work", "home", "root")) + r")(?=[/\s\"'`),;]|$)")
REGISTRIES = re.compile("|".join((r"\bpypi" + r"\.org", "pythonhosted" + r"\.org", r"download\.pytorch" + r"\.org",
                                  r"anaconda" + r"\.org", r"registry\.npm" + "js", "--(?:extra-)?index" + "-url",
                                  r"//[\w.-]*(?:artifactory|nexus)" + r"[\w.-]*\.")))
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")


def project_files() -> list[Path]:
    """Return the tracked files and those that a commit would add."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return sorted(path for path in paths if path.is_file())


def text_of(path: Path) -> str:
    """Return a file's text; empty for what is no text."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


def without_code(text: str) -> str:
    """Return Markdown without its code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def broken_links(path: Path, text: str) -> list[str]:
    """Return the relative link targets in `text` that are not there, seen from `path`."""
    targets = (target for target in LINK.findall(without_code(text)) if not re.match(r"[a-z]+:|#", target))
    return [target for target in targets if not (path.parent / target.split("#")[0]).exists()]


def found_lines(pattern: re.Pattern[str]) -> list[str]:
    """Return `file:line: text` of all lines in the project's text files that match."""
    return [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}" for path in project_files()
            for number, line in enumerate(text_of(path).splitlines(), 1) if pattern.search(line)]


def methods_in(help_text: str) -> list[str]:
    """Return the names listed under `Commands` in a help text, with or without a frame of rich."""
    _, _, listed = help_text.partition("Commands")
    return re.findall(r"^[│|\s]{1,4}([a-z][a-z0-9-]*)(?:\s{2,}|\s*$)", listed, flags=re.MULTILINE)


def artefacts(told: str) -> set[str]:
    """Return the kinds of artefact that a row of the table names."""
    return set(re.findall(r"[a-z]+", told)) & ARTEFACTS


@pytest.mark.parametrize("stage", PRESENT, ids=lambda stage: stage.name)
def test_readme_names_the_stage(stage):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\bwsss {stage.name}\b|`{stage.name}[ `]", readme), f"README.md does not mention {stage.name}"


@pytest.mark.parametrize("stage", PRESENT, ids=lambda stage: stage.name)
def test_help_leads_with_an_example_and_names_what_is_read_and_written(stage):
    overview = run(stage.name, "--help")
    assert overview.code == 0, overview.err
    methods = methods_in(overview.out)
    for words in [(stage.name, method) for method in methods] or [(stage.name,)]:
        told = run(*words, "--help")
        assert told.code == 0, told.err
        assert "Example" in told.out, f"wsss {' '.join(words)} --help has no example"
        named = set(re.findall(r"[a-z]+", told.out.lower()))
        missing = artefacts(stage.reads) | artefacts(stage.writes)
        assert missing <= named, f"wsss {' '.join(words)} --help does not name {sorted(missing - named)}"


def test_help_lists_the_stages_in_the_order_of_the_work():
    told = run("--help")
    assert told.code == 0, told.err
    listed = [name for name in methods_in(told.out) if name in {stage.name for stage in PRESENT}]
    assert listed == [stage.name for stage in PRESENT]


def test_relative_links_resolve():
    pages = [path for path in project_files() if path.suffix == ".md"]
    broken = [f"{page.relative_to(ROOT)}: {target}" for page in pages for target in broken_links(page, text_of(page))]
    assert not broken, "\n" + "\n".join(broken)


@pytest.mark.parametrize("pattern", [MACHINE_PATHS, REGISTRIES], ids=["machine paths", "registry hosts"])
def test_no_file_names_a_machine(pattern):
    found = found_lines(pattern)
    assert not found, "\n" + "\n".join(found)


def test_the_checks_catch_what_they_are_for(tmp_path):
    (tmp_path / "there.md").write_text("")
    text = "[a](there.md#part) [b](gone.md) [c](https://example.org/x) [d](#here) ![e](<gone.png>) `[f](code.md)`"
    assert broken_links(tmp_path / "page.md", text) == ["gone.md", "gone.png"]
    for line in ("see /{}/x", "'/{}/x'", "cd /{}", "x=/{}/y"):
        assert all(MACHINE_PATHS.search(line.format(top)) for top in ("work", "home", "root"))
    for line in ("a/{}/x", "./{}/x", "{{}}/{}/x", "/{}ing/x", "items/{}"):
        assert not any(MACHINE_PATHS.search(line.format(top)) for top in ("work", "home", "root"))
    assert REGISTRIES.search("https://py" + "pi.org/simple") and REGISTRIES.search("pip --index" + "-url x")
    framed = "╭─ Commands ───╮\n│ cnn      maps  │\n│ clip-es        │\n╰──╯"
    assert methods_in(framed) == ["cnn", "clip-es"]
    assert methods_in("Usage\n\nCommands:\n  cnn      maps of a net\n  clip-es  maps of CLIP\n") == ["cnn", "clip-es"]
