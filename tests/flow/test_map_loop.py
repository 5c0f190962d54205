"""However a map stage was interrupted or distributed, its shards are the same, and no finished batch is repeated."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from flow.workers import RecordingReport, StageRunner
from stages.errors import BadData, CannotCreate, MissingInput, Stopped, UsageError
from stages.flow.device import count_cores
from stages.flow.execution import Inputs, Output, Summary, parse_task
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import Companion, MapWork
from stages.shards import Journal, Shard, unfinished_path

IDS = ("a1", "b1", "a2", "a3", "b2", "a4", "a5", "b3", "a6", "b4")
NAMES = [f"masks-0000{part}-of-00003.h5" for part in range(3)]


@pytest.fixture
def runner(tmp_path: Path) -> StageRunner:
    """Return a stage runner with an index of ten images of two sizes."""
    return StageRunner(tmp_path, IDS)


def test_parts_are_slices_of_the_index_and_their_paths_are_reported(runner: StageRunner) -> None:
    summary = runner.run()
    assert runner.report.paths == list(runner.files()) == NAMES
    assert (summary.num_written, summary.num_images, summary.num_failed) == (3, 10, 0)
    shards = [Shard(runner.folder / "out" / name) for name in NAMES]
    assert [shard.ids for shard in shards] == [IDS[:4], IDS[4:8], IDS[8:]]
    assert [(shard.part, shard.parts) for shard in shards] == [(0, 3), (1, 3), (2, 3)]
    assert all(shard.attribute("index_path") == "../train.h5" for shard in shards)
    assert all(shard.index_digest == Shard(runner.index).digest for shard in shards)
    assert shards[0].provenance[-1]["inputs"] == {"index": Shard(runner.index).digest}


@pytest.mark.parametrize(("size", "batches"), [
    (1, [["a1"], ["b1"], ["a2"], ["a3"]]), (2, [["a1", "a2"], ["b1"], ["a3"]]),
    (3, [["a1", "a2", "a3"], ["b1"]]), (64, [["a1", "a2", "a3"], ["b1"]]),
])
def test_batches_depend_on_keys_and_size_alone(runner: StageRunner, size: int, batches: list) -> None:
    runner.run(batch_size=size, task=(0, 3))
    assert runner.batches() == batches


def test_resumes_with_the_same_bytes_after_a_stop_at_any_number_of_images(runner: StageRunner) -> None:
    runner.run("whole")
    all_batches, files = runner.batches(), runner.files("whole")
    for num_images in range(1, len(IDS)):
        with pytest.raises(Stopped, match="Run the same command again") as caught:
            runner.run(f"cut{num_images}", report=RecordingReport(num_images))
        assert caught.value.code == 75
        batches = runner.batches()
        assert batches == all_batches[:len(batches)] and sum(map(len, batches)) >= num_images
        runner.run(f"cut{num_images}")
        assert runner.batches() == all_batches[len(batches):]
        assert runner.files(f"cut{num_images}") == files


def test_resumes_after_a_stop_at_every_batch(runner: StageRunner) -> None:
    runner.run("whole")
    all_batches = runner.batches()
    for _ in all_batches[:-1]:
        with pytest.raises(Stopped):
            runner.run("cut", report=RecordingReport(1))
    runner.run("cut", report=RecordingReport(1))
    assert runner.batches() == all_batches
    assert runner.files("cut") == runner.files("whole")


def test_resumes_from_a_truncated_journal_and_repeats_only_the_torn_batch(runner: StageRunner) -> None:
    runner.run("whole")
    all_batches = runner.batches()
    with pytest.raises(Stopped):
        runner.run(report=RecordingReport(3))
    runner.batches()
    journal = unfinished_path(runner.folder / "out" / NAMES[0])
    data = journal.read_bytes()
    for length in range(len(data), -1, -7):
        unfinished_path(runner.folder / "out" / NAMES[0]).write_bytes(data[:length])
        runner.run(task=(0, 3))
        batches = runner.batches()
        assert batches == [batch for batch in all_batches[:3] if batch in batches] and batches[-1] == all_batches[2]
        assert runner.files()[NAMES[0]] == runner.files("whole")[NAMES[0]]
        (runner.folder / "out" / NAMES[0]).unlink()


def test_worker_processes_write_the_same_shards(runner: StageRunner) -> None:
    runner.run("whole")
    all_batches = runner.batches()
    runner.run(jobs=2)
    assert sorted(runner.batches()) == sorted(all_batches)
    assert os.getpid() not in runner.processes
    assert runner.files() == runner.files("whole") and sorted(runner.report.paths) == NAMES


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 5])
def test_tasks_share_the_parts_without_overlap(runner: StageRunner, num_tasks: int) -> None:
    runner.run("whole")
    runner.batches()
    num_written = [runner.run(task=(task, num_tasks)).num_written for task in range(num_tasks)]
    assert sum(num_written) == 3 and max(num_written) - min(num_written) <= 1
    assert runner.files() == runner.files("whole")
    assert len(runner.batches()) == 7


def test_tasks_of_a_run_are_assigned_by_part_number_and_do_not_need_the_other_parts(runner: StageRunner) -> None:
    runs = runner.folder / "index"
    for part in (1, 3):
        runner.write_index(runs / f"index-0000{part}-of-00005.h5", [f"a{part}"], part=part, parts=5)
    assert runner.run(paths=[str(runs)], task=(1, 2)).num_written == 2
    assert runner.run("other", paths=[str(runs)], task=(0, 2)).num_written == 0
    assert runner.run("third", paths=[str(runs)], task=(3, 4)).num_written == 1
    assert list(runner.files()) == ["masks-00001-of-00005.h5", "masks-00003-of-00005.h5"]
    assert list(runner.files("third")) == ["masks-00003-of-00005.h5"] and not runner.files("other")


def test_a_task_opens_only_its_own_parts(runner: StageRunner) -> None:
    runs = runner.folder / "index"
    runner.write_index(runs / "index-00001-of-00002.h5", ["a1"], part=1, parts=2)
    (runs / "index-00000-of-00002.h5").write_text("the other task's, on its way")
    assert runner.run(paths=[str(runs)], task=(1, 2)).num_written == 1
    with pytest.raises(BadData, match="is not a shard"):
        runner.run(paths=[str(runs)], task=(0, 2))


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)], ids=["with", "without"])
def test_resumes_with_or_without_a_companion_run_that_was_added_or_dropped(runner: StageRunner, before: bool,
                                                                          after: bool) -> None:
    """The journal lacks the companion data, or contains data that is no longer needed."""
    runner.run("whole", companion=after)
    with pytest.raises(Stopped):
        runner.run("cut", report=RecordingReport(5), companion=before)
    runner.run("cut", companion=after)
    for name in ("", "-companion") if after else ("",):
        assert runner.files(f"cut{name}") == runner.files(f"whole{name}")
    assert bool(runner.files("whole-companion")) == after


def test_resumes_a_companion_run_next_to_a_finished_main_run(runner: StageRunner) -> None:
    runner.run("whole", companion=True)
    runner.run("cut")
    with pytest.raises(Stopped):
        runner.run("cut", report=RecordingReport(2), companion=True)
    runner.batches()
    runner.run("cut", companion=True)
    assert ["a1", "a2"] not in runner.batches(), "items of the journal are not computed again"
    for name in ("", "-companion"):
        assert runner.files(f"cut{name}") == runner.files(f"whole{name}")


def test_refuses_a_folder_with_a_run_of_another_number_of_parts(runner: StageRunner) -> None:
    runner.run(shard_size=4)
    before = runner.files()
    with pytest.raises(CannotCreate, match=r"masks-00000-of-00003\.h5, of a run of 3 parts"):
        runner.run(shard_size=5)
    assert runner.files() == before


def test_companion_run_needs_its_own_output_for_every_part(runner: StageRunner) -> None:
    config = {"value": 7, "batch_size": 2, "shard_size": 4}
    work = MapWork("pseudo", "", "masks", ("index",), "flow.workers:make", config, config, shard_size=4,
                   companion=Companion(str(runner.folder / "out"), config))
    (runner.folder / "link").symlink_to(runner.folder / "out")
    for output, message in (("out", "written twice"), ("link", "written twice"), ("all.h5", "there are 3 parts")):
        work = replace(work, companion=Companion(str(runner.folder / output), config))
        with pytest.raises(UsageError, match=message):
            run_map_stage(work, Inputs([str(runner.index)]), Output(runner.folder / "out", jobs=1),
                          stop=RecordingReport().stop, report=RecordingReport())
    assert not (runner.folder / "out").exists() and not (runner.folder / "all.h5").exists()


def test_missing_parts_are_reported_after_the_others_are_finished(runner: StageRunner) -> None:
    runs = runner.folder / "index"
    for part in (0, 3):
        runner.write_index(runs / f"index-0000{part}-of-00004.h5", [f"a{part}"], part=part, parts=4)
    with pytest.raises(MissingInput, match=r"lacks part 1, 2\. .*other parts are finished") as caught:
        runner.run(paths=[str(runs)])
    assert caught.value.code == 66
    assert runner.report.paths == ["masks-00000-of-00004.h5", "masks-00003-of-00004.h5"] == list(runner.files())


def test_rejects_a_part_that_appears_twice(runner: StageRunner) -> None:
    with pytest.raises(BadData, match=r"train\.h5: part 0 appears twice"):
        runner.run(paths=[str(runner.index), str(runner.index)])


def test_an_index_without_images_makes_an_empty_shard(runner: StageRunner) -> None:
    runner.write_index(runner.index, ())
    assert runner.run(input_kinds=("index",)).num_written == 1
    assert Shard(runner.folder / "out" / "masks-00000-of-00001.h5").ids == ()


def test_one_file_for_several_parts_is_a_usage_error(runner: StageRunner) -> None:
    with pytest.raises(UsageError, match=r"out\.h5 is one file, but there are 3 parts.*--shard-size 10") as caught:
        runner.run("out.h5")
    assert caught.value.code == 2 and not (runner.folder / "out.h5").exists()
    runner.run("out.h5", shard_size=10)
    assert Shard(runner.folder / "out.h5").ids == IDS


def test_up_to_date_shards_are_touched_and_reported(runner: StageRunner) -> None:
    runner.run()
    files = runner.files()
    for name in NAMES:
        os.utime(runner.folder / "out" / name, (1, 1))
    runner.batches()
    summary = runner.run()
    assert (summary.num_written, summary.num_up_to_date, summary.num_images) == (0, 3, 10)
    assert runner.report.paths == NAMES and not runner.batches() and runner.files() == files
    assert all((runner.folder / "out" / name).stat().st_mtime > 1 for name in NAMES)


def test_dry_run_changes_nothing(runner: StageRunner) -> None:
    runner.run(dry_run=True)
    assert not (runner.folder / "out").exists() and not runner.batches()
    assert [line for line in runner.report.lines if "Would make" in line] == runner.report.lines
    assert len(runner.report.lines) == 3 and "(4 images)" in runner.report.lines[0]
    runner.run(task=(0, 3))
    os.utime(runner.folder / "out" / NAMES[0], (1, 1))
    before = runner.files()
    runner.run(dry_run=True)
    assert runner.files() == before and (runner.folder / "out" / NAMES[0]).stat().st_mtime == 1


def test_different_settings_are_listed_and_force_replaces(runner: StageRunner) -> None:
    runner.run(shard_size=10)
    before = runner.files()
    with pytest.raises(CannotCreate, match=r"exists with different settings \(value: 7 -> 8\)\. .*--force") as caught:
        runner.run(shard_size=10, value=8)
    assert caught.value.code == 73 and runner.files() == before
    runner.run(shard_size=10, value=8, force=True)
    assert runner.files().keys() == before.keys() and runner.files() != before
    runner.write_index(runner.index, IDS[::-1])
    with pytest.raises(CannotCreate, match=r"inputs\.index"):
        runner.run(shard_size=10, value=8)


def test_unfinished_work_with_different_settings_needs_force(runner: StageRunner) -> None:
    with pytest.raises(Stopped):
        runner.run(report=RecordingReport(1))
    with pytest.raises(CannotCreate, match=r"unfinished work with different settings \(value: 7 -> 8\)"):
        runner.run(value=8)
    runner.run(value=8, force=True)
    runner.run("other", value=8)
    assert runner.files() == runner.files("other")


@pytest.mark.parametrize("existing", ["text", "folder", "truncated"])
def test_an_existing_output_that_is_no_shard_is_replaced_only_with_force(runner: StageRunner, existing: str) -> None:
    path = runner.folder / "out.h5"
    if existing == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"notes" if existing == "text" else runner.index.read_bytes()[:5000])
    with pytest.raises(CannotCreate, match=r"out\.h5: already exists and") as caught:
        runner.run("out.h5", shard_size=10)
    assert caught.value.code == 73
    if existing != "folder":
        runner.run("out.h5", shard_size=10, force=True)
        assert Shard(path).ids == IDS


def test_journal_left_by_a_crash_after_the_rename_is_removed_by_the_next_run(runner: StageRunner,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    runner.run("whole")
    close = Journal.close

    def crash(journal: Journal, *, remove: bool = False) -> None:
        if remove:
            close(journal)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Journal, "close", crash)
        runner.run()
    journal_path = unfinished_path(runner.folder / "out" / NAMES[0])
    assert journal_path.exists() and (runner.folder / "out" / NAMES[0]).exists()
    runner.batches()
    runner.run()
    assert len(runner.batches()) == 4 and not journal_path.exists()
    assert runner.files() == runner.files("whole")


def test_a_part_that_cannot_be_opened_leaves_no_files(runner: StageRunner) -> None:
    with pytest.raises(BadData, match="the classes differ"):
        runner.run(value=8, named={"closed": "1"})
    assert not runner.files()
    runner.run(value=7)


def test_stops_if_another_process_holds_the_part(runner: StageRunner) -> None:
    with pytest.raises(Stopped):
        runner.run(report=RecordingReport(1))
    path = unfinished_path(runner.folder / "out" / NAMES[0])
    data = path.read_bytes()
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Stopped, match="another process is writing it") as caught:
        runner.run()
    os.close(descriptor)
    assert caught.value.code == 75 and path.read_bytes() == data


def test_times_are_in_the_log_and_not_in_the_shards(runner: StageRunner) -> None:
    runner.run()
    lines = (runner.folder / "out" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3 and all('"time"' in line and '"seconds"' in line for line in lines)
    assert not any(name.endswith((".part", ".tmp")) for name in runner.files())


@pytest.mark.parametrize(("text", "task"), [("0/1", (0, 1)), ("3/64", (3, 64)), (None, None)])
def test_parses_tasks(text: str | None, task: tuple | None) -> None:
    assert parse_task(text) == task


@pytest.mark.parametrize("text", ["1/1", "-1/2", "1", "1/", "/2", "a/b", "1/0", "1/2/3", "1.0/2"])
def test_rejects_invalid_tasks(text: str) -> None:
    with pytest.raises(UsageError, match=r"--task .* is not I/N"):
        parse_task(text)


@pytest.mark.parametrize(("num_failed", "num_images", "allowed", "expected"), [
    (0, 10, "0", False), (1, 10, "0", True), (3, 10, "3", False), (4, 10, "3", True), (1, 100, "1%", False),
    (2, 100, "1%", True), (0, 0, "0%", False), (1, 1000, ".1%", False), (29, 100, "29%", False), (9, 9, "100%", False),
])
def test_compares_failures_with_allow_errors(num_failed: int, num_images: int, allowed: str, expected: bool) -> None:
    assert Summary(num_images=num_images, num_failed=num_failed).has_more_errors_than(allowed) == expected


@pytest.mark.parametrize("allowed", ["", "x", "-1", "1.5", "nan%", "%", "inf%", "-1%", "1e9"])
def test_invalid_allow_errors_is_rejected_before_the_work(tmp_path: Path, allowed: str) -> None:
    with pytest.raises(UsageError, match="--allow-errors"):
        Output(tmp_path, allow_errors=allowed)


def test_several_readers_for_a_gpu_do_not_change_the_shards(runner: StageRunner,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    for device, max_readers in (("cpu", 1), ("auto", 1), ("cuda", 8), ("cuda:1", 8)):
        work = MapWork("pseudo", "", "masks", (), "", None, {"device": device})
        assert work.num_readers == (1 if max_readers == 1 else min(8, count_cores()))
    runner.run("one")
    batches = runner.batches()
    monkeypatch.setattr(MapWork, "num_readers", 3)
    runner.run("several", shard_size=4)
    assert runner.files("one") == runner.files("several") and runner.batches() == batches
    with pytest.raises(Stopped):
        runner.run("stopped", report=RecordingReport(2))
    runner.run("stopped")
    assert runner.files("one") == runner.files("stopped")


def test_the_total_is_known_at_once_for_one_index(tmp_path):
    runner = StageRunner(tmp_path, tuple("abcdefghij"))
    runner.run()
    assert (runner.report.totals, runner.report.num_new, runner.report.num_resumed) == ([(10, None)], 10, 0)
    assert runner.report.phases == ["preparing", "", "writing masks-00000-of-00003.h5", "",
                                    "writing masks-00001-of-00003.h5", "", "writing masks-00002-of-00003.h5",
                                    "finishing"]
    runner.run(task=(1, 2), output="task")
    assert runner.report.totals == [(4, None)]


def test_the_total_grows_while_parts_arrive(tmp_path):
    runner = StageRunner(tmp_path, "a")
    paths = [str(runner.write_index(tmp_path / f"index-0000{part}-of-00003.h5", ids, part=part, parts=3))
             for part, ids in enumerate(("abcd", "efgh", "i"))]
    runner.run(paths=paths)
    assert runner.report.totals == [(4, 12), (8, 12), (9, None)]
    runner.run(paths=paths, output="task", task=(0, 2))
    assert runner.report.totals == [(4, 8), (5, None)]


def test_finished_images_are_counted_as_resumed(tmp_path):
    runner = StageRunner(tmp_path, tuple("abcdefghij"))
    with pytest.raises(Stopped):
        runner.run(report=RecordingReport(6))
    runner.run()
    assert (runner.report.num_resumed, runner.report.num_new) == (6, 4)
    runner.run()
    assert (runner.report.num_resumed, runner.report.num_new) == (10, 0)


def test_several_processes_report_their_total_and_counts(tmp_path):
    runner = StageRunner(tmp_path, tuple("abcdefghij"))
    with pytest.raises(Stopped):
        runner.run(report=RecordingReport(2))
    runner.run(jobs=2)
    assert (runner.report.totals, runner.report.num_resumed, runner.report.num_new) == ([(10, None)], 2, 8)
    assert [runner.report.phases[0], runner.report.phases[-1]] == ["starting 2 processes", "finishing"]
