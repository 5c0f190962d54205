"""Read errors of the system (no file handles, a lost file server) exit with 74: no image fails, no repair is made."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import h5py
import pytest

from cli.runner import SMALL, check_error, run, run_ok
from stages.shards import Shard


@pytest.fixture(scope="module")
def cams(tiny_index: Path, tiny_net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of CAMs in one part."""
    folder = tmp_path_factory.mktemp("reads") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", folder, *SMALL)
    return folder


def build_failing_reader(name: str, error_number: int) -> object:
    """Return a replacement for a function that reads files, which raises OSError for paths that contain `name`."""
    def read(path: object, *_: object, **__: object) -> None:
        if name in str(path):
            raise OSError(error_number, f"refused, errno = {error_number}", str(path))
        return original(path, *_, **__)

    original = Path.read_bytes if name.endswith(".jpg") else h5py.File
    return read


@pytest.mark.parametrize("error_number", [errno.EMFILE, errno.ESTALE])
def test_an_image_does_not_fail_after_a_system_error(tiny_index: Path, tiny_net: Path, cams: Path, tmp_path: Path,
                                                     error_number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL, "-j", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", build_failing_reader("picture_009.jpg", error_number))
        check_error(run(*words), 74, "picture_009.jpg: can't be read", "run the same command again")
    [journal] = (tmp_path / "cams").glob("*.h5*")
    assert journal.suffix == ".part"
    run_ok(*words)
    name = "cams-00000-of-00001.h5"
    assert (tmp_path / "cams" / name).read_bytes() == (cams / name).read_bytes()


def test_an_image_fails_after_an_error_of_its_file(tiny_index: Path, tiny_net: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", build_failing_reader("picture_009.jpg", errno.EIO))
    done = run("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL, "-j", "1")
    check_error(done, 65, "1 of 12 images failed")


@pytest.mark.parametrize("error_number", [errno.EMFILE, errno.ESTALE, errno.EACCES])
def test_check_does_not_rename_an_unreadable_shard(cams: Path, tmp_path: Path, error_number: int,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(cams, tmp_path / "cams"))
    before = sorted(folder.iterdir())
    monkeypatch.setattr(h5py, "File", build_failing_reader("cams-00000", error_number))
    if error_number == errno.EACCES:
        monkeypatch.setattr("os.access", lambda *_: False)
    done = run("check", "--repair", folder)
    assert done.code == (65 if error_number == errno.EACCES else 74) and "can't be read" in done.err
    assert "Make the shard again" not in done.err and "Traceback" not in done.err
    assert sorted(folder.iterdir()) == before
    monkeypatch.undo()
    assert [line.split("\t")[1] for line in run_ok("check", folder)] == ["good"]


def test_check_exits_with_74_if_an_item_cannot_be_read(cams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, "errno = 116")

    monkeypatch.setattr(Shard, "_read_bounded", fail)
    check_error(run("check", "--repair", cams), 74, "can't be read", "run the same command again")
    assert list(cams.glob("*.h5"))
