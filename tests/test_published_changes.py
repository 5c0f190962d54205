"""The comparison with the published settings detects every single change: in a Makefile, a recipe or a default.

Each value is changed in a copy of the examples, and the plan must then differ from the table.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recipe_plans import EXAMPLES, Call, Step, plan_targets, resolve_call
from stages.errors import WsssError
from test_published import PAPERS, RECIPES, collect_published_steps, list_targets, read_published_recipe, resolve_recipe
from wsss_cli.recipe import read_section

FILES = {"csd": ("published.mk", "Makefile", "figures.mk"), "clip-es": ("Makefile", "figures.mk"),
         "mixing": ("published.mk", "Makefile", "figures.mk"), "image-text": ("Makefile",)}
# Lines without published settings: dependencies, scripts, the use of a row by people, and the trial of image-text.
NOT_PUBLISHED = re.compile(r"LABELS|CLASS_NAMES|SEEDS|COUNT|\.py|--title |--templates \$|WORST|PROMPTS_|"
                           r"SegmentationClass|grep|printf|awk|^\s*seeds|nproc_per_node|print-directory|"
                           r"^by\.|^O :=|^OUT|^PYTHON|^WSSS")
TRIAL = re.compile(r"DATA|^OTHER|^PLACE|MASKS\.|TRIAL|trial|STEPS|--text-labels|voc20|context59")
VARIABLE = re.compile(r"^(?P<name>[\w.-]+) *(?:\?|:)?= (?P<value>[^$\s][^$]*?)\s*$")
OPTION = re.compile(r"(?<=\s)--(?P<name>[a-z][a-z-]*)(?P<value> [^\s$\\-][^\s$\\]*)?(?=[\s\\)]|$)")
NUMBER = re.compile(r"(?<![\w./:-])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w./:-])")


class Change(NamedTuple):
    """A change of a line of a file: its position, and the new text."""

    line: int
    start: int
    end: int
    text: str


def change_number(text: str) -> str:
    """Return a different number of the same kind that is within the range of most settings."""
    if re.fullmatch(r"\d+", text):
        return str(int(text) // 2 if int(text) > 1 else 1 - int(text))
    return repr(float(text) / 2) if float(text) else "0.5"


def list_changes(paper: str, lines: list[str]) -> Iterator[Change]:
    """Yield one change for each value in the lines of a Makefile: numbers, words after an option, and switches."""
    for index, line in enumerate(lines):
        if line.startswith("#") or NOT_PUBLISHED.search(line) or (paper == "image-text" and TRIAL.search(line)):
            continue
        for match in NUMBER.finditer(line) if "--" in line or VARIABLE.match(line) else ():
            yield Change(index, *match.span(), change_number(match[0]))
        for match in OPTION.finditer(line):
            value = match["value"]
            if value is None and match["name"] not in ("force", "config", "labels", "class-names"):
                name = match["name"]
                yield Change(index, *match.span(), f"--{name[3:]}" if name.startswith("no-") else f"--no-{name}")
            elif value and not re.fullmatch(r"[\d.,e-]+", value[1:]):
                yield Change(index, *match.span("value"), f"{value}x")
        match = VARIABLE.match(line)
        if match and "--" not in line and not NUMBER.search(match["value"]):
            yield Change(index, *match.span("value"), f"{match['value']}x")


@functools.cache
def plan_all_targets(paper: str) -> tuple[dict[str, Call], dict[str, Step]]:
    """Return the calls that all targets of a paper plan, and the published steps."""
    targets = [target for target, _ in list_targets(paper)]
    outputs = [output for _, outputs in list_targets(paper) for output in outputs]
    return plan_targets(EXAMPLES / paper, targets), collect_published_steps(paper, outputs)


def is_detected(paper: str, folder: Path) -> bool:
    """Return whether the plan of a copy of the examples is rejected, or differs from the published steps."""
    before, published = plan_all_targets(paper)
    try:
        calls = plan_targets(folder / paper, [target for target, _ in list_targets(paper)])
    except (AssertionError, ValueError):
        return True
    if set(calls) != set(published):
        return True
    for output, call in calls.items():
        words = tuple(word.replace(str(folder), str(EXAMPLES)) for word in call.words)
        call = dataclasses.replace(call, words=words)
        if call == before[output]:
            continue
        try:
            if resolve_call(call).compare(published[output]):
                return True
        except (AssertionError, WsssError):
            return True
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the examples."""
    copy = tmp_path_factory.mktemp("copy") / "examples"
    shutil.copytree(EXAMPLES, copy, ignore=shutil.ignore_patterns("out"))
    return copy


@pytest.mark.parametrize(("paper", "file"), [(paper, file) for paper in PAPERS for file in FILES[paper]])
def test_detects_every_change_of_a_makefile(folder, paper, file):
    assert not is_detected(paper, folder)
    path = folder / paper / file
    lines = path.read_text(encoding="utf-8").splitlines()
    undetected, num_changes = [], 0
    for change in list_changes(paper, lines):
        line = lines[change.line]
        changed = line[:change.start] + change.text + line[change.end:]
        path.write_text("\n".join([*lines[:change.line], changed, *lines[change.line + 1:]]) + "\n", encoding="utf-8")
        num_changes += 1
        if not is_detected(paper, folder):
            undetected.append(f"{file}:{change.line + 1}: {changed}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert num_changes >= 5
    assert not undetected, "\n" + "\n".join(undetected)


def change_value(value: Any) -> Any:
    """Return a different value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return type(value)(float(change_number(repr(value))))
    if isinstance(value, list):
        return [change_value(value[0]), *value[1:]] if value else [0.5]
    return f"{value}x"


def write_recipe(name: str, settings: dict[str, Any]) -> str:
    """Return a recipe with one section."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join([f"[{name.replace(' ', '.')}]", *lines]) + "\n"


@pytest.mark.parametrize(("file", "name"), RECIPES, ids=[f"{file} {name}" for file, name in RECIPES])
def test_detects_every_change_of_a_recipe(tmp_path, file, name):
    settings = read_section(str(EXAMPLES / "recipes" / file), name, set(read_published_recipe(file, name).settings))
    assert settings
    undetected = []
    for index, (key, value) in enumerate(settings.items()):
        path = tmp_path / f"{index}.toml"  # a new path, because resolved calls are cached by path
        path.write_text(write_recipe(name, {**settings, key: change_value(value)}), encoding="utf-8")
        try:
            lines = resolve_recipe(path, name).compare(read_published_recipe(file, name))
        except (AssertionError, WsssError):
            continue
        undetected += [] if [line for line in lines if line.startswith(f"{key}:")] else [f"{key} = {value!r}"]
    assert not undetected


@pytest.mark.parametrize("paper", PAPERS)
def test_compares_every_setting_of_every_step(paper):
    """A step with one changed or one missing setting, also a default, differs in exactly that setting."""
    calls, published = plan_all_targets(paper)
    assert set(calls) == set(published)
    for step in published.values():
        for name, value in step.settings.items():
            others = {key: value for key, value in step.settings.items() if key != name}
            for settings in ({**others, name: change_value(value)}, others):
                lines = Step(step.command, settings, step.inputs).compare(step)
                assert len(lines) == 1 and lines[0].startswith(f"{name}: ")
        assert Step(step.command, step.settings, f"{step.inputs} processes=2").compare(step)
