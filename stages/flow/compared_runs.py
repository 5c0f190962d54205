"""Opens several runs of the same images: finds the images that all of them have, their index and their ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.data.image_source import ImageSource
from stages.data.masks import get_ignore_index
from stages.errors import BadData, UsageError
from stages.flow.execution import Inputs
from stages.flow.ground_truth import FolderTruth
from stages.flow.index_lookup import check_same_images, find_indexes
from stages.flow.item_arrays import extract_mask, read_image_size, resize_to_image, resize_to_image_in_bands
from stages.flow.panel_inputs import ClassMaps, RunReader
from stages.kernels.background import Background, find_best_class, mark_background
from stages.shards import Item, Run, check_same_classes, parse_shard_name

_KINDS = ("index", "cams", "masks")


@dataclass(frozen=True)
class TitledRun:
    """A run of CAMs or masks with its title, and the name of its folder or file."""

    title: str
    run: Run
    name: str

    @property
    def kind(self) -> str:
        return self.run.kind

    @property
    def path(self) -> str:
        return str(self.run.first.path)


class LeftOut(NamedTuple):
    """How many images of a run are left out, because another run does not have them."""

    title: str
    num_left_out: int
    num_images: int


@dataclass(frozen=True)
class ComparedRuns:
    """Runs over the same images `ids`, the index of these, and who has which class names.

    `classes` are those of the runs; those of the index differ if words of the user were segmented.
    """

    runs: tuple[TitledRun, ...]
    ids: tuple[str, ...]
    sources: dict[str, ImageSource]
    classes: tuple[str, ...]
    index_classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    truth_folder: FolderTruth | None

    @property
    def ignore_index(self) -> int:
        return get_ignore_index(len(self.classes) - 1)

    @property
    def has_comparable_truth(self) -> bool:
        """True if the classes of the ground truth are those of the runs."""
        return self.truth_folder is not None or self.classes == self.index_classes

    def has_truth(self, item_id: str) -> bool:
        """Return whether there is a ground-truth mask of an image."""
        if self.truth_folder is not None:
            return self.truth_folder.has_mask(item_id)
        source = self.sources[item_id]
        return item_id not in source.index.errors and source.has_mask(item_id)

    def read_size(self, item_id: str) -> tuple[int, int]:
        """Return the size (H, W) of an image. Raises BadData if the index rejected it."""
        return self.sources[item_id].read_size(item_id)

    def read_truth(self, item_id: str) -> np.ndarray:
        """Return the ground truth (H, W) of an image. Raises BadData."""
        return (self.truth_folder or self.sources[item_id]).read_mask(item_id)


def group_paths(paths: Iterable[str]) -> list[list[str]]:
    """Group the shards of one folder and run, which a pipe names one by one; every other path is a run of its own."""
    groups: dict[object, list[str]] = {}
    for position, path in enumerate(paths):
        name = parse_shard_name(Path(path))
        key = (Path(path).absolute().parent, name[0], name[2]) if name else position
        groups.setdefault(key, []).append(path)
    return list(groups.values())


def open_compared_runs(groups: Sequence[Sequence[str]], titles: Sequence[str], inputs: Inputs,
                       max_side: int) -> ComparedRuns:
    """Open runs and compare what they belong to; an index among them limits the images.

    Photographs are read with `max_side` pixels.

    Raises UsageError, MissingInput, and BadData for other kinds, other classes, other images, or no common image.
    """
    opened = [(group, Run(group, _KINDS, require_all=False)) for group in groups]
    drawn = [(group, run) for group, run in opened if run.kind != "index"]
    if titles and len(titles) != len(drawn):
        raise UsageError(f"--titles has {len(titles)} titles for {len(drawn)} runs of CAMs or masks",
                         "Give one title per run, separated by commas")
    for position, title in enumerate(titles):
        if title in titles[:position]:
            raise UsageError(f"--titles names two runs {title}", "Give every run a title of its own")
    base = next((run for _, run in opened if run.kind == "index"), opened[0][1])
    index = Run(find_indexes(base.shards, inputs.index), "index", require_all=False)
    names = build_titles([group[0] for group, _ in drawn])
    runs = tuple(TitledRun(title, run, name) for title, name, (_, run) in zip(titles or names, names, drawn,
                                                                              strict=True))
    if runs:
        check_same_classes(*((run.path, run.run.classes) for run in runs))
    for _, run in opened:
        check_same_images(index, run)
    ids, left_out = _find_common_ids([*((group[0], run) for group, run in opened if run.kind == "index"),
                                      *((run.title, run.run) for run in runs)])
    folder = inputs.named.get("truth")
    if folder is not None and inputs.index:
        raise UsageError(f"--truth {folder} and --index {inputs.index} both give the ground truth", "Use one of them")
    sources: dict[str, ImageSource] = {}
    for shard in index.shards:
        sources |= dict.fromkeys(shard.ids, ImageSource(shard, inputs.root, max_side=max_side))
    return ComparedRuns(runs, ids, sources, runs[0].run.classes if runs else index.classes, index.classes, left_out,
                        None if folder is None else FolderTruth(opened[0][1], Path(folder)))


def _find_common_ids(named: Sequence[tuple[str, Run]]) -> tuple[tuple[str, ...], tuple[LeftOut, ...]]:
    """Return the ids that all runs have, in the order of the first, and what is left out of each. Raises BadData."""
    (_, first), *others = named
    ids = tuple(item_id for item_id in first.ids if all(item_id in run.shard_by_id for _, run in others))
    if not ids:
        message = f"no image is in all of {', '.join(title for title, _ in named)}" if others else "has no images"
        raise BadData(message, "Give runs over the same images; `wsss info` lists them", where=str(first.first.path))
    counts = [LeftOut(title, len(run.shard_by_id) - len(ids), len(run.shard_by_id)) for title, run in named]
    return ids, tuple(count for count in counts if count.num_left_out)


def build_titles(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the names of runs; with their folder where two have the same name, and with a number if that helps not."""
    files = [Path(path) for path in paths]
    names = [(file.parent.name if parse_shard_name(file) and file.parent.name else file.stem) if file.suffix == ".h5"
             else file.absolute().name for file in files]
    longer = [str(Path(file.absolute().parent.name) / name) if names.count(name) > 1 else name
              for file, name in zip(files, names, strict=True)]
    return tuple(f"{name} ({longer[:position].count(name) + 1})" if longer.count(name) > 1 else name
                 for position, name in enumerate(longer))


class PredictionReader(RunReader):
    """Reads the masks and CAMs of a run with a title, also at the size of the images."""

    def __init__(self, titled: TitledRun, background: Background | None = None) -> None:
        """Read a run; `background` is the rule by which CAMs become masks."""
        super().__init__(titled.run, background)
        self.title = titled.title

    def iterate_best_classes(self, item_id: str,
                             size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, best class ids (h, W), their scores (h, W)) of the CAMs of an image, band by band.

        Raises BadData for CAMs that are not valid, or of an image of another size (H, W) than `size`.
        """
        item = self.run.item(item_id)
        self._check_size(item, size)
        return self._iterate_bands(item)

    def _iterate_bands(self, item: Item) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        num_classes = len(self.classes) - 1
        dtype = np.uint8 if get_ignore_index(num_classes) == 255 else np.uint16
        for band, rows, class_ids in resize_to_image_in_bands(item, num_classes):
            yield band, *find_best_class(rows, class_ids, dtype)

    def _check_size(self, item: Item, size: tuple[int, int]) -> None:
        own_size = item.datasets["mask"].shape if self.kind == "masks" else read_image_size(item)
        if tuple(own_size) != tuple(size):
            raise BadData(f"the prediction has the size {tuple(own_size)}, but the image has {tuple(size)}",
                          "Give runs over the same images, or make the run again", where=f"{self.path}: item {item.id}")

    def read_prediction(self, item_id: str, size: tuple[int, int]) -> np.ndarray:
        """Return the mask (H, W) of an image at its own size, CAMs under the background of the reader.

        An image that failed in the run is background, as in `wsss eval`. Raises BadData for another size than `size`.
        """
        ignore_index = get_ignore_index(len(self.classes) - 1)
        mask = np.zeros(size, np.uint8 if ignore_index == 255 else np.uint16)
        if self.find_problem(item_id):
            return mask
        item = self.run.item(item_id, exclude=("confidence",))
        self._check_size(item, size)
        if self.kind == "masks":
            return extract_mask(item, len(self.classes) - 1)
        for band, best_ids, best in self._iterate_bands(item):
            if self.background is not None and len(item.datasets["cam"]):
                mark_background(best_ids, best, self.background, ignore_index)
            mask[band] = best_ids
        return mask

    def read_small_maps(self, item_id: str, size: tuple[int, int],
                        max_side: int) -> tuple[ClassMaps, tuple[float, float]]:
        """Return the CAMs of an image and the height and width that they cover, as shares of those of the image.

        CAMs with more than `max_side` cells a side are reduced to `size` (h, w), others stay as they are stored. Raises
        BadData for CAMs that are not valid.
        """
        item = self.run.item(item_id)
        cells = item.datasets["cam"].shape[1:]
        if max(cells) > max_side:
            return self.read_maps(item_id, size), (1.0, 1.0)
        plain = replace(item, attrs={**item.attrs, "height": cells[0], "width": cells[1], "covers": np.array(cells)})
        maps, class_ids = resize_to_image(plain, len(self.classes) - 1)
        covers, image_size = item.attrs["covers"], read_image_size(item)
        return (ClassMaps(maps, class_ids, self.read_scores(item_id)[1]),
                (float(covers[0]) / image_size[0], float(covers[1]) / image_size[1]))
