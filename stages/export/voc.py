"""PASCAL VOC: masks in SegmentationClass, lists in ImageSets, class names, and the layout of the test server."""

from __future__ import annotations

from collections.abc import Iterator

from stages.data.masks import encode_mask
from stages.export.config import VocConfig
from stages.export.exported_set import ExportedFile, ExportedSet
from stages.export.png import list_label_map


def build_files(exported: ExportedSet, config: VocConfig) -> Iterator[ExportedFile]:
    """Yield SegmentationClass/<id>.png of each image, ImageSets/Segmentation/SPLIT.txt, classes.txt and labelmap.txt.

    With `submission`, only results/VOC2012/Segmentation/comp6_test_cls/<id>.png.
    """
    folder = "SegmentationClass"
    if config.submission:
        folder = f"results/VOC2012/Segmentation/{config.competition}_test_cls"
    ids, suffixes = [], set()
    for image in exported.images:
        ids.append(image.id)
        suffixes.add(image.file_name[-4:])
        yield f"{folder}/{image.id}.png", encode_mask(image.read_mask())
    if config.submission:
        return
    yield f"ImageSets/Segmentation/{config.split}.txt", _join_lines(ids)
    yield "classes.txt", _join_lines([name or "void" for name in exported.classes])
    yield from list_label_map(exported, keeps_ignored=config.ignored == "keep")
    if config.images != "none" and suffixes != {".jpg"}:
        exported.statistics.notes.append(
            "Some images are not JPEG files; torchvision's VOCSegmentation reads only JPEGImages/<id>.jpg.")


def _join_lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
