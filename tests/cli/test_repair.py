"""`check --repair` keeps the intact items of a damaged shard, and the same command makes only the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest

from cli.runner import SMALL, copy_dataset, index_table, run, run_ok
from cli.test_dry_run import read_state
from stages.shards import Journal, Run, Shard, unfinished_path

NAME = "cams-00001-of-00002.h5"
DAMAGED = "picture_007"


def damage(path: Path, dataset: str) -> None:
    """Flip a byte in the only chunk of a dataset."""
    with h5py.File(path, "r", locking=False) as file:
        chunk = file[dataset].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tiny_dataset, tiny_net, tmp_path_factory) -> Path:
    """Return a folder with a data set, its index, and a run of two shards of CAMs. Not to be changed."""
    folder = tmp_path_factory.mktemp("repair")
    root = copy_dataset(tiny_dataset, folder / "set")
    assert index_table(root, folder / "i.h5").code == 0
    run_ok(*build_command(folder, tiny_net))
    return folder


def build_command(folder: Path, net: Path) -> tuple:
    return ("cams", "cnn", folder / "i.h5", "--net", net, *SMALL, "--shard-size", "6", "--batch-size", "1", "-j", "1",
            "-o", folder / "cams")


@pytest.fixture
def cams_run(whole, tiny_net, tmp_path) -> tuple[Path, Path, tuple]:
    """Return the root of a data set, a run of two shards of CAMs, and the command that made it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path / "set", tmp_path / "cams", build_command(tmp_path, tiny_net)


def test_only_the_damaged_image_is_made_again_with_the_same_bytes(cams_run):
    root, cams, command = cams_run
    before = {path.name: path.read_bytes() for path in cams.glob("*.h5")}
    damage(cams / NAME, f"items/{DAMAGED}/cam")
    done = run("check", cams, "--repair")
    assert (done.code, done.out) == (65, f"{cams}/cams-00000-of-00002.h5\tgood\n{cams / NAME}\tdamaged\n")
    assert f"{cams / NAME}: item {DAMAGED}: can't be read" in done.err
    assert f"kept 5 of its 6 images in {NAME}.part, and renamed it to {NAME}.damaged. Run again: wsss" in done.err
    again = run("check", cams)
    assert (again.code, again.out.splitlines()[-1]) == (66, f"{cams}\tincomplete")
    for path in (root / "JPEGImages").iterdir():  # the images of intact items are not read again
        if path.stem != DAMAGED:
            path.unlink()
    assert run_ok(*command) == [str(cams / name) for name in sorted(before)]
    assert {path.name: path.read_bytes() for path in cams.glob("*.h5")} == before
    assert not unfinished_path(cams / NAME).exists()
    assert [line.split("\t")[1] for line in run_ok("check", cams)] == ["good", "good"]


def test_the_command_comes_from_the_log(cams_run):
    _, cams, _ = cams_run
    damage(cams / NAME, f"items/{DAMAGED}/class_ids")
    log = cams / "log.jsonl"
    log.write_text(log.read_text() + f'{{"path": "{NAME}", "command": ["x", "cams", "cnn", "a b.h5"]}}\n[]\nno JSON\n')
    assert "Run again: wsss cams cnn 'a b.h5'\n" in run("check", cams, "--repair").err
    shutil.copy(cams / f"{NAME}.damaged", cams / NAME)
    log.unlink()
    assert "Run again: the command that made it\n" in run("check", cams, "--repair").err


def test_a_dry_run_reports_what_would_be_kept_and_changes_nothing(cams_run):
    root, cams, _ = cams_run
    damage(cams / NAME, f"items/{DAMAGED}/cam")
    before = read_state(root.parent)
    done = run("check", cams, "--repair", "-n")
    assert (done.code, done.out) == (65, f"{cams}/cams-00000-of-00002.h5\tgood\n{cams / NAME}\tdamaged\n")
    assert (f"{cams / NAME}: would keep 5 of its 6 images in {NAME}.part, and rename it to {NAME}.damaged. Run then: "
            "wsss") in done.err
    assert run("check", cams / NAME, "--dry-run").out == f"{cams / NAME}\tdamaged\n"
    assert read_state(root.parent) == before
    (cams / NAME).write_bytes(b"cut")
    before = read_state(root.parent)
    assert f"would keep none of its images, and rename it to {NAME}.damaged" in run("check", cams, "--repair", "-n").err
    assert read_state(root.parent) == before


def test_failed_images_stay_failed_and_every_damaged_image_is_named(cams_run, tmp_path):
    root, cams, _ = cams_run
    picture = root / "JPEGImages" / "picture_008.jpg"
    picture.unlink()
    command = (*cams_run[2][:-1], tmp_path / "again")
    assert run(*command).code == 65
    path = tmp_path / "again" / NAME
    before = path.read_bytes()
    for name in (DAMAGED, "picture_010"):
        damage(path, f"items/{name}/cam")
    done = run("check", path, "--repair")
    lines = [line for line in done.err.splitlines() if line.startswith("wsss check: ")]
    assert [name for line in lines for name in Shard(cams / NAME).ids if name in line] == [DAMAGED, "picture_010"]
    assert "kept 4 of its 6 images" in done.err
    assert run(*command).code == 65
    assert path.read_bytes() == before


def test_keeps_all_items_if_only_the_root_is_damaged(cams_run):
    _, cams, command = cams_run
    before = (cams / NAME).read_bytes()
    damage(cams / NAME, "classes")
    done = run("check", cams / NAME, "--repair")
    assert done.code == 65 and "kept 6 of its 6 images" in done.err
    run_ok(*command)
    assert (cams / NAME).read_bytes() == before


def test_does_not_rename_a_shard_of_a_newer_format(cams_run):
    _, cams, _ = cams_run
    with h5py.File(cams / NAME, "r+") as file:
        file.attrs["format_version"] = b"2.0"
    before = read_state(cams)
    done = run("check", cams, "--repair")
    assert done.code == 65 and "Install a newer wsss" in done.err
    assert read_state(cams) == before


def test_keeps_nothing_if_the_ids_are_damaged(cams_run):
    _, cams, command = cams_run
    before = (cams / NAME).read_bytes()
    damage(cams / NAME, "ids")
    done = run("check", cams / NAME, "--repair")
    assert done.code == 65 and "could keep none of its images" in done.err
    assert not unfinished_path(cams / NAME).exists()
    run_ok(*command)
    assert (cams / NAME).read_bytes() == before


def test_keeps_nothing_if_no_checksum_locates_the_damage(cams_run):
    _, cams, command = cams_run
    before = (cams / NAME).read_bytes()
    with h5py.File(cams / NAME, "r+", locking=False) as file:
        file[f"items/{DAMAGED}"].attrs["height"] = 9
    done = run("check", cams, "--repair")
    assert done.code == 65 and "its contents don't match its digest" in done.err
    assert "could keep none of its images" in done.err
    run_ok(*command)
    assert (cams / NAME).read_bytes() == before


def test_a_truncated_shard_is_made_again(cams_run):
    _, cams, command = cams_run
    before = (cams / NAME).read_bytes()
    (cams / NAME).write_bytes(before[:-9])
    assert "is truncated" in run("check", cams, "--repair").err
    run_ok(*command)
    assert (cams / NAME).read_bytes() == before


def test_does_not_rename_a_file_that_is_no_shard(cams_run, tiny_net, tmp_path):
    (tmp_path / "notes.h5").write_text("precious")
    net = Path(shutil.copy(tiny_net, tmp_path / "net.safetensors"))
    net.write_bytes(net.read_bytes()[:-1])
    done = run("check", tmp_path / "notes.h5", net, "--repair")
    assert done.code == 65
    assert (tmp_path / "notes.h5").read_text() == "precious" and net.exists()
    assert "notes.h5: can't be repaired: is not a shard" in done.err
    assert "net.safetensors: a network can't be repaired" in done.err


def test_does_not_touch_the_work_of_another_command(cams_run):
    _, cams, _ = cams_run
    damage(cams / NAME, f"items/{DAMAGED}/cam")
    request = Shard(cams / NAME).request
    journal = Journal(unfinished_path(cams / NAME), {**request, "config": {}})
    journal.append([(0, Run([cams]).item("picture_006"))])
    busy = run("check", cams / NAME, "--repair")
    assert busy.code == 75 and "another process is writing it" in busy.err
    journal.close()
    before = read_state(cams)
    for more in (("-n",), ()):
        other = run("check", cams / NAME, "--repair", *more)
        assert other.code == 73 and "unfinished work with different settings" in other.err
        assert read_state(cams) == before
    assert (cams / NAME).exists()


def test_a_run_that_lacks_parts_exits_with_66(cams_run):
    _, cams, _ = cams_run
    (cams / "cams-00000-of-00002.h5").unlink()
    done = run("check", cams)
    assert (done.code, done.out) == (66, f"{cams / NAME}\tgood\n{cams}\tincomplete\n")
    assert done.err == (f"wsss check: {cams}: the run lacks part 0. Run the command that made it again to make the "
                        "missing shards.\n")
    assert run_ok("check", cams / NAME) == [f"{cams / NAME}\tgood"]
