"""Turns the provenance of runs and networks into steps with the commands that repeat them.

Files are known by their digests, so a step has the name of its run or network where that is part of the report, and an
example's name otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages import STAGES
from stages.report.commands import find_main_input, get_dict, list_words

Provenance = Sequence[Mapping[str, Any]]
_OUTPUTS = {"index": "index.h5", "features": "features", "cluster": "clusters.h5", "cooc": "cooc.h5",
            "regions": "regions", "pseudo": "masks", "bank": "bank", "segment": "predictions", "import": "imported",
            "merge": "merged"}
_STAGE_NAMES = {stage.name for stage in STAGES}


@dataclass(frozen=True)
class Chain:
    """A run or network of the report: its name, its digest, its provenance, and names of other files by digest.

    `kind` and `classes` are those of the run, empty for a network. A run of several shards also has their digests,
    `parts`, by which the runs that were made from it know it.
    """

    name: str
    digest: str
    provenance: Provenance
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    kind: str = ""
    classes: Sequence[str] = ()
    parts: tuple[str, ...] = ()


@dataclass
class Step:
    """A command of the history: its words, what it writes, the positions of the steps that it reads, and notes.

    `command` is "" for a step of another program.
    """

    title: str
    command: str
    output: str
    digest: str
    sources: list[int]
    notes: list[str]


@dataclass
class _Record:
    """A step before it has a name: the key of the step before it, the key of scores it writes besides, and classes."""

    entry: Mapping[str, Any]
    digest: str
    previous: str
    scores: str = ""
    classes: Sequence[str] = ()


def list_steps(chains: Sequence[Chain]) -> list[Step]:
    """Return the steps of runs and networks, each before those that read its output; common steps appear once."""
    run_of_part = {part: chain.digest for chain in chains for part in chain.parts}
    chains = [dataclasses.replace(chain, provenance=_name_whole_runs(chain.provenance, run_of_part))
              for chain in chains]
    records: dict[str, _Record] = {}
    # Masks first: what `segment --scores` wrote besides them is known from them.
    for chain in sorted(chains, key=lambda chain: not _has_scores(chain)):
        _add_records(chain, records)
    names = {digest: name for chain in chains for digest, name in chain.files.items()}
    names |= {chain.digest: chain.name for chain in chains}
    builder = _StepBuilder(records, {digest: name for digest, name in names.items() if digest and name})
    for key in _sort_records(records):
        builder.add_step(key)
    return builder.steps


def _name_whole_runs(provenance: Provenance, run_of_part: Mapping[str, str]) -> Provenance:
    """Return a provenance whose inputs have the digest of the whole run where they have that of one of its shards."""
    return [{**entry, "inputs": {name: run_of_part.get(value, value) if isinstance(value, str) else value
                                 for name, value in get_dict(entry, "inputs").items()}} for entry in provenance]


def _has_scores(chain: Chain) -> bool:
    return any("cams" in get_dict(entry, "inputs") for entry in chain.provenance if entry.get("stage") == "segment")


def _add_records(chain: Chain, records: dict[str, _Record]) -> None:
    """Add the steps of one run or network that are not there yet. A file without a digest is known by its history."""
    previous, scores_of = "", None
    for position, entry in enumerate(chain.provenance):
        following = chain.provenance[position + 1] if position + 1 < len(chain.provenance) else None
        digest = chain.digest if following is None else find_main_input(following)
        key = digest or json.dumps(chain.provenance[:position + 1], sort_keys=True)
        if (entry.get("stage"), entry.get("method")) == ("index", "files") and following is not None:
            continue  # the next command makes it from its photographs
        if _is_made_with(entry, following):
            scores_of = entry, key
            continue
        record = _Record(entry, digest, previous, classes=chain.classes)
        if scores_of is not None:
            record = _Record(scores_of[0], digest, previous, scores_of[1], chain.classes)
            scores_of = None
        elif _writes_scores(entry, following, chain):
            record = _Record(entry, "", previous, key, chain.classes)
        if not _is_known(key, records):
            records[key] = record
        previous = key


def _is_made_with(entry: Mapping[str, Any], following: Mapping[str, Any] | None) -> bool:
    """Return whether an entry is of the scores that one command wrote together with the masks of the next entry."""
    return (following is not None and entry.get("stage") == following.get("stage") == "segment"
            and "cams" in get_dict(following, "inputs"))


def _writes_scores(entry: Mapping[str, Any], following: Mapping[str, Any] | None, chain: Chain) -> bool:
    """Return whether what is used of a `segment` are its scores, which it writes besides masks."""
    if entry.get("stage") != "segment":
        return False
    return chain.kind == "cams" if following is None else "cams" in get_dict(following, "inputs")


def _is_known(key: str, records: Mapping[str, _Record]) -> bool:
    return key in records or any(record.scores == key for record in records.values())


def _find_key(digest: str, records: Mapping[str, _Record]) -> str:
    """Return the key of the step that wrote a file; "" if it is unknown."""
    if digest in records:
        return digest
    return next((key for key, record in records.items() if digest and record.scores == digest), "")


def _find_sources(record: _Record, records: Mapping[str, _Record]) -> list[str]:
    """Return the keys of the steps that a step reads."""
    inputs = (value for value in get_dict(record.entry, "inputs").values() if isinstance(value, str))
    keys = (_find_key(digest, records) for digest in (record.previous, *inputs))
    return list(dict.fromkeys(key for key in keys if key and records[key] is not record))


def _sort_records(records: Mapping[str, _Record]) -> Iterator[str]:
    """Yield keys so that each comes after those that its step reads, else in the order in which they were added."""
    started: set[str] = set()

    def visit(key: str) -> Iterator[str]:
        if key in started:
            return
        started.add(key)
        for source in _find_sources(records[key], records):
            yield from visit(source)
        yield key

    for key in records:
        yield from visit(key)


class _StepBuilder:
    """Gives steps their names and commands, in order."""

    def __init__(self, records: Mapping[str, _Record], names: Mapping[str, str]) -> None:
        self.steps: list[Step] = []
        self._records, self._names = records, dict(names)
        self._positions: dict[str, int] = {}

    def add_step(self, key: str) -> None:
        """Add the step of a record, whose sources are there."""
        record = self._records[key]
        entry, stage = record.entry, str(record.entry.get("stage"))
        output = self._name_output(stage, record.digest)
        sources = [self._positions[source] for source in _find_sources(record, self._records)
                   if source in self._positions]
        words, notes = list_words(entry, self._name_source(record.previous), output,
                                  lambda digest: self._names.get(digest, ""), record.classes)
        if record.scores:
            words += ["--scores", self._name_output("scores", record.scores)]
        is_own = stage in _STAGE_NAMES and entry.get("tool", "wsss") == "wsss"
        if (stage, entry.get("method")) == ("index", "files"):
            is_own, notes = False, ["The command that was given the photographs makes this index."]
        elif not is_own:
            notes = [f"This step is of another program ({entry.get('tool', 'unknown')})."]
        self._positions[key] = len(self.steps)
        self.steps.append(Step(f"{stage} {entry.get('method') or ''}".strip(), shlex.join(words) if is_own else "",
                               output, record.digest, sources, notes))

    def _name_source(self, key: str) -> str:
        """Return the name of the file that the step before wrote; "" without such a step."""
        if key in self._names:
            return self._names[key]
        position = self._positions.get(_find_key(key, self._records))
        return "" if position is None else self.steps[position].output

    def _name_output(self, stage: str, digest: str) -> str:
        """Return the name of what a step writes: that of its run or network, else an example that is not used yet."""
        if digest in self._names:
            return self._names[digest]
        name = _OUTPUTS.get(stage, f"{stage}.safetensors" if stage.startswith("train") else stage)
        stem, dot, suffix = name.partition(".")
        used, number = set(self._names.values()), 2
        while name in used:
            name, number = f"{stem}-{number}{dot}{suffix}", number + 1
        self._names[digest or f"{stage} {len(self.steps)}"] = name
        return name
