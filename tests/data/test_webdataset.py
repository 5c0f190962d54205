"""Images and captions in tar archives, read where they are."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from cli.runner import good, refused, run
from stages.data.layout_webdataset import list_webdataset
from stages.data.source import ImageSource
from stages.errors import BadData, MissingInput
from stages.shards import Shard


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 9, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def archive(path, **files: bytes):
    """Write a tar archive; `__` in a name is a dot."""
    with tarfile.open(path, "w") as opened:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(data)
            opened.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def archives(tmp_path):
    first = archive(tmp_path / "a.tar", k1__png=picture(10), k1__txt=b" A red\n cat ", k1__json=b'{"caption": "no"}',
                    k2__txt=b"lost", k3__png=picture(30))
    second = archive(tmp_path / "b.tar", k1__json=json.dumps({"caption": "A dog"}).encode(), k1__png=picture(20))
    return [first, second]


def test_samples_of_several_archives(archives):
    listing = list_webdataset(archives)
    assert [(one.id, one.path, one.captions) for one in listing.records] == [
        ("a/k1", "a.tar/k1.png", ("A red cat",)), ("a/k3", "a.tar/k3.png", ()), ("b/k1", "b.tar/k1.png", ("A dog",))]
    assert listing.notes == ("1 of 3 images have no caption", "1 samples have no image and are left out")
    assert listing.supervision == "captions"


def test_what_is_no_archive(tmp_path, archives):
    with pytest.raises(MissingInput, match="no such file"):
        list_webdataset([tmp_path / "gone.tar"])
    (tmp_path / "x.tar").write_text("no tar" * 200)
    with pytest.raises(BadData, match="no tar archive, or cut short"):
        list_webdataset([tmp_path / "x.tar"])
    with pytest.raises(BadData, match="is given twice"):
        list_webdataset([archives[0], tmp_path / "a.tar"])
    with pytest.raises(MissingInput, match="no image in the archives"):
        list_webdataset([archive(tmp_path / "y.tar", k__txt=b"text")])


def test_the_index_reads_images_out_of_the_archives(archives, tmp_path):
    assert good("index", "webdataset", *archives, "-o", tmp_path / "c.h5") == [str(tmp_path / "c.h5")]
    source = ImageSource(Shard(tmp_path / "c.h5"))
    assert [source.image(name)[0, 0, 0] for name in ("a/k1", "a/k3", "b/k1")] == [10, 30, 20]
    assert source.size("b/k1") == (8, 9)
    archives[1].write_bytes(archives[1].read_bytes()[:700])
    with pytest.raises(BadData, match=r"cut short.*"):
        ImageSource(Shard(tmp_path / "c.h5")).image("b/k1")
    archive(archives[1], k1__json=json.dumps({"caption": "A dog"}).encode(), k1__png=picture(21))
    with pytest.raises(BadData, match="is not the file that was indexed"):
        ImageSource(Shard(tmp_path / "c.h5")).image("b/k1")
    refused(run("index", "webdataset", "-o", tmp_path / "x.h5"), 2, "takes archives, not 0")
