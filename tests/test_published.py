"""Every target of the papers' Makefiles and every recipe has exactly the published settings.

tests/published has a table for each paper. [settings.NAME] are the settings of a command, each with its source; [steps]
gives the settings and inputs of each output; [targets] the final outputs of each target. The plan of a target must
consist of exactly these steps.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from recipe_plans import EXAMPLES, OUT, VARIABLES, Call, Step, plan_targets, resolve_call

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = Path(__file__).resolve().parent / "published"
PAPERS = ("csd", "clip-es", "mixing", "image-text")
SOURCE = re.compile(r"(paper|code|ours): \S.{3,}")


@functools.cache
def load_table(name: str) -> dict[str, Any]:
    """Return a table of tests/published; settings that it lacks come from methods.toml."""
    contents = tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))
    if name != "methods":
        contents["settings"] = {**load_table("methods")["settings"], **contents.get("settings", {})}
    return contents


@functools.cache
def read_settings(paper: str, name: str) -> dict[str, Any]:
    """Return the rows of [settings.NAME] and those inherited by `like`: `command`, and [value, source] by setting."""
    rows = load_table(paper)["settings"][name]
    inherited: dict[str, Any] = {}
    for other in _list_inherited(rows):
        inherited |= read_settings(paper, other)
    return inherited | {key: value for key, value in rows.items() if key != "like"}


def fill_names(text: Any, names: dict[str, str]) -> Any:
    """Replace {name} in a text, or in the texts of a list; a text that is only a {name} may become a number."""
    if isinstance(text, list):
        return [fill_names(part, names) for part in text]
    if not isinstance(text, str):
        return text
    placeholder = re.fullmatch(r"\{(\w+)\}", text)
    if placeholder and re.fullmatch(r"[\d.]+", names[placeholder[1]]):
        return float(names[placeholder[1]])
    return re.sub(r"\{(\w+)\}", lambda match: names[match[1]], text)


@functools.cache
def _compile_patterns(paper: str) -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Return the regular expression of each output in [steps], and its row."""
    return [(_compile_pattern(pattern, row), row) for pattern, row in load_table(paper)["steps"].items()]


def _compile_pattern(pattern: str, row: dict[str, Any]) -> re.Pattern[str]:
    """Return the regular expression of a pattern, whose {name} matches anything, or what the row lists for it."""
    def build_group(match: re.Match[str]) -> str:
        inner = "|".join(map(re.escape, row[match[1]])) if match[1] in row else "[^/]*?"
        return f"(?P<{match[1]}>{inner})"
    return re.compile(re.sub(r"\\\{(\w+)\\\}", build_group, re.escape(pattern)))


@functools.cache
def find_published_step(paper: str, output: str) -> Step | None:
    """Return the step that writes `output`, or None if no step does, as for files of the user."""
    for row, names in filter(None, (_match_step(output, step) for step in _compile_patterns(paper))):
        rows = read_settings(paper, fill_names(row["settings"], names)) | row.get("with", {})
        values = {name: fill_names(value[0], names) for name, value in rows.items() if name != "command"}
        return Step(rows["command"], values, fill_names(row["inputs"], names))
    return None


def collect_published_steps(paper: str, outputs: Iterable[str]) -> dict[str, Step]:
    """Return the steps that lead to `outputs`, by output."""
    steps: dict[str, Step] = {}
    remaining = list(outputs)
    while remaining:
        output = remaining.pop()
        step = None if output in steps else find_published_step(paper, output)
        if step:
            steps[output] = step
            remaining += [word.partition("=")[2] or word for word in step.inputs.split()]
    return steps


def find_differences(paper: str, outputs: list[str], calls: dict[str, Call]) -> list[str]:
    """Return a line for each difference between the planned calls and the published steps."""
    published = collect_published_steps(paper, outputs)
    lines = [f"{output}: not planned" for output in published if output not in calls]
    for output, call in calls.items():
        if output not in published:
            lines.append(f"{output}: planned, but no published step")
            continue
        lines += [f"{output}: {line}" for line in resolve_call(call).compare(published[output])]
    return lines


def list_targets(paper: str) -> list[tuple[str, list[str]]]:
    """Return the targets of a paper with their final outputs."""
    return list(load_table(paper)["targets"].items())


TARGETS = [(paper, target, outputs) for paper in PAPERS for target, outputs in list_targets(paper)]


@pytest.mark.parametrize(("paper", "target", "outputs"), TARGETS,
                         ids=[f"{paper} {target}" for paper, target, _ in TARGETS])
def test_target_has_the_published_settings(paper, target, outputs):
    calls = plan_targets(EXAMPLES / paper, [target], *load_table(paper).get("variables", {}).get(target, []))
    lines = find_differences(paper, outputs, calls)
    assert not lines, "\n" + "\n".join(lines)


@pytest.mark.parametrize(("index", "count"), [("learn", 82081), ("val", 40137)])
def test_coco_lists_only_images_with_a_class(index, count):
    """CLIP-ES, section 4.1. A script selects the images before they are indexed."""
    done = subprocess.run(["make", "-n", "-C", EXAMPLES / "clip-es", *VARIABLES, "table5"],
                          capture_output=True, text=True, check=True, timeout=60)
    assert f"--count {count} -o {OUT}/coco/{index}.json &&" in done.stdout


def resolve_recipe(path: Path, name: str) -> Step:
    """Return the settings of the command `name` with a recipe, and defaults for the others."""
    clip_options = ("--clip", "ViT-B-16", "--weights", "openai") if name == "train-text code" else ()
    input_options = {"cams": "--net", "refine": "--net", "features": "--net", "segment": "--net",
                     "train-seg": "--masks", "train-aff": "--cams", "train-cls subcategory": "--clusters"}
    required_input = next(((option, "x") for start, option in input_options.items() if name.startswith(start)), ())
    required_input = () if name == "refine crf" else required_input
    words = (*name.split(), "x", "-o", "out", *required_input, *clip_options, "--config", str(path))
    return dataclasses.replace(resolve_call(Call(words, "out")), inputs="")


def read_published_recipe(file: str, name: str) -> Step:
    """Return the published settings of a recipe's command."""
    row = load_table("recipes")[file]
    rows = read_settings(row["paper"], row[name])
    return Step(rows["command"], {key: value[0] for key, value in rows.items() if key != "command"}, "")


RECIPES = [(file, name) for file, row in load_table("recipes").items() if isinstance(row, dict) and "paper" in row
           for name in row if name != "paper"]


@pytest.mark.parametrize(("file", "name"), RECIPES, ids=[f"{file} {name}" for file, name in RECIPES])
def test_recipe_has_the_published_settings(file, name):
    lines = resolve_recipe(EXAMPLES / "recipes" / file, name).compare(read_published_recipe(file, name))
    assert not lines, "\n" + "\n".join(lines)


def test_every_recipe_and_section_is_in_the_table():
    sections = set()
    for path in (EXAMPLES / "recipes").glob("*.toml"):
        for stage, values in tomllib.loads(path.read_text(encoding="utf-8")).items():
            methods = [method for method, value in values.items() if isinstance(value, dict)]
            sections |= {(path.name, f"{stage} {method}") for method in methods} or {(path.name, stage)}
    assert sections == set(RECIPES)


def list_documented_targets(paper: str) -> list[str]:
    """Return the documented targets of a paper's Makefiles, with patterns such as table1-% unchanged."""
    files = [path for path in (EXAMPLES / paper / "Makefile", EXAMPLES / paper / "figures.mk") if path.exists()]
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    return [line.split(":")[0] for line in lines if re.match(r"[a-zA-Z0-9.%-]+:.* ## ", line)]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_target_is_in_the_table(paper):
    table = {**load_table(paper)["targets"], **load_table(paper)["not-published"]}
    names = list_documented_targets(paper)
    missing = [name for name in names
               if not any(re.fullmatch(re.escape(name).replace("%", ".+"), target) for target in table)]
    assert names and not missing


@pytest.mark.parametrize("name", ["methods", *PAPERS])
def test_every_published_setting_has_its_source(name):
    rows = [(f"[settings.{title}] {key}", value) for title, settings in load_table(name)["settings"].items()
            for key, value in settings.items() if key not in ("command", "like")]
    rows += [(f"[steps] {output} {key}", value) for output, row in load_table(name).get("steps", {}).items()
             for key, value in row.get("with", {}).items()]
    wrong = [location for location, value in rows
             if not (isinstance(value, list) and len(value) == 2 and SOURCE.fullmatch(str(value[1])))]
    assert rows and not wrong


@pytest.mark.parametrize("name", ["methods", *PAPERS])
def test_every_row_of_a_table_is_used(name):
    """A row with which nothing is compared would look like a check without being one."""
    unused = set(load_table(name)["settings"]) - collect_used_settings()
    assert not unused


@functools.cache
def collect_used_settings() -> frozenset[str]:
    """Return the names of [settings.NAME] with which a step or recipe is compared, including inherited ones."""
    used = {load_table("recipes")[file][name] for file, name in RECIPES}
    for paper in PAPERS:
        for output in collect_published_steps(paper, [name for _, outputs in list_targets(paper) for name in outputs]):
            row, names = next(filter(None, (_match_step(output, step) for step in _compile_patterns(paper))))
            used.add(fill_names(row["settings"], names))
    everything = {title: rows for paper in PAPERS for title, rows in load_table(paper)["settings"].items()}
    while like := {other for title in used for other in _list_inherited(everything[title])} - used:
        used |= like
    return frozenset(used)


def _match_step(output: str,
                step: tuple[re.Pattern[str], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, str]] | None:
    match = step[0].fullmatch(output)
    return (step[1], match.groupdict()) if match else None


def _list_inherited(rows: dict[str, Any]) -> list[str]:
    like = rows.get("like", [])
    return [like] if isinstance(like, str) else like
