"""Puts the images of an export into its layout: copies, or symbolic links."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from stages.data.image_source import ImageSource
from stages.data.images import encode_png, open_image, read_open_header
from stages.errors import BadData, Stopped, UsageError
from stages.flow.execution import Report, Stop
from stages.flow.folder_output import FolderOutput
from stages.flow.labelled_images import LabelledImages

_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif",
             "WEBP": ".webp", "PPM": ".ppm", "JPEG2000": ".jp2"}
_HEADER_BYTES = 1 << 16  # in which a JPEG file has its EXIF data
_MAX_LISTED = 3


@dataclass
class ImageCopies:
    """The files of the images in the layout, by id, relative to their folder; and the images that have none."""

    names: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    num_turned: int = 0

    def describe(self, mode: str) -> Iterator[str]:
        """Yield what a user must know about the images."""
        for reason in list(self.failures.values())[:_MAX_LISTED]:
            yield f"Skipping an image: {reason}"
        if len(self.failures) > _MAX_LISTED:
            yield f"Skipping {len(self.failures) - _MAX_LISTED} more images for such reasons."
        if self.num_turned:
            instead = " and not as links" if mode == "link" else ""
            yield (f"{self.num_turned} of {len(self.names)} images have an EXIF orientation, which some tools apply "
                   f"and others ignore. They are written as PNG{instead}, with the pixels that the masks belong to.")


def write_images(labelled: LabelledImages, folder: FolderOutput, prefix: str, mode: str, stop: Stop,
                 report: Report) -> ImageCopies:
    """Write every image to PREFIX<id>.<suffix>, as a copy or, with the mode "link", as a link to its file.

    The suffix is that of the format of the contents. An image with an EXIF orientation is always written as PNG, with
    the pixels that the masks belong to: tools differ in whether they turn it. Raises UsageError if an image to be
    linked is not a file of its own, and CannotCreate if the file system has no links.
    """
    copies = ImageCopies()
    report.start_progress("copying images" if mode == "copy" else "linking images", len(labelled.ids))
    for item_id in labelled.ids:
        if stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again")
        try:
            copies.names[item_id] = _write_image(labelled.get_source(item_id), item_id, folder, prefix, mode, copies)
        except BadData as error:
            copies.failures[item_id] = str(error)
        report.advance()
    return copies


def _write_image(source: ImageSource, item_id: str, folder: FolderOutput, prefix: str, mode: str,
                 copies: ImageCopies) -> str:
    data = source.read_encoded_image(item_id)
    suffix, orientation = _identify(data, source, item_id)
    if orientation != 1:
        copies.num_turned += 1
        folder.write(f"{prefix}{item_id}.png", encode_png(source.read_image(item_id)), is_listed=False)
        return f"{item_id}.png"
    name = f"{item_id}{suffix}"
    if mode == "copy":
        folder.write(prefix + name, data, is_listed=False)
        return name
    file = source.find_image_file(item_id)
    if file is None:
        raise UsageError(f"--images link needs image files, but {item_id} is packed in the index or in an archive",
                         "Use --images copy")
    folder.link(prefix + name, file)
    return name


def _identify(data: bytes, source: ImageSource, item_id: str) -> tuple[str, int]:
    """Return the suffix of the format and the EXIF orientation of an image."""
    where = str(source.read_entry(item_id).attrs["path"])
    with open_image(data, where=where, max_pixels=source.index.max_pixels) as image:
        return _SUFFIXES[str(image.format)], read_open_header(image).orientation


def describe_orientations(labelled: LabelledImages) -> str:
    """Return a note if JPEG files that are not copied have an EXIF orientation, else an empty text."""
    num_turned = sum(_has_orientation(labelled.get_source(item_id), item_id) for item_id in labelled.ids)
    if not num_turned:
        return ""
    applies = any(source.applies_exif for source in labelled.sources)
    fits, differs = ("apply", "ignore") if applies else ("ignore", "apply")
    return (f"{num_turned} of {len(labelled.ids)} images have an EXIF orientation. What is written fits tools that "
            f"{fits} it, and is wrong in those that {differs} it. With --images copy it fits both.")


def _has_orientation(source: ImageSource, item_id: str) -> bool:
    file = source.find_image_file(item_id)
    if file is None or not file.is_file():
        return False
    with file.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    if not head.startswith(b"\xff\xd8"):
        return False
    try:
        with open_image(head, where=item_id) as image:
            return read_open_header(image).orientation != 1
    except BadData:
        return False
