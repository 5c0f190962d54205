"""A run may have more shards than a process may open: only a few stay open, and all are read correctly."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest

from shards.samples import build_contents
from stages.data.image_source import ImageSource, open_image_sources
from stages.shards import Run, Shard, reader, shard_name, write_shard


@pytest.fixture
def run_of_ten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run of ten shards of three images; at most three shards may be open."""
    monkeypatch.setattr(reader, "MAX_OPEN_SHARDS", 3)
    gc.collect()
    for part in range(10):
        ids = tuple(f"{part}-{number}" for number in range(3))
        write_shard(tmp_path / shard_name("cams", part, 10), build_contents("cams", ids, part=part, parts=10))
    return tmp_path


def _count_open_files(run: Run) -> int:
    return sum(len(shard._files) for shard in run.shards)


def test_only_a_few_shards_stay_open(run_of_ten: Path) -> None:
    run = Run([run_of_ten])
    assert _count_open_files(run) <= 3
    for item_id in sorted(run.ids, key=lambda item_id: item_id[::-1]):  # from shard to shard
        assert run.item(item_id).id == item_id
        assert _count_open_files(run) <= 3


def test_a_shard_stays_open_while_it_is_read(run_of_ten: Path) -> None:
    run = Run([run_of_ten])
    datasets = run.shards[0].iterate_datasets("class_ids")
    next(datasets)
    for shard in run.shards[1:]:
        list(shard.items())
    assert run.shards[0]._files == {}
    assert [item_id for item_id, _ in datasets] == ["0-1", "0-2"]


def test_an_image_source_caches_only_a_few_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.data.image_source._MAX_CACHED_ENTRIES", 4)
    write_shard(tmp_path / "index.h5", build_contents("index"))
    source = ImageSource(Shard(tmp_path / "index.h5"))
    for item_id in (*source.index.ids, *source.index.ids):
        assert source.read_entry(item_id).id == item_id
        assert len(source._cached_entries) <= 4
    parts = [Shard(tmp_path / "index.h5")] * 3
    sources = open_image_sources(SimpleNamespace(shards=parts), None)
    assert [source._max_cached_entries for source in sources] == [1, 1, 1]


def test_the_metadata_cache_of_hdf5_is_limited(run_of_ten: Path) -> None:
    """Its default limit of 32 MB became 450 MB for an index of 100,000 images."""
    limits = Shard(run_of_ten / shard_name("cams", 0, 10)).file.id.get_mdc_config()
    assert limits.initial_size == limits.max_size == 2 << 20
