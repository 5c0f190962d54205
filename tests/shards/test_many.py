"""A run of more shards than a process may have open: few are, and nothing is read wrongly for that."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest

from shards.samples import contents
from stages.data.source import ImageSource, sources_of
from stages.shards import Run, Shard, reader, shard_name, write_shard


@pytest.fixture
def run_of_ten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run of ten shards of three images, of which three may be open."""
    monkeypatch.setattr(reader, "MOST_OPEN", 3)
    gc.collect()
    for part in range(10):
        ids = tuple(f"{part}-{number}" for number in range(3))
        write_shard(tmp_path / shard_name("cams", part, 10), contents("cams", ids, part=part, parts=10))
    return tmp_path


def _open(run: Run) -> int:
    return sum(len(shard._files) for shard in run.shards)


def test_few_shards_stay_open(run_of_ten: Path) -> None:
    run = Run([run_of_ten])
    assert _open(run) <= 3
    for item_id in sorted(run.ids, key=lambda one: one[::-1]):  # from shard to shard
        assert run.item(item_id).id == item_id
        assert _open(run) <= 3


def test_a_shard_that_is_being_read_is_not_closed_under_its_reader(run_of_ten: Path) -> None:
    run = Run([run_of_ten])
    reading = run.shards[0].each("class_ids")
    next(reading)
    for shard in run.shards[1:]:
        list(shard.items())
    assert run.shards[0]._files == {}
    assert [item_id for item_id, _ in reading] == ["0-1", "0-2"]


def test_an_index_keeps_few_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.data.source._MOST_KEPT", 4)
    write_shard(tmp_path / "index.h5", contents("index"))
    source = ImageSource(Shard(tmp_path / "index.h5"))
    for item_id in (*source.index.ids, *source.index.ids):
        assert source.entry(item_id).id == item_id
        assert len(source._entries) <= 4
    parts = [Shard(tmp_path / "index.h5")] * 3
    assert [one._most_kept for one in sources_of(SimpleNamespace(shards=parts), None)] == [1, 1, 1]


def test_what_hdf5_keeps_of_a_file_is_bounded(run_of_ten: Path) -> None:
    """Its own bound is 32 MB, which became 450 MB for an index of 100,000 images."""
    limits = Shard(run_of_ten / shard_name("cams", 0, 10)).file.id.get_mdc_config()
    assert limits.initial_size == limits.max_size == 2 << 20
