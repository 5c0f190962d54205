"""The interface between a map stage and the loop: opening a part, loading an item, computing a batch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stages.data.image_source import ImageSource
from stages.errors import UsageError
from stages.flow.device import count_cores, reuse_freed_memory, use_threads
from stages.flow.parts import Part
from stages.shards import Item, Shard, extract_request, provenance_entry

COMPANION_PREFIX = "beside:"


@dataclass(frozen=True)
class Companion:
    """A second output run that the same pass makes: its folder (or file), and its settings in the provenance.

    A dataset `beside:NAME` of an item is NAME in the companion run; everything else is the same in both runs.
    """

    path: str
    config_dict: Mapping[str, Any]


@dataclass(frozen=True)
class MapWork:
    """The work of a map stage as plain data, so that it can be sent to other processes.

    `worker` is `module:function`; the function takes this object and returns a Worker, once per process. `digests` of
    the named inputs (the sha256 of a network, ...) enter the provenance; `shared`, further data for the workers, does
    not. `training_images` (n,) uint64 are the keys of the images that the network was trained on, if they are known.
    A worker that needs no torch starts 2 s faster without it.
    """

    stage: str
    method: str
    kind: str
    input_kinds: tuple[str, ...]
    worker: str
    config: Any
    config_dict: Mapping[str, Any]
    named: Mapping[str, str | None] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    root: str | None = None
    shard_size: int = 256
    batch_size: int = 1
    threads: int = 1
    needs_torch: bool = True
    companion: Companion | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    training_images: np.ndarray | None = None

    def build_provenance_entry(self, source: Shard) -> dict[str, Any]:
        """Return the provenance entry of a shard made from `source`."""
        inputs = {source.kind: source.digest, **self.digests}
        return provenance_entry(self.stage, self.method, dict(self.config_dict), inputs)

    @property
    def num_readers(self) -> int:
        """The number of threads that read and decode images ahead: one on a CPU, whose cores are used by processes.

        A GPU needs several, because it computes an image faster than one thread decodes it (5 ms for 500 x 375
        pixels).
        """
        return min(8, count_cores()) if str(self.config_dict.get("device", "cpu")).startswith("cuda") else 1

    def build_request(self, part: Part, source: Shard) -> dict[str, Any]:
        """Return the request of a part, which decides whether an existing shard is up to date."""
        return {**extract_request(self.build_provenance_entry(source)), "part": f"{part.number}/{part.parts}"}

    def companion_part(self, part: Part) -> tuple[MapWork, Part] | None:
        """Return the work and the part of the companion run; None if there is no companion.

        Raises UsageError if its shard has the path of the main shard, or is one file for several parts.
        """
        if self.companion is None:
            return None
        output = Path(self.companion.path)
        if output.suffix == ".h5" and part.parts > 1:
            raise UsageError(f"{output} is one file, but there are {part.parts} parts",
                             "Give a folder as the second output, --save-raw")
        path = output if output.suffix == ".h5" else output / part.path.name
        if path.resolve() == part.path.resolve():
            raise UsageError(f"{output} would be written twice, as --output and as the second output",
                             "Give different paths to --output and --save-raw")
        return replace(self, config_dict=self.companion.config_dict, companion=None), replace(part, path=path)

    def build_worker(self) -> Worker:
        """Build the worker in this process, and set up the threads and the memory of the process."""
        if self.needs_torch:
            use_threads(self.threads)
        else:
            reuse_freed_memory()
        module, _, function = self.worker.partition(":")
        return getattr(importlib.import_module(module), function)(self)


class PartWork(Protocol):
    """An open part, from which a worker loads and computes items."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class list of the output shard."""

    @property
    def root_attrs(self) -> Mapping[str, Any]:
        """The root attributes that the kind of the output shard requires."""

    @property
    def images(self) -> ImageSource | None:
        """The images that the part computes on, or None if it only reads maps."""

    def batch_key(self, item_id: str) -> Any:
        """Return a key that is equal for all items of a batch, such as the image size."""

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels on which an item is computed; their sum limits a batch."""

    def load(self, item_id: str) -> Any:
        """Load the inputs of an item; BadData marks it as failed. Called in a reader thread."""

    def compute(self, loaded: Sequence[tuple[str, Any]]) -> list[Item]:
        """Return the items of a batch, in order."""


class Worker(Protocol):
    """Holds what is shared between parts (a network, a device)."""

    def open(self, part: Part, source: Shard, index: Shard) -> PartWork:
        """Open a part."""


