"""Turns the provenance of runs and networks into steps with the commands that repeat them.

Files are known by their digests, so a step has the name of its run or network where that is part of the report, and an
example's name otherwise. Settings with their default are left out of the command.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Provenance = Sequence[Mapping[str, Any]]
# The input that a command reads as its argument; that of other stages is the index.
_MAIN_INPUTS = {"refine": "cams", "pseudo": "cams", "cluster": "features", "merge": "cams"}
_INPUT_OPTIONS = ("net", "weights", "cams", "masks", "clusters", "cooc", "clip", "proxy", "proxy_weights")
# Where the data set is recorded nowhere, the command has an example.
_DATA_SETS = {"table": "labels.csv --images photographs", "coco": "annotations.json --images photographs",
              "webdataset": "images.tar", "yolo": "data.yaml", "cvat": "annotations.xml", "labelstudio": "export.json"}
_OUTPUTS = {"index": "index.h5", "features": "features", "cluster": "clusters.h5", "cooc": "cooc.h5",
            "pseudo": "masks", "segment": "predictions", "import": "imported", "merge": "merged"}
_DIGEST_CHARACTERS = 64
_SHOWN_CHARACTERS = 12


@dataclass(frozen=True)
class Chain:
    """A run or network of the report: its name, its digest, its provenance, and names of other files by digest.

    A run of several shards also has their digests, by which the runs that were made from it know it.
    """

    name: str
    digest: str
    provenance: Provenance
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: tuple[str, ...] = ()


@dataclass
class Step:
    """A command of the history: its words, what it writes, the positions of the steps that it reads, and notes."""

    title: str
    command: str
    output: str
    digest: str
    sources: list[int]
    notes: list[str]


def list_steps(chains: Sequence[Chain]) -> list[Step]:
    """Return the steps of runs and networks, each before those that read its output; common steps appear once.

    Networks are first in `chains`, so that the commands of runs find their names.
    """
    files = {digest: name for chain in chains for digest, name in chain.files.items()}
    builder = _StepBuilder({**files, **{chain.digest: chain.name for chain in chains}},
                           {part: chain.digest for chain in chains for part in chain.parts})
    for chain in chains:
        builder.add_chain(chain)
    return builder.steps


class _StepBuilder:
    """Adds the steps of chains, whose identity is the digest of what they write."""

    def __init__(self, name_by_digest: Mapping[str, str], run_of_part: Mapping[str, str]) -> None:
        self.steps: list[Step] = []
        self._run_of_part = run_of_part
        self._names = dict(name_by_digest)
        self._positions: dict[str, int] = {}

    def add_chain(self, chain: Chain) -> None:
        """Add the steps of one run or network that are not there yet."""
        previous: int | None = None
        for position, entry in enumerate(chain.provenance):
            following = chain.provenance[position + 1] if position + 1 < len(chain.provenance) else None
            digest = chain.digest if following is None else _find_output_digest(following)
            digest = self._run_of_part.get(digest, digest)
            # A file without a known digest is known by its history.
            key = digest or json.dumps(chain.provenance[:position + 1], sort_keys=True)
            if key not in self._positions:
                self._positions[key] = len(self.steps)
                self.steps.append(self._build_step(entry, digest, previous))
            previous = self._positions[key]

    def _build_step(self, entry: Mapping[str, Any], digest: str, previous: int | None) -> Step:
        stage, method, inputs = str(entry.get("stage")), str(entry.get("method") or ""), _get_dict(entry, "inputs")
        output = self._name_output(stage, digest)
        sources, notes = [] if previous is None else [previous], []
        words = ["wsss", stage, *([method] if method else [])]
        if stage == "index":
            words += (_DATA_SETS.get(method, "dataset")).split()
            notes.append("Where the data set is, and its lists and masks, is not recorded: put in your own.")
        else:
            words.append("index.h5" if previous is None else self.steps[previous].output)
        for name in _INPUT_OPTIONS:
            if name in inputs and name != _MAIN_INPUTS.get(stage, "index"):
                words += [f"--{name.replace('_', '-')}", self._name_input(name, str(inputs[name]), sources, notes)]
        words += [*list_options(stage, method, _get_dict(entry, "config")), "-o", output]
        return Step(f"{stage} {method}".strip(), shlex.join(words), output, digest, sources, notes)

    def _name_output(self, stage: str, digest: str) -> str:
        """Return the name of what a step writes: that of its run or network, else an example that is not used yet."""
        if digest in self._names:
            return self._names[digest]
        name = _OUTPUTS.get(stage, f"{stage}.safetensors" if stage.startswith("train") else stage)
        stem, dot, suffix = name.partition(".")
        used = {*self._names.values(), *(step.output for step in self.steps)}
        number = 2
        while name in used:
            name, number = f"{stem}-{number}{dot}{suffix}", number + 1
        return name

    def _name_input(self, name: str, value: str, sources: list[int], notes: list[str]) -> str:
        """Return the file of a further input; add its step to the sources, or a note if it is unknown."""
        value = self._run_of_part.get(value, value)
        if value in self._positions:
            sources.append(self._positions[value])
            return self.steps[self._positions[value]].output
        if len(value) != _DIGEST_CHARACTERS:
            return value
        if value not in self._names:
            notes.append(f"The file of --{name.replace('_', '-')} is known by its sha256 {value[:_SHOWN_CHARACTERS]} "
                         "only." + (" Add it to the report with --net to see its history." if name == "net" else ""))
        suffix = {"net": ".safetensors", "weights": ".pth"}.get(name, "")
        return self._names.get(value, f"{name.replace('_', '-')}{suffix}")


def _find_output_digest(following: Mapping[str, Any]) -> str:
    """Return the digest of what the step before `following` wrote, or ""."""
    return str(_get_dict(following, "inputs").get(_MAIN_INPUTS.get(str(following.get("stage")), "index"), ""))


def _get_dict(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of an entry; empty if another program stored something else there."""
    value = entry.get(name)
    return value if isinstance(value, dict) else {}


def list_options(stage: str, method: str, config: Mapping[str, Any]) -> list[str]:
    """Return the options of a command that give it the recorded settings, without those that are its defaults."""
    fields = find_fields(stage, method, config)
    options: list[str] = []
    for name, value in config.items():
        if name not in fields or value in (None, "default"):
            continue
        text = format_value(value)
        if text is None or text == format_value(fields[name]):
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            options.append(option if value else f"--no-{option[2:]}")
        elif text or isinstance(fields[name], str):
            options += [option, text]
    return options


def format_value(value: Any) -> str | None:
    """Return a recorded setting as the command line takes it; None for a record that is not an option."""
    if isinstance(value, dict):
        rule = value.get("rule")
        return rule if isinstance(rule, str) else None
    if isinstance(value, (list, tuple)):
        is_plain = all(isinstance(element, (str, int, float)) for element in value)
        return ",".join(map(str, value)) if is_plain else None
    return None if value is None else str(value)


def find_fields(stage: str, method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a command and their defaults: of the settings class that is named as the method.

    Of several that could be meant, the one that shares the most settings with `config`. Empty for an unknown stage.
    """
    try:
        module = importlib.import_module(f"stages.{'import_' if stage == 'import' else stage.replace('-', '_')}.config")
    except ImportError:
        return {}
    classes = [value for value in vars(module).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    words = (method or stage.split("-")[-1]).replace("-", " ").split()
    name = f"{''.join(word.capitalize() for word in words)}Config"

    def rank(candidate: type) -> tuple[bool, int]:
        names = {field.name for field in dataclasses.fields(candidate)}
        return candidate.__name__ == name, len(names & config.keys()) - len(names - config.keys())

    best = max(classes, key=rank, default=None)
    return {} if best is None else {field.name: field.default for field in dataclasses.fields(best)}
