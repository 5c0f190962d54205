"""The comparison with the published settings fails when any single one is changed: in a Makefile, in a recipe, or by a
default. Each is changed by itself, in a copy of the examples, and the plan has to differ from the table."""

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

from recipe_plans import EXAMPLES, Call, Step, plan, resolve
from stages.errors import WsssError
from test_published import PAPERS, RECIPES, collect_published_steps, list_targets, read_published_recipe, resolve_recipe
from wsss_cli.recipe import section

FILES = {"csd": ("published.mk", "Makefile", "figures.mk"), "clip-es": ("Makefile", "figures.mk"),
         "mixing": ("published.mk", "Makefile", "figures.mk"), "image-text": ("Makefile",)}
# Lines that no published row runs: dependencies, scripts, what people do with a row, and the trial of image-text.
NOT_PUBLISHED = re.compile(r"LABELS|CLASS_NAMES|SEEDS|COUNT|\.py|--title |--templates \$|WORST|PROMPTS_|"
                           r"SegmentationClass|grep|printf|awk|^\s*seeds|nproc_per_node|print-directory|"
                           r"^by\.|^O :=|^OUT|^PYTHON|^WSSS")
TRIAL = re.compile(r"DATA|^OTHER|^PLACE|MASKS\.|TRIAL|trial|STEPS|--text-labels|voc20|context59")
VARIABLE = re.compile(r"^(?P<name>[\w.-]+) *(?:\?|:)?= (?P<value>[^$\s][^$]*?)\s*$")
OPTION = re.compile(r"(?<=\s)--(?P<name>[a-z][a-z-]*)(?P<value> [^\s$\\-][^\s$\\]*)?(?=[\s\\)]|$)")
NUMBER = re.compile(r"(?<![\w./:-])\d+(?:\.\d+)?(?:e-?\d+)?(?![\w./:-])")


class Change(NamedTuple):
    """A place in a line of a file, and what stands there instead."""

    line: int
    start: int
    end: int
    text: str


def change_number(text: str) -> str:
    """Return another number of the same kind, in the range of most settings."""
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
    return plan(EXAMPLES / paper, targets), collect_published_steps(paper, outputs)


def is_noticed(paper: str, folder: Path) -> bool:
    """Say whether the plan of a copy of the examples differs from the published steps, or is refused."""
    before, published = plan_all_targets(paper)
    try:
        calls = plan(folder / paper, [target for target, _ in list_targets(paper)])
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
            if resolve(call).compare(published[output]):
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
def test_every_change_of_a_makefile_is_noticed(folder, paper, file):
    assert not is_noticed(paper, folder)
    path = folder / paper / file
    lines = path.read_text(encoding="utf-8").splitlines()
    unnoticed, count = [], 0
    for change in list_changes(paper, lines):
        line = lines[change.line]
        changed = line[:change.start] + change.text + line[change.end:]
        path.write_text("\n".join([*lines[:change.line], changed, *lines[change.line + 1:]]) + "\n", encoding="utf-8")
        count += 1
        if not is_noticed(paper, folder):
            unnoticed.append(f"{file}:{change.line + 1}: {changed}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert count >= 5
    assert not unnoticed, "\n" + "\n".join(unnoticed)


def change_value(value: Any) -> Any:
    """Return another value of the same kind."""
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
def test_every_change_of_a_recipe_is_noticed(tmp_path, file, name):
    settings = section(str(EXAMPLES / "recipes" / file), name, set(read_published_recipe(file, name).settings))
    assert settings
    unnoticed = []
    for index, (key, value) in enumerate(settings.items()):
        path = tmp_path / f"{index}.toml"  # a path of its own, since calls are resolved once
        path.write_text(write_recipe(name, {**settings, key: change_value(value)}), encoding="utf-8")
        try:
            lines = resolve_recipe(path, name).compare(read_published_recipe(file, name))
        except (AssertionError, WsssError):
            continue
        unnoticed += [] if [line for line in lines if line.startswith(f"{key}:")] else [f"{key} = {value!r}"]
    assert not unnoticed


@pytest.mark.parametrize("paper", PAPERS)
def test_every_setting_of_every_step_is_compared(paper):
    """Defaults too: a step with one other value, or one more or less, differs in that alone."""
    calls, published = plan_all_targets(paper)
    assert set(calls) == set(published)
    for step in published.values():
        for name, value in step.settings.items():
            others = {key: kept for key, kept in step.settings.items() if key != name}
            for settings in ({**others, name: change_value(value)}, others):
                lines = Step(step.command, settings, step.inputs).compare(step)
                assert len(lines) == 1 and lines[0].startswith(f"{name}: ")
        assert Step(step.command, step.settings, f"{step.inputs} processes=2").compare(step)
