"""Whatever way a map stage comes to its end, the shards are the same, and no finished batch is made again."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path

import pytest

from flow.workers import Bench, Told
from stages.errors import BadData, CannotCreate, MissingInput, Stopped, UsageError
from stages.flow.device import cores
from stages.flow.execution import Inputs, Output, Summary, parse_task
from stages.flow.map_loop import run_map
from stages.flow.work import Beside, MapWork
from stages.shards import Journal, Shard, part_path

IDS = ("a1", "b1", "a2", "a3", "b2", "a4", "a5", "b3", "a6", "b4")
NAMES = [f"masks-0000{part}-of-00003.h5" for part in range(3)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return a folder with an index of ten images of two sizes."""
    return Bench(tmp_path, IDS)


def test_parts_are_slices_of_the_index_and_their_paths_are_reported(bench: Bench) -> None:
    summary = bench.run()
    assert bench.told.paths == list(bench.files()) == NAMES
    assert (summary.made, summary.items, summary.errors) == (3, 10, 0)
    shards = [Shard(bench.folder / "out" / name) for name in NAMES]
    assert [shard.ids for shard in shards] == [IDS[:4], IDS[4:8], IDS[8:]]
    assert [(shard.part, shard.parts) for shard in shards] == [(0, 3), (1, 3), (2, 3)]
    assert all(shard.attribute("index_path") == "../train.h5" for shard in shards)
    assert all(shard.index_digest == Shard(bench.index).digest for shard in shards)
    assert shards[0].provenance[-1]["inputs"] == {"index": Shard(bench.index).digest}


@pytest.mark.parametrize(("size", "batches"), [
    (1, [["a1"], ["b1"], ["a2"], ["a3"]]), (2, [["a1", "a2"], ["b1"], ["a3"]]),
    (3, [["a1", "a2", "a3"], ["b1"]]), (64, [["a1", "a2", "a3"], ["b1"]]),
])
def test_batches_depend_on_keys_and_size_alone(bench: Bench, size: int, batches: list) -> None:
    bench.run(batch_size=size, task=(0, 3))
    assert bench.batches() == batches


def test_cut_after_any_number_of_images_the_rerun_computes_the_rest_and_ends_with_the_same_bytes(
        bench: Bench) -> None:
    bench.run("whole")
    every, files = bench.batches(), bench.files("whole")
    for images in range(1, len(IDS)):
        with pytest.raises(Stopped, match="run the same command again") as stopped:
            bench.run(f"cut{images}", told=Told(images))
        assert stopped.value.code == 75
        first = bench.batches()
        assert first == every[:len(first)] and sum(map(len, first)) >= images
        bench.run(f"cut{images}")
        assert bench.batches() == every[len(first):]
        assert bench.files(f"cut{images}") == files


def test_stopped_after_every_batch_the_work_ends_all_the_same(bench: Bench) -> None:
    bench.run("whole")
    every = bench.batches()
    for _ in every[:-1]:
        with pytest.raises(Stopped):
            bench.run("cut", told=Told(1))
    bench.run("cut", told=Told(1))
    assert bench.batches() == every
    assert bench.files("cut") == bench.files("whole")


def test_a_journal_cut_inside_a_batch_costs_that_batch(bench: Bench) -> None:
    bench.run("whole")
    every = bench.batches()
    with pytest.raises(Stopped):
        bench.run(told=Told(3))
    bench.batches()
    journal = part_path(bench.folder / "out" / NAMES[0])
    data = journal.read_bytes()
    for length in range(len(data), -1, -7):
        part_path(bench.folder / "out" / NAMES[0]).write_bytes(data[:length])
        bench.run(task=(0, 3))
        made = bench.batches()
        assert made == [batch for batch in every[:3] if batch in made] and made[-1] == every[2]
        assert bench.files()[NAMES[0]] == bench.files("whole")[NAMES[0]]
        (bench.folder / "out" / NAMES[0]).unlink()


def test_in_processes_the_shards_are_the_same(bench: Bench) -> None:
    bench.run("whole")
    every = bench.batches()
    bench.run(jobs=2)
    assert sorted(bench.batches()) == sorted(every)
    assert os.getpid() not in bench.processes
    assert bench.files() == bench.files("whole") and sorted(bench.told.paths) == NAMES


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_tasks_share_the_parts_without_overlap(bench: Bench, count: int) -> None:
    bench.run("whole")
    bench.batches()
    made = [bench.run(task=(task, count)).made for task in range(count)]
    assert sum(made) == 3 and max(made) - min(made) <= 1
    assert bench.files() == bench.files("whole")
    assert len(bench.batches()) == 7


def test_tasks_of_shards_go_by_part_number_and_need_no_others(bench: Bench) -> None:
    runs = bench.folder / "index"
    for part in (1, 3):
        bench.write_index(runs / f"index-0000{part}-of-00005.h5", [f"a{part}"], part=part, parts=5)
    assert bench.run(paths=[str(runs)], task=(1, 2)).made == 2
    assert bench.run("other", paths=[str(runs)], task=(0, 2)).made == 0
    assert bench.run("third", paths=[str(runs)], task=(3, 4)).made == 1
    assert list(bench.files()) == ["masks-00001-of-00005.h5", "masks-00003-of-00005.h5"]
    assert list(bench.files("third")) == ["masks-00003-of-00005.h5"] and not bench.files("other")


def test_a_task_opens_the_parts_of_its_own_alone(bench: Bench) -> None:
    runs = bench.folder / "index"
    bench.write_index(runs / "index-00001-of-00002.h5", ["a1"], part=1, parts=2)
    (runs / "index-00000-of-00002.h5").write_text("the other task's, on its way")
    assert bench.run(paths=[str(runs)], task=(1, 2)).made == 1
    with pytest.raises(BadData, match="is not a shard"):
        bench.run(paths=[str(runs)], task=(0, 2))


@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False)], ids=["with one now", "without one now"])
def test_work_begun_without_a_second_run_or_with_one(bench: Bench, first: bool, then: bool) -> None:
    """What was kept has no share of the second run, or one that nobody wants now."""
    bench.run("whole", beside=then)
    with pytest.raises(Stopped):
        bench.run("cut", told=Told(5), beside=first)
    bench.run("cut", beside=then)
    for name in ("", "-beside") if then else ("",):
        assert bench.files(f"cut{name}") == bench.files(f"whole{name}")
    assert bool(bench.files("whole-beside")) == then


def test_a_second_run_that_was_stopped_goes_on_beside_a_first_that_is_whole(bench: Bench) -> None:
    bench.run("whole", beside=True)
    bench.run("cut")
    with pytest.raises(Stopped):
        bench.run("cut", told=Told(2), beside=True)
    bench.batches()
    bench.run("cut", beside=True)
    assert ["a1", "a2"] not in bench.batches(), "what the journal holds is not computed again"
    for name in ("", "-beside"):
        assert bench.files(f"cut{name}") == bench.files(f"whole{name}")


def test_a_run_of_another_number_of_parts_is_not_put_beside(bench: Bench) -> None:
    bench.run(shard_size=4)
    before = bench.files()
    with pytest.raises(CannotCreate, match=r"masks-00000-of-00003\.h5, of a run of 3 parts"):
        bench.run(shard_size=5)
    assert bench.files() == before


def test_a_second_run_has_a_place_of_its_own_for_every_part(bench: Bench) -> None:
    config = {"value": 7, "batch_size": 2, "shard_size": 4}
    work = MapWork("pseudo", "", "masks", ("index",), "flow.workers:make", config, config, shard_size=4,
                   beside=Beside(str(bench.folder / "out"), config))
    (bench.folder / "link").symlink_to(bench.folder / "out")
    for place, told in (("out", "written twice"), ("link", "written twice"), ("all.h5", "there are 3 parts")):
        there = replace(work, beside=Beside(str(bench.folder / place), config))
        with pytest.raises(UsageError, match=told):
            run_map(there, Inputs([str(bench.index)]), Output(bench.folder / "out", jobs=1), stop=Told().stop,
                    report=Told())
    assert not (bench.folder / "out").exists() and not (bench.folder / "all.h5").exists()


def test_a_run_with_holes_is_worked_and_then_missed(bench: Bench) -> None:
    runs = bench.folder / "index"
    for part in (0, 3):
        bench.write_index(runs / f"index-0000{part}-of-00004.h5", [f"a{part}"], part=part, parts=4)
    with pytest.raises(MissingInput, match=r"lacks part 1, 2;.*others are done") as told:
        bench.run(paths=[str(runs)])
    assert told.value.code == 66
    assert bench.told.paths == ["masks-00000-of-00004.h5", "masks-00003-of-00004.h5"] == list(bench.files())


def test_a_part_that_comes_twice(bench: Bench) -> None:
    with pytest.raises(BadData, match=r"train\.h5: part 0 is there twice"):
        bench.run(paths=[str(bench.index), str(bench.index)])


def test_an_index_without_images_makes_an_empty_shard(bench: Bench) -> None:
    bench.write_index(bench.index, ())
    assert bench.run(reads=("index",)).made == 1
    assert Shard(bench.folder / "out" / "masks-00000-of-00001.h5").ids == ()


def test_one_file_for_several_parts_is_a_usage_error(bench: Bench) -> None:
    with pytest.raises(UsageError, match=r"out\.h5 is one file, but there are 3 parts.*--shard-size 10") as told:
        bench.run("out.h5")
    assert told.value.code == 2 and not (bench.folder / "out.h5").exists()
    bench.run("out.h5", shard_size=10)
    assert Shard(bench.folder / "out.h5").ids == IDS


def test_up_to_date_touches_and_reports(bench: Bench) -> None:
    bench.run()
    files = bench.files()
    for name in NAMES:
        os.utime(bench.folder / "out" / name, (1, 1))
    bench.batches()
    summary = bench.run()
    assert (summary.made, summary.up_to_date, summary.items) == (0, 3, 10)
    assert bench.told.paths == NAMES and not bench.batches() and bench.files() == files
    assert all((bench.folder / "out" / name).stat().st_mtime > 1 for name in NAMES)


def test_dry_run_changes_nothing(bench: Bench) -> None:
    bench.run(dry_run=True)
    assert not (bench.folder / "out").exists() and not bench.batches()
    assert [line for line in bench.told.lines if "would make" in line] == bench.told.lines
    assert len(bench.told.lines) == 3 and "(4 images)" in bench.told.lines[0]
    bench.run(task=(0, 3))
    os.utime(bench.folder / "out" / NAMES[0], (1, 1))
    before = bench.files()
    bench.run(dry_run=True)
    assert bench.files() == before and (bench.folder / "out" / NAMES[0]).stat().st_mtime == 1


def test_other_settings_are_refused_by_name_and_force_replaces(bench: Bench) -> None:
    bench.run(shard_size=10)
    before = bench.files()
    with pytest.raises(CannotCreate, match=r"exists with other settings \(value: 7 -> 8\); .*--force") as told:
        bench.run(shard_size=10, value=8)
    assert told.value.code == 73 and bench.files() == before
    bench.run(shard_size=10, value=8, force=True)
    assert bench.files().keys() == before.keys() and bench.files() != before
    bench.write_index(bench.index, IDS[::-1])
    with pytest.raises(CannotCreate, match=r"inputs\.index"):
        bench.run(shard_size=10, value=8)


def test_unfinished_work_with_other_settings(bench: Bench) -> None:
    with pytest.raises(Stopped):
        bench.run(told=Told(1))
    with pytest.raises(CannotCreate, match=r"unfinished work with other settings \(value: 7 -> 8\)"):
        bench.run(value=8)
    bench.run(value=8, force=True)
    bench.run("other", value=8)
    assert bench.files() == bench.files("other")


@pytest.mark.parametrize("there", ["text", "folder", "cut"])
def test_an_output_that_is_no_shard_is_not_replaced_unasked(bench: Bench, there: str) -> None:
    path = bench.folder / "out.h5"
    if there == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"notes" if there == "text" else bench.index.read_bytes()[:5000])
    with pytest.raises(CannotCreate, match=r"out\.h5: exists, and") as told:
        bench.run("out.h5", shard_size=10)
    assert told.value.code == 73
    if there != "folder":
        bench.run("out.h5", shard_size=10, force=True)
        assert Shard(path).ids == IDS


def test_a_crash_between_rename_and_removal_leaves_nothing_for_long(bench: Bench,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run("whole")
    close = Journal.close

    def crash(journal: Journal, *, remove: bool = False) -> None:
        if remove:
            close(journal)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Journal, "close", crash)
        bench.run()
    left = part_path(bench.folder / "out" / NAMES[0])
    assert left.exists() and (bench.folder / "out" / NAMES[0]).exists()
    bench.batches()
    bench.run()
    assert len(bench.batches()) == 4 and not left.exists()
    assert bench.files() == bench.files("whole")


def test_a_part_that_can_not_begin_leaves_nothing_behind(bench: Bench) -> None:
    with pytest.raises(BadData, match="the classes differ"):
        bench.run(value=8, named={"closed": "1"})
    assert not bench.files()
    bench.run(value=7)


def test_a_part_in_the_hands_of_another_process(bench: Bench) -> None:
    with pytest.raises(Stopped):
        bench.run(told=Told(1))
    path = part_path(bench.folder / "out" / NAMES[0])
    data = path.read_bytes()
    held = os.open(path, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(Stopped, match="another process is at work") as told:
        bench.run()
    os.close(held)
    assert told.value.code == 75 and path.read_bytes() == data


def test_the_log_has_times_and_the_shards_have_none(bench: Bench) -> None:
    bench.run()
    lines = (bench.folder / "out" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3 and all('"time"' in line and '"seconds"' in line for line in lines)
    assert not any(part.endswith((".part", ".tmp")) for part in bench.files())


@pytest.mark.parametrize(("text", "task"), [("0/1", (0, 1)), ("3/64", (3, 64)), (None, None)])
def test_tasks(text: str | None, task: tuple | None) -> None:
    assert parse_task(text) == task


@pytest.mark.parametrize("text", ["1/1", "-1/2", "1", "1/", "/2", "a/b", "1/0", "1/2/3", "1.0/2"])
def test_what_is_no_task(text: str) -> None:
    with pytest.raises(UsageError, match=r"--task .* is not I/N"):
        parse_task(text)


@pytest.mark.parametrize(("errors", "items", "allowed", "exceeds"), [
    (0, 10, "0", False), (1, 10, "0", True), (3, 10, "3", False), (4, 10, "3", True), (1, 100, "1%", False),
    (2, 100, "1%", True), (0, 0, "0%", False), (1, 1000, ".1%", False), (29, 100, "29%", False), (9, 9, "100%", False),
])
def test_allowed_errors(errors: int, items: int, allowed: str, exceeds: bool) -> None:
    assert Summary(items=items, errors=errors).exceeds(allowed) == exceeds


@pytest.mark.parametrize("allowed", ["", "x", "-1", "1.5", "nan%", "%", "inf%", "-1%", "1e9"])
def test_what_is_neither_a_count_nor_a_share_is_told_before_the_work(tmp_path: Path, allowed: str) -> None:
    with pytest.raises(UsageError, match="--allow-errors"):
        Output(tmp_path, allow_errors=allowed)


def test_several_readers_read_ahead_for_a_gpu_and_change_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for device, most in (("cpu", 1), ("auto", 1), ("cuda", 8), ("cuda:1", 8)):
        work = MapWork("pseudo", "", "masks", (), "", None, {"device": device})
        assert 1 <= work.readers <= most and (most == 1 or work.readers == min(8, cores()))
    bench.run("one")
    batches = bench.batches()
    monkeypatch.setattr(MapWork, "readers", 3)
    bench.run("several", shard_size=4)
    assert bench.files("one") == bench.files("several") and bench.batches() == batches
    with pytest.raises(Stopped):
        bench.run("stopped", told=Told(2))
    bench.run("stopped")
    assert bench.files("one") == bench.files("stopped")
