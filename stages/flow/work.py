"""What a map stage gives to the loop: how to open a part, load an item, compute a batch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from stages.errors import UsageError
from stages.flow.device import cores
from stages.flow.parts import Part
from stages.shards import Item, Shard, provenance_entry, request_of

BESIDE = "beside:"


@dataclass(frozen=True)
class Beside:
    """A second run that the same pass makes: its folder (or file), and its own settings in the provenance.

    An item's dataset `beside:NAME` is the second run's NAME; everything else the two have in common.
    """

    path: str
    plain: Mapping[str, Any]


@dataclass(frozen=True)
class MapWork:
    """A map stage at work, as plain data, so that it can be sent to another process.

    `worker` is `module:function`; the function takes this object and returns a Worker, once per process.
    `digests` are those of the named inputs (a net's sha256, ...); they enter the provenance, `shared`, what the
    workers need besides, does not.
    """

    stage: str
    method: str
    kind: str
    reads: tuple[str, ...]
    worker: str
    config: Any
    plain: Mapping[str, Any]
    named: Mapping[str, str | None] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    root: str | None = None
    shard_size: int = 256
    batch_size: int = 1
    threads: int = 1
    beside: Beside | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)

    def entry(self, source: Shard) -> dict[str, Any]:
        """Return the provenance entry of a shard made from `source`."""
        inputs = {source.kind: source.digest, **self.digests}
        return provenance_entry(self.stage, self.method, dict(self.plain), inputs)

    @property
    def readers(self) -> int:
        """How many threads read and decode ahead: one beside the arithmetic of a CPU, whose cores have processes.

        A GPU computes an image sooner than one thread decodes it (5 ms for 500 x 375 pixels).
        """
        return min(8, cores()) if str(self.plain.get("device", "cpu")).startswith("cuda") else 1

    def request(self, part: Part, source: Shard) -> dict[str, Any]:
        """Return what decides whether a shard that is there is the one that is wanted."""
        return {**request_of(self.entry(source)), "part": f"{part.number}/{part.parts}"}

    def second(self, part: Part) -> tuple[MapWork, Part] | None:
        """Return the second run's own work and part; None when there is none.

        Raises UsageError where it would be the first run's shard, or one file for several parts.
        """
        if self.beside is None:
            return None
        place = Path(self.beside.path)
        if place.suffix == ".h5" and part.parts > 1:
            raise UsageError(f"{place} is one file, but there are {part.parts} parts",
                             "give a folder for the second run")
        path = place if place.suffix == ".h5" else place / part.path.name
        if path.resolve() == part.path.resolve():
            raise UsageError(f"{place} would be written twice, by -o and as the second run", "give two")
        return replace(self, plain=self.beside.plain, beside=None), replace(part, path=path)

    def start(self) -> Worker:
        """Build the worker in this process."""
        module, _, function = self.worker.partition(":")
        return getattr(importlib.import_module(module), function)(self)


class PartWork(Protocol):
    """A part, opened by a worker."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class list of the shard to be made."""

    @property
    def root_attrs(self) -> Mapping[str, Any]:
        """Root attributes that the kind asks for."""

    def key(self, item_id: str) -> Any:
        """Return what the items of one batch must have in common."""

    def load(self, item_id: str) -> Any:
        """Read what an item needs; BadData refuses the item. Called in a thread of its own."""

    def compute(self, loaded: Sequence[tuple[str, Any]]) -> list[Item]:
        """Return the items of a batch, in order."""


class Worker(Protocol):
    """Holds what outlives a part (a net, a device)."""

    def open(self, part: Part, source: Shard, index: Shard) -> PartWork:
        """Begin a part."""


