"""Pictures and masks as they come: what is accepted with the right values, and what is refused in a line."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, copy_of, good, index_table, refused, run
from conftest import Result
from data.test_images import png_that_claims
from stages.data.source import ImageSource
from stages.shards import Run, Shard

NAME = "picture_001"
SIZE = (48, 64)


@pytest.fixture
def root(tiny_folder, tmp_path) -> Path:
    """Return a copy of the tiny set of 12 pictures, one of which is to be spoiled."""
    return copy_of(tiny_folder, tmp_path / "set")


def picture(root: Path) -> Path:
    return root / "JPEGImages" / f"{NAME}.jpg"


def mask(root: Path) -> Path:
    return root / "SegmentationClass" / f"{NAME}.png"


def encoded(image: Image.Image, kind: str, **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def forged(data: bytes, side: int = 65500) -> bytes:
    """Return a JPEG whose header claims `side` x `side` pixels."""
    start = re.search(rb"\xff\xc0..\x08", data, re.DOTALL).end()
    return data[:start] + side.to_bytes(2, "big") * 2 + data[start + 4:]


def animation() -> bytes:
    frames = [Image.new("L", (64, 48), value) for value in (0, 255)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "zero bytes": (lambda data: b"", "not an image (0 bytes)"),
    "truncated": (lambda data: data[:len(data) // 2], "broken image"),
    "cut in the header": (lambda data: data[:20], "image"),
    "a web page": (lambda data: b"<!DOCTYPE html><html>404</html>", "web page"),
    "text": (lambda data: b"no picture", "not an image (10 bytes)"),
    "a bomb": (lambda data: encoded(Image.new("1", (10400, 10000)), "PNG"), "over the limit of 50000000"),
    "a forged size": (forged, "over the limit"),
    "a header of 20,000 x 20,000": (lambda data: png_that_claims(20_000, 20_000), "20000x20000"),
    "an animation": (lambda data: animation(), "several frames"),
    "32 bits": (lambda data: encoded(Image.new("F", (64, 48)), "TIFF"), "32 bits"),
}


def check_refused(done: Result, index: Path, told: str, path: Path) -> None:
    """Check that one image was refused, by file and reason, and that nothing else was lost."""
    assert done.code == 65, done.err
    assert done.out == f"{index}\n"
    lines = done.err.splitlines()
    assert len(lines) == 2, done.err
    relative = f"{path.parent.name}/{path.name}"
    assert lines[0].startswith("1 of 12 images refused, the first: ")
    assert f"{relative}: " in lines[0]
    assert told in lines[0]
    assert lines[1].startswith("wsss index table: 1 of 12 images were refused; ")
    shard = Shard(index)
    assert list(shard.errors) == [NAME]
    assert len(shard.ids) == 12
    assert shard.errors[NAME].startswith(f"{relative}: ")


@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_broken_picture_is_refused_and_the_others_are_kept(root, tmp_path, kind):
    broken, told = BROKEN[kind]
    picture(root).write_bytes(broken(picture(root).read_bytes()))
    check_refused(index_table(root, tmp_path / "i.h5"), tmp_path / "i.h5", told, picture(root))


def test_a_missing_picture_and_a_folder_in_its_place(root, tmp_path):
    picture(root).unlink()
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 65
    assert "can't be read (No such file" in Shard(tmp_path / "i.h5").errors[NAME]
    picture(root).mkdir()
    check_refused(index_table(root, tmp_path / "j.h5"), tmp_path / "j.h5", "regular file", picture(root))


def test_a_pipe_in_the_place_of_a_picture_is_not_waited_for(wsss, root):
    picture(root).unlink()
    os.mkfifo(picture(root))
    done = wsss("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "-o", "i.h5")
    assert done.code == 65
    assert f"{NAME}.jpg: " in done.err
    assert "regular file" in done.err


def test_more_pixels_are_accepted_when_allowed(root, tmp_path):
    assert index_table(root, tmp_path / "i.h5", "--max-pixels", "3000").code == 65
    assert len(Shard(tmp_path / "i.h5").errors) == 12
    assert index_table(root, tmp_path / "j.h5", "--max-pixels", str(48 * 64)).code == 0


def test_allow_errors_strict_and_retry(root, tmp_path):
    index, data = tmp_path / "i.h5", picture(root).read_bytes()
    picture(root).write_bytes(b"")
    answer = refused(index_table(root, index, "--strict"), 65, f"{NAME}.jpg: not an image")
    assert "--strict" in answer or "replace" in answer
    assert not index.exists()
    assert index_table(root, index, "--allow-errors", "0").code == 65
    assert index_table(root, index).code == 65, "also when it is up to date"
    for allowed, code in (("1", 0), ("9%", 0), ("8%", 65), ("100%", 0)):
        assert index_table(root, index, "--allow-errors", allowed).code == code
    refused(index_table(root, index, "--allow-errors", "few"), 2, "--allow-errors", "'few'")
    picture(root).write_bytes(data)
    assert index_table(root, index, "--retry").code == 0
    assert not Shard(index).errors


def stored(image: Image.Image, kind: str) -> tuple[bytes, np.ndarray]:
    data = encoded(image, kind)
    return data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def grey(bits: int) -> np.ndarray:
    values = np.linspace(0, 2**bits - 1, SIZE[0] * SIZE[1]).reshape(SIZE)
    return values.astype(np.uint16 if bits > 8 else np.uint8)


def accepted_kinds() -> dict[str, tuple[bytes, np.ndarray]]:
    """Return, by kind, the bytes of a picture and the RGB values that it stands for."""
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    colour, sixteen = Image.fromarray(rgb), grey(16)
    half = np.full((*SIZE, 1), 128, np.uint8)
    return {
        "16-bit grey": (encoded(Image.fromarray(sixteen), "PNG"),
                        np.round(sixteen / 257).astype(np.uint8)[..., None].repeat(3, 2)),
        "8-bit grey": (encoded(Image.fromarray(grey(8)), "PNG"), grey(8)[..., None].repeat(3, 2)),
        "1 bit": (encoded(Image.fromarray(grey(8) > 99), "PNG"),
                  ((grey(8) > 99) * np.uint8(255))[..., None].repeat(3, 2)),
        "palette": stored(colour.quantize(16), "PNG"),
        "CMYK": stored(colour.convert("CMYK"), "JPEG"),
        "RGBA": (encoded(Image.fromarray(np.concatenate([rgb, half], 2)), "PNG"), rgb),
        "LA": (encoded(Image.fromarray(np.concatenate([grey(8)[..., None], half], 2)), "PNG"),
               grey(8)[..., None].repeat(3, 2)),
        "GIF of one frame named jpg": stored(colour.quantize(16), "GIF"),
        "WebP named jpg": (encoded(colour, "WEBP", lossless=True), rgb),
        "BMP": (encoded(colour, "BMP"), rgb),
        "TIFF": (encoded(colour, "TIFF"), rgb),
    }


# By kind, what index tells of them.
TOLD = {"16-bit grey": "have 16 bits, scaled to 8", "8-bit grey": "", "1 bit": "have 1 bit, converted to RGB",
        "palette": "have a palette, converted to RGB", "CMYK": "have CMYK colours, converted to RGB",
        "RGBA": "have transparency, which is dropped", "LA": "have transparency, which is dropped",
        "GIF of one frame named jpg": "have a palette, converted to RGB", "WebP named jpg": "", "BMP": "", "TIFF": ""}


@pytest.mark.parametrize("kind", TOLD)
def test_pictures_of_every_kind_are_accepted_with_their_values(root, tmp_path, kind):
    data, values = accepted_kinds()[kind]
    picture(root).write_bytes(data)
    done = index_table(root, tmp_path / "i.h5")
    assert (done.code, done.err) == (0, f"1 of 12 images {TOLD[kind]}\n" if TOLD[kind] else "")
    np.testing.assert_array_equal(ImageSource(Shard(tmp_path / "i.h5")).image(NAME), values)


def with_ids(label: int) -> bytes:
    return encoded(Image.fromarray(np.full(SIZE, label, np.uint8)), "PNG")


BROKEN_MASKS: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "another size": (lambda data: encoded(Image.new("L", (60, 48)), "PNG"), ("48x60", "48x64")),
    "turned": (lambda data: encoded(Image.new("L", (48, 64)), "PNG"), ("64x48", "48x64", "--apply-exif")),
    "an id beyond the classes": (lambda data: with_ids(3), ("id 3", "0..2")),
    "other colours": (lambda data: encoded(Image.new("RGB", (64, 48), (1, 2, 3)), "PNG"), ("(1, 2, 3)", "palette")),
    "JPEG": (lambda data: encoded(Image.new("L", (64, 48)), "JPEG"), ("JPEG", "PNG")),
    "zero bytes": (lambda data: b"", ("not an image",)),
    "truncated": (lambda data: data[:-40], ("broken image",)),
}


@pytest.mark.parametrize("kind", list(BROKEN_MASKS))
def test_a_broken_mask_refuses_its_image(root, tmp_path, kind):
    broken, told = BROKEN_MASKS[kind]
    mask(root).write_bytes(broken(mask(root).read_bytes()))
    done = index_table(root, tmp_path / "i.h5")
    for text in told:
        check_refused(done, tmp_path / "i.h5", text, mask(root))


def test_masks_of_other_kinds_are_accepted(root, tiny_index, tmp_path):
    with Image.open(mask(root)) as image:
        ids, colours = np.asarray(image), image.convert("RGB")
    for number, data in enumerate((encoded(colours, "PNG"), encoded(Image.fromarray(ids), "PNG"),
                                   encoded(Image.fromarray(ids.astype(np.uint16)), "PNG"))):
        mask(root).write_bytes(data)
        index = tmp_path / f"{number}.h5"
        assert index_table(root, index).code == 0
        np.testing.assert_array_equal(ImageSource(Shard(index)).mask(NAME), ids)


def test_exif_is_applied_only_when_asked(root, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(picture(root)) as image:
        turned = np.asarray(image).transpose(1, 0, 2)[::-1]
    picture(root).write_bytes(encoded(Image.fromarray(turned), "PNG", exif=exif))
    check_refused(index_table(root, tmp_path / "i.h5"), tmp_path / "i.h5", "--apply-exif", mask(root))
    assert index_table(root, tmp_path / "j.h5", "--apply-exif").code == 0
    source = ImageSource(Shard(tmp_path / "j.h5"))
    assert source.size(NAME) == source.image(NAME).shape[:2] == source.mask(NAME).shape == SIZE


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (1, 4000)], ids=str)
def test_tiny_pictures_go_through_the_chain(root, tiny_net, tmp_path, size):
    pytest.importorskip("pydensecrf")
    picture(root).write_bytes(encoded(Image.new("RGB", size[::-1], (90, 10, 200)), "PNG"))
    mask(root).unlink()
    assert index_table(root, tmp_path / "i.h5").code == 0
    good("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "--tags", "all", "-o", tmp_path / "cams")
    good("refine", "crf", tmp_path / "cams", "-o", tmp_path / "crf")
    good("pseudo", tmp_path / "crf", "-o", tmp_path / "masks")
    assert Run([tmp_path / "masks"]).item(NAME).datasets["mask"].shape == size


@pytest.fixture
def index(root, tmp_path) -> Path:
    """Return an index in a folder of its own beside its pictures."""
    assert index_table(root, tmp_path / "made" / "i.h5").code == 0
    return tmp_path / "made" / "i.h5"


@pytest.mark.parametrize(("spoil", "told", "more"), [
    (lambda path: path.unlink(), "can't be read (No such file", ()),
    (lambda path: path.unlink(), "can't be read (No such file", ("--shard-size", "4", "-j", "2")),
    (lambda path: path.write_bytes((path.parent / "picture_000.jpg").read_bytes()), "not the file that was indexed",
     ()),
    (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not the file that was indexed", ())],
    ids=["deleted", "deleted, two processes", "another", "cut"])
def test_a_picture_that_changed_since_it_was_indexed(root, index, tiny_net, tmp_path, spoil, told, more):
    spoil(picture(root))
    done = run("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL, *more)
    assert done.code == 65
    assert f"JPEGImages/{NAME}.jpg: " in done.err
    assert told in done.err
    assert "wsss cams cnn: 1 of 12 images were refused" in done.err.splitlines()[-1]
    maps = Run([tmp_path / "cams"], "cams")
    assert [name for shard in maps.shards for name in shard.errors] == [NAME]
    assert sum(name in maps for name in maps.ids) == 11
    if not more:
        refused(run("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "strict", "--strict", *SMALL), 65, NAME)
        assert run("pseudo", tmp_path / "cams", "-o", tmp_path / "masks").code == 65, "children copy the error"
        assert Run([tmp_path / "masks"]).first.errors == maps.first.errors


def test_retry_redoes_just_the_refused(root, index, tiny_net, tmp_path):
    data = picture(root).read_bytes()
    picture(root).unlink()
    words = ("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    assert run(*words).code == 65
    picture(root).write_bytes(data)
    assert run(*words).code == 65, "what is up to date is not touched unasked"
    good(*words, "--retry")
    good(*words[:-1], tmp_path / "anew")
    name = "cams-00000-of-00001.h5"
    assert (tmp_path / "cams" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()


def test_pictures_that_moved(root, index, tiny_net, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    root.rename(moved)
    words = ("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o")
    refused(run(*words, tmp_path / "no"), 66, str(root), "--root", "WSSS_ROOT")
    good(*words, tmp_path / "a", "--root", moved)
    monkeypatch.setenv("WSSS_ROOT", str(moved))
    good(*words, tmp_path / "b")
    assert next((tmp_path / "a").glob("*.h5")).read_bytes() == next((tmp_path / "b").glob("*.h5")).read_bytes()


def test_an_index_that_moved(root, index, tiny_net, tmp_path):
    good("cams", "cnn", index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    moved = index.with_name("other.h5")
    index.rename(moved)
    for words in (("refine", "crf"), ("pseudo",)):
        refused(run(*words, tmp_path / "cams", "-o", tmp_path / "out"), 66, str(index), "--index")
    refused(run("eval", tmp_path / "cams"), 66, str(index), "--index")
    good("eval", tmp_path / "cams", "--index", moved)
    good("pseudo", tmp_path / "cams", "--index", moved, "-o", tmp_path / "masks")
