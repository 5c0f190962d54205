"""What the targets of the examples would run: `make -n`, and every call of wsss in it resolved to all of its settings.

A call is resolved by the command line itself (options, `--config` recipes, defaults, ranges), in this process; nothing
is run and no file but the recipes is read.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from stages.refine.config import BACKGROUNDS, CrfConfig
from stages.refine.crf import kernels_of, takes_labels
from stages.segment.config import WordsConfig, resolved
from stages.settings import checked
from wsss_cli import command
from wsss_cli.app import app
from wsss_cli.options import build_config

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OUT = "/out"
# Files of a data set that the published rows are given; OUT does not exist, so everything would be made.
VARIABLES = (f"OUT={OUT}", "WSSS=wsss", "COCO_TRAIN=train.json", "COCO_VAL=val.json", "COCO_IMAGES_TRAIN=train2014",
             "COCO_IMAGES_VAL=val2014", "COCO_MASKS_TRAIN=masks2014", "COCO_MASKS_VAL=val-masks2014",
             "PHOTOS=photo.jpg", "WORDS=cat")
_BETWEEN = {"|", "&&", "||", ";", "(", ")", "&"}


@dataclass(frozen=True)
class Step:
    """One call of wsss: all of its settings, what it reads, and in how many processes it trains."""

    command: str
    settings: dict[str, Any]
    inputs: str

    def compare(self, other: Step) -> list[str]:
        """Return what differs, as `name: mine, not theirs`."""
        pairs = {"command": (self.command, other.command), "inputs": (self.inputs, other.inputs)}
        for name in sorted(self.settings | other.settings):
            pairs[name] = (self.settings.get(name, "absent"), other.settings.get(name, "absent"))
        return [f"{name}: {mine!r}, not {theirs!r}" for name, (mine, theirs) in pairs.items()
                if (mine, type(mine)) != (theirs, type(theirs))]


@dataclass(frozen=True)
class Call:
    """The words of a call of wsss after `wsss`, where its output goes, and the processes of torchrun."""

    words: tuple[str, ...]
    output: str
    processes: int = 1


def plan(folder: Path, targets: Iterable[str], *variables: str) -> dict[str, Call]:
    """Return the calls of wsss that `make -n TARGETS` plans in `folder`, by what each writes (below OUT)."""
    done = subprocess.run(["make", "-n", "--no-print-directory", "-C", folder, *VARIABLES, *variables, *targets],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    calls: dict[str, Call] = {}
    for line in done.stdout.replace("\\\n", " ").splitlines():
        for call in _parse_calls(line):
            same = calls.setdefault(call.output, call)
            assert same == call, f"{call.output} is written by two calls"
    return calls


def _parse_calls(line: str) -> Iterator[Call]:
    """Yield the calls of wsss in a line of shell; what a pipe reads is the output of the call before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    piped = ""
    for token in (*lexer, ";"):
        if token not in _BETWEEN:
            words.append(token)
            continue
        call = _parse_call(words, piped)
        if call:
            yield call
        piped = call.output if call and token == "|" else ""
        words = []


def _parse_call(words: list[str], piped: str) -> Call | None:
    """Return the call of wsss in the words of one simple command, if it is one."""
    processes = int(words[words.index("--nproc_per_node") + 1]) if "torchrun" in words[:1] else 1
    name = "wsss" if "wsss" in words else "wsss_cli"
    if name not in words:
        return None
    words = words[words.index(name) + 1:]
    output = ""
    if ">" in words:
        index = words.index(">")
        output = words[index + 1].removesuffix(".part").replace("/dev/null", "")
        words = words[:index]
    if "-o" in words:
        output = words[words.index("-o") + 1]
    kept = [piped if word == "-" else word for word in words if word not in ("$@", "--force")]
    return Call(tuple(kept), shorten(output) or "standard output", processes)


def _shorten_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_shorten_value(part) for part in value]
    return shorten(value) if isinstance(value, str) else value


def shorten(text: str) -> str:
    """Return a path below OUT without OUT."""
    return text.replace(f"{OUT}/", "")


@functools.cache
def resolve(call: Call) -> Step:
    """Return the settings and inputs of a call, as the command line understands it."""
    stage, values, config, named = _parse_words(call.words)
    build = functools.partial(build_config, config)
    assert command._take_recipe(values, config, stage), f"the recipe has nothing for {stage}"
    settings = checked(build(values))
    given = {name: text for name, text in command._named(named, values).items() if text is not None}
    if values.get("preview"):
        given["preview"] = values["preview"]
    if call.processes > 1:
        given["processes"] = call.processes
    inputs = " ".join([*values["paths"], *(f"{name}={text}" for name, text in sorted(given.items()))])
    plain = {name: _shorten_value(value) for name, value in to_plain_settings(settings).items()}
    return Step(stage, plain, shorten(inputs))


@functools.cache
def _build_command_line() -> Any:
    """Return the command line, which takes most of a second to build."""
    return typer.main.get_command(app)


def _parse_words(words: tuple[str, ...]) -> tuple[str, dict[str, Any], Any, Any]:
    caught: list[tuple[str, dict[str, Any], Any, Any]] = []

    def catch(stage: str, values: dict[str, Any], config: Any, named: Any, run: Any) -> int:
        caught.append((stage, values, config, named))
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_carry_out", catch)
        code = _build_command_line().main(list(words), prog_name="wsss", standalone_mode=False)
    assert caught and not code, f"wsss {shlex.join(words)} is refused"
    return caught[0]



def to_plain_settings(settings: Any) -> dict[str, Any]:
    """Return settings as a table of TOML has them, those of a protocol or preset with its values; None is "none"."""
    if isinstance(settings, WordsConfig):
        settings = resolved(settings)
    if isinstance(settings, CrfConfig):
        kernels = {name: float(value) if name != "iterations" else value
                   for name, value in dataclasses.asdict(kernels_of(settings)).items()}
        settings = dataclasses.replace(settings, **kernels, unary="labels" if takes_labels(settings) else "scores",
                                       background=settings.background or BACKGROUNDS[settings.preset])
    plain = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        plain[field.name] = "none" if value is None else list(value) if isinstance(value, tuple) else value
    return plain
