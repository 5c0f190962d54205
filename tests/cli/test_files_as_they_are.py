"""Files as people have them: links, other drives, letter case, Unicode forms, suffixes, archives."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cli.runner import SMALL, check_error, list_messages, run, run_ok
from stages.data import image_formats
from stages.data.images import decode_image
from stages.shards import Run


def draw(path: Path, seed: int = 0, **options: object) -> Path:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def index_table(folder: Path, *rows: str, header: str = "id,labels", options: tuple[object, ...] = ()):
    """Index `images` with a table of these rows."""
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return run("index", "table", folder / "t.csv", "--images", folder / "images", "-f", "-o", folder / "i.h5", *options)


def read_paths(index: Path) -> dict[str, str]:
    """Return the path of each image in an index."""
    shard = Run([index]).first
    return {item_id: str(shard.item(item_id).attrs["path"]) for item_id in shard.ids}


@pytest.mark.parametrize(("name", "file", "header"), [
    ("IMG_1.JPG", "img_1.jpg", "path,labels"), ("img_1.jpg", "IMG_1.JPG", "path,labels"),
    ("a.jpeg", "a.jpg", "path,labels"), ("a.png", "a.webp", "path,labels"), ("A", "a.jpg", "id,labels"),
    ("sub\\a.jpg", "sub/a.jpg", "path,labels"), (".\\Sub\\A.JPG", "sub/a.jpg", "path,labels"),
    ("Sub/a.jpg", "sub/a.jpg", "path,labels"), ("sub\\a", "sub/a.png", "id,labels"),
    ("caf\u00e9.jpg", "cafe\u0301.jpg", "path,labels"), ("cafe\u0301", "caf\u00e9.jpg", "id,labels"),
    ("b\u00fcro/a.jpg", "bu\u0308ro/a.jpg", "path,labels"), ("./a.jpg", "a.jpg", "path,labels")])
def test_names_that_differ_from_their_files_are_found(tmp_path, name, file, header):
    draw(tmp_path / "images" / file)
    draw(tmp_path / "images" / "other.jpg", 1)
    done = index_table(tmp_path, f"{name},cat", "other.jpg,dog" if header.startswith("path") else "other,dog",
                       header=header)
    assert done.code == 0, done.err
    assert file in read_paths(tmp_path / "i.h5").values()
    notes = [message for message in list_messages(done) if "differ" in message]
    assert (notes == []) == (name == "./a.jpg"), done.err
    if notes:
        assert notes[0].startswith("1 name differs from its file") and repr(name) in notes[0] and file in notes[0]


def test_corrected_names_are_counted(tmp_path):
    for number in range(3):
        draw(tmp_path / "images" / f"img_{number}.jpg", number)
    done = index_table(tmp_path, *(f"IMG_{number}.JPG,cat" for number in range(3)), header="path,labels")
    assert "3 names differ from their files" in done.err and "'IMG_0.JPG' is img_0.jpg, for example" in done.err
    assert sorted(read_paths(tmp_path / "i.h5").values()) == ["img_0.jpg", "img_1.jpg", "img_2.jpg"]


@pytest.mark.parametrize(("files", "name"), [
    (("img_1.jpg", "IMG_1.jpg"), "Img_1.jpg"), (("a.jpg", "a.png"), "a.tif"), (("a.jpg", "a.png"), "A"),
    (("caf\u00e9.png", "cafe\u0301.jpg"), "CAFE\u0301")])
def test_a_name_that_means_two_files_is_rejected(tmp_path, files, name):
    for seed, file in enumerate(files):
        draw(tmp_path / "images" / file, seed)
    if len(list((tmp_path / "images").iterdir())) < len(files):
        pytest.skip("this file system ignores letter case")
    done = index_table(tmp_path, f"{name},cat", header="path,labels" if "." in name else "id,labels")
    check_error(done, 65, repr(name), *(repr(file) for file in files), "images")


def test_two_names_never_share_a_file(tmp_path):
    """The second image is missing; it must not become a copy of the first with tags of its own."""
    draw(tmp_path / "images" / "a.jpg")
    for rows in (("a,cat", "A,dog"), ("A,dog", "a,cat")):
        check_error(index_table(tmp_path, *rows), 65, "'A'", "a.jpg", "belongs to")


def test_masks_are_found_by_similar_names(tmp_path):
    draw(tmp_path / "images" / "IMG_1.JPG")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(24, 32, dtype=np.uint8)).save(tmp_path / "masks" / "img_1.png")
    done = index_table(tmp_path, "IMG_1,cat", options=("--masks", tmp_path / "masks"))
    assert done.code == 0 and "masks/img_1.png" in done.err
    assert Run([tmp_path / "i.h5"]).item("IMG_1").attrs["mask_path"] == "masks/img_1.png"


def test_voc_and_coco_find_similar_names(tmp_path):
    draw(tmp_path / "images" / "IMG_1.JPG")
    categories = [{"id": 1, "name": "cat"}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 0, "area": 25,
                    "segmentation": [[1, 1, 6, 1, 6, 6]]}]
    (tmp_path / "c.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": "img_1.jpg", "height": 24, "width": 32}], "categories": categories,
        "annotations": annotations}))
    done = run("index", "coco", tmp_path / "c.json", "--images", tmp_path / "images", "-o", tmp_path / "c.h5")
    assert done.code == 0 and "'img_1.jpg' is IMG_1.JPG" in done.err, done.err
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "list.txt").write_text("img_1\n")
    done = run("index", "voc", tmp_path, "--list", tmp_path / "list.txt", "-o", tmp_path / "v.h5")
    assert done.code == 0 and "'img_1' is JPEGImages/IMG_1.JPG" in done.err, done.err


@pytest.mark.parametrize(("file", "expected"), [
    ("sub/deep/photo_1.jpg", "but sub/deep/photo_1.jpg exists"), ("photo-1.jpg", "photo-1.jpg"),
    ("notes.txt", "holds no image")])
def test_a_path_that_was_tried_is_named_when_no_image_exists(tmp_path, file, expected):
    path = tmp_path / "images" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    done = index_table(tmp_path, "photo_1,cat", "photo_2,dog")
    check_error(done, 66, "none of the 2 images exists", f"Tried {tmp_path / 'images' / 'photo_1'}.jpg", expected,
                "--images")


def test_links_to_folders_are_followed(tmp_path):
    draw(tmp_path / "drive" / "cats" / "a.jpg")
    draw(tmp_path / "drive" / "more" / "b.jpg", 1)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "drive" / "cats")
    (tmp_path / "drive" / "cats" / "more").symlink_to(tmp_path / "drive" / "more")
    done = run("index", "folder", tmp_path / "set", "-o", tmp_path / "i.h5")
    assert done.code == 0, done.err
    assert read_paths(tmp_path / "i.h5") == {"cat/a": "cat/a.jpg", "cat/more/b": "cat/more/b.jpg"}
    run_ok("show", tmp_path / "i.h5", "--ids", "cat/more/b", "-o", tmp_path / "look.png")


def test_loops_of_links_end_and_are_named(tmp_path):
    draw(tmp_path / "set" / "cat" / "a.jpg")
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "cat" / "self").symlink_to(tmp_path / "set" / "cat")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "set")
    done = run("index", "folder", tmp_path / "set", "-o", tmp_path / "i.h5")
    assert done.code == 0, done.err
    assert list(read_paths(tmp_path / "i.h5").values()) == ["cat/a.jpg"]
    assert "Skipping 3 links to a folder that was read already" in done.err


def test_images_of_another_drive_are_used_through_a_link(tmp_path):
    draw(tmp_path / "drive" / "a.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "far").symlink_to(tmp_path / "drive")
    done = index_table(tmp_path, "far/a.jpg,cat", header="path,labels")
    assert done.code == 0, done.err
    run_ok("show", tmp_path / "i.h5", "--count", "1", "-o", tmp_path / "look.png")


def test_a_path_out_of_the_folder_is_rejected_with_its_line(tmp_path):
    draw(tmp_path / "images" / "a.jpg")
    draw(tmp_path / "b.jpg")
    for path in ("../b.jpg", "..\\b.jpg", str(tmp_path / "b.jpg")):
        check_error(index_table(tmp_path, "a.jpg,cat", f"{path},dog", header="path,labels"), 65, "t.csv:3", repr(path),
                    "leads out of")


def write_tar(path: Path, *members: tarfile.TarInfo | str, mode: str = "w") -> Path:
    """Write an archive; a name stands for a picture, a TarInfo for a member without contents."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, str):
                info = tarfile.TarInfo(member)
                info.size = len(buffer.getvalue())
                archive.addfile(info, io.BytesIO(buffer.getvalue()))
            else:
                archive.addfile(member)
    return path


def make_link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """Return a member that is a link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(("member", "reason"), [
    ("../../evil.png", "leads out of the archive"), ("/tmp/evil.png", "leads out of the archive"),
    ("a/../../evil.png", "leads out of the archive"), (make_link("evil.png", "/etc/passwd"), "a link to '/etc/passwd'"),
    (make_link("evil.png", "good.png", tarfile.LNKTYPE), "a link to 'good.png'"),
    (make_link("evil.png", "", tarfile.FIFOTYPE), "a device or a pipe")])
def test_hostile_members_of_an_archive_are_rejected_by_name(tmp_path, member, reason):
    path = write_tar(tmp_path / "a.tar", "good.png", member)
    name = member if isinstance(member, str) else member.name
    check_error(run("index", "webdataset", path, "-o", tmp_path / "i.h5"), 65, str(path), repr(name), reason)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize(("name", "mode", "command"), [
    ("a.tar.gz", "w:gz", "gunzip --keep"), ("a.tgz", "w:gz", "gunzip --keep"), ("a.tar.bz2", "w:bz2", "bunzip2 --keep"),
    ("a.tar.xz", "w:xz", "unxz --keep"), ("a.tar", "w:gz", "gunzip <")])
def test_a_compressed_archive_is_rejected_with_the_command_that_unpacks_it(tmp_path, name, mode, command):
    path = write_tar(tmp_path / name, "a.png", mode=mode)
    done = run("index", "webdataset", path, "-o", tmp_path / "i.h5")
    line = check_error(done, 65, str(path), "compressed", f"`{command} {path}")
    if shutil.which("gunzip") and command.startswith("gunzip"):
        subprocess.run(line.split("`")[1], shell=True, check=True, cwd=tmp_path)
        unpacked = next(file for file in tmp_path.iterdir() if file.suffix == ".tar" and file != path)
        assert gzip.decompress(path.read_bytes()) == unpacked.read_bytes()
        run_ok("index", "webdataset", unpacked, "-o", tmp_path / "i.h5")


def test_a_table_made_on_macos_finds_every_file(tmp_path):
    """macOS lists names in NFD; an archive made there and unpacked elsewhere keeps them."""
    for number in range(4):
        draw(tmp_path / "images" / unicodedata.normalize("NFD", f"gr\u00fcn_{number}.jpg"), number)
    done = index_table(tmp_path, *(f"gr\u00fcn_{number},cat" for number in range(4)))
    assert done.code == 0 and "4 names differ" in done.err
    assert list(read_paths(tmp_path / "i.h5")) == [f"gr\u00fcn_{number}" for number in range(4)]


def save_turned(path: Path, **options: object) -> np.ndarray:
    """Write a photograph that its camera took sideways: red at the top left once it is upright; return it upright."""
    upright = np.full((40, 60, 3), 90, np.uint8)
    upright[:20, :20] = (220, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned to the left by a quarter
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(path, exif=exif.tobytes(), **options)
    return upright


@pytest.mark.parametrize(("suffix", "max_side"), [(".heic", 0), (".heic", 30), (".avif", 0), (".avif", 30)])
def test_photographs_of_phones_are_read(tmp_path, suffix, max_side):
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "images" / f"IMG_1{suffix}"
    upright = save_turned(path, quality=95)
    done = index_table(tmp_path, "img_1,cat", options=("--apply-exif",))
    assert done.code == 0, done.err
    decoded = decode_image(path.read_bytes(), where="p", apply_exif=True, max_side=max_side)
    step = 2 if max_side else 1
    assert decoded.shape == (40 // step, 60 // step, 3)
    assert np.abs(decoded.astype(int) - upright[::step, ::step]).mean() < 6
    assert Run([tmp_path / "i.h5"]).item("img_1").attrs["height"] == 40
    assert ("are turned upright by the decoder of HEIC" in done.err) == (suffix == ".heic")
    damaged = path.with_name(f"bad{suffix}")
    damaged.write_bytes(path.read_bytes()[:-40])
    done = index_table(tmp_path, "img_1,cat", "bad,cat")
    assert done.code == 65 and f"bad{suffix}" in done.err and "1 of 2 images" in done.err
    damaged.unlink()


def test_a_heic_photograph_without_its_decoder_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(image_formats, "has_decoder", lambda suffix: False)
    monkeypatch.setattr(image_formats, "_register_heif", lambda: False)
    draw(tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "b.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (tmp_path / "images" / "c.avif").write_bytes(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(99))
    done = index_table(tmp_path, "a,cat", "b,cat", "c,cat")
    assert done.code == 65
    errors = Run([tmp_path / "i.h5"]).first.errors
    assert "HEIC" in errors["b"] and "pip install 'wsss[heif]'" in errors["b"]
    assert "AVIF" in errors["c"] and "Pillow 11.3" in errors["c"]


def test_an_image_file_without_suffix_is_an_image(tmp_path, tiny_net):
    draw(tmp_path / "images" / "photo", format="PNG")
    run_ok("cams", "cnn", "images/photo", "--net", tiny_net, "-o", "cams", *SMALL, cwd=tmp_path)
    assert list(Run([tmp_path / "cams"]).first.ids) == ["photo"]
    (tmp_path / "notes").write_text("no image")
    check_error(run("cams", "cnn", "notes", "--net", tiny_net, "-o", "c2", *SMALL, cwd=tmp_path), 65, "notes", "shard")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path, tiny_net, monkeypatch, number):
    def refuse(_descriptor: object, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    draw(tmp_path / "images" / "a.jpg")
    draw(tmp_path / "images" / "b.jpg", 1)
    monkeypatch.setattr(fcntl, "flock", refuse)
    check_error(index_table(tmp_path, "a,cat", "b,dog"), 74, "i.h5", "no locks", os.strerror(number), "WSSS_LOCKS=off")
    assert not (tmp_path / "i.h5").exists()
    monkeypatch.setenv("WSSS_LOCKS", "off")
    done = index_table(tmp_path, "a,cat", "b,dog")
    assert done.code == 0, done.err
    run_ok("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "--tags", "all", "-o", tmp_path / "cams", *SMALL)
    run_ok("show", tmp_path / "cams", "--count", "1", "-o", tmp_path / "look.png")


def test_locks_are_used_where_they_exist(tmp_path, monkeypatch):
    """WSSS_LOCKS=off is for file systems without locks; elsewhere two commands still exclude each other."""
    monkeypatch.setenv("WSSS_LOCKS", "off")
    draw(tmp_path / "images" / "a.jpg")
    with (tmp_path / "i.h5.tmp").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        check_error(index_table(tmp_path, "a,cat"), 75, "another process is writing it")
