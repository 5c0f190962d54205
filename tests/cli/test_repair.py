"""`check --repair`: what is sound of a damaged shard is kept, and the same command makes just the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest

from cli.runner import SMALL, copy_of, good, index_table, run
from cli.test_dry_run import state
from stages.shards import Journal, Run, Shard, part_path

NAME = "cams-00001-of-00002.h5"
LOST = "picture_007"


def damage(path: Path, dataset: str) -> None:
    """Flip a byte in the only chunk of a dataset."""
    with h5py.File(path, "r", locking=False) as file:
        chunk = file[dataset].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tiny_folder, tiny_net, tmp_path_factory) -> Path:
    """Return a folder of a data set, its index, and a run of two shards of its maps. Not to be changed."""
    folder = tmp_path_factory.mktemp("repair")
    root = copy_of(tiny_folder, folder / "set")
    assert index_table(root, folder / "i.h5").code == 0
    good(*command_in(folder, tiny_net))
    return folder


def command_in(folder: Path, net: Path) -> tuple:
    return ("cams", "cnn", folder / "i.h5", "--net", net, *SMALL, "--shard-size", "6", "--batch-size", "1", "-j", "1",
            "-o", folder / "cams")


@pytest.fixture
def made(whole, tiny_net, tmp_path) -> tuple[Path, Path, tuple]:
    """Return a data set's root, a run of two shards of its maps, and the command that made it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path / "set", tmp_path / "cams", command_in(tmp_path, tiny_net)


def test_only_the_damaged_image_is_made_again_and_the_bytes_are_the_same(made):
    root, cams, command = made
    before = {path.name: path.read_bytes() for path in cams.glob("*.h5")}
    damage(cams / NAME, f"items/{LOST}/cam")
    done = run("check", cams, "--repair")
    assert (done.code, done.out) == (65, f"{cams}/cams-00000-of-00002.h5\tgood\n{cams / NAME}\tdamaged\n")
    assert f"{cams / NAME}: item {LOST}: can't be read" in done.err
    assert f"5 of its 6 images are kept in {NAME}.part, itself is now {NAME}.damaged; run again: wsss" in done.err
    again = run("check", cams)
    assert (again.code, again.out.splitlines()[-1]) == (66, f"{cams}\tincomplete")
    for path in (root / "JPEGImages").iterdir():  # what is kept is not looked at again
        if path.stem != LOST:
            path.unlink()
    assert good(*command) == [str(cams / name) for name in sorted(before)]
    assert {path.name: path.read_bytes() for path in cams.glob("*.h5")} == before
    assert not part_path(cams / NAME).exists()
    assert [line.split("\t")[1] for line in good("check", cams)] == ["good", "good"]


def test_the_command_is_told_by_the_log(made):
    _, cams, _ = made
    damage(cams / NAME, f"items/{LOST}/class_ids")
    log = cams / "log.jsonl"
    log.write_text(log.read_text() + f'{{"path": "{NAME}", "command": ["x", "cams", "cnn", "a b.h5"]}}\n[]\nno JSON\n')
    assert "run again: wsss cams cnn 'a b.h5'\n" in run("check", cams, "--repair").err
    shutil.copy(cams / f"{NAME}.damaged", cams / NAME)
    log.unlink()
    assert "run again: the command that made it\n" in run("check", cams, "--repair").err


def test_a_dry_run_tells_what_would_be_kept_and_changes_nothing(made):
    root, cams, _ = made
    damage(cams / NAME, f"items/{LOST}/cam")
    before = state(root.parent)
    done = run("check", cams, "--repair", "-n")
    assert (done.code, done.out) == (65, f"{cams}/cams-00000-of-00002.h5\tgood\n{cams / NAME}\tdamaged\n")
    assert (f"{cams / NAME}: would keep 5 of its 6 images in {NAME}.part, and move it to {NAME}.damaged; to be run "
            "then: wsss") in done.err
    assert run("check", cams / NAME, "--dry-run").out == f"{cams / NAME}\tdamaged\n"
    assert state(root.parent) == before
    (cams / NAME).write_bytes(b"cut")
    before = state(root.parent)
    assert f"would keep nothing of it, and move it to {NAME}.damaged" in run("check", cams, "--repair", "-n").err
    assert state(root.parent) == before


def test_refused_images_stay_refused_and_every_damaged_image_is_named(made, tmp_path):
    root, cams, _ = made
    picture = root / "JPEGImages" / "picture_008.jpg"
    picture.unlink()
    command = (*made[2][:-1], tmp_path / "again")
    assert run(*command).code == 65
    path = tmp_path / "again" / NAME
    before = path.read_bytes()
    for name in (LOST, "picture_010"):
        damage(path, f"items/{name}/cam")
    done = run("check", path, "--repair")
    told = [line for line in done.err.splitlines() if line.startswith("wsss check: ")]
    assert [name for line in told for name in Shard(cams / NAME).ids if name in line] == [LOST, "picture_010"]
    assert "4 of its 6 images are kept" in done.err
    assert run(*command).code == 65
    assert path.read_bytes() == before


def test_damage_outside_of_the_items_keeps_them_all(made):
    _, cams, command = made
    before = (cams / NAME).read_bytes()
    damage(cams / NAME, "classes")
    done = run("check", cams / NAME, "--repair")
    assert done.code == 65 and "6 of its 6 images are kept" in done.err
    good(*command)
    assert (cams / NAME).read_bytes() == before


def test_a_shard_of_a_newer_format_stays_where_it_is(made):
    _, cams, _ = made
    with h5py.File(cams / NAME, "r+") as file:
        file.attrs["format_version"] = b"2.0"
    before = state(cams)
    done = run("check", cams, "--repair")
    assert done.code == 65 and "install a newer wsss" in done.err
    assert state(cams) == before


def test_damage_of_the_names_keeps_nothing(made):
    _, cams, command = made
    before = (cams / NAME).read_bytes()
    damage(cams / NAME, "ids")
    done = run("check", cams / NAME, "--repair")
    assert done.code == 65 and "nothing of it could be kept" in done.err
    assert not part_path(cams / NAME).exists()
    good(*command)
    assert (cams / NAME).read_bytes() == before


def test_what_no_checksum_locates_is_made_again_as_a_whole(made):
    _, cams, command = made
    before = (cams / NAME).read_bytes()
    with h5py.File(cams / NAME, "r+", locking=False) as file:
        file[f"items/{LOST}"].attrs["height"] = 9
    done = run("check", cams, "--repair")
    assert done.code == 65 and "its contents don't match its digest" in done.err
    assert "nothing of it could be kept" in done.err
    good(*command)
    assert (cams / NAME).read_bytes() == before


def test_a_shard_cut_short_is_made_again(made):
    _, cams, command = made
    before = (cams / NAME).read_bytes()
    (cams / NAME).write_bytes(before[:-9])
    assert "is cut short" in run("check", cams, "--repair").err
    good(*command)
    assert (cams / NAME).read_bytes() == before


def test_what_is_no_shard_is_not_moved(made, tiny_net, tmp_path):
    (tmp_path / "notes.h5").write_text("precious")
    net = Path(shutil.copy(tiny_net, tmp_path / "net.safetensors"))
    net.write_bytes(net.read_bytes()[:-1])
    done = run("check", tmp_path / "notes.h5", net, "--repair")
    assert done.code == 65
    assert (tmp_path / "notes.h5").read_text() == "precious" and net.exists()
    assert "notes.h5: can't be repaired: is not a shard" in done.err
    assert "net.safetensors: a net can't be repaired" in done.err


def test_work_of_another_command_is_left_alone(made):
    _, cams, _ = made
    damage(cams / NAME, f"items/{LOST}/cam")
    request = Shard(cams / NAME).request
    journal = Journal(part_path(cams / NAME), {**request, "config": {}})
    journal.append([(0, Run([cams]).item("picture_006"))])
    busy = run("check", cams / NAME, "--repair")
    assert busy.code == 75 and "another process is at work on it" in busy.err
    journal.close()
    before = state(cams)
    for more in (("-n",), ()):
        other = run("check", cams / NAME, "--repair", *more)
        assert other.code == 73 and "unfinished work with other settings" in other.err
        assert state(cams) == before
    assert (cams / NAME).exists()


def test_a_run_that_lacks_parts_ends_with_66(made):
    _, cams, _ = made
    (cams / "cams-00000-of-00002.h5").unlink()
    done = run("check", cams)
    assert (done.code, done.out) == (66, f"{cams / NAME}\tgood\n{cams}\tincomplete\n")
    assert done.err == f"wsss check: {cams}: the run lacks part 0; make the missing shards\n"
    assert good("check", cams / NAME) == [f"{cams / NAME}\tgood"]
