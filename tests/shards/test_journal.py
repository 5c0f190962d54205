"""The journal recovers exactly the completely written records, wherever it is cut and whichever byte is flipped."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.samples import build_contents, items_equal
from stages.errors import CannotCreate, Stopped
from stages.shards import Item, Journal, OrderedItems, unfinished_path
from stages.shards.items import pack_record
from stages.shards.journal import decode_frames, encode_frame

REQUEST = {"stage": "cams", "config": {"scales": [0.5, 1.0], "seed": 0}, "inputs": {"index": "ab" * 32}}
ITEMS = dict(enumerate([
    *build_contents("masks", ("a/b", "犬")).items, Item("failed", error="can't be decoded ☹"),
    Item("scalars", {"cam": np.zeros((0, 2, 3), np.float16)}, {"covers": np.array([4, 6]), "height": 4, "x": "ö",
                                                               "share": np.float32(0.5)})]))


def _write_journal(path: Path) -> tuple[bytes, list[int]]:
    """Write a journal of ITEMS out of order; return its bytes and the end of each frame."""
    ends = []
    journal = Journal(path, REQUEST)
    ends.append(path.stat().st_size)
    for position in (2, 0, 3, 1):
        journal.append([(position, ITEMS[position])])
        ends.append(path.stat().st_size)
    journal.close()
    return path.read_bytes(), ends


def _recover(path: Path, data: bytes) -> dict[int, Item]:
    path.write_bytes(data)
    journal = Journal(path, REQUEST)
    journal.close()
    return journal.items


def _is_prefix(items: dict[int, Item], count: int) -> bool:
    return list(items) == [2, 0, 3, 1][:count] and all(
        items_equal(item, ITEMS[position]) for position, item in items.items())


def test_recovers_the_whole_records_of_a_journal_cut_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, ends = _write_journal(path)
    for length in range(len(data) + 1):
        items = _recover(path, data[:length])
        assert _is_prefix(items, max(0, sum(end <= length for end in ends) - 1)), length
        # The incomplete record is removed, and the journal still begins with its request.
        assert path.read_bytes() == data[:max([ends[0], *(end for end in ends if end <= length)])]


@pytest.mark.parametrize("mask", [0xFF, *(1 << bit for bit in range(8))])
def test_recovers_the_records_before_a_flipped_byte_and_no_wrong_ones(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "x.h5.part"
    data, ends = _write_journal(path)
    for offset in range(len(data)):
        damaged = data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1:]
        assert _is_prefix(_recover(path, damaged), max(0, sum(end <= offset for end in ends) - 1)), offset


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"WSJ1", b"WSJ1" + b"\xff" * 12 + b"more", b"WSJ1" + b"\0" * 12])
def test_drops_zeros_or_a_torn_frame_after_the_last_record(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "x.h5.part"
    data, _ = _write_journal(path)
    if tail == b"WSJ1" + b"\0" * 12:
        # Zeros after the magic are not an empty record, because the CRC covers the length.
        assert decode_frames(tail) == ([], 0)
    assert _is_prefix(_recover(path, data + tail), 4)
    assert path.read_bytes() == data


def test_resumes_after_the_valid_prefix(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, ends = _write_journal(path)
    path.write_bytes(data[:ends[2] + 5])
    journal = Journal(path, REQUEST)
    assert list(journal.items) == [2, 0]
    journal.append([(3, ITEMS[3]), (1, ITEMS[1])])
    assert list(journal.items) == [2, 0, 3, 1]
    journal.close()
    assert path.read_bytes() == data


def test_the_last_record_of_a_position_is_used(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "x.part", REQUEST)
    journal.append([(0, ITEMS[0])])
    journal.append([(0, ITEMS[1])])
    journal.close()
    again = Journal(tmp_path / "x.part", REQUEST)
    assert items_equal(again.items[0], ITEMS[1])
    again.close(remove=True)
    assert not list(tmp_path.iterdir())


def test_only_one_process_can_open_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    first = Journal(path, REQUEST)
    first.append([(0, ITEMS[0])])
    with pytest.raises(Stopped, match=r"x\.h5\.part: another process") as caught:
        Journal(path, REQUEST)
    assert caught.value.code == 75
    code = ("import sys; from pathlib import Path; from stages.shards import Journal; "
            "from stages.errors import Stopped\n"
            "try: Journal(Path(sys.argv[1]), {})\nexcept Stopped: sys.exit(75)")
    assert subprocess.run([sys.executable, "-c", code, path], cwd=Path(__file__).parents[2]).returncode == 75
    first.close()
    second = Journal(path, REQUEST)
    assert list(second.items) == [0]
    second.close()


def test_opens_again_if_the_locked_file_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder may finish and remove the journal between our open and our lock."""
    import fcntl
    path = tmp_path / "x.h5.part"
    first = Journal(path, REQUEST)
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            first.close(remove=True)
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    second = Journal(path, REQUEST)
    second.append([(0, ITEMS[0])])
    second.close()
    assert len(calls) == 2
    assert len(_recover(path, path.read_bytes())) == 1


OTHER = {**REQUEST, "config": {"scales": [1.0], "seed": 0}}


def test_lists_different_settings_and_keeps_the_work(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, _ = _write_journal(path)
    with pytest.raises(CannotCreate, match=r"x\.h5\.part.*scales: \[0\.5, 1\.0\] -> \[1\.0\]\)") as caught:
        Journal(path, OTHER)
    assert caught.value.code == 73 and "seed" not in str(caught.value)
    assert path.read_bytes() == data
    discarded = Journal(path, OTHER, discard=True)
    assert discarded.items == {}
    discarded.close()
    assert decode_frames(path.read_bytes())[0] == decode_frames(encode_frame(decode_frames(path.read_bytes())[0][0]))[0]
    again = Journal(path, OTHER)
    again.close()


def test_a_journal_without_items_accepts_different_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    Journal(path, REQUEST).close()
    Journal(path, OTHER).close()
    assert b"[1.0]" in path.read_bytes()


def test_discard_keeps_work_with_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    data, _ = _write_journal(path)
    journal = Journal(path, REQUEST, discard=True)
    assert _is_prefix(journal.items, 4)
    journal.close()
    assert path.read_bytes() == data


def test_a_journal_that_cannot_be_created(tmp_path: Path) -> None:
    assert unfinished_path(tmp_path / "x.h5") == tmp_path / "x.h5.part"
    for path in (tmp_path / "no" / "x.part", tmp_path):
        with pytest.raises(CannotCreate, match=str(path)):
            Journal(path, REQUEST)


def test_records_are_small(tmp_path: Path) -> None:
    """A record of one map takes the map and a line, not a copy of the settings."""
    item = Item("a", {"cam": np.zeros((1, 100, 100), np.float16)})
    assert len(encode_frame(pack_record(0, item))) < 20_000 + 300


def test_large_items_are_compressed_on_disk_and_in_memory(tmp_path: Path) -> None:
    mask = np.zeros((3000, 4000), np.uint8)
    mask[500:900] = 7
    large, small = Item("large", {"mask": mask}, {"height": 3000}), Item("small", {"mask": mask[:4]})
    path = unfinished_path(tmp_path / "a.h5")
    journal = Journal(path, REQUEST)
    journal.append([(0, large), (1, small)])
    journal.close()
    assert path.stat().st_size < mask.nbytes / 50
    recovered = Journal(path, REQUEST)
    recovered.close()
    for items in (journal.items, recovered.items):
        assert items_equal(items[0], large) and items_equal(items[1], small) and len(items) == 2
        stored = pickle.dumps(items)
        assert len(stored) < mask.nbytes / 50
    ordered = OrderedItems(recovered.items, lambda item: Item(item.id))
    assert [item.id for item in ordered] == ["large", "small"] and not ordered[0].datasets
    assert [item.id for item in ordered[:1]] == ["large"]
    with pytest.raises(IndexError):
        ordered[2]
