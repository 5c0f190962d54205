"""What the system refuses to read for reasons of its own (no more file handles, a server that went away) is nobody's
damage: 74, no image is refused for it, and nothing is repaired."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import h5py
import pytest

from cli.runner import SMALL, good, refused, run
from stages.shards import Shard


@pytest.fixture(scope="module")
def cams(tiny_index: Path, tiny_net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of maps in one part."""
    folder = tmp_path_factory.mktemp("reads") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


def refusing(name: str, number: int) -> object:
    """Return a function in the place of one that reads a file: it is refused where the path has this name."""
    def read(path: object, *_: object, **__: object) -> None:
        if name in str(path):
            raise OSError(number, f"refused, errno = {number}", str(path))
        return original(path, *_, **__)

    original = Path.read_bytes if name.endswith(".jpg") else h5py.File
    return read


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE])
def test_an_image_is_not_refused_for_it(tiny_index: Path, tiny_net: Path, cams: Path, tmp_path: Path, number: int,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL, "-j", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refusing("picture_009.jpg", number))
        refused(run(*words), 74, "picture_009.jpg: can't be read", "run the same command again")
    [kept] = (tmp_path / "cams").glob("*.h5*")
    assert kept.suffix == ".part"
    good(*words)
    name = "cams-00000-of-00001.h5"
    assert (tmp_path / "cams" / name).read_bytes() == (cams / name).read_bytes()


def test_a_file_that_is_lost_is_refused_as_ever(tiny_index: Path, tiny_net: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", refusing("picture_009.jpg", errno.EIO))
    done = run("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL, "-j", "1")
    refused(done, 65, "1 of 12 images were refused")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EACCES])
def test_a_shard_is_not_moved_for_it(cams: Path, tmp_path: Path, number: int,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(cams, tmp_path / "cams"))
    before = sorted(folder.iterdir())
    monkeypatch.setattr(h5py, "File", refusing("cams-00000", number))
    if number == errno.EACCES:
        monkeypatch.setattr("os.access", lambda *_: False)
    done = run("check", "--repair", folder)
    assert done.code == (65 if number == errno.EACCES else 74) and "can't be read" in done.err
    assert "make it again" not in done.err and "Traceback" not in done.err
    assert sorted(folder.iterdir()) == before
    monkeypatch.undo()
    assert [line.split("\t")[1] for line in good("check", folder)] == ["good"]


def test_what_can_not_be_read_within_a_shard_for_it(cams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "errno = 116")

    monkeypatch.setattr(Shard, "_bounded", stale)
    refused(run("check", "--repair", cams), 74, "can't be read", "run the same command again")
    assert list(cams.glob("*.h5"))
