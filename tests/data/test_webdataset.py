"""Images and captions in tar archives, read without unpacking."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, run, run_ok
from stages.data.image_source import ImageSource
from stages.data.layout_webdataset import list_webdataset
from stages.errors import BadData, MissingInput
from stages.shards import Shard


def encode_image(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_archive(path, **files: bytes):
    """Write a tar archive; `__` in a name is a dot."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def archives(tmp_path):
    first = write_archive(tmp_path / "a.tar", k1__png=encode_image(10), k1__txt=b" A red\n cat ",
                          k1__json=b'{"caption": "no"}', k2__txt=b"lost", k3__png=encode_image(30))
    second = write_archive(tmp_path / "b.tar", k1__json=b'{"caption": "A dog"}', k1__png=encode_image(20))
    return [first, second]


def test_samples_of_several_archives(archives):
    listing = list_webdataset(archives)
    assert [(record.id, record.path, record.captions) for record in listing.records] == [
        ("a/k1", "a.tar/k1.png", ("A red cat",)), ("a/k3", "a.tar/k3.png", ()), ("b/k1", "b.tar/k1.png", ("A dog",))]
    assert listing.notes == ("1 of 3 images have no caption.", "Skipped 1 sample without an image.")
    assert listing.supervision == "captions"


def test_other_files_are_rejected(tmp_path, archives):
    with pytest.raises(MissingInput, match="no such file"):
        list_webdataset([tmp_path / "gone.tar"])
    (tmp_path / "x.tar").write_text("no tar" * 200)
    with pytest.raises(BadData, match="this is not a tar archive, or it is truncated"):
        list_webdataset([tmp_path / "x.tar"])
    with pytest.raises(BadData, match="the archive is passed twice"):
        list_webdataset([archives[0], tmp_path / "a.tar"])
    with pytest.raises(MissingInput, match="no image in the archives"):
        list_webdataset([write_archive(tmp_path / "y.tar", k__txt=b"text")])


def test_images_are_read_from_the_archives(archives, tmp_path):
    assert run_ok("index", "webdataset", *archives, "-o", tmp_path / "c.h5") == [str(tmp_path / "c.h5")]
    source = ImageSource(Shard(tmp_path / "c.h5"))
    assert [source.read_image(name)[0, 0, 0] for name in ("a/k1", "a/k3", "b/k1")] == [10, 30, 20]
    assert source.read_size("b/k1") == (8, 9)
    archives[1].write_bytes(archives[1].read_bytes()[:700])
    with pytest.raises(BadData, match=r"the archive is truncated"):
        ImageSource(Shard(tmp_path / "c.h5")).read_image("b/k1")
    write_archive(archives[1], k1__json=json.dumps({"caption": "A dog"}).encode(), k1__png=encode_image(21))
    with pytest.raises(BadData, match="the image has changed since it was indexed"):
        ImageSource(Shard(tmp_path / "c.h5")).read_image("b/k1")
    check_error(run("index", "webdataset", "-o", tmp_path / "x.h5"), 2, "needs an input path")
