"""Image files among the inputs: which files of a folder are used, what is skipped, and their ids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flow.workers import RecordingReport
from stages.errors import BadData, MissingInput, UsageError
from stages.flow import image_files
from stages.flow.image_files import choose_image_ids, select_image_files


def touch(folder: Path, *names: str) -> None:
    """Create empty files and their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def select(folder: Path, *names: str, output: Path | None = None) -> tuple[list[str], list[str]]:
    """Return (the selected files relative to the folder, the messages) of these inputs."""
    report = RecordingReport()
    shards, files = select_image_files([str(folder / name) for name in names], report, output=output)
    assert shards == []
    return [file.relative_to(folder).as_posix() for file in files], report.lines


def test_a_folder_is_searched_at_any_depth_in_the_order_of_the_paths(tmp_path):
    touch(tmp_path, "p/b.JPG", "p/a/z.png", "p/a/deep/er/x.jpeg", "p/a.webp", "p/c/y.tiff")
    assert select(tmp_path, "p") == (["p/a/deep/er/x.jpeg", "p/a/z.png", "p/a.webp", "p/b.JPG", "p/c/y.tiff"], [])


def test_folders_and_files_can_be_mixed_and_a_file_is_used_once(tmp_path):
    touch(tmp_path, "p/b.jpg", "p/a.jpg", "z.png")
    assert select(tmp_path, "z.png", "p", "p/b.jpg") == (["z.png", "p/a.jpg", "p/b.jpg"], [])


def test_hidden_files_and_those_of_systems_are_ignored_without_a_message(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/.b.jpg", "p/.trash/c.jpg", "p/__MACOSX/d.jpg", "p/Thumbs.db", "p/.DS_Store")
    assert select(tmp_path, "p") == (["p/a.jpg"], [])


def test_skipped_files_are_counted_and_named(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/notes.txt", "p/b.mov", "p/c.csv", "p/d.pdf", "p/new2.dng", "p/e.JXL")
    files, messages = select(tmp_path, "p")
    assert files == ["p/a.jpg"]
    assert messages == [
        "Skipping 4 files that are not images: b.mov, c.csv, d.pdf, ...",
        "Skipping e.JXL: not an image this installation can read. Convert it to JPEG or PNG.",
        "Skipping new2.dng: not an image this installation can read. Convert it to JPEG or PNG."]
    assert select(tmp_path, "p/notes.txt", "p/a.jpg")[1] == ["Skipping 1 file that is not an image: notes.txt"]


def test_many_unreadable_images_take_few_lines(tmp_path):
    touch(tmp_path, "p/a.jpg", *(f"p/IMG_{number}.CR2" for number in range(7)))
    messages = select(tmp_path, "p")[1]
    assert len(messages) == 4
    assert messages[3] == "Skipping 4 more that this installation cannot read: IMG_3.CR2, IMG_4.CR2, IMG_5.CR2, ..."


def test_photographs_whose_decoder_is_not_installed_name_it(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "has_decoder", lambda suffix: suffix not in (".heic", ".avif"))
    touch(tmp_path, "p/a.jpg", "p/b.HEIC", "p/c.avif")
    files, messages = select(tmp_path, "p")
    assert files == ["p/a.jpg"]
    assert "b.HEIC" in messages[0] and "pip install 'wsss[heif]'" in messages[0]
    assert "c.avif" in messages[1] and "Pillow 11.3" in messages[1]
    with pytest.raises(BadData, match=r"b\.HEIC: not an image this installation can read.*wsss\[heif\]"):
        select(tmp_path, "p/b.HEIC")


def test_a_file_without_suffix_is_recognised_by_its_contents(tmp_path):
    touch(tmp_path, "p/README", "p/empty")
    for name, data in (("jpeg", b"\xff\xd8\xff\xe0"), ("png", b"\x89PNG\r\n\x1a\n"), ("tiff", b"II*\0"),
                       ("webp", b"RIFF\0\0\0\0WEBP"), ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
                       ("avif", b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1"), ("ppm", b"P6\n8 8\n255\n")):
        (tmp_path / "p" / name).write_bytes(data + bytes(64))
    (tmp_path / "p" / "README").write_text("Photographs of 2023")
    (tmp_path / "p" / "film").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0mp41isom")
    files, messages = select(tmp_path, "p")
    assert files == ["p/avif", "p/heic", "p/jpeg", "p/png", "p/ppm", "p/tiff", "p/webp"]
    assert messages == ["Skipping 3 files that are not images: README, empty, film"]
    assert select(tmp_path, "p/png") == (["p/png"], [])
    assert select_image_files([str(tmp_path / "p/README")]) == ([str(tmp_path / "p/README")], [])


def test_links_to_folders_are_followed_without_loops(tmp_path):
    touch(tmp_path, "p/sub/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "p" / "sub" / "up").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "trip").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    assert select(tmp_path, "p") == (["p/sub/a.jpg", "p/trip/b.jpg"], [])


def test_runs_and_the_output_below_a_folder_are_not_photographs(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/old/cams-00000-of-00001.h5", "p/old/a.png", "p/cams/a.png")
    files, messages = select(tmp_path, "p", output=tmp_path / "p" / "cams")
    assert files == ["p/a.jpg"]
    assert messages == [f"Skipping the folder {tmp_path / 'p' / 'old'}, which holds shards."]
    with pytest.raises(UsageError, match="both the folder of the photographs and the output"):
        select(tmp_path, "p", output=tmp_path / "p")


def test_shards_are_passed_on(tmp_path):
    touch(tmp_path, "run/cams-00000-of-00001.h5", "run/log.jsonl", "notes.txt")
    for name in ("run", "none.h5", "notes.txt", "nothing"):
        assert select_image_files([str(tmp_path / name)]) == ([str(tmp_path / name)], [])
    assert select_image_files([]) == ([], [])


def test_a_mixture_of_shards_and_image_files_is_an_error(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/index.h5", "b.jpg")
    with pytest.raises(UsageError, match=r"p holds both shards \(index.h5\) and image files \(a.jpg\).*p/\*\.jpg"):
        select(tmp_path, "p")
    for names in (("b.jpg", "p/index.h5"), ("p/index.h5", "b.jpg")):
        with pytest.raises(UsageError, match=r"index\.h5 is not an image file, but other inputs are"):
            select(tmp_path, *names)


def test_without_any_photograph_the_folder_or_file_is_named(tmp_path):
    touch(tmp_path, "p/notes.txt", "p/.hidden.jpg", "q/new.nef")
    (tmp_path / "empty").mkdir()
    for name in ("p", "empty"):
        with pytest.raises(MissingInput, match=f"{name}: holds no shards and no photographs"):
            select(tmp_path, name)
    for name in ("q", "q/new.nef"):
        with pytest.raises(BadData, match=r"new\.nef: not an image this installation can read"):
            select(tmp_path, name)
    with pytest.raises(MissingInput, match=r"gone\.jpg: does not exist"):
        select(tmp_path, "gone.jpg")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/secret/b.jpg")
    (tmp_path / "p" / "secret").chmod(0)
    try:
        if os.access(tmp_path / "p" / "secret", os.R_OK):
            pytest.skip("this user may read every folder")
        with pytest.raises(PermissionError):
            select(tmp_path, "p")
    finally:
        (tmp_path / "p" / "secret").chmod(0o755)


@pytest.mark.parametrize(("paths", "ids"), [
    (["a.jpg", "x/b.png"], ["a", "b"]),
    (["2023/a.jpg", "2024/a.jpg", "2024/b.jpg"], ["2023~a", "2024~a", "2024~b"]),
    (["p/a.jpg", "p/a.png", "p/b.jpg"], ["a.jpg", "a.png", "b"]),
    (["p/a.jpg", "p/a.png", "q/a.jpg", "c.jpg"], ["p~a.jpg", "p~a.png", "q~a", "c"]),
    (["p/a.b.jpg", "p/a.c.jpg"], ["a.b", "a.c"]), (["p/A.jpg", "p/a.jpg"], ["A", "a"]),
    (["../up/a.jpg", "a.jpg"], ["up~a", "here~a"])])
def test_ids_are_names_or_paths_if_names_repeat(tmp_path, monkeypatch, paths, ids):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert choose_image_ids([Path(path) for path in paths]) == ids


def test_ids_that_are_invalid_or_equal_name_the_files():
    with pytest.raises(BadData, match=r"q~r/a.jpg: would have the same id q~r~a as q/r/a.jpg"):
        choose_image_ids([Path("q/r/a.jpg"), Path("q~r/a.jpg"), Path("q/a.jpg")])
    with pytest.raises(BadData, match="tab"):
        choose_image_ids([Path("a\tb.jpg")])
