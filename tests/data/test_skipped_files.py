"""Files next to the images that are in no list are accounted for."""

from __future__ import annotations

from stages.data.skipped_files import describe_skipped_files, find_skipped_files


def test_every_file_is_used_or_counted(tmp_path):
    for name, data in {"a.jpg": b"", "b.PNG": b"", "sub/c.jpg": b"", "d.jfif": b"\xff\xd8\xff\xe0", "e": b"\x89PNG\r\n",
                       "f.bin": b"\0\0\0\x18ftypheic", "notes.txt": b"text", "more.txt": b"", "Thumbs.db": b"",
                       ".hidden.jpg": b"", ".folder/g.jpg": b"", "masks/a.png": b""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    skipped = find_skipped_files(tmp_path, [tmp_path / "a.jpg"], [tmp_path / "masks"])
    assert skipped.unlisted == ("b.PNG", "sub/c.jpg")
    assert skipped.unknown == ("d.jfif", "e", "f.bin")
    assert skipped.others == ((".txt", 2), (".db", 1))
    assert describe_skipped_files(skipped, "tags.csv") == (
        f"2 files in {tmp_path} are not in tags.csv (b.PNG, sub/c.jpg).",
        f"3 files in {tmp_path} are skipped although they have the contents of an image: the suffix or format is not "
        "supported (d.jfif, e, f.bin).",
        f"3 other files in {tmp_path} are not images (2 .txt, 1 .db).")


def test_nothing_is_said_if_all_files_are_used(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    assert describe_skipped_files(find_skipped_files(tmp_path, [tmp_path / "a.jpg"]), "tags.csv") == ()
