"""Every target of the papers' Makefiles, and every recipe, runs with the published settings: all of them.

tests/published has a table of them for each paper. [settings.NAME] are those of one command, each with its source;
[steps] says for each output of a target which settings make it, and of what; [targets] what a target ends with. A
target's plan has to be these steps and no other.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe_plans import EXAMPLES, Call, Step, plan, resolve
from wsss_cli.recipe import section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLES = Path(__file__).resolve().parent / "published"
PAPERS = ("csd", "clip-es", "mixing", "image-text")
SOURCE = re.compile(r"(paper|code|ours): \S.{3,}")


@functools.cache
def table(name: str) -> dict[str, Any]:
    """Return a table of tests/published, with the settings of methods.toml below its own."""
    found = tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))
    if name != "methods":
        found["settings"] = {**table("methods")["settings"], **found.get("settings", {})}
    return found


def described(paper: str, name: str) -> dict[str, Any]:
    """Return the rows of [settings.NAME], those that it is like included: `command`, and [value, source] by setting."""
    rows = table(paper)["settings"][name]
    like = rows.get("like", [])
    found: dict[str, Any] = {}
    for other in [like] if isinstance(like, str) else like:
        found |= described(paper, other)
    return found | {key: value for key, value in rows.items() if key != "like"}


def fill(text: Any, names: dict[str, str]) -> Any:
    """Return a text, or the texts of a list, with {name} replaced; a number that is one as a whole becomes a number."""
    if isinstance(text, list):
        return [fill(part, names) for part in text]
    if not isinstance(text, str):
        return text
    whole = re.fullmatch(r"\{(\w+)\}", text)
    if whole and re.fullmatch(r"[\d.]+", names[whole[1]]):
        return float(names[whole[1]])
    return re.sub(r"\{(\w+)\}", lambda match: names[match[1]], text)


def _expression(pattern: str, row: dict[str, Any]) -> re.Pattern[str]:
    """Return the expression of an output's pattern, whose {name} stands for anything, or what the row lists for it."""
    def group(match: re.Match[str]) -> str:
        inner = "|".join(map(re.escape, row[match[1]])) if match[1] in row else "[^/]*?"
        return f"(?P<{match[1]}>{inner})"
    return re.compile(re.sub(r"\\\{(\w+)\\\}", group, re.escape(pattern)))


def published_step(paper: str, output: str) -> Step | None:
    """Return the step that writes `output`, None where no step does: the index or file of a user."""
    for pattern, row in table(paper)["steps"].items():
        match = _expression(pattern, row).fullmatch(output)
        if match:
            names = match.groupdict()
            rows = described(paper, fill(row["settings"], names)) | row.get("with", {})
            values = {name: fill(value[0], names) for name, value in rows.items() if name != "command"}
            return Step(rows["command"], values, fill(row["inputs"], names))
    return None


def published_plan(paper: str, outputs: list[str]) -> dict[str, Step]:
    """Return the steps that lead to `outputs`, by what each writes."""
    steps: dict[str, Step] = {}
    wanted = list(outputs)
    while wanted:
        output = wanted.pop()
        step = None if output in steps else published_step(paper, output)
        if step:
            steps[output] = step
            wanted += [word.partition("=")[2] or word for word in step.inputs.split()]
    return steps


def differences(paper: str, outputs: list[str], calls: dict[str, Call]) -> list[str]:
    """Return how the planned calls differ from the published steps, a line each."""
    published = published_plan(paper, outputs)
    lines = [f"{output}: not planned" for output in published if output not in calls]
    for output, call in calls.items():
        if output not in published:
            lines.append(f"{output}: planned, but no published step")
            continue
        lines += [f"{output}: {line}" for line in resolve(call).differences(published[output])]
    return lines


def targets_of(paper: str) -> list[tuple[str, list[str]]]:
    """Return the targets of a paper with what each ends with."""
    return list(table(paper)["targets"].items())


EVERY = [(paper, target, outputs) for paper in PAPERS for target, outputs in targets_of(paper)]


@pytest.mark.parametrize(("paper", "target", "outputs"), EVERY, ids=[f"{paper} {target}" for paper, target, _ in EVERY])
def test_a_target_runs_what_was_published(paper, target, outputs):
    calls = plan(EXAMPLES / paper, [target], *table(paper).get("variables", {}).get(target, []))
    lines = differences(paper, outputs, calls)
    assert not lines, "\n" + "\n".join(lines)
