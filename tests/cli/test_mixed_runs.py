"""Shards of two runs in one folder: told by check, and refused by whatever reads or adds to the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.runner import SMALL, TRAINING, copy_of, good, index_table, refused, run
from stages.shards import Run, made_otherwise

FIRST, SECOND = (f"cams-0000{part}-of-00002.h5" for part in range(2))


def mapping(index: Path, net: Path, output: Path, *more: object) -> tuple:
    """Return the command that makes maps in two parts."""
    return ("cams", "cnn", index, "--net", net, "--device", "cpu", "--shard-size", "6", "-j", "1", "-o", output, *more)


@pytest.fixture(scope="module")
def made(tiny_index, tiny_net, tmp_path_factory) -> Path:
    """Return a folder of two runs of maps of one index, at one scale and at two. Not to be changed."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, scales in (("one", "1"), ("two", "1,2")):
        good(*mapping(tiny_index, tiny_net, folder / name, "--scales", scales))
    return folder


@pytest.fixture
def mixed(made, tiny_index, tmp_path) -> Path:
    """Return a run whose second shard has two scales."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(made / "one" / FIRST, folder)
    shutil.copy(made / "two" / SECOND, folder)
    return folder


def test_check_names_the_shard_and_what_differs(mixed, made):
    done = run("check", mixed, "--repair")
    assert (done.code, done.out) == (65, f"{mixed / FIRST}\tgood\n{mixed / SECOND}\tmixed\n")
    refused(done, 65, f"{mixed / SECOND}: was made otherwise than {mixed / FIRST} (cams.scales: [1.0] -> [1.0, 2.0])")
    assert (mixed / SECOND).exists(), "it is sound"
    assert run("check", mixed / FIRST, mixed / SECOND).code == 65
    assert run("check", mixed / FIRST, made / "two").code == 0, "two runs may be checked at once"


def test_readers_refuse_it(mixed, tiny_index, tmp_path):
    out = ("-o", tmp_path / "out")
    told = f"{mixed / SECOND}: was made otherwise than {mixed / FIRST} (cams.scales: [1.0] -> [1.0, 2.0])"
    for words in (("eval", mixed, "--index", tiny_index), ("pseudo", mixed, "--index", tiny_index, *out),
                  ("show", mixed, "--terminal"), ("merge", mixed, "-o", tmp_path / "out.h5"),
                  ("train-aff", "psa", tiny_index, "--cams", mixed, *TRAINING, "-o", tmp_path / "n.safetensors")):
        refused(run(*words), 65, told)


def test_a_shard_named_as_another_part(made, tiny_index, tmp_path):
    folder = copy_run(made / "one", tmp_path)
    (folder / SECOND).unlink()
    (folder / FIRST).rename(folder / SECOND)
    done = run("check", folder, "--repair")
    assert (done.code, done.out) == (65, f"{folder / SECOND}\tmisnamed\n{folder}\tincomplete\n")
    assert f"{folder / SECOND}: is part 0 of 2, and named otherwise" in done.err
    assert (folder / SECOND).exists()
    refused(run("eval", folder, "--index", tiny_index), 65, SECOND, "named otherwise")


def copy_run(run_folder: Path, place: Path) -> Path:
    return Path(shutil.copytree(run_folder, place / "run"))


def test_a_task_adds_nothing_to_a_run_with_other_settings(made, tiny_index, tiny_net, tmp_path):
    folder = copy_run(made / "one", tmp_path)
    (folder / SECOND).unlink()
    again = mapping(tiny_index, tiny_net, folder, "--task", "1/2")
    for more in ((), ("-n",)):
        refused(run(*again, "--scales", "1,2", *more), 73, SECOND, f"beside {FIRST}",
                "(cams.scales: [1.0] -> [1.0, 2.0])")
    assert not (folder / SECOND).exists()
    good(*again, "--scales", "1,2", "--force")
    good(*mapping(tiny_index, tiny_net, folder, "--task", "0/2", "--scales", "1,2", "--force"))
    assert [(folder / name).read_bytes() for name in (FIRST, SECOND)] == [
        (made / "two" / name).read_bytes() for name in (FIRST, SECOND)]


def test_a_task_adds_nothing_to_a_run_of_another_net(made, tiny_index, tiny_net, tmp_path):
    folder = copy_run(made / "one", tmp_path)
    (folder / SECOND).unlink()
    other = tmp_path / "other.safetensors"
    good("train-cls", "cam", tiny_index, *TRAINING, "--seed", "1", "-o", other)
    refused(run(*mapping(tiny_index, other, folder, "--task", "1/2", "--scales", "1")), 73, f"beside {FIRST}",
            "(cams.net: ")


def test_what_may_differ_within_a_run(made, tiny_index, tiny_net, tmp_path):
    folder = copy_run(made / "one", tmp_path)
    (folder / SECOND).unlink()
    good(*mapping(tiny_index, tiny_net, folder, "--task", "1/2", "--scales", "1", "--threads", "2",
                  "--batch-size", "3"))
    assert [line.split("\t")[1] for line in good("check", folder)] == ["good", "good"]
    good("eval", folder, "--index", tiny_index)


def test_parts_of_an_index_in_parts_are_one_run(tiny_folder, tiny_net, tmp_path):
    root = copy_of(tiny_folder, tmp_path / "set")
    assert index_table(root, tmp_path / "index", "--shard-size", "6").code == 0
    for task in ("0/2", "1/2"):
        good("cams", "cnn", tmp_path / "index", "--net", tiny_net, *SMALL, "--task", task, "-o", tmp_path / "cams")
    assert len({shard.provenance[-1]["inputs"]["index"] for shard in Run([tmp_path / "cams"]).shards}) == 2
    assert len(good("check", tmp_path / "cams")) == 2


def test_how_histories_differ():
    def entry(stage: str, **more: object) -> dict:
        return {"stage": stage, "version": "1", "config": {"seed": 0, "device": "cpu"},
                "inputs": {"index": "a", "net": "b"}, **more}

    first = [entry("cams", method="cnn"), entry("refine"), entry("refine")]
    for same in ([*first], [entry("cams", method="cnn", version="2", config={"seed": 0, "device": "cuda"},
                                  inputs={"index": "c", "net": "b"}), *first[1:]]):
        assert made_otherwise(first, same) == ""
    for other, told in (([entry("cams", method="gradcam"), *first[1:]], "cams.method: cnn -> gradcam"),
                        ([*first[:2], entry("refine", config={"seed": 1})], "refine again.seed: 0 -> 1"),
                        ([*first[:2], entry("refine", config="theirs")], "refine again.config: null -> theirs"),
                        ([entry("cams", method="cnn", inputs={"net": "x"}), *first[1:]], "cams.net: b -> x"),
                        (first[:2], "refine again: ")):
        assert told in made_otherwise(first, other)
    assert "refine" in made_otherwise([], [entry("refine")])


def test_no_run_is_put_beside_another_one_in_its_folder(made, tiny_folder, tiny_index, tiny_net, tmp_path):
    """A folder is read as one run: with two of them no command can read it."""
    maps, index = copy_run(made / "one", tmp_path), tmp_path / "index"
    assert index_table(tiny_folder.root, index, "--shard-size", "6").code == 0
    before = {path: path.read_bytes() for folder in (maps, index) for path in folder.iterdir()}
    for command, first in (
            (("pseudo", maps, "-o", maps, "--index", tiny_index), FIRST),
            (("pseudo", maps, "-o", maps, "--index", tiny_index, "--force"), FIRST),
            ((*mapping(tiny_index, tiny_net, maps, "--scales", "1"), "--force", "--shard-size", "4"), FIRST),
            (("index", "split", tiny_index, "--single", "--shard-size", "3", "-o", index), "index-00000-of-00002.h5"),
            (("merge", made / "one", "--index", tiny_index, "-o", index), "index-00000-of-00002.h5")):
        refused(run(*command), 73, f"would be put beside {first}, of a run of 2 parts")
    done = index_table(tiny_folder.root, index, "--shard-size", "4", "-n")
    refused(done, 73, "would be put beside index-00000-of-00002.h5")
    assert before == {path: path.read_bytes() for folder in (maps, index) for path in folder.iterdir()}
