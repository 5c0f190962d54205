"""The journal gives back exactly what was completely written, wherever it is cut and whatever byte is flipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.samples import contents, same_items
from stages.errors import CannotCreate, Stopped
from stages.shards import Item, Journal, part_path
from stages.shards.items import pack
from stages.shards.journal import frame, frames

REQUEST = {"stage": "cams", "config": {"scales": [0.5, 1.0], "seed": 0}, "inputs": {"index": "ab" * 32}}
ITEMS = dict(enumerate([
    *contents("masks", ("a/b", "犬")).items, Item("refused", error="can't be decoded ☹"),
    Item("scalars", {"cam": np.zeros((0, 2, 3), np.float16)}, {"covers": np.array([4, 6]), "height": 4, "x": "ö",
                                                               "share": np.float32(0.5)})]))


def _written(path: Path) -> tuple[bytes, list[int]]:
    """Write a journal of ITEMS, in an order of their own; return its bytes and where each frame ends."""
    ends = []
    journal = Journal(path, REQUEST)
    ends.append(path.stat().st_size)
    for place in (2, 0, 3, 1):
        journal.append([(place, ITEMS[place])])
        ends.append(path.stat().st_size)
    journal.close()
    return path.read_bytes(), ends


def _recovered(path: Path, data: bytes) -> dict[int, Item]:
    path.write_bytes(data)
    journal = Journal(path, REQUEST)
    journal.close()
    return journal.items


def _is_prefix(items: dict[int, Item], count: int) -> bool:
    return list(items) == [2, 0, 3, 1][:count] and all(same_items(items[place], ITEMS[place]) for place in items)


def test_cut_at_every_length_the_whole_records_before_the_cut_are_there(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, ends = _written(path)
    for length in range(len(data) + 1):
        items = _recovered(path, data[:length])
        assert _is_prefix(items, max(0, sum(end <= length for end in ends) - 1)), length
        # What was cut is gone, and the journal begins with its request again.
        assert path.read_bytes() == data[:max([ends[0], *(end for end in ends if end <= length)])]


@pytest.mark.parametrize("mask", [0xFF, *(1 << bit for bit in range(8))])
def test_with_any_byte_flipped_the_records_before_it_are_there_and_no_wrong_one(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "x.h5.part"
    data, ends = _written(path)
    for place in range(len(data)):
        broken = data[:place] + bytes([data[place] ^ mask]) + data[place + 1:]
        assert _is_prefix(_recovered(path, broken), max(0, sum(end <= place for end in ends) - 1)), place


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"WSJ1", b"WSJ1" + b"\xff" * 12 + b"more", b"WSJ1" + b"\0" * 12])
def test_zeros_or_a_torn_head_behind_the_last_record_are_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "x.h5.part"
    data, _ = _written(path)
    if tail == b"WSJ1" + b"\0" * 12:
        # Zeros behind the magic are no empty record: the length is part of the sum.
        assert frames(tail) == ([], 0)
    assert _is_prefix(_recovered(path, data + tail), 4)
    assert path.read_bytes() == data


def test_work_goes_on_behind_the_valid_prefix(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, ends = _written(path)
    path.write_bytes(data[:ends[2] + 5])
    journal = Journal(path, REQUEST)
    assert list(journal.items) == [2, 0]
    journal.append([(3, ITEMS[3]), (1, ITEMS[1])])
    assert list(journal.items) == [2, 0, 3, 1]
    journal.close()
    assert path.read_bytes() == data


def test_a_later_record_of_a_position_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.part", REQUEST)
    journal.append([(0, ITEMS[0])])
    journal.append([(0, ITEMS[1])])
    journal.close()
    again = Journal(tmp_path / "x.part", REQUEST)
    assert same_items(again.items[0], ITEMS[1])
    again.close(remove=True)
    assert not list(tmp_path.iterdir())


def test_a_second_one_is_told_that_another_process_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    first = Journal(path, REQUEST)
    first.append([(0, ITEMS[0])])
    with pytest.raises(Stopped, match=r"x\.h5\.part: another process") as told:
        Journal(path, REQUEST)
    assert told.value.code == 75
    code = ("import sys; from pathlib import Path; from stages.shards import Journal; "
            "from stages.errors import Stopped\n"
            "try: Journal(Path(sys.argv[1]), {})\nexcept Stopped: sys.exit(75)")
    assert subprocess.run([sys.executable, "-c", code, path], cwd=Path(__file__).parents[2]).returncode == 75
    first.close()
    second = Journal(path, REQUEST)
    assert list(second.items) == [0]
    second.close()


def test_a_lock_on_a_removed_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our open and our lock the holder may have finished and removed the journal."""
    import fcntl
    path = tmp_path / "x.h5.part"
    first = Journal(path, REQUEST)
    real, calls = fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not calls:
            first.close(remove=True)
        calls.append(descriptor)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    second = Journal(path, REQUEST)
    second.append([(0, ITEMS[0])])
    second.close()
    assert len(calls) == 2
    assert len(_recovered(path, path.read_bytes())) == 1


OTHER = {**REQUEST, "config": {"scales": [1.0], "seed": 0}}


def test_work_with_other_settings_is_refused_naming_them_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, _ = _written(path)
    with pytest.raises(CannotCreate, match=r"x\.h5\.part.*scales: \[0\.5, 1\.0\] -> \[1\.0\]\)") as told:
        Journal(path, OTHER)
    assert told.value.code == 73 and "seed" not in str(told.value)
    assert path.read_bytes() == data
    dropped = Journal(path, OTHER, discard=True)
    assert dropped.items == {}
    dropped.close()
    assert frames(path.read_bytes())[0] == frames(frame(frames(path.read_bytes())[0][0]))[0]
    again = Journal(path, OTHER)
    again.close()


def test_other_settings_without_any_work_are_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    Journal(path, REQUEST).close()
    Journal(path, OTHER).close()
    assert b"[1.0]" in path.read_bytes()


def test_discard_keeps_work_of_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, _ = _written(path)
    journal = Journal(path, REQUEST, discard=True)
    assert _is_prefix(journal.items, 4)
    journal.close()
    assert path.read_bytes() == data


def test_where_it_can_not_be(tmp_path: Path) -> None:
    assert part_path(tmp_path / "x.h5") == tmp_path / "x.h5.part"
    for place in (tmp_path / "no" / "x.part", tmp_path):
        with pytest.raises(CannotCreate, match=str(place)):
            Journal(place, REQUEST)


def test_records_are_small(tmp_path: Path) -> None:
    """A journal of one map costs the map and a line, not a copy of the settings."""
    item = Item("a", {"cam": np.zeros((1, 100, 100), np.float16)})
    assert len(frame(pack(0, item))) < 20_000 + 300
