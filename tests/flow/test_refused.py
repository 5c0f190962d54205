"""Bad items stay in the list with their reason; the others are made as if the bad ones were not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow.workers import Bench, Told
from stages.errors import BadData, Stopped
from stages.shards import Shard

IDS = ("a1", "a2", "a3", "b1", "a4", "b2")
NAME = "masks-00000-of-00001.h5"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a folder with an index in which b1 was refused, and a3 can't be loaded."""
    made = Bench(tmp_path, IDS, refused=("b1",))
    (tmp_path / "bad").write_text("a3")
    return made


def _errors(bench: Bench, output: str = "out") -> dict[str, str]:
    return Shard(bench.folder / output / NAME).errors


def test_refused_items_stand_with_their_reason_and_errors_are_copied_to_children(bench: Bench) -> None:
    summary = bench.run(shard_size=9, batch_size=3)
    shard = Shard(bench.folder / "out" / NAME)
    assert (summary.items, summary.errors) == (6, 2) and shard.ids == IDS
    assert shard.errors == {"a3": "a3.jpg: can't be decoded", "b1": "b1.jpg: was cut short"}
    assert shard.item("a3").error and "mask" in shard.item("a4").datasets
    assert "2 of 6 images refused, the first: a3.jpg: can't be decoded" in bench.told.lines[-1]
    # The bad one keeps its place in the batch: which batches there are is known before any is loaded.
    assert bench.batches() == [["a1", "a2"], ["a4"], ["b2"]]
    bench.run("child", paths=[str(bench.folder / "out")], shard_size=9, batch_size=3, reads=("masks",))
    assert _errors(bench, "child") == shard.errors
    assert bench.batches() == [["a1", "a2", "a4"], ["b2"]]


def test_errors_count_also_when_up_to_date(bench: Bench) -> None:
    bench.run(shard_size=9)
    summary = bench.run(shard_size=9)
    assert (summary.up_to_date, summary.errors, summary.items) == (1, 2, 6)
    assert summary.exceeds("1") and summary.exceeds("33%") and not summary.exceeds("2")


def test_an_item_whose_key_is_unknown_is_refused_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("a1", "?1", "a2"))
    assert bench.run().errors == 1
    assert _errors(bench) == {"?1": "?1.jpg: can't be decoded"}
    assert bench.batches() == [["a1", "a2"]]


def test_an_item_that_spoils_its_batch_is_found_and_refused_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("a1", "a2", "a3", "b1"))
    (tmp_path / "worse").write_text("a2")
    assert bench.run(batch_size=3).errors == 1
    assert _errors(bench) == {"a2": "a2: the map is not finite"}
    assert bench.batches() == [["a1", "a2", "a3"], ["a1"], ["a2"], ["a3"], ["b1"]]
    with pytest.raises(BadData, match=r"a2.*the map is not finite"):
        bench.run("strict", batch_size=3, strict=True)


def test_strict_stops_at_the_first_and_what_was_done_before_is_kept(bench: Bench) -> None:
    with pytest.raises(BadData, match=r"^a3.*can't be decoded; mend it, or leave out --strict") as told:
        bench.run(shard_size=9, batch_size=1, strict=True)
    assert told.value.code == 65
    assert bench.batches() == [["a1"], ["a2"]] and not (bench.folder / "out" / NAME).exists()
    (bench.folder / "bad").write_text("")
    with pytest.raises(BadData, match=r"b1.*was cut short"):
        bench.run(shard_size=9, batch_size=1, strict=True)
    assert bench.batches() == [["a3"]]
    assert bench.run(shard_size=9, batch_size=1).errors == 1
    assert bench.batches() == [["a4"], ["b2"]]


def test_strict_also_stops_at_what_an_earlier_run_refused_until_it_is_mended(bench: Bench) -> None:
    bench.write_index(bench.index, IDS)
    with pytest.raises(Stopped):
        bench.run(shard_size=9, batch_size=1, told=Told(4))
    with pytest.raises(BadData, match="a3"):
        bench.run(shard_size=9, batch_size=1, strict=True)
    (bench.folder / "bad").write_text("")
    bench.run(shard_size=9, batch_size=1, strict=True)
    assert [batch for batch in bench.batches() if batch != ["a3"]] == [[one] for one in IDS if one != "a3"]
    assert _errors(bench) == {}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_retry_redoes_just_the_refused_and_ends_like_a_fresh_run(bench: Bench, batch_size: int) -> None:
    how = {"shard_size": 9, "batch_size": batch_size}
    bench.run(**how)
    before = bench.files()
    bench.run(**how, retry=True)
    assert bench.files() == before  # still bad: the same again
    (bench.folder / "bad").write_text("")
    bench.batches()
    bench.run(**how)  # without --retry it is up to date as it is
    assert not bench.batches() and bench.files() == before
    bench.run(**how, retry=True)
    again = bench.batches()
    assert _errors(bench) == {"b1": "b1.jpg: was cut short"}
    assert any("a3" in batch for batch in again) and sum(map(len, again)) <= batch_size
    bench.run("fresh", **how)
    assert bench.files() == bench.files("fresh")


def test_retry_of_an_unfinished_run_and_of_a_run_without_errors(bench: Bench) -> None:
    bench.write_index(bench.index, IDS)
    with pytest.raises(Stopped):
        bench.run(shard_size=9, batch_size=1, told=Told(4))
    (bench.folder / "bad").write_text("")
    bench.batches()
    assert bench.run(shard_size=9, batch_size=1, retry=True).errors == 0
    assert ["a3"] in bench.batches()
    assert bench.run(shard_size=9, batch_size=1, retry=True).up_to_date == 1
    assert not bench.batches()


def test_in_processes_refused_items_are_the_same(bench: Bench) -> None:
    bench.run("here", shard_size=3)
    bench.run("there", shard_size=3, jobs=2)
    assert bench.files("here") == bench.files("there")
