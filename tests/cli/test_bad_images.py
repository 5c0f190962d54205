"""Images and masks of all kinds: those accepted with the right values, and those rejected with a one-line reason."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, check_error, copy_dataset, index_table, list_messages, run, run_ok
from conftest import Result
from data.test_images import encode_png_header
from stages.data.image_source import ImageSource
from stages.shards import Run, Shard

NAME = "picture_001"
SIZE = (48, 64)


@pytest.fixture
def root(tiny_dataset, tmp_path) -> Path:
    """Return a copy of the tiny data set of 12 images, one of which a test may damage."""
    return copy_dataset(tiny_dataset, tmp_path / "set")


def image_path(root: Path) -> Path:
    return root / "JPEGImages" / f"{NAME}.jpg"


def mask_path(root: Path) -> Path:
    return root / "SegmentationClass" / f"{NAME}.png"


def encode(image: Image.Image, kind: str, **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def forge_size(data: bytes, side: int = 65500) -> bytes:
    """Return a JPEG whose header claims `side` x `side` pixels."""
    start = re.search(rb"\xff\xc0..\x08", data, re.DOTALL).end()
    return data[:start] + side.to_bytes(2, "big") * 2 + data[start + 4:]


def encode_animation() -> bytes:
    frames = [Image.new("L", (64, 48), value) for value in (0, 255)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "zero bytes": (lambda data: b"", "not an image (0 bytes)"),
    "truncated": (lambda data: data[:len(data) // 2], "the image is damaged"),
    "cut in the header": (lambda data: data[:20], "image"),
    "a web page": (lambda data: b"<!DOCTYPE html><html>404</html>", "web page"),
    "text": (lambda data: b"no picture", "not an image (10 bytes)"),
    "a bomb": (lambda data: encode(Image.new("1", (20800, 10000)), "PNG"), "more than the limit of 200000000"),
    "a forged size": (forge_size, "more than the limit"),
    "a header of 20,000 x 20,000": (lambda data: encode_png_header(20_000, 20_000), "20000x20000"),
    "an animation": (lambda data: encode_animation(), "several frames"),
    "32 bits": (lambda data: encode(Image.new("F", (64, 48)), "TIFF"), "32 bits"),
}


def check_rejected(done: Result, index: Path, message: str, path: Path) -> None:
    """Check that one image was rejected with its file and reason, and that no other image was."""
    assert done.code == 65, done.err
    assert done.out == f"{index}\n"
    lines = list_messages(done)
    assert len(lines) == 2, done.err
    relative = f"{path.parent.name}/{path.name}"
    assert lines[0].startswith("1 of 12 images were rejected, the first: ")
    assert f"{relative}: " in lines[0]
    assert message in lines[0]
    assert lines[1].startswith("wsss index table: 1 of 12 images failed. ")
    shard = Shard(index)
    assert list(shard.errors) == [NAME]
    assert len(shard.ids) == 12
    assert shard.errors[NAME].startswith(f"{relative}: ")


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_a_damaged_image_is_rejected_and_the_others_are_kept(root, tmp_path, kind):
    damage, message = DAMAGES[kind]
    image_path(root).write_bytes(damage(image_path(root).read_bytes()))
    check_rejected(index_table(root, tmp_path / "i.h5"), tmp_path / "i.h5", message, image_path(root))


def test_a_missing_image_and_a_folder_in_its_place(root, tmp_path):
    image_path(root).unlink()
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 65
    assert "can't be read (No such file" in Shard(tmp_path / "i.h5").errors[NAME]
    image_path(root).mkdir()
    check_rejected(index_table(root, tmp_path / "j.h5"), tmp_path / "j.h5", "regular file", image_path(root))


def test_a_pipe_in_place_of_an_image_does_not_block(wsss, root):
    image_path(root).unlink()
    os.mkfifo(image_path(root))
    done = wsss("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "-o", "i.h5")
    assert done.code == 65
    assert f"{NAME}.jpg: " in done.err
    assert "regular file" in done.err


def test_max_pixels_allows_more_pixels(root, tmp_path):
    assert index_table(root, tmp_path / "i.h5", "--max-pixels", "3000").code == 65
    assert len(Shard(tmp_path / "i.h5").errors) == 12
    assert index_table(root, tmp_path / "j.h5", "--max-pixels", str(48 * 64)).code == 0


def test_allow_errors_strict_and_retry(root, tmp_path):
    index, data = tmp_path / "i.h5", image_path(root).read_bytes()
    image_path(root).write_bytes(b"")
    answer = check_error(index_table(root, index, "--strict"), 65, f"{NAME}.jpg: this is not an image")
    assert "--strict" in answer or "Replace" in answer
    assert not index.exists()
    assert index_table(root, index, "--allow-errors", "0").code == 65
    assert index_table(root, index).code == 65, "also if the output is up to date"
    for allowed, code in (("1", 0), ("9%", 0), ("8%", 65), ("100%", 0)):
        assert index_table(root, index, "--allow-errors", allowed).code == code
    check_error(index_table(root, index, "--allow-errors", "few"), 2, "--allow-errors", "'few'")
    image_path(root).write_bytes(data)
    assert index_table(root, index, "--retry").code == 0
    assert not Shard(index).errors


def encode_stored(image: Image.Image, kind: str) -> tuple[bytes, np.ndarray]:
    data = encode(image, kind)
    return data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def build_grey_ramp(bits: int) -> np.ndarray:
    values = np.linspace(0, 2**bits - 1, SIZE[0] * SIZE[1]).reshape(SIZE)
    return values.astype(np.uint16 if bits > 8 else np.uint8)


def accepted_kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Return the bytes of an image of each kind and its RGB values."""
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    colour, sixteen = Image.fromarray(rgb), build_grey_ramp(16)
    half = np.full((*SIZE, 1), 128, np.uint8)
    return {
        "16-bit grey": (encode(Image.fromarray(sixteen), "PNG"),
                        np.round(sixteen / 257).astype(np.uint8)[..., None].repeat(3, 2)),
        "8-bit grey": (encode(Image.fromarray(build_grey_ramp(8)), "PNG"), build_grey_ramp(8)[..., None].repeat(3, 2)),
        "1 bit": (encode(Image.fromarray(build_grey_ramp(8) > 99), "PNG"),
                  ((build_grey_ramp(8) > 99) * np.uint8(255))[..., None].repeat(3, 2)),
        "palette": encode_stored(colour.quantize(16), "PNG"),
        "CMYK": encode_stored(colour.convert("CMYK"), "JPEG"),
        "RGBA": (encode(Image.fromarray(np.concatenate([rgb, half], 2)), "PNG"), rgb),
        "LA": (encode(Image.fromarray(np.concatenate([build_grey_ramp(8)[..., None], half], 2)), "PNG"),
               build_grey_ramp(8)[..., None].repeat(3, 2)),
        "GIF of one frame named jpg": encode_stored(colour.quantize(16), "GIF"),
        "WebP named jpg": (encode(colour, "WEBP", lossless=True), rgb),
        "BMP": (encode(colour, "BMP"), rgb),
        "TIFF": (encode(colour, "TIFF"), rgb),
    }


# What `wsss index` reports about images of each kind.
NOTES = {"16-bit grey": "have 16 bits per pixel and are scaled to 8", "8-bit grey": "",
         "1 bit": "have 1 bit per pixel and are converted to RGB", "palette": "have a palette and are converted to RGB",
         "CMYK": "have CMYK colours and are converted to RGB", "RGBA": "have transparency, which is dropped",
         "LA": "have transparency, which is dropped",
         "GIF of one frame named jpg": "have a palette and are converted to RGB", "WebP named jpg": "", "BMP": "",
         "TIFF": ""}


@pytest.mark.parametrize("kind", NOTES)
def test_images_of_every_kind_are_accepted_with_their_values(root, tmp_path, kind):
    data, values = accepted_kinds()[kind]
    image_path(root).write_bytes(data)
    done = index_table(root, tmp_path / "i.h5")
    assert (done.code, list_messages(done)) == (0, [f"1 of 12 images {NOTES[kind]}."] if NOTES[kind] else [])
    np.testing.assert_array_equal(ImageSource(Shard(tmp_path / "i.h5")).read_image(NAME), values)


def encode_constant_mask(label: int) -> bytes:
    return encode(Image.fromarray(np.full(SIZE, label, np.uint8)), "PNG")


MASK_DAMAGES: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "another size": (lambda data: encode(Image.new("L", (60, 48)), "PNG"), ("48x60", "48x64")),
    "rotated": (lambda data: encode(Image.new("L", (48, 64)), "PNG"), ("64x48", "48x64", "--apply-exif")),
    "an id beyond the classes": (lambda data: encode_constant_mask(3), ("id 3", "0..2")),
    "other colours": (lambda data: encode(Image.new("RGB", (64, 48), (1, 2, 3)), "PNG"), ("(1, 2, 3)", "palette")),
    "JPEG": (lambda data: encode(Image.new("L", (64, 48)), "JPEG"), ("JPEG", "PNG")),
    "zero bytes": (lambda data: b"", ("not an image",)),
    "truncated": (lambda data: data[:-40], ("the image is damaged",)),
}


@pytest.mark.parametrize("kind", list(MASK_DAMAGES))
def test_an_image_with_a_damaged_mask_is_rejected(root, tmp_path, kind):
    damage, message = MASK_DAMAGES[kind]
    mask_path(root).write_bytes(damage(mask_path(root).read_bytes()))
    done = index_table(root, tmp_path / "i.h5")
    for text in message:
        check_rejected(done, tmp_path / "i.h5", text, mask_path(root))


def test_masks_of_other_kinds_are_accepted(root, tiny_index, tmp_path):
    with Image.open(mask_path(root)) as image:
        ids, colours = np.asarray(image), image.convert("RGB")
    for number, data in enumerate((encode(colours, "PNG"), encode(Image.fromarray(ids), "PNG"),
                                   encode(Image.fromarray(ids.astype(np.uint16)), "PNG"))):
        mask_path(root).write_bytes(data)
        index = tmp_path / f"{number}.h5"
        assert index_table(root, index).code == 0
        np.testing.assert_array_equal(ImageSource(Shard(index)).read_mask(NAME), ids)


def test_exif_is_applied_only_on_request(root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(image_path(root)) as image:
        rotated = np.asarray(image).transpose(1, 0, 2)[::-1]
    image_path(root).write_bytes(encode(Image.fromarray(rotated), "PNG", exif=exif))
    check_rejected(index_table(root, tmp_path / "i.h5"), tmp_path / "i.h5", "--apply-exif", mask_path(root))
    assert index_table(root, tmp_path / "j.h5", "--apply-exif").code == 0
    source = ImageSource(Shard(tmp_path / "j.h5"))
    assert source.read_size(NAME) == source.read_image(NAME).shape[:2] == source.read_mask(NAME).shape == SIZE


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (1, 4000)], ids=str)
def test_tiny_images_go_through_all_stages(root, tiny_net, tmp_path, size):
    image_path(root).write_bytes(encode(Image.new("RGB", size[::-1], (90, 10, 200)), "PNG"))
    mask_path(root).unlink()
    assert index_table(root, tmp_path / "i.h5").code == 0
    run_ok("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "--tags", "all", "-o", tmp_path / "cams")
    run_ok("refine", "crf", tmp_path / "cams", "-o", tmp_path / "crf")
    run_ok("pseudo", tmp_path / "crf", "-o", tmp_path / "masks")
    assert Run([tmp_path / "masks"]).item(NAME).datasets["mask"].shape == size


@pytest.fixture
def index(root, tmp_path) -> Path:
    """Return an index in a folder next to its images."""
    assert index_table(root, tmp_path / "made" / "i.h5").code == 0
    return tmp_path / "made" / "i.h5"


@pytest.mark.parametrize(("damage", "message", "more"), [
    (lambda path: path.unlink(), "can't be read (No such file", ()),
    (lambda path: path.unlink(), "can't be read (No such file", ("--shard-size", "4", "-j", "2")),
    (lambda path: path.write_bytes((path.parent / "picture_000.jpg").read_bytes()), "has changed since it was indexed",
     ()),
    (lambda path: path.write_bytes(path.read_bytes()[:-9]), "has changed since it was indexed", ())],
    ids=["deleted", "deleted, two processes", "another", "cut"])
def test_an_image_that_changed_since_it_was_indexed(root, index, tiny_net, tmp_path, damage, message, more):
    damage(image_path(root))
    done = run("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL, *more)
    assert done.code == 65
    assert f"JPEGImages/{NAME}.jpg: " in done.err
    assert message in done.err
    assert "wsss cams cnn: 1 of 12 images failed" in done.err.splitlines()[-1]
    maps = Run([tmp_path / "cams"], "cams")
    assert [name for shard in maps.shards for name in shard.errors] == [NAME]
    assert sum(name in maps for name in maps.ids) == 11
    if not more:
        strict = run("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "strict", "--strict", *SMALL)
        check_error(strict, 65, NAME)
        assert run("pseudo", tmp_path / "cams", "-o", tmp_path / "masks").code == 65, "children copy the error"
        assert Run([tmp_path / "masks"]).first.errors == maps.first.errors


def test_retry_repeats_failed_images_only(root, index, tiny_net, tmp_path):
    data = image_path(root).read_bytes()
    image_path(root).unlink()
    words = ("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    assert run(*words).code == 65
    image_path(root).write_bytes(data)
    assert run(*words).code == 65, "an output that is up to date is not changed without --retry"
    run_ok(*words, "--retry")
    run_ok(*words[:-1], tmp_path / "anew")
    name = "cams-00000-of-00001.h5"
    assert (tmp_path / "cams" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()


def test_images_that_moved(root, index, tiny_net, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    root.rename(moved)
    words = ("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o")
    check_error(run(*words, tmp_path / "no"), 66, str(root), "--root", "WSSS_ROOT")
    run_ok(*words, tmp_path / "a", "--root", moved)
    monkeypatch.setenv("WSSS_ROOT", str(moved))
    run_ok(*words, tmp_path / "b")
    assert next((tmp_path / "a").glob("*.h5")).read_bytes() == next((tmp_path / "b").glob("*.h5")).read_bytes()


def test_an_index_that_moved(root, index, tiny_net, tmp_path):
    run_ok("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    moved = index.with_name("other.h5")
    index.rename(moved)
    for words in (("refine", "crf"), ("pseudo",)):
        check_error(run(*words, tmp_path / "cams", "-o", tmp_path / "out"), 66, str(index), "--index")
    check_error(run("eval", tmp_path / "cams"), 66, str(index), "--index")
    run_ok("eval", tmp_path / "cams", "--index", moved)
    run_ok("pseudo", tmp_path / "cams", "--index", moved, "-o", tmp_path / "masks")
