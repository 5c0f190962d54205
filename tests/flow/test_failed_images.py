"""Failed images are recorded with their reason, and do not change the results of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow.workers import RecordingReport, StageRunner
from stages.errors import BadData, Stopped
from stages.shards import Shard

IDS = ("a1", "a2", "a3", "b1", "a4", "b2")
NAME = "masks-00000-of-00001.h5"


@pytest.fixture
def runner(tmp_path: Path) -> StageRunner:
    """Return a stage runner with an index in which b1 has failed, and in which a3 can't be loaded."""
    runner = StageRunner(tmp_path, IDS, failed=("b1",))
    (tmp_path / "bad").write_text("a3")
    return runner


def _errors(runner: StageRunner, output: str = "out") -> dict[str, str]:
    return Shard(runner.folder / output / NAME).errors


def test_failed_items_are_recorded_with_their_reason_and_inherited_by_later_stages(runner: StageRunner) -> None:
    summary = runner.run(shard_size=9, batch_size=3)
    shard = Shard(runner.folder / "out" / NAME)
    assert (summary.num_images, summary.num_failed) == (6, 2) and shard.ids == IDS
    assert shard.errors == {"a3": "a3.jpg: can't be decoded", "b1": "b1.jpg: was cut short"}
    assert shard.item("a3").error and "mask" in shard.item("a4").datasets
    assert "2 of 6 images failed, the first: a3.jpg: can't be decoded" in runner.report.lines[-1]
    # The failed item keeps its place in the batch: batches are planned before images are loaded.
    assert runner.batches() == [["a1", "a2"], ["a4"], ["b2"]]
    runner.run("child", paths=[str(runner.folder / "out")], shard_size=9, batch_size=3, input_kinds=("masks",))
    assert _errors(runner, "child") == shard.errors
    assert runner.batches() == [["a1", "a2", "a4"], ["b2"]]


def test_failed_items_of_an_up_to_date_shard_are_counted(runner: StageRunner) -> None:
    runner.run(shard_size=9)
    summary = runner.run(shard_size=9)
    assert (summary.num_up_to_date, summary.num_failed, summary.num_images) == (1, 2, 6)
    assert summary.has_more_errors_than("1") and summary.has_more_errors_than("33%")
    assert not summary.has_more_errors_than("2")


def test_an_item_without_a_batch_key_fails_alone(tmp_path: Path) -> None:
    runner = StageRunner(tmp_path, ("a1", "?1", "a2"))
    assert runner.run().num_failed == 1
    assert _errors(runner) == {"?1": "?1.jpg: can't be decoded"}
    assert runner.batches() == [["a1", "a2"]]


def test_an_item_that_makes_its_batch_fail_is_found_and_fails_alone(tmp_path: Path) -> None:
    runner = StageRunner(tmp_path, ("a1", "a2", "a3", "b1"))
    (tmp_path / "worse").write_text("a2")
    assert runner.run(batch_size=3).num_failed == 1
    assert _errors(runner) == {"a2": "a2: the map is not finite"}
    assert runner.batches() == [["a1", "a2", "a3"], ["a1"], ["a2"], ["a3"], ["b1"]]
    with pytest.raises(BadData, match=r"a2.*the map is not finite"):
        runner.run("strict", batch_size=3, strict=True)


def test_strict_stops_at_the_first_failure_and_keeps_finished_items(runner: StageRunner) -> None:
    message = r"^a3.*can't be decoded\. Repair or replace the image, or omit --strict"
    with pytest.raises(BadData, match=message) as caught:
        runner.run(shard_size=9, batch_size=1, strict=True)
    assert caught.value.code == 65
    assert runner.batches() == [["a1"], ["a2"]] and not (runner.folder / "out" / NAME).exists()
    (runner.folder / "bad").write_text("")
    with pytest.raises(BadData, match=r"b1.*was cut short"):
        runner.run(shard_size=9, batch_size=1, strict=True)
    assert runner.batches() == [["a3"]]
    assert runner.run(shard_size=9, batch_size=1).num_failed == 1
    assert runner.batches() == [["a4"], ["b2"]]


def test_strict_also_stops_at_failures_of_an_earlier_run_until_they_are_repaired(runner: StageRunner) -> None:
    runner.write_index(runner.index, IDS)
    with pytest.raises(Stopped):
        runner.run(shard_size=9, batch_size=1, report=RecordingReport(4))
    with pytest.raises(BadData, match="a3"):
        runner.run(shard_size=9, batch_size=1, strict=True)
    (runner.folder / "bad").write_text("")
    runner.run(shard_size=9, batch_size=1, strict=True)
    assert [batch for batch in runner.batches() if batch != ["a3"]] == [[item_id] for item_id in IDS if item_id != "a3"]
    assert _errors(runner) == {}


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_retry_repeats_only_failed_items_and_ends_like_a_fresh_run(runner: StageRunner, batch_size: int) -> None:
    options = {"shard_size": 9, "batch_size": batch_size}
    runner.run(**options)
    before = runner.files()
    runner.run(**options, retry=True)
    assert runner.files() == before  # it still fails
    (runner.folder / "bad").write_text("")
    runner.batches()
    runner.run(**options)  # up to date without --retry
    assert not runner.batches() and runner.files() == before
    runner.run(**options, retry=True)
    batches = runner.batches()
    assert _errors(runner) == {"b1": "b1.jpg: was cut short"}
    assert any("a3" in batch for batch in batches) and sum(map(len, batches)) <= batch_size
    runner.run("fresh", **options)
    assert runner.files() == runner.files("fresh")


def test_retry_of_an_unfinished_run_and_of_a_run_without_errors(runner: StageRunner) -> None:
    runner.write_index(runner.index, IDS)
    with pytest.raises(Stopped):
        runner.run(shard_size=9, batch_size=1, report=RecordingReport(4))
    (runner.folder / "bad").write_text("")
    runner.batches()
    assert runner.run(shard_size=9, batch_size=1, retry=True).num_failed == 0
    assert ["a3"] in runner.batches()
    assert runner.run(shard_size=9, batch_size=1, retry=True).num_up_to_date == 1
    assert not runner.batches()


def test_worker_processes_record_the_same_failures(runner: StageRunner) -> None:
    runner.run("here", shard_size=3)
    runner.run("there", shard_size=3, jobs=2)
    assert runner.files("here") == runner.files("there")
