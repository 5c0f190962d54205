"""A map stage without arithmetic: it makes a mask out of an id, and notes what it was asked."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import BadData
from stages.flow.execution import Inputs, Output, Silent, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.parts import Part
from stages.flow.work import BESIDE, Beside, MapWork
from stages.shards import Contents, Item, Shard, write_shard

CLASSES = ("background", "cat")


def make(work: MapWork) -> Worker:
    """Return the worker of this process."""
    return Worker(work)


class Worker:
    """Notes every batch in the file `calls`; refuses the ids that stand in the file `bad`."""

    def __init__(self, work: MapWork) -> None:
        self.work = work

    def open(self, part: Part, source: Shard, index: Shard) -> Worker:
        """Begin a part; with `closed` the part can't be begun."""
        if self.work.named.get("closed"):
            raise BadData("the classes differ", where=str(source.path))
        self.classes, self.root_attrs = source.classes, {}
        return self

    def key(self, item_id: str) -> str:
        """Return the first letter of the id; `?` has none that can be known."""
        if item_id.startswith("?"):
            raise BadData("its size is unknown", where=item_id)
        return item_id[0]

    def load(self, item_id: str) -> str:
        """Refuse what is bad."""
        if item_id.startswith("?") or item_id in self._listed("bad"):
            raise BadData("can't be decoded", where=f"{item_id}.jpg")
        return item_id.upper()

    def compute(self, loaded: Sequence[tuple[str, Any]]) -> list[Item]:
        """Return masks that tell id, place in the batch and size of the batch, as batched kernels do."""
        self._note([item_id for item_id, _ in loaded])
        if any(item_id in self._listed("worse") for item_id, _ in loaded):
            raise BadData("the map is not finite", where=loaded[0][0])
        assert all(value == item_id.upper() for item_id, value in loaded)
        return [self._made(item_id, place, len(loaded)) for place, (item_id, _) in enumerate(loaded)]

    def _made(self, item_id: str, place: int, size: int) -> Item:
        """Return the item, with a second run also that one's mask."""
        mask = np.array([[ord(item_id[-1]), place, size, self.work.config["value"]]], np.uint8)
        return Item(item_id, {"mask": mask} | ({BESIDE + "mask": mask[:, ::-1]} if self.work.beside else {}))

    def _listed(self, name: str) -> list[str]:
        path = self.work.named.get(name)
        return Path(path).read_text().split() if path and Path(path).exists() else []

    def _note(self, ids: list[str]) -> None:
        descriptor = os.open(self.work.named["calls"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, json.dumps([os.getpid(), ids]).encode() + b"\n")
        os.close(descriptor)


class Told(Silent):
    """Keeps what is told, and asks to stop after so many images that were computed."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop, self.left = Stop(), stop_after
        self.lines: list[str] = []
        self.paths: list[str] = []

    def advance(self, count: int = 1) -> None:
        """Count down to the stop; the first count of a part is of what was there already."""
        if self.left is not None:
            self.left -= 0 if self.begun else count
            self.begun = False
            self.stop.requested = self.left <= 0

    def begin(self, what: str, total: int | None) -> None:
        """Begin a part."""
        self.begun = True

    def tell(self, text: str) -> None:
        """Keep the line."""
        self.lines.append(text)

    def finished(self, path: Path) -> None:
        """Keep the name."""
        self.paths.append(path.name)


class Bench:
    """A folder with an index, in which a stage is run again and again."""

    def __init__(self, folder: Path, ids: Sequence[str], refused: Sequence[str] = ()) -> None:
        self.folder, self.ids = folder, ids
        self.index, self.calls = folder / "train.h5", folder / "calls"
        self.write_index(self.index, ids, refused)

    def write_index(self, path: Path, ids: Sequence[str], refused: Sequence[str] = (), part: int = 0,
                    parts: int = 1) -> Path:
        """Write an index of `ids`."""
        path.parent.mkdir(exist_ok=True)
        items = [Item(one, error=f"{one}.jpg: was cut short") if one in refused else Item(one, {}, {"path": one})
                 for one in ids]
        write_shard(path, Contents("index", CLASSES, items, part, parts, root_attrs={"root": "."}))
        return path

    def run(self, output: str = "out", *, paths: Any = None, shard_size: int = 4, batch_size: int = 2,
            value: int = 7, jobs: int = 1, told: Told | None = None, named: dict | None = None,
            reads: tuple[str, ...] = ("index",), beside: bool = False, **how: Any) -> Summary:
        """Run the stage once, with `beside` also a second run `<output>-beside`."""
        self.told = told or Told()
        config = {"value": value, "batch_size": batch_size, "shard_size": shard_size}
        files = {"calls": str(self.calls), "bad": str(self.folder / "bad"), "worse": str(self.folder / "worse")}
        work = MapWork("pseudo", "", "masks", reads, "flow.workers:make", config, config,
                       named={**files, **(named or {})}, shard_size=shard_size, batch_size=batch_size,
                       beside=Beside(str(self.folder / f"{output}-beside"), config) if beside else None)
        inputs = Inputs([str(self.index)] if paths is None else paths)
        return run_map(work, inputs, Output(self.folder / output, jobs=jobs, **how), stop=self.told.stop,
                       report=self.told)

    def batches(self) -> list[list[str]]:
        """Return the ids of every batch that was computed since the last question."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        self.processes = {json.loads(line)[0] for line in lines}
        return [json.loads(line)[1] for line in lines]

    def files(self, output: str = "out") -> dict[str, bytes]:
        """Return the names and bytes of the shards, and of unfinished work."""
        found = sorted((self.folder / output).iterdir()) if (self.folder / output).exists() else []
        return {path.name: path.read_bytes() for path in found if path.suffix != ".jsonl"}
