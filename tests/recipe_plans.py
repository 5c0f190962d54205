"""Plan the targets of the examples with `make -n`, and resolve every wsss call in the plan to all of its settings.

The command line itself resolves the calls (options, `--config` recipes, defaults, ranges) in this process; nothing is
run, and only recipes are read.
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

from stages.refine.config import DEFAULT_BACKGROUNDS, CrfConfig
from stages.refine.crf import resolve_crf_settings, should_use_labels
from stages.segment.config import WordsConfig, apply_protocol
from stages.settings import validate_config
from wsss_cli import command
from wsss_cli.app import app
from wsss_cli.options import build_config

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
OUT = "/out"
# Input files of the published rows; OUT does not exist, so that everything is planned.
VARIABLES = (f"OUT={OUT}", "WSSS=wsss", "COCO_TRAIN=train.json", "COCO_VAL=val.json", "COCO_IMAGES_TRAIN=train2014",
             "COCO_IMAGES_VAL=val2014", "COCO_MASKS_TRAIN=masks2014", "COCO_MASKS_VAL=val-masks2014",
             "PHOTOS=photo.jpg", "WORDS=cat")
_BETWEEN = {"|", "&&", "||", ";", "(", ")", "&"}


@dataclass(frozen=True)
class Step:
    """A wsss call: all its settings, its inputs, and its number of training processes."""

    command: str
    settings: dict[str, Any]
    inputs: str

    def compare(self, other: Step) -> list[str]:
        """Return the differences, as `name: own value, not other value`."""
        pairs = {"command": (self.command, other.command), "inputs": (self.inputs, other.inputs)}
        for name in sorted(self.settings | other.settings):
            pairs[name] = (self.settings.get(name, "absent"), other.settings.get(name, "absent"))
        return [f"{name}: {value!r}, not {other_value!r}" for name, (value, other_value) in pairs.items()
                if (value, type(value)) != (other_value, type(other_value))]


@dataclass(frozen=True)
class Call:
    """The arguments of a wsss call, its output, and the number of processes of torchrun."""

    words: tuple[str, ...]
    output: str
    processes: int = 1


def plan_targets(folder: Path, targets: Iterable[str], *variables: str) -> dict[str, Call]:
    """Return the wsss calls that `make -n TARGETS` plans in `folder`, by output (relative to OUT)."""
    done = subprocess.run(["make", "-n", "--no-print-directory", "-C", folder, *VARIABLES, *variables, *targets],
                          capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    calls: dict[str, Call] = {}
    for line in done.stdout.replace("\\\n", " ").splitlines():
        for call in _parse_calls(line):
            previous = calls.setdefault(call.output, call)
            assert previous == call, f"{call.output} is written by two calls"
    return calls


def _parse_calls(line: str) -> Iterator[Call]:
    """Yield the wsss calls in a shell line; a pipe reads the output of the previous call."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    piped_output = ""
    for token in (*lexer, ";"):
        if token not in _BETWEEN:
            words.append(token)
            continue
        call = _parse_call(words, piped_output)
        if call:
            yield call
        piped_output = call.output if call and token == "|" else ""
        words = []


def _parse_call(words: list[str], piped_output: str) -> Call | None:
    """Return the wsss call of a simple command, or None if it is another program."""
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
    arguments = [piped_output if word == "-" else word for word in words if word not in ("$@", "--force")]
    return Call(tuple(arguments), shorten(output) or "standard output", processes)


def _shorten_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_shorten_value(part) for part in value]
    return shorten(value) if isinstance(value, str) else value


def shorten(text: str) -> str:
    """Return a path relative to OUT."""
    return text.replace(f"{OUT}/", "")


@functools.cache
def resolve_call(call: Call) -> Step:
    """Return the settings and inputs of a call, as resolved by the command line."""
    stage, values, config, named = _parse_words(call.words)
    build = functools.partial(build_config, config)
    assert command._apply_recipe(values, config, stage), f"the recipe has nothing for {stage}"
    settings = validate_config(build(values))
    named_inputs = {name: text for name,
                    text in command._collect_named_inputs(named, values).items() if text is not None}
    if values.get("preview"):
        named_inputs["preview"] = values["preview"]
    if call.processes > 1:
        named_inputs["processes"] = call.processes
    inputs = " ".join([*values["paths"], *(f"{name}={text}" for name, text in sorted(named_inputs.items()))])
    plain = {name: _shorten_value(value) for name, value in to_plain_settings(settings).items()}
    return Step(stage, plain, shorten(inputs))


@functools.cache
def _build_command_line() -> Any:
    """Return the command line, which takes most of a second to build."""
    return typer.main.get_command(app)


def _parse_words(words: tuple[str, ...]) -> tuple[str, dict[str, Any], Any, Any]:
    recorded: list[tuple[str, dict[str, Any], Any, Any]] = []

    def record_call(stage: str, values: dict[str, Any], config: Any, named: Any, run: Any) -> int:
        recorded.append((stage, values, config, named))
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_run_command", record_call)
        code = _build_command_line().main(list(words), prog_name="wsss", standalone_mode=False)
    assert recorded and not code, f"wsss {shlex.join(words)} was rejected"
    return recorded[0]


def to_plain_settings(settings: Any) -> dict[str, Any]:
    """Return settings as in a TOML table, with the values of their protocol or preset; None is "none"."""
    if isinstance(settings, WordsConfig):
        settings = apply_protocol(settings)
    if isinstance(settings, CrfConfig):
        kernels = {name: float(value) if name != "iterations" else value
                   for name, value in dataclasses.asdict(resolve_crf_settings(settings)).items()}
        settings = dataclasses.replace(settings, **kernels, unary="labels" if should_use_labels(settings) else "scores",
                                       background=settings.background or DEFAULT_BACKGROUNDS[settings.preset])
    plain = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        plain[field.name] = "none" if value is None else list(value) if isinstance(value, tuple) else value
    return plain
