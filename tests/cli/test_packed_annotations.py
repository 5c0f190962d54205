"""Archives passed in place of files or folders of annotations: the message says what it is and how to unpack it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cli.runner import check_error, run

FILE_NAME = "annotations.json"


def write_archive(path: Path) -> Path:
    """Write an archive of one file, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(FILE_NAME, "[]")
        return path
    mode = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo(FILE_NAME)
        member.size = 2
        archive.addfile(member, io.BytesIO(b"[]"))
    return path


@pytest.mark.parametrize("command", [
    ("index", "cvat", "ARCHIVE"), ("index", "labelme", "ARCHIVE"), ("index", "labelstudio", "ARCHIVE"),
    ("index", "yolo", "ARCHIVE"), ("index", "coco", "ARCHIVE", "--images", "."), ("index", "fiftyone", "ARCHIVE"),
    ("index", "voc", "ARCHIVE", "--split", "train"), ("index", "folder", "ARCHIVE"), ("index", "cityscapes", "ARCHIVE"),
    ("index", "table", "ARCHIVE", "--images", "."), ("index", "table", "TABLE", "--images", "ARCHIVE"),
    ("index", "table", "TABLE", "--images", ".", "--class-names", "ARCHIVE"),
    ("import", "masks", "ARCHIVE", "--index", "INDEX"), ("import", "cams", "ARCHIVE", "--index", "INDEX"),
    ("import", "regions", "ARCHIVE", "--index", "INDEX"),
    ("import", "coco", "ARCHIVE", "--index", "INDEX", "--annotations", "none"),
    ("import", "coco", "RESULTS", "--index", "INDEX", "--annotations", "ARCHIVE")])
def test_a_zip_file_is_named_with_the_command_that_unpacks_it(command, tiny_dataset, tiny_index, tmp_path):
    archive = write_archive(tmp_path / "my export.zip")
    (tmp_path / "results.json").write_text("[]")
    paths = {"ARCHIVE": archive, "INDEX": tiny_index, "TABLE": tiny_dataset.root / "labels.csv",
             "RESULTS": tmp_path / "results.json"}
    done = run(*(paths.get(word, word) for word in command), "-o", tmp_path / "out.h5")
    unpack = f"`unzip {shlex.quote(str(archive))} -d {shlex.quote(str(tmp_path / 'my export'))}`"
    check_error(done, 65, f"{archive}: this is a zip archive", unpack)
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("name", ["export.tar", "export.tar.gz", "export.tgz", "export.tar.bz2", "export.tar.xz",
                                  "my export.TAR.GZ"])
def test_the_command_for_a_tar_archive_unpacks_it(name, tmp_path):
    archive = write_archive(tmp_path / name.lower())
    archive = archive.rename(tmp_path / name)
    message = check_error(run("index", "labelme", archive, "-o", tmp_path / "i.h5"), 65, "this is a tar archive")
    subprocess.run(["sh", "-c", re.search("`(.*)`", message)[1]], check=True, timeout=60)
    assert (tmp_path / name[:name.lower().index(".t")] / FILE_NAME).read_text() == "[]"


@pytest.mark.parametrize(("name", "compress"), [("a.json.gz", gzip.compress), ("a.json", gzip.compress),
                                                ("a.json.bz2", bz2.compress), ("a.json.xz", lzma.compress)])
def test_the_command_for_a_compressed_file_unpacks_it(name, compress, tmp_path):
    (tmp_path / name).write_bytes(compress(b"[]"))
    message = check_error(run("index", "labelstudio", tmp_path / name, "-o", tmp_path / "i.h5"), 65, "compressed with")
    command = re.search("`(.*)`", message)[1]
    if shutil.which(command.split()[0]):
        subprocess.run(["sh", "-c", command], check=True, timeout=60)
        others = [path for path in tmp_path.iterdir() if path.name != name]
        assert [path.read_text() for path in others] == ["[]"]


def test_other_archives_and_documents_are_told_apart(tiny_index, tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!\x1a\x07\x01\x00" + b"\0" * 20)
    check_error(run("index", "labelme", tmp_path / "a.rar", "-o", tmp_path / "i.h5"), 65, "RAR archive", "unrar x")
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + b"\0" * 20)
    check_error(run("index", "cvat", tmp_path / "a.7z", "-o", tmp_path / "i.h5"), 65, "7z archive", "7z x")
    np.savez(tmp_path / "a.npz", np.zeros(3))
    check_error(run("import", "masks", tmp_path / "a.npz", "--index", tiny_index, "-o", tmp_path / "m"), 66,
                "a folder is required")


@pytest.mark.parametrize(("command", "name", "kind"), [
    (("index", "coco", "FILE", "--images", "."), "a.h5", "an HDF5 file"),
    (("index", "labelstudio", "FILE"), "a.png", "an image"),
    (("index", "yolo", "FILE"), "data.yaml", "an image"),
    (("index", "folder", ".", "--class-names", "FILE"), "classes.txt", "an HDF5 file"),
    (("index", "voc", "ROOT", "--list", "FILE"), "val.txt", "an image")])
def test_binary_files_in_place_of_text_are_named(command, name, kind, tiny_dataset, tmp_path):
    path = tmp_path / name
    path.write_bytes({"an image": b"\x89PNG\r\n\x1a\n", "an HDF5 file": b"\x89HDF\r\n\x1a\n"}[kind] + bytes(600))
    shutil.copy(tiny_dataset.root / "JPEGImages" / f"{tiny_dataset.ids[0]}.jpg", tmp_path / "photo.jpg")
    words = {"FILE": path, "ROOT": tiny_dataset.root, ".": tmp_path}
    check_error(run(*(words.get(word, word) for word in command), "-o", tmp_path / "out.h5"), 65, name,
                f"this is {kind}", "The help of the command")
