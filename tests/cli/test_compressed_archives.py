"""`index webdataset --pack` of compressed archives: read from start to end, verified, and bounded."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, run, run_ok
from stages.data import compressed_tar, layout_webdataset
from stages.data.image_source import ImageSource
from stages.shards import Shard

NAMES_AND_MODES = [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz"),
                   ("a.tar", "w:gz")]


def encode_image(number: int) -> bytes:
    """Return a PNG of noise, which does not compress."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_archive(path: Path, mode: str = "w:gz", *more: tuple[str, bytes]) -> Path:
    """Write three samples with captions, and `more` members."""
    with tarfile.open(path, mode) as archive:
        for number in range(3):
            add(archive, f"k{number}.png", encode_image(number))
            add(archive, f"k{number}.txt", f"caption {number}".encode())
        for name, data in more:
            add(archive, name, data)
    return path


def index(path: Path, *options: object):
    return run("index", "webdataset", path, "-o", path.parent / "i.h5", *options)


@pytest.mark.parametrize(("name", "mode"), NAMES_AND_MODES)
def test_images_of_a_compressed_archive_are_stored_in_the_index(name, mode, tmp_path):
    path = write_archive(tmp_path / name, mode)
    assert index(path, "--pack").code == 0
    path.unlink()
    shard = Shard(tmp_path / "i.h5")
    assert list(shard.ids) == ["a/k0", "a/k1", "a/k2"]
    source = ImageSource(shard)
    for number, item_id in enumerate(shard.ids):
        assert source.read_encoded_image(item_id) == encode_image(number)
        assert source.read_image(item_id).shape == (24, 32, 3)
        assert shard.item(item_id).datasets["captions"].tolist() == [f"caption {number}".encode()]
    run_ok("show", tmp_path / "i.h5", "--count", 2, "-o", tmp_path / "look.png")


@pytest.mark.parametrize("options", [(), ("--pack", "--tags-only")])
@pytest.mark.parametrize(("name", "mode"), NAMES_AND_MODES)
def test_without_pack_both_remedies_are_named(options, name, mode, tmp_path):
    check_error(index(write_archive(tmp_path / name, mode), *options), 65, name, "compressed", "--pack", "unpack it")
    assert not (tmp_path / "i.h5").exists()


def test_a_compression_that_is_not_read_has_one_remedy(tmp_path):
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(40))
    message = check_error(index(tmp_path / "a.tar.zst", "--pack"), 65, "compressed", "unzstd")
    assert "--pack" not in message


@pytest.mark.parametrize(("name", "mode"), NAMES_AND_MODES[:4])
def test_a_truncated_archive_is_an_error_wherever_it_ends(name, mode, tmp_path):
    path = write_archive(tmp_path / name, mode)
    data = path.read_bytes()
    # The last 8 bytes of gzip are checksum and length, after the last byte of any member.
    for length in (12, len(data) // 3, len(data) * 2 // 3, len(data) - 9, len(data) - 1):
        path.write_bytes(data[:length])
        check_error(index(path, "--pack"), 65, str(path), "truncated")
    assert not (tmp_path / "i.h5").exists()


def test_a_wrong_checksum_is_an_error(tmp_path):
    path = write_archive(tmp_path / "a.tar.gz")
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    check_error(index(path, "--pack"), 65, str(path), "CRC")


@pytest.mark.parametrize(("name", "reason"), [
    ("../evil.png", "leads out of the archive"), ("/tmp/evil.png", "leads out of the archive")])
def test_hostile_members_are_rejected(name, reason, tmp_path):
    path = write_archive(tmp_path / "a.tar.gz", "w:gz", (name, encode_image(9)))
    check_error(index(path, "--pack"), 65, str(path), repr(name), reason)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar.gz"]


def test_links_to_images_are_rejected(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("k.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    check_error(index(path, "--pack"), 65, str(path), "a link to '/etc/passwd'")


@pytest.mark.parametrize(("name", "limit"), [("big.png", "_MAX_IMAGE_BYTES"), ("big.txt", "_MAX_TEXT_BYTES")])
def test_members_have_a_largest_size(name, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(layout_webdataset, limit, 10_000)
    path = write_archive(tmp_path / "a.tar.gz", "w:gz", (name, bytes(10_001)))
    check_error(index(path, "--pack"), 65, str(path), repr(name), "10,001 bytes", "10,000")


@pytest.mark.parametrize("place", ["in a member", "after the end"])
def test_a_bomb_is_stopped(place, tmp_path, monkeypatch):
    """A megabyte of zeros takes a kilobyte; members that are no images are skipped, but have to be unpacked."""
    monkeypatch.setattr(compressed_tar, "_MIN_LIMIT", 100_000)
    more = (("k3.bin", bytes(1 << 20)),) if place == "in a member" else ()
    path = write_archive(tmp_path / "a.tar.gz", "w:gz", *more)
    if place == "after the end":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 20)))
    monkeypatch.setattr(compressed_tar, "_MAX_RATIO", 10)
    check_error(index(path, "--pack"), 65, str(path), "unpacks to more than 100,000 bytes")


def test_an_image_with_too_many_pixels_fails_alone(tmp_path):
    path = write_archive(tmp_path / "a.tar.gz")
    done = index(path, "--pack", "--max-pixels", 100)
    assert done.code == 65 and "3 of 3 images" in done.err and "a.tar.gz/k0.png" in done.err


def test_two_archives_whose_images_have_the_same_id(tmp_path):
    write_archive(tmp_path / "a.tar", "w")
    path = write_archive(tmp_path / "a.tar.gz")
    check_error(run("index", "webdataset", tmp_path / "a.tar", path, "--pack", "-o", tmp_path / "i.h5"), 65,
                "a.tar/k0.png and a.tar.gz/k0.png", "the same id 'a/k0'")
