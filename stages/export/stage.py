"""`export`: writes masks as PNG files for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.data.image_source import ImageSource
from stages.data.layout_voc import VOC_CLASSES
from stages.data.masks import encode_mask, get_ignore_index
from stages.errors import BadData, CannotCreate, Stopped, UsageError
from stages.export.config import PngConfig, VocConfig
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.item_arrays import extract_mask
from stages.flow.parts import find_index
from stages.shards import Run, Shard
from stages.shards.disk import make_folder, replace_file


def run_png(config: PngConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write every mask to OUT/<id>.png, with class ids as palette indices and 255 for ignored pixels."""
    run = Run(inputs.paths, "masks")
    return _write_masks(run, _build_paths(run, output.path), output, stop, report, palette=config.palette)


def run_voc(config: VocConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write a VOC tree (SegmentationClass, ImageSets, classes.txt), or the layout of the VOC test server.

    A submission is results/VOC2012/Segmentation/comp6_test_cls/<id>.png. Raises BadData, before anything is written,
    unless every image of the index has a mask of the image's size without ignored pixels.
    """
    run = Run(inputs.paths, "masks")
    if config.submission:
        folder = output.path / "results" / "VOC2012" / "Segmentation" / f"{config.competition}_test_cls"
        paths = _build_paths(run, folder)
        _check_submission(run, inputs, stop, report)
        return _write_masks(run, paths, output, stop, report, palette=True)
    paths = _build_paths(run, output.path / "SegmentationClass")
    summary = _write_masks(run, paths, output, stop, report, palette=True)
    exported_ids = [item_id for item_id in run.ids if item_id in run]
    text_files = {output.path / "ImageSets" / "Segmentation" / f"{config.split}.txt": exported_ids,
                  output.path / "classes.txt": [name or "void" for name in run.classes]}
    for path, lines in text_files.items():
        data = "".join(f"{line}\n" for line in lines).encode()
        if output.dry_run:
            _report_plan(path, data, report)
        else:
            make_folder(path.parent)
            replace_file(path, data)
    index = Shard(find_index(run.first, inputs.index), "index")
    report.info(f"The images are not copied; they are in {index.path.parent / index.attribute('root')}.")
    return summary


def _build_paths(run: Run, folder: Path) -> dict[str, Path]:
    """Return the PNG path of each mask by its id. Raises UsageError for an id that would leave the folder."""
    paths = {}
    for item_id in run.ids:
        if ".." in Path(item_id).parts or Path(item_id).is_absolute():
            raise UsageError(f"the image id {item_id} cannot be a file name in {folder}",
                             "Index the images with other ids")
        paths[item_id] = folder / f"{item_id}.png"
    return paths


def _check_submission(run: Run, inputs: Inputs, stop: Stop, report: Report) -> None:
    """Raise BadData if the server would reject the masks or count them as wrong."""
    if run.classes != VOC_CLASSES:
        report.info(f"The classes are {', '.join(run.classes[:4])}{', ...' if len(run.classes) > 4 else ''}, but the "
                    "VOC server scores the 20 classes of VOC, in their order.")
    paths = sorted({find_index(shard, inputs.index) for shard in run.shards})
    sources = [ImageSource(Shard(path, "index"), inputs.root) for path in paths]
    missing = [item_id for source in sources for item_id in source.index.ids if item_id not in run]
    if missing:
        total = sum(len(source.index.ids) for source in sources)
        raise BadData(f"{len(missing)} of {total} images have no mask (the first is {missing[0]}), but a submission "
                      "needs a mask of every image", "See `wsss info MASKS` for the reasons, and make these masks",
                      where=str(run.first.path))
    report.start_progress("checking masks", sum(len(source.index.ids) for source in sources))
    for source in sources:
        for item_id in source.index.ids:
            if stop.requested:
                raise Stopped("stopped by a signal", "Run the same command again")
            _check_mask(run, source, item_id)
            report.advance()


def _check_mask(run: Run, source: ImageSource, item_id: str) -> None:
    mask = extract_mask(run.item(item_id), len(run.classes) - 1)
    if bool((mask == get_ignore_index(len(run.classes) - 1)).any()):
        raise BadData("the mask has ignored pixels, which a submission may not have",
                      "Make the masks without --min-confidence", where=item_id)
    size = source.read_size(item_id)
    if mask.shape != size:
        raise BadData(f"the mask has {mask.shape[0]}x{mask.shape[1]} pixels (height x width), but the image has "
                      f"{size[0]}x{size[1]}", "Make the masks at the size of the images", where=item_id)


def _write_masks(run: Run, paths: dict[str, Path], output: Output, stop: Stop, report: Report, *,
                 palette: bool) -> Summary:
    summary = Summary()
    report.start_progress("", len(paths))
    for item_id, data in _encode_masks(run, palette=palette):
        if stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again")
        path = paths[item_id]
        if _has_contents(path, data):
            summary.num_up_to_date += 1
        elif path.exists() and not output.force:
            raise CannotCreate("the file already exists with different contents",
                               "Use --force to replace it, or choose another -o", where=str(path))
        elif not output.dry_run:
            make_folder(path.parent)
            replace_file(path, data)
            summary.num_written += 1
        if output.dry_run:
            _report_plan(path, data, report)
        if not output.dry_run or _has_contents(path, data):
            report.print_path(path)
        report.advance()
    num_failed = sum(len(shard.errors) for shard in run.shards)
    return Summary(summary.num_written, summary.num_up_to_date, len(paths), num_failed, written_noun="file")


def _has_contents(path: Path, data: bytes) -> bool:
    return path.exists() and path.read_bytes() == data


def _report_plan(path: Path, data: bytes, report: Report) -> None:
    report.info(f"{path} is up to date." if _has_contents(path, data) else f"Would write {path}.")


def _encode_masks(run: Run, *, palette: bool) -> Iterator[tuple[str, bytes]]:
    for item_id in run.ids:
        if item_id not in run:
            continue
        mask = run.item(item_id).datasets["mask"]
        yield item_id, encode_mask(mask) if palette else _encode_grey_png(mask)


def _encode_grey_png(mask: np.ndarray) -> bytes:
    import io

    from PIL import Image
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return stream.getvalue()
