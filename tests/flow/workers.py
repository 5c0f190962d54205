"""A map stage without arithmetic for tests: it derives a mask from an id, and records the batches it computes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import BadData
from stages.flow.execution import Inputs, Output, SilentReport, Stop, Summary
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import COMPANION_PREFIX, Companion, MapWork
from stages.flow.parts import Part
from stages.shards import Item, Shard, ShardContents, write_shard

CLASSES = ("background", "cat")


def make(work: MapWork) -> Worker:
    """Return the worker of this process."""
    return Worker(work)


class Worker:
    """Records every batch in the file `calls`; fails for the ids listed in the file `bad`."""

    def __init__(self, work: MapWork) -> None:
        self.work = work

    def open(self, part: Part, source: Shard, index: Shard) -> Worker:
        """Open a part; with `closed`, raise BadData."""
        if self.work.named.get("closed"):
            raise BadData("the classes differ", where=str(source.path))
        self.classes, self.root_attrs, self.images = source.classes, {}, None
        return self

    def batch_key(self, item_id: str) -> str:
        """Return the first letter of the id; raise BadData if it is `?`."""
        if item_id.startswith("?"):
            raise BadData("its size is unknown", where=item_id)
        return item_id[0]

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels of an image of COCO, or twice as many if the id starts with `L`."""
        return 640 * 480 * (2 if item_id.startswith("L") else 1)

    def load(self, item_id: str) -> str:
        """Return the id in capitals; raise BadData if it is listed as bad."""
        if item_id.startswith("?") or item_id in self._read_ids("bad"):
            raise BadData("can't be decoded", where=f"{item_id}.jpg")
        return item_id.upper()

    def compute(self, loaded: Sequence[tuple[str, Any]]) -> list[Item]:
        """Return masks that contain the id, the position in the batch and the size of the batch."""
        self._record([item_id for item_id, _ in loaded])
        if any(item_id in self._read_ids("worse") for item_id, _ in loaded):
            raise BadData("the map is not finite", where=loaded[0][0])
        assert all(value == item_id.upper() for item_id, value in loaded)
        return [self._build_item(item_id, position, len(loaded)) for position, (item_id, _) in enumerate(loaded)]

    def _build_item(self, item_id: str, position: int, batch_size: int) -> Item:
        """Return the item, with the mask of the companion run if there is one."""
        mask = np.array([[ord(item_id[-1]), position, batch_size, self.work.config["value"]]], np.uint8)
        companion = {COMPANION_PREFIX + "mask": mask[:, ::-1]} if self.work.companion else {}
        return Item(item_id, {"mask": mask} | companion)

    def _read_ids(self, name: str) -> list[str]:
        path = self.work.named.get(name)
        return Path(path).read_text().split() if path and Path(path).exists() else []

    def _record(self, ids: list[str]) -> None:
        descriptor = os.open(self.work.named["calls"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, json.dumps([os.getpid(), ids]).encode() + b"\n")
        os.close(descriptor)


class RecordingReport(SilentReport):
    """Collects lines and paths, and requests a stop after a number of computed images."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop, self.num_left = Stop(), stop_after
        self.lines: list[str] = []
        self.paths: list[str] = []
        self.phases: list[str] = []
        self.totals: list[tuple[int, int | None]] = []
        self.num_resumed = self.num_new = 0

    def start_phase(self, label: str) -> None:
        """Collect the phase, once if it is repeated."""
        if self.phases[-1:] != [label]:
            self.phases.append(label)

    def start_progress(self, label: str, total: int | None, *, unit: str = "images") -> None:
        """Count from 0."""
        self.num_resumed = self.num_new = 0

    def set_total(self, total: int, expected: int | None = None) -> None:
        """Collect the total, once if it is repeated."""
        if self.totals[-1:] != [(total, expected)]:
            self.totals.append((total, expected))

    def advance(self, count: int = 1, *, resumed: bool = False) -> None:
        """Count the images, and down to the stop."""
        self.num_resumed += count if resumed else 0
        self.num_new += 0 if resumed else count
        if self.num_left is not None and not resumed:
            self.num_left -= count
            self.stop.requested = self.num_left <= 0

    def info(self, text: str) -> None:
        """Collect the line."""
        self.lines.append(text)

    def print_path(self, path: Path) -> None:
        """Collect the file name."""
        self.paths.append(path.name)


class StageRunner:
    """A folder with an index, in which the stage can be run repeatedly."""

    def __init__(self, folder: Path, ids: Sequence[str], failed: Sequence[str] = ()) -> None:
        self.folder, self.ids = folder, ids
        self.index, self.calls = folder / "train.h5", folder / "calls"
        self.write_index(self.index, ids, failed)

    def write_index(self, path: Path, ids: Sequence[str], failed: Sequence[str] = (), part: int = 0,
                    parts: int = 1) -> Path:
        """Write an index of `ids`, of which some have failed."""
        path.parent.mkdir(exist_ok=True)
        items = [Item(item_id, error=f"{item_id}.jpg: was cut short") if item_id in failed
                 else Item(item_id, {}, {"path": item_id}) for item_id in ids]
        write_shard(path, ShardContents("index", CLASSES, items, part, parts, root_attrs={"root": "."}))
        return path

    def run(self, output: str = "out", *, paths: Any = None, shard_size: int = 4, batch_size: int = 2,
            value: int = 7, jobs: int = 1, report: RecordingReport | None = None, named: dict | None = None,
            input_kinds: tuple[str, ...] = ("index",), companion: bool = False, **execution: Any) -> Summary:
        """Run the stage once; with `companion` also write the companion run `<output>-companion`."""
        self.report = report or RecordingReport()
        config = {"value": value, "batch_size": batch_size, "shard_size": shard_size}
        files = {"calls": str(self.calls), "bad": str(self.folder / "bad"), "worse": str(self.folder / "worse")}
        work = MapWork("pseudo", "", "masks", input_kinds, "flow.workers:make", config, config,
                       named={**files, **(named or {})}, shard_size=shard_size, batch_size=batch_size,
                       companion=Companion(str(self.folder / f"{output}-companion"), config) if companion else None)
        inputs = Inputs([str(self.index)] if paths is None else paths)
        return run_map_stage(work, inputs, Output(self.folder / output, jobs=jobs, **execution),
                             stop=self.report.stop, report=self.report)

    def batches(self) -> list[list[str]]:
        """Return the ids of every batch that was computed since the last call."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        self.processes = {json.loads(line)[0] for line in lines}
        return [json.loads(line)[1] for line in lines]

    def files(self, output: str = "out") -> dict[str, bytes]:
        """Return the names and bytes of the shards and journals."""
        paths = sorted((self.folder / output).iterdir()) if (self.folder / output).exists() else []
        return {path.name: path.read_bytes() for path in paths if path.suffix != ".jsonl"}
