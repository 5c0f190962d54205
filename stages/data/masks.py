"""Decode masks of class ids from bytes and encode them; ids are read as stored, without any conversion of colours."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from stages.data.images import (
    MAX_PIXELS,
    SIXTEEN_BIT_MODES,
    load_pixels,
    open_image,
    read_open_header,
    restore_stored_axes,
    stored_size,
)
from stages.data.label_maps import apply_label_map
from stages.data.mask_colours import check_alpha, convert_colours, count_colours, format_colour, pack_colours
from stages.data.mask_values import MaskValues
from stages.data.matlab_masks import decode_matlab_mask, is_matlab_file
from stages.errors import BadData

LOSSLESS_FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
MAX_8_BIT_CLASS_ID = 254
IGNORE_8_BIT = 255
IGNORE_16_BIT = 65535
_SAVE_IDS_REMEDY = "Save the class ids as a palette or grey PNG"
_MAX_LISTED = 8


class UnknownMaskValues(BadData):
    """A mask has values or colours that are no class; `pixels` counts each value, or colour as #RRGGBB, of the mask."""

    pixels: Mapping[int | str, int] = {}
    num_ignored = 0
    palette: np.ndarray | None = None


def voc_palette() -> np.ndarray:
    """Return the palette of PASCAL VOC, (256, 3) uint8: bits 0, 1, 2 of an id are the high bits of R, G, B."""
    ids = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def list_voc_colours() -> list[str]:
    """Return the colours of the VOC palette as #RRGGBB, by id."""
    return [format_colour(colour) for colour in pack_colours(voc_palette()).tolist()]


def get_ignore_index(num_classes: int) -> int:
    """Return the ignore index of masks with classes 1..C: 255, or 65535 if C > 254."""
    return IGNORE_16_BIT if num_classes > MAX_8_BIT_CLASS_ID else IGNORE_8_BIT


def decode_mask(
    data: bytes,
    *,
    where: str,
    num_classes: int,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    label_map: str = "",
    mask_values: MaskValues | None = None,
) -> np.ndarray:
    """Decode class ids (H, W): 0 background, 1..C, and `get_ignore_index(C)`; uint8, or uint16 if C > 254.

    Reads palette indices, grey values of 1 to 16 bits as they are, RGB whose colours are all in the VOC palette, and
    SBD's MATLAB files. In a file of 8 bits 255 is ignored, in one of 16 bits 65535 (and 255, unless it is a class).
    With a `label_map`, a name in `LABEL_MAPS`, the values of the file are those of a benchmark; `mask_values` says
    what values or colours of the user's own mean.
    Raises BadData for a lossy format, objects in the alpha channel, other colours, ids that are not classes, and a size
    other than `size` = (H, W): masks are never resized.
    """
    return decode_mask_with_palette(data, where=where, num_classes=num_classes, size=size, max_pixels=max_pixels,
                                    label_map=label_map, mask_values=mask_values)[0]


def decode_mask_with_palette(
    data: bytes,
    *,
    where: str,
    num_classes: int,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    label_map: str = "",
    mask_values: MaskValues | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode class ids as `decode_mask` does; return the packed colours of the file's palette too, or None."""
    if is_matlab_file(data):
        values, palette = decode_matlab_mask(data, where=where, max_pixels=max_pixels), None
        _check_size((values.shape[0], values.shape[1]), size, where)
        if mask_values and mask_values.colours:
            raise BadData("a MATLAB file has class ids and no colours", "Give their ids in --mask-values", where=where)
    else:
        values, palette = _decode_image_mask(data, where, size, max_pixels, mask_values)
    if label_map:
        values = apply_label_map(values, label_map, where)
    if mask_values and mask_values.ids:
        values = mask_values.map_ids(values)
    try:
        return _convert_ids(values, num_classes, where), palette
    except UnknownMaskValues as error:
        error.palette = palette
        raise


def _decode_image_mask(data: bytes, where: str, size: tuple[int, int] | None, max_pixels: int,
                       mask_values: MaskValues | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values (H, W) of a mask in an image file, and the packed colours of its palette or None."""
    with open_image(data, where=where, max_pixels=max_pixels) as image:
        if image.format not in LOSSLESS_FORMATS:
            raise BadData(f"the mask is saved as {image.format}, which changes class ids", "Save it as PNG",
                          where=where)
        _check_size(stored_size(image), size, where)
        orientation = read_open_header(image).orientation
        pixels = load_pixels(image, where)
        palette = _read_palette(pixels)
        if mask_values and mask_values.colours:
            values = _read_ids_of_colours(pixels, palette, mask_values.colours, where)
        else:
            values = _read_ids(pixels, data, where)
        return restore_stored_axes(values, image, orientation), palette


def convert_mask_array(values: np.ndarray, *, where: str, num_classes: int, size: tuple[int, int],
                       mask_values: MaskValues | None = None) -> np.ndarray:
    """Convert an array of class ids (H, W) of any integer type to a mask, as `decode_mask` does with a file.

    Raises BadData for negative values, for ids that are not classes, and for a size other than `size` = (H, W).
    """
    _check_size((values.shape[0], values.shape[1]), size, where)
    if values.min() < 0 or values.max() > IGNORE_16_BIT:
        raise BadData(f"the mask has values from {values.min()} to {values.max()}, but class ids go from 0 to "
                      f"{num_classes} (ignored: {get_ignore_index(num_classes)})",
                      "Save class ids, and ignored pixels as 255", where=where)
    if mask_values and mask_values.colours:
        raise BadData("the array has class ids and no colours", "Give the ids in --mask-values", where=where)
    ids = values if values.dtype == np.uint8 else values.astype(np.uint16)
    return _convert_ids(mask_values.map_ids(ids) if mask_values and mask_values.ids else ids, num_classes, where)


def encode_mask(mask: np.ndarray) -> bytes:
    """Encode class ids (H, W) as PNG: with the VOC palette if uint8, as 16-bit grey if uint16.

    Raises ValueError for another type.
    """
    if mask.dtype not in (np.uint8, np.uint16) or mask.ndim != 2:
        raise ValueError(f"a mask must be uint8 or uint16 (H, W), not {mask.dtype} {mask.shape}")
    image = Image.fromarray(np.ascontiguousarray(mask))
    if mask.dtype == np.uint8:
        image.putpalette(voc_palette().ravel().tolist())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _check_size(mask_size: tuple[int, int], size: tuple[int, int] | None, where: str) -> None:
    if size is None or mask_size == tuple(size):
        return
    message = (f"the mask has {mask_size[0]}x{mask_size[1]} pixels (height x width), but its image has "
               f"{size[0]}x{size[1]}")
    remedy = "Use the mask of this image in its original size"
    if mask_size == (size[1], size[0]):
        remedy = "If EXIF rotates the image, run `wsss index` with --apply-exif"
    raise BadData(message, remedy, where=where)


def _read_palette(image: Image.Image) -> np.ndarray | None:
    """Return the packed colours of a palette by index, None if the image has none."""
    colours = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    return None if colours is None else pack_colours(np.array(colours, np.uint8).reshape(-1, 3))


def _read_ids(image: Image.Image, data: bytes, where: str) -> np.ndarray:
    if image.mode in ("P", "1", "I", *SIXTEEN_BIT_MODES):
        return np.asarray(image)
    if image.mode == "L":
        step = _compute_grey_step(image, data)
        return np.asarray(image) if step == 1 else np.asarray(image) // step
    if image.mode in ("LA", "PA", "RGB", "RGBA"):
        channels = _read_opaque_channels(image, where)
        return channels[:, :, 0] if channels.shape[2] == 1 else _convert_voc_colours(channels, where)
    raise BadData(f"the mask has the mode {image.mode}, which holds no class ids", _SAVE_IDS_REMEDY, where=where)


def _read_opaque_channels(image: Image.Image, where: str) -> np.ndarray:
    """Return the channels (H, W, 1 or 3) of an image without alpha. Raises BadData if objects are in the alpha."""
    channels = np.asarray(image)
    if image.mode == "RGB":
        return channels
    check_alpha(channels[:, :, :-1], channels[:, :, -1], where)
    return channels[:, :, :-1]


def _compute_grey_step(image: Image.Image, data: bytes) -> int:
    """Return the difference between grey levels that encode consecutive ids."""
    # Pillow scales grey PNGs of 2 and 4 bits to 0..255; byte 24 of the file is the bit depth.
    depth = data[24] if image.format == "PNG" else 8
    return 255 // (2**depth - 1) if depth in (2, 4) else 1


def _convert_voc_colours(colours: np.ndarray, where: str) -> np.ndarray:
    """Convert colours (H, W, 3) of the VOC palette to class ids (H, W) uint8. Raises UnknownMaskValues for others."""
    id_by_colour = {colour: class_id for class_id, colour in enumerate(pack_colours(voc_palette()).tolist())}
    ids = convert_colours(colours, id_by_colour)
    if ids is None:
        raise _build_colour_error(count_colours(colours), id_by_colour, "the VOC palette", where)
    return ids.astype(np.uint8)


def _read_ids_of_colours(image: Image.Image, palette: np.ndarray | None, id_by_colour: Mapping[int, int],
                         where: str) -> np.ndarray:
    """Return the class ids (H, W) uint16 of an image's colours. Raises UnknownMaskValues for one without a class."""
    if image.mode in ("RGB", "RGBA"):
        colours = _read_opaque_channels(image, where)
        ids = convert_colours(colours, id_by_colour)
        if ids is None:
            raise _build_colour_error(count_colours(colours), id_by_colour, "--mask-values", where)
        return ids
    if image.mode not in ("L", "LA", "1", "P", "PA"):
        raise BadData(f"the mask has the mode {image.mode} and no colours", "Give its values in --mask-values",
                      where=where)
    grey = _read_opaque_channels(image, where)[:, :, 0] if image.mode in ("LA", "PA") else np.asarray(image)
    values = np.asarray(image.convert("L")) if image.mode == "1" else grey
    table = np.arange(256, dtype=np.int32) * 0x010101 if palette is None else palette
    counts = np.bincount(values.ravel(), minlength=256)
    used = {int(table[value]): int(counts[value]) for value in np.flatnonzero(counts)}
    if used.keys() - id_by_colour.keys():
        raise _build_colour_error(used, id_by_colour, "--mask-values", where)
    return np.array([id_by_colour.get(colour, 0) for colour in table.tolist()], dtype=np.uint16)[values]


def _build_colour_error(counts: Mapping[int, int], id_by_colour: Mapping[int, int], table: str,
                        where: str) -> UnknownMaskValues:
    unknown = sorted((colour for colour in counts if colour not in id_by_colour), key=lambda c: -counts[c])
    names = ", ".join(map(format_colour, unknown[:_MAX_LISTED])) + (", ..." if len(unknown) > _MAX_LISTED else "")
    colour = tuple(int(channel) for channel in unknown[0].to_bytes(3, "big"))
    plural = f"colours {names}, which are" if len(unknown) > 1 else f"colour {names} {colour}, which is"
    remedy = f"Say what colours mean, for example --mask-values '{format_colour(unknown[0])}=cat', or save class ids"
    error = UnknownMaskValues(f"the mask has the {plural} not in {table}{_describe_smooth_edges(counts, 3)}", remedy,
                              where=where)
    error.pixels = {format_colour(colour): count for colour, count in counts.items()}
    return error


def _describe_smooth_edges(counts: Mapping[int, int], num_expected: int) -> str:
    """Return a hint if a mask has many values, of which a few have most pixels, as smooth edges make them."""
    ordered = sorted(counts.values(), reverse=True)
    has_many = len(ordered) > num_expected + 8
    if not has_many or sum(ordered[:num_expected]) * 2 < sum(ordered):
        return f", of {len(ordered)} different ones as in a photograph" if len(ordered) > 300 else ""
    return f", and {len(ordered)} different ones in all, as after smoothing (anti-aliased edges) or resizing"


def _convert_ids(ids: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Check that ids are classes or ignored, and convert them to the type and ignore index of `num_classes`."""
    # In 8 bits 255 + 1 is 0, so two passes decide about most masks.
    if ids.dtype == np.uint8 and num_classes <= MAX_8_BIT_CLASS_ID and (ids + np.uint8(1)).max() <= num_classes + 1:
        return np.array(ids)
    ignored = ids == IGNORE_8_BIT if ids.dtype == np.uint8 else ids == IGNORE_16_BIT
    if num_classes < IGNORE_8_BIT:
        ignored |= ids == IGNORE_8_BIT
    if ((ids > num_classes) & ~ignored).any():
        raise _build_id_error(ids, ignored, num_classes, where)
    mask = ids.astype(np.uint8 if num_classes <= MAX_8_BIT_CLASS_ID else np.uint16)
    mask[ignored] = get_ignore_index(num_classes)
    return mask


def _build_id_error(ids: np.ndarray, ignored: np.ndarray, num_classes: int, where: str) -> UnknownMaskValues:
    values, counts = (array.tolist() for array in np.unique(ids[~ignored], return_counts=True))
    pixels = dict(zip(values, counts, strict=True))
    wrong = [value for value in values if value > num_classes]
    listed = ("..., " if len(wrong) > _MAX_LISTED else "") + ", ".join(map(str, wrong[-_MAX_LISTED:]))
    names = f"class id{'s' if len(wrong) > 1 else ''} {listed}"
    error = UnknownMaskValues(
        f"the mask has the {names}, but the classes are 0..{num_classes} (ignored: {get_ignore_index(num_classes)})"
        f"{_describe_smooth_edges(pixels, num_classes + 2)}",
        "Use the class names that the mask was made with, or say what its values mean, for example "
        f"--mask-values {wrong[-1]}=cat", where=where)
    error.pixels, error.num_ignored = pixels, int(ignored.sum())
    return error
