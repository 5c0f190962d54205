"""Shards of two runs in one folder: check reports them, and commands refuse to read or extend the folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.runner import SMALL, TRAINING, check_error, copy_dataset, index_table, run, run_ok
from stages.shards import Run, describe_provenance_differences

FIRST, SECOND = (f"cams-0000{part}-of-00002.h5" for part in range(2))


def build_command(index: Path, net: Path, output: Path, *more: object) -> tuple:
    """Return the command that makes CAMs in two parts."""
    return ("cams", "cnn", index, "--net", net, "--device", "cpu", "--shard-size", "6", "-j", "1", "-o", output, *more)


@pytest.fixture(scope="module")
def runs(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return a folder with two runs of CAMs of one index, with one scale and with two. Not to be changed."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, scales in (("one", "1"), ("two", "1,2")):
        run_ok(*build_command(tiny_index, tiny_net, folder / name, "--scales", scales))
    return folder


@pytest.fixture
def mixed(runs, tiny_index, tmp_path) -> Path:
    """Return a run whose second shard was made with two scales."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(runs / "one" / FIRST, folder)
    shutil.copy(runs / "two" / SECOND, folder)
    return folder


def test_check_names_the_shard_and_what_differs(mixed, runs):
    done = run("check", mixed, "--repair")
    assert (done.code, done.out) == (65, f"{mixed / FIRST}\tgood\n{mixed / SECOND}\tmixed\n")
    check_error(done, 65, f"{mixed / SECOND}: was made with different settings than {mixed / FIRST} "
                "(cams.scales: [1.0] -> [1.0, 2.0])")
    assert (mixed / SECOND).exists(), "it is intact"
    assert run("check", mixed / FIRST, mixed / SECOND).code == 65
    assert run("check", mixed / FIRST, runs / "two").code == 0, "two runs may be checked at once"


def test_commands_refuse_to_read_a_mixed_run(mixed, tiny_index, tmp_path):
    out = ("-o", tmp_path / "out")
    message = (f"{mixed / SECOND}: was made with different settings than {mixed / FIRST} "
               "(cams.scales: [1.0] -> [1.0, 2.0])")
    for words in (("eval", mixed, "--index", tiny_index), ("pseudo", mixed, "--index", tiny_index, *out),
                  ("show", mixed, "--terminal"), ("merge", mixed, "-o", tmp_path / "out.h5"),
                  ("train-aff", "psa", tiny_index, "--cams", mixed, *TRAINING, "-o", tmp_path / "n.safetensors")):
        check_error(run(*words), 65, message)


def test_a_shard_with_the_name_of_another_part(runs, tiny_index, tmp_path):
    folder = copy_run(runs / "one", tmp_path)
    (folder / SECOND).unlink()
    (folder / FIRST).rename(folder / SECOND)
    done = run("check", folder, "--repair")
    assert (done.code, done.out) == (65, f"{folder / SECOND}\tmisnamed\n{folder}\tincomplete\n")
    assert f"{folder / SECOND}: is part 0 of 2, but its name says part 1 of 2" in done.err
    assert (folder / SECOND).exists()
    check_error(run("eval", folder, "--index", tiny_index), 65, SECOND, "its name says")


def copy_run(run_folder: Path, parent: Path) -> Path:
    return Path(shutil.copytree(run_folder, parent / "run"))


def test_a_task_does_not_extend_a_run_with_different_settings(runs, tiny_index, tiny_net, tmp_path):
    folder = copy_run(runs / "one", tmp_path)
    (folder / SECOND).unlink()
    again = build_command(tiny_index, tiny_net, folder, "--task", "1/2")
    for more in ((), ("-n",)):
        check_error(run(*again, "--scales", "1,2", *more), 73, SECOND, f"in one folder with {FIRST}",
                    "(cams.scales: [1.0] -> [1.0, 2.0])")
    assert not (folder / SECOND).exists()
    run_ok(*again, "--scales", "1,2", "--force")
    run_ok(*build_command(tiny_index, tiny_net, folder, "--task", "0/2", "--scales", "1,2", "--force"))
    assert [(folder / name).read_bytes() for name in (FIRST, SECOND)] == [
        (runs / "two" / name).read_bytes() for name in (FIRST, SECOND)]


def test_a_task_does_not_extend_a_run_of_another_network(runs, tiny_index, tiny_net, tmp_path):
    folder = copy_run(runs / "one", tmp_path)
    (folder / SECOND).unlink()
    other = tmp_path / "other.safetensors"
    run_ok("train-cls", "cam", tiny_index, *TRAINING, "--seed", "1", "-o", other)
    check_error(run(*build_command(tiny_index, other, folder, "--task", "1/2", "--scales", "1")), 73,
                f"in one folder with {FIRST}", "(cams.net: ")


def test_parts_of_a_run_may_differ_in_threads_and_batch_size(runs, tiny_index, tiny_net, tmp_path):
    folder = copy_run(runs / "one", tmp_path)
    (folder / SECOND).unlink()
    run_ok(*build_command(tiny_index, tiny_net, folder, "--task", "1/2", "--scales", "1", "--threads", "2",
                  "--batch-size", "3"))
    assert [line.split("\t")[1] for line in run_ok("check", folder)] == ["good", "good"]
    run_ok("eval", folder, "--index", tiny_index)


def test_parts_of_an_index_in_parts_are_one_run(tiny_dataset, tiny_net, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    assert index_table(root, tmp_path / "index", "--shard-size", "6").code == 0
    for task in ("0/2", "1/2"):
        run_ok("cams", "cnn", tmp_path / "index", "--net", tiny_net, *SMALL, "--task", task, "-o", tmp_path / "cams")
    assert len({shard.provenance[-1]["inputs"]["index"] for shard in Run([tmp_path / "cams"]).shards}) == 2
    assert len(run_ok("check", tmp_path / "cams")) == 2


def test_describes_differences_of_provenance():
    def entry(stage: str, **more: object) -> dict:
        return {"stage": stage, "version": "1", "config": {"seed": 0, "device": "cpu"},
                "inputs": {"index": "a", "net": "b"}, **more}

    first = [entry("cams", method="cnn"), entry("refine"), entry("refine")]
    for same in ([*first], [entry("cams", method="cnn", version="2", config={"seed": 0, "device": "cuda"},
                                  inputs={"index": "c", "net": "b"}), *first[1:]]):
        assert describe_provenance_differences(first, same) == ""
    for other, message in (([entry("cams", method="gradcam"), *first[1:]], "cams.method: cnn -> gradcam"),
                        ([*first[:2], entry("refine", config={"seed": 1})], "refine again.seed: 0 -> 1"),
                        ([*first[:2], entry("refine", config="theirs")], "refine again.config: null -> theirs"),
                        ([entry("cams", method="cnn", inputs={"net": "x"}), *first[1:]], "cams.net: b -> x"),
                        (first[:2], "refine again: ")):
        assert message in describe_provenance_differences(first, other)
    assert "refine" in describe_provenance_differences([], [entry("refine")])


def test_no_command_writes_a_second_run_to_a_folder(runs, tiny_dataset, tiny_index, tiny_net, tmp_path):
    """A folder is read as one run, so no command can read a folder with two runs."""
    maps, index = copy_run(runs / "one", tmp_path), tmp_path / "index"
    assert index_table(tiny_dataset.root, index, "--shard-size", "6").code == 0
    before = {path: path.read_bytes() for folder in (maps, index) for path in folder.iterdir()}
    for command, first in (
            (("pseudo", maps, "-o", maps, "--index", tiny_index), FIRST),
            (("pseudo", maps, "-o", maps, "--index", tiny_index, "--force"), FIRST),
            ((*build_command(tiny_index, tiny_net, maps, "--scales", "1"), "--force", "--shard-size", "4"), FIRST),
            (("index", "split", tiny_index, "--single", "--shard-size", "3", "-o", index), "index-00000-of-00002.h5"),
            (("merge", runs / "one", "--index", tiny_index, "-o", index), "index-00000-of-00002.h5")):
        check_error(run(*command), 73, f"would be in one folder with {first}, of a run of 2 parts")
    done = index_table(tiny_dataset.root, index, "--shard-size", "4", "-n")
    check_error(done, 73, "would be in one folder with index-00000-of-00002.h5")
    assert before == {path: path.read_bytes() for folder in (maps, index) for path in folder.iterdir()}
