"""`export`: masks for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.data.layout_voc import VOC_CLASSES
from stages.data.masks import encode_mask, ignore_id
from stages.data.source import ImageSource
from stages.errors import BadData, CannotCreate, Stopped, UsageError
from stages.export.config import PngConfig, VocConfig
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.maps import mask_ids
from stages.flow.parts import find_index
from stages.shards import Run, Shard
from stages.shards.disk import make_folder, replace_file


def run_png(config: PngConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write OUT/<id>.png for every mask: class ids as palette indices, 255 ignored."""
    run = Run(inputs.paths, "masks")
    return _write(run, _place(run, output.path, ".png"), output, stop, report, palette=config.palette)


def run_voc(config: VocConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write a VOC tree (SegmentationClass, ImageSets, classes.txt), or the layout of the VOC test server.

    The submission is results/VOC2012/Segmentation/comp6_test_cls/<id>.png. Nothing of it is written unless every
    image of the index has a mask of the image's size without ignored pixels: else raises BadData.
    """
    run = Run(inputs.paths, "masks")
    if config.submission:
        folder = output.path / "results" / "VOC2012" / "Segmentation" / f"{config.competition}_test_cls"
        places = _place(run, folder, ".png")
        _check_submission(run, inputs, stop, report)
        return _write(run, places, output, stop, report, palette=True)
    summary = _write(run, _place(run, output.path / "SegmentationClass", ".png"), output, stop, report, palette=True)
    written = [item_id for item_id in run.ids if item_id in run]
    lists = {output.path / "ImageSets" / "Segmentation" / f"{config.split}.txt": written,
             output.path / "classes.txt": [name or "void" for name in run.classes]}
    for place, lines in lists.items():
        data = "".join(f"{line}\n" for line in lines).encode()
        if output.dry_run:
            _tell_of(place, data, report)
        else:
            make_folder(place.parent)
            replace_file(place, data)
    index = Shard(find_index(run.first, inputs.index), "index")
    report.tell(f"the images stay where they are: {index.path.parent / index.attribute('root')}")
    return summary


def _place(run: Run, folder: Path, suffix: str) -> dict[str, Path]:
    """Return where each mask goes; UsageError for an id that would leave the folder."""
    places = {}
    for item_id in run.ids:
        place = folder / f"{item_id}{suffix}"
        if ".." in Path(item_id).parts or Path(item_id).is_absolute():
            raise UsageError(f"the id {item_id} can't be a file name below {folder}", "index with other ids")
        places[item_id] = place
    return places


def _check_submission(run: Run, inputs: Inputs, stop: Stop, report: Report) -> None:
    """Raise BadData where the server would reject the masks or count them as wrong."""
    if run.classes != VOC_CLASSES:
        report.tell(f"the classes are {', '.join(run.classes[:4])}{', ...' if len(run.classes) > 4 else ''}: the VOC "
                    "server scores the 20 classes of VOC, in their order")
    paths = sorted({find_index(shard, inputs.index) for shard in run.shards})
    sources = [ImageSource(Shard(path, "index"), inputs.root) for path in paths]
    missing = [item_id for source in sources for item_id in source.index.ids if item_id not in run]
    if missing:
        total = sum(len(source.index.ids) for source in sources)
        raise BadData(f"{len(missing)} of {total} images have no mask (the first is {missing[0]}), and a submission "
                      "needs one of every image", "see wsss info MASKS for the reasons, and make these masks",
                      where=str(run.first.path))
    report.begin("check", sum(len(source.index.ids) for source in sources))
    for source in sources:
        for item_id in source.index.ids:
            if stop.requested:
                raise Stopped("stopped", "run the same command again")
            _check_mask(run, source, item_id)
            report.advance()


def _check_mask(run: Run, source: ImageSource, item_id: str) -> None:
    mask = mask_ids(run.item(item_id), len(run.classes) - 1)
    if bool((mask == ignore_id(len(run.classes) - 1)).any()):
        raise BadData("has ignored pixels, which a submission may not have",
                      "make the masks without --min-confidence", where=item_id)
    size = source.size(item_id)
    if mask.shape != size:
        raise BadData(f"the mask is {mask.shape[0]}x{mask.shape[1]} pixels (height x width), the image "
                      f"{size[0]}x{size[1]}", "make the masks at the size of the images", where=item_id)


def _write(run: Run, places: dict[str, Path], output: Output, stop: Stop, report: Report, *,
           palette: bool) -> Summary:
    summary = Summary()
    report.begin("export", len(places))
    for item_id, data in _encoded(run, palette=palette):
        if stop.requested:
            raise Stopped("stopped", "run the same command again")
        place = places[item_id]
        if _is(place, data):
            summary.up_to_date += 1
        elif place.exists() and not output.force:
            raise CannotCreate("exists and differs", "give another -o, or --force", where=str(place))
        elif not output.dry_run:
            make_folder(place.parent)
            replace_file(place, data)
            summary.made += 1
        if output.dry_run:
            _tell_of(place, data, report)
        if not output.dry_run or _is(place, data):
            report.finished(place)
        report.advance()
    refused = sum(len(shard.errors) for shard in run.shards)
    return Summary(summary.made, summary.up_to_date, len(places), refused)


def _is(place: Path, data: bytes) -> bool:
    return place.exists() and place.read_bytes() == data


def _tell_of(place: Path, data: bytes, report: Report) -> None:
    report.tell(f"{place} is up to date" if _is(place, data) else f"would write {place}")


def _encoded(run: Run, *, palette: bool) -> Iterator[tuple[str, bytes]]:
    for item_id in run.ids:
        if item_id not in run:
            continue
        mask = run.item(item_id).datasets["mask"]
        yield item_id, encode_mask(mask) if palette else _grey(mask)


def _grey(mask: np.ndarray) -> bytes:
    import io

    from PIL import Image
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
