"""`export`: masks for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.data.masks import encode_mask
from stages.errors import BadData, CannotCreate, Stopped, UsageError
from stages.export.config import PngConfig, VocConfig
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.parts import find_index
from stages.shards import Run, Shard
from stages.shards.disk import make_folder, replace_file


def run_png(config: PngConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write OUT/<id>.png for every mask: class ids as palette indices, 255 ignored."""
    run = Run(inputs.paths, "masks")
    return _write(run, _place(run, output.path, ".png"), output, stop, report, palette=config.palette)


def run_voc(config: VocConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write a VOC tree (SegmentationClass, ImageSets, classes.txt), or the layout of the VOC test server.

    The submission is results/VOC2012/Segmentation/comp6_test_cls/<id>.png; it allows no ignored pixels.
    """
    run = Run(inputs.paths, "masks")
    if config.submission:
        folder = output.path / "results" / "VOC2012" / "Segmentation" / f"{config.competition}_test_cls"
        return _write(run, _place(run, folder, ".png"), output, stop, report, palette=True, ignored=False)
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


def _write(run: Run, places: dict[str, Path], output: Output, stop: Stop, report: Report, *, palette: bool,
           ignored: bool = True) -> Summary:
    summary = Summary()
    report.begin("export", len(places))
    for item_id, data in _encoded(run, palette=palette, ignored=ignored):
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


def _encoded(run: Run, *, palette: bool, ignored: bool) -> Iterator[tuple[str, bytes]]:
    for item_id in run.ids:
        if item_id not in run:
            continue
        mask = run.item(item_id).datasets["mask"]
        if not ignored and bool((mask == np.iinfo(mask.dtype).max).any()):
            raise BadData("has ignored pixels, which a submission may not have",
                          "make the masks without --min-confidence", where=item_id)
        yield item_id, encode_mask(mask) if palette else _grey(mask)


def _grey(mask: np.ndarray) -> bytes:
    import io

    from PIL import Image
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
