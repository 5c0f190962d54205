"""Runs: the shards of a folder or a list must belong together, and missing parts are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.samples import CLASSES, build_contents, items_equal
from stages.errors import BadData, MissingInput
from stages.shards import Run, check_same_classes, describe_missing_parts, find_shard_files, shard_name, write_shard


def _write(folder: Path, part: int, parts: int, ids: tuple[str, ...] | None = None, kind: str = "masks",
           name: str | None = None, **fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / (name or shard_name(kind, part, parts))
    write_shard(path, build_contents(kind, ids or (f"{part}/a", f"{part}/b"), part=part, parts=parts, **fields))
    return path


def test_finds_shards_by_name_in_the_order_of_their_parts(tmp_path: Path) -> None:
    assert shard_name("cams", 3, 64) == "cams-00003-of-00064.h5"
    for part in (10, 2, 0):
        _write(tmp_path / "m", part, 11)
    (tmp_path / "m" / "masks-00001-of-00011.h5.part").write_bytes(b"unfinished")
    (tmp_path / "m" / "log.jsonl").write_text("{}")
    names = [path.name for path in find_shard_files(tmp_path / "m")]
    assert names == [shard_name("masks", part, 11) for part in (0, 2, 10)]


def test_reads_items_by_id_from_all_parts(tmp_path: Path) -> None:
    for part in range(3):
        _write(tmp_path / "m", part, 3, failed=("1/b",))
    run = Run([tmp_path / "m"], "masks")
    assert (run.classes, run.kind) == (CLASSES, "masks")
    assert list(run.ids) == ["0/a", "0/b", "1/a", "1/b", "2/a", "2/b"]
    assert "2/b" in run and "1/b" not in run and "3/a" not in run
    assert run.item("1/b").error
    assert items_equal(run.item("2/a"), build_contents("masks", ("2/a",)).items[0])
    with pytest.raises(MissingInput, match="no item 3/a"):
        run.item("3/a")


def test_the_digest_of_a_run_does_not_depend_on_the_order_of_its_parts(tmp_path: Path) -> None:
    files = [_write(tmp_path / "m", part, 3) for part in range(3)]
    digest = Run(files).digest
    assert Run(reversed(files)).digest == digest
    _write(tmp_path / "m", 1, 3, ("other",))
    assert Run(files).digest != digest
    assert Run(files[:1], require_all=False).digest == Run(files[:1], require_all=False).first.digest


def test_reports_missing_parts(tmp_path: Path) -> None:
    for part in (0, 3):
        _write(tmp_path / "m", part, 5)
    with pytest.raises(MissingInput, match=r"m: the run lacks part 1, 2, 4 of 5") as caught:
        Run([tmp_path / "m"])
    assert caught.value.code == 66
    assert list(Run([tmp_path / "m"], require_all=False).ids) == ["0/a", "0/b", "3/a", "3/b"]
    assert describe_missing_parts([], 14) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (14 in all)"
    assert describe_missing_parts([1, 0], 2) == ""


def test_rejects_two_runs_in_one_folder(tmp_path: Path) -> None:
    _write(tmp_path / "m", 0, 1)
    _write(tmp_path / "m", 0, 2)
    with pytest.raises(BadData, match=r"m: holds more than one run \(masks-\*-of-00001, masks-\*-of-00002\)"):
        Run([tmp_path / "m"])
    _write(tmp_path / "n", 0, 1)
    _write(tmp_path / "n", 0, 1, kind="cams")
    with pytest.raises(BadData, match=r"cams-\*-of-00001, masks-\*-of-00001"):
        find_shard_files(tmp_path / "n")


def test_rejects_a_part_that_appears_twice(tmp_path: Path) -> None:
    files = [_write(tmp_path, 0, 2, name="a.h5"), _write(tmp_path, 0, 2, ("other",), name="b.h5"),
             _write(tmp_path, 1, 2, name="c.h5")]
    with pytest.raises(BadData, match=r"a\.h5: part 0 appears twice"):
        Run(files)


def test_rejects_parts_of_different_runs(tmp_path: Path) -> None:
    first = _write(tmp_path, 0, 2, name="first.h5")
    others = {
        "classes": _write(tmp_path, 1, 2, name="classes.h5", classes=("background", "dog", "cat")),
        "parts": _write(tmp_path, 1, 3, name="parts.h5"),
        "kind": _write(tmp_path, 1, 2, kind="cams", name="kind.h5"),
    }
    for name, path in others.items():
        with pytest.raises(BadData, match=rf"{name}\.h5: differs from \S*first\.h5 in {name}"):
            Run([first, path])
    with pytest.raises(BadData, match=r"kind\.h5: holds cams, not masks"):
        Run([first, others["kind"]], "masks")


def test_rejects_no_input_an_empty_folder_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for paths, message in (([], "no input"), ([tmp_path / "empty"], r"empty: holds no shards"),
                           ([tmp_path / "none"], r"none: does not exist")):
        with pytest.raises(MissingInput, match=message):
            Run(paths)


def test_inputs_of_one_command_must_have_the_same_classes() -> None:
    check_same_classes(("a", CLASSES), ("b", CLASSES), ("c", tuple(CLASSES)))
    with pytest.raises(BadData, match=r"^b: its classes differ from those of a \(class 'cat'/'dog'\)"):
        check_same_classes(("a", CLASSES), ("b", ("background", "dog", CLASSES[2])))
    with pytest.raises(BadData, match="3 against 2 classes"):
        check_same_classes(("a", CLASSES), ("b", CLASSES[:2]))
