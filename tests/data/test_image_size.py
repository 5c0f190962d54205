"""Sizes, decoding and masks of images that are larger than `max_side`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.data.image_size import compute_reduced_size, resize_labels, scale_covers
from stages.data.image_source import ImageSource
from stages.data.images import decode_image
from stages.shards import Item, Shard, ShardContents, provenance_entry, write_shard

SIDE = 96


def draw_photograph(size: tuple[int, int] = (300, 500)) -> np.ndarray:
    """Draw a smooth image, whose reductions by different filters are alike."""
    coarse = np.random.default_rng(0).integers(40, 216, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def encode(image: np.ndarray | Image.Image, file_format: str, **options: object) -> bytes:
    """Encode an image."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, file_format, **options)
    return stream.getvalue()


def test_only_larger_images_are_reduced() -> None:
    assert compute_reduced_size((375, 500), 1024) == (375, 500)
    assert compute_reduced_size((768, 1024), 1024) == (768, 1024)
    assert compute_reduced_size((3024, 4032), 1024) == (768, 1024)
    assert compute_reduced_size((4032, 3024), 1024) == (1024, 768)
    assert compute_reduced_size((1, 9000), 1024) == (1, 1024)
    assert compute_reduced_size((3024, 4032), 0) == (3024, 4032)


@pytest.mark.parametrize(("file_format", "options"), [
    ("PNG", {}), ("JPEG", {"quality": 95}), ("JPEG", {"quality": 95, "progressive": True}), ("TIFF", {}), ("WEBP", {}),
    ("BMP", {})])
def test_reduced_images_look_like_the_whole_one(file_format: str, options: dict[str, object]) -> None:
    image = draw_photograph()
    data = encode(image, file_format, **options)
    reduced = decode_image(data, where="a", max_side=SIDE)
    assert reduced.shape == (58, SIDE, 3)
    expected = np.asarray(Image.fromarray(image).resize((SIDE, 58), Image.Resampling.BOX))
    assert np.abs(reduced.astype(int) - expected).mean() < 3
    np.testing.assert_array_equal(decode_image(data, where="a", max_side=500), decode_image(data, where="a"))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_reduced(mode: str) -> None:
    image = Image.fromarray(draw_photograph())
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        converted = image.convert(mode)
    data = encode(converted, "TIFF" if mode == "CMYK" else "PNG")
    whole = Image.fromarray(decode_image(data, where="a"))
    reduced = decode_image(data, where="a", max_side=SIDE)
    expected = np.asarray(whole.resize((SIDE, 58), Image.Resampling.BICUBIC))
    assert reduced.shape == expected.shape
    assert np.abs(reduced.astype(int) - expected).max() <= 1, "reduced before or after conversion: rounding only"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_applies_to_reduced_images(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(draw_photograph(), file_format, exif=exif)
    for apply_exif in (False, True):
        whole = decode_image(data, where="a", apply_exif=apply_exif)
        reduced = decode_image(data, where="a", apply_exif=apply_exif, max_side=SIDE)
        expected = np.asarray(Image.fromarray(whole).resize(reduced.shape[1::-1], Image.Resampling.BOX))
        assert max(reduced.shape) == SIDE and (reduced.shape[0] > reduced.shape[1]) == (whole.shape[0] > whole.shape[1])
        assert np.abs(reduced.astype(int) - expected).mean() < 3


def test_labels_take_the_nearest_id() -> None:
    labels = np.arange(12).reshape(3, 4)
    assert resize_labels(labels, (1, 2)).tolist() == [[5, 7]]
    assert resize_labels(labels, (3, 4)) is labels
    blocks = np.kron(np.random.default_rng(0).integers(0, 9, (5, 7)), np.ones((4, 4), int))
    np.testing.assert_array_equal(resize_labels(blocks, (5, 7)), blocks[::4, ::4])


def test_covers_follow_the_size() -> None:
    assert scale_covers((768, 1024), (768, 1024), (3024, 4032)) == (3024, 4032)
    assert scale_covers((776, 1024), (766, 1024), (3018, 4032)) == (round(776 * 3018 / 766), 4032)


def test_source_reads_reduced_images_and_tells_both_sizes(tmp_path: Path) -> None:
    for name, size in (("large", (300, 500)), ("small", (40, 60))):
        (tmp_path / f"{name}.png").write_bytes(encode(draw_photograph(size), "PNG"))
    entry = provenance_entry("index", "table", {}, {})
    items = [Item(name, {}, {"path": f"{name}.png", "height": height, "width": width})
             for name, height, width in (("large", 300, 500), ("small", 40, 60))]
    write_shard(tmp_path / "i.h5", ShardContents("index", ("background",), items, provenance=[entry],
                                                 root_attrs={"root": "."}))
    source = ImageSource(Shard(tmp_path / "i.h5"), max_side=SIDE)
    assert source.read_size("large") == (300, 500) and source.read_input_size("large") == (58, SIDE)
    assert source.read_size("small") == source.read_input_size("small") == (40, 60)
    assert source.read_image("large").shape == (58, SIDE, 3) and source.read_image("small").shape == (40, 60, 3)
    assert source.num_reduced == 1
