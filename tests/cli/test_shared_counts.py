"""`eval`, `cooc` and `index` divided over tasks and processes: the bytes of one process."""

from __future__ import annotations

import shutil

import pytest

from cli.runner import check_error, run, run_ok

ORDERS = [("0/1",), ("2/3", "0/3", "1/3")]
MORE_TASKS_THAN_IMAGES = tuple(f"{task}/15" for task in range(15))


@pytest.fixture(scope="module")
def folder(tiny_index, maps, tmp_path_factory):
    """Return a folder with an index, CAMs and two runs of masks."""
    folder = tmp_path_factory.mktemp("shared")
    run_ok("pseudo", maps, "-o", folder / "masks")
    run_ok("pseudo", maps, "--background", "constant:0.6", "-o", folder / "others")
    return folder


def commands(folder, tiny_index, maps):
    return {"masks": ("eval", folder / "masks", "--worst", "3", "--calibration"), "sweep": ("eval", maps),
            "cooc": ("cooc", tiny_index), "runs": ("eval", folder / "masks", folder / "others", "--boundary")}


@pytest.mark.parametrize(("name", "tasks"), [
    *((name, tasks) for name in ("masks", "sweep", "cooc", "runs") for tasks in ORDERS),
    ("masks", MORE_TASKS_THAN_IMAGES)])
def test_the_last_task_writes_the_bytes_of_one_process(folder, tiny_index, maps, tmp_path, name, tasks):
    words = commands(folder, tiny_index, maps)[name]
    suffix = "h5" if name == "cooc" else "json"
    run_ok(*words, "-q", "-o", tmp_path / f"one.{suffix}")
    output = tmp_path / f"shared.{suffix}"
    for task in tasks:
        assert not output.exists()
        done = run(*words, "-o", output, "--task", task)
        assert done.code == 0, done.err
        if task != tasks[-1]:
            assert "The last one writes the result; missing: task" in done.err
            assert done.out == ""
    assert output.read_bytes() == (tmp_path / f"one.{suffix}").read_bytes()
    assert not (tmp_path / f"shared.{suffix}.parts").exists()


@pytest.mark.parametrize("name", ["masks", "sweep", "cooc", "runs"])
def test_processes_count_what_one_process_counts(folder, tiny_index, maps, tmp_path, name):
    words = commands(folder, tiny_index, maps)[name]
    suffix = "h5" if name == "cooc" else "json"
    for jobs in (1, 2):
        run_ok(*words, "-q", "-j", jobs, "-o", tmp_path / f"{jobs}.{suffix}")
    assert (tmp_path / f"2.{suffix}").read_bytes() == (tmp_path / f"1.{suffix}").read_bytes()


def test_a_second_pass_over_the_images_needs_a_second_start(folder, maps, tmp_path):
    words = ("eval", maps, "--worst", "3", "-o", tmp_path / "shared.json")
    run_ok("eval", maps, "--worst", "3", "-q", "-o", tmp_path / "one.json")
    run_ok(*words, "--task", "0/2")
    done = run(*words, "--task", "1/2")
    assert "Start the others once more, as they have made the first only: task 0" in done.err
    assert not (tmp_path / "shared.json").exists()
    run_ok(*words, "--task", "0/2")
    assert (tmp_path / "shared.json").read_bytes() == (tmp_path / "one.json").read_bytes()


def test_counts_of_other_settings_or_inputs_and_damaged_ones_are_counted_again(folder, tmp_path):
    words, output = ("eval", folder / "masks"), tmp_path / "shared.json"
    run_ok("eval", folder / "masks", "--rule", "all", "-q", "-o", tmp_path / "one.json")
    run_ok(*words, "-o", output, "--task", "0/2")
    done = run(*words, "--rule", "all", "-o", output, "--task", "1/2")
    assert "missing: task 0" in done.err
    [part] = (tmp_path / "shared.json.parts").glob("*-00000-of-00002.npz")
    part.write_bytes(part.read_bytes()[:-100])
    run_ok(*words, "--rule", "all", "-o", output, "--task", "0/2")
    assert output.read_bytes() == (tmp_path / "one.json").read_bytes()


def test_tasks_need_a_file_for_the_result(folder):
    check_error(run("eval", folder / "masks", "--task", "0/2"), 2, "--task needs a file", "-o FILE")


def test_tasks_of_an_index_write_their_own_shards(tiny_dataset, tmp_path):
    words = ("index", "table", tiny_dataset.root / "labels.csv", "--images", tiny_dataset.root / "JPEGImages",
             "--masks", tiny_dataset.root / "SegmentationClass", "--class-names", tiny_dataset.root / "classes.txt",
             "--shard-size", "5")
    run_ok(*words, "-q", "-o", tmp_path / "one")
    for number in (1, 0):
        paths = run_ok(*words, "-o", tmp_path / "shared", "--task", f"{number}/2")
        assert [path.split("-")[-3] for path in paths] == [f"{part:05d}" for part in range(3) if part % 2 == number]
    names = sorted(path.name for path in (tmp_path / "one").glob("*.h5"))
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert "nothing to do: there are only 3 shards" in run(*words, "-o", tmp_path / "shared", "--task", "7/8").err
    check_error(run(*words[:-2], "-o", tmp_path / "out", "--task", "0/2"), 2, "--task needs --shard-size")
    check_error(run(*words, "-o", tmp_path / "out", "--task", "0/2", "--summary-json", tmp_path / "s.json"), 2,
                "--summary-json", "wsss info")


def test_contradicting_masks_stop_the_task_that_has_them(tiny_dataset, tmp_path):
    root = shutil.copytree(tiny_dataset.root, tmp_path / "wrong")
    lines = (root / "labels.csv").read_text().splitlines()
    swapped = [line.replace("cat", "?").replace("dog", "cat").replace("?", "dog") for line in lines]
    (root / "labels.csv").write_text("\n".join(swapped))
    done = run("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--masks",
               root / "SegmentationClass", "--class-names", root / "classes.txt", "--shard-size", "6", "-o",
               tmp_path / "out", "--task", "0/2")
    assert done.code == 65
    assert not list((tmp_path / "out").glob("*.h5"))
