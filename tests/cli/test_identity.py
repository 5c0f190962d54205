"""A run belongs to its images: any index of the same images and classes will do, and a folder of masks needs none."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, TRAINING, check_error, copy_dataset, list_messages, run, run_ok
from conftest import TESTS
from stages.shards import Run, Shard, ShardContents, read_image_records
from stages.shards.writer import encode_shard
from tiny_datasets import create_dataset


@pytest.fixture(scope="module")
def photos(tiny_dataset, tiny_net, tmp_path_factory) -> Path:
    """Return a folder with an index without masks (tags.h5), one with them (truth.h5), CAMs, and the data set."""
    folder = tmp_path_factory.mktemp("identity")
    root = copy_dataset(tiny_dataset, folder / "set")
    make_index(root, folder / "tags.h5", "--shard-size", "100")
    make_index(root, folder / "truth.h5", "--masks", root / "SegmentationClass")
    run_ok("cams", "cnn", folder / "tags.h5", "--net", tiny_net, "-o", folder / "cams", *SMALL)
    run_ok("cams", "cnn", folder / "truth.h5", "--net", tiny_net, "-o", folder / "cams-truth", *SMALL)
    return folder


def make_index(root: Path, output: Path, *more: object) -> Path:
    """Index the data set at `root` with its tags, without masks unless `more` has them."""
    run_ok("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--class-names",
           root / "classes.txt", "-o", output, *more)
    return output


def write_tags(root: Path, *lines: str) -> None:
    """Replace the table of tags of a data set."""
    (root / "labels.csv").write_text("id,labels\n" + "".join(f"{line}\n" for line in lines))


def evaluate(*args: object) -> dict:
    """Run `wsss eval` and return its JSON result without the record of the background."""
    result = json.loads("\n".join(run_ok("eval", *args, "--json")))
    result["background"].pop("index", None), result["background"].pop("truth", None)
    return result


def test_masks_indexed_after_the_cams_were_made(photos):
    expected = evaluate(photos / "cams-truth")
    assert evaluate(photos / "cams", "--index", photos / "truth.h5") == expected
    assert evaluate(photos / "cams", "--truth", photos / "set" / "SegmentationClass") == expected
    check_error(run("eval", photos / "cams"), 66, "tags.h5", "no ground-truth masks", "--masks", "--index", "--truth")


def test_ground_truth_packing_and_tags_do_not_change_what_identifies_images(photos, tmp_path):
    packed = make_index(photos / "set", tmp_path / "packed.h5", "--pack", "--masks", photos / "set/SegmentationClass")
    digests = {Shard(path).images_digest for path in (photos / "tags.h5", photos / "truth.h5", packed,
                                                      photos / "cams/cams-00000-of-00001.h5")}
    assert len(digests) == 1 and len(digests.pop()) == 64
    assert Shard(packed).digest != Shard(photos / "truth.h5").digest


def test_every_command_with_an_index_option_takes_another_index_of_the_same_images(photos, tmp_path):
    index = ("--index", photos / "truth.h5")
    run_ok("show", photos / "cams", *index, "--truth", "--count", "2", "-o", tmp_path / "sheet.png")
    run_ok("refine", "pamr", photos / "cams", *index, "--iterations", "1", "-o", tmp_path / "refined")
    run_ok("pseudo", photos / "cams", *index, "-o", tmp_path / "pseudo")
    run_ok("export", "voc", tmp_path / "pseudo", *index, "-o", tmp_path / "voc")
    run_ok("train-seg", photos / "truth.h5", "--masks", tmp_path / "pseudo", *TRAINING,
           "-o", tmp_path / "s.safetensors")
    assert Shard(tmp_path / "refined/cams-00000-of-00001.h5").index_digest == Shard(photos / "truth.h5").digest


def test_an_index_in_other_shards(photos, tmp_path):
    run_ok("index", "table", photos / "set/labels.csv", "--images", photos / "set/JPEGImages", "--class-names",
           photos / "set/classes.txt", "--masks", photos / "set/SegmentationClass", "--shard-size", "5",
           "-o", tmp_path / "parts")
    assert evaluate(photos / "cams", "--index", tmp_path / "parts") == evaluate(photos / "cams-truth")
    run_ok("show", photos / "cams", "--index", tmp_path / "parts", "--truth", "-o", tmp_path / "sheet.png")
    error = check_error(run("refine", "pamr", photos / "cams", "--index", tmp_path / "parts", "-o", tmp_path / "out"),
                        65, "images are in 3 shards", "wsss merge")
    run_ok(*error.split("`")[1].split()[1:], cwd=tmp_path)
    run_ok("refine", "pamr", photos / "cams", "--index", tmp_path / "index.h5", "--iterations", "1",
           "-o", tmp_path / "out")


@pytest.fixture
def changed(tiny_dataset, tmp_path) -> Path:
    """Return the root of a copy of the data set."""
    return copy_dataset(tiny_dataset, tmp_path / "changed")


def change_contents(path: Path) -> None:
    """Replace the last pixel bytes of a file, and keep its length."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def resize_file(path: Path) -> None:
    """Save an image at another size."""
    with Image.open(path) as image:
        image.resize((40, 30)).save(path)


@pytest.mark.parametrize(("change", "difference"), [
    (change_contents, "the same size, but other contents"), (resize_file, "48 x 64 pixels instead of 30 x 40"),
    (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "bytes instead of"),
])
def test_names_the_first_image_that_differs(photos, changed, tmp_path, change, difference):
    change(changed / "JPEGImages/picture_004.jpg")
    index = make_index(changed, tmp_path / "other.h5")
    for command in (("eval", photos / "cams"), ("refine", "pamr", photos / "cams", "-o", tmp_path / "out")):
        check_error(run(*command, "--index", index), 65, "cams-00000-of-00001.h5", "other.h5",
                    f"picture_004 (image 5 of 12) had {difference}" if "bytes" not in difference else "picture_004",
                    difference, "--index")


def test_training_rejects_masks_of_other_images(photos, changed, tmp_path):
    run_ok("pseudo", photos / "cams", "-o", tmp_path / "pseudo")
    change_contents(changed / "JPEGImages/picture_004.jpg")
    index, net = make_index(changed, tmp_path / "other.h5"), ("-o", tmp_path / "n.safetensors")
    check_error(run("train-seg", index, "--masks", tmp_path / "pseudo", *TRAINING, *net), 65, "picture_004",
                "other contents")
    check_error(run("train-aff", "psa", index, "--cams", photos / "cams", "--net", "wsss:tiny", *net), 65,
                "picture_004", "other contents")


def test_rejects_an_index_of_other_classes(photos, changed, tmp_path):
    (changed / "classes.txt").write_text("background\ndog\ncat\n")
    index = make_index(changed, tmp_path / "other.h5")
    for command in (("eval", photos / "cams"), ("refine", "pamr", photos / "cams", "-o", tmp_path / "out")):
        check_error(run(*command, "--index", index), 65, "classes", "'dog'/'cat'")


def test_rejects_an_index_that_turns_images_otherwise(photos, changed, tmp_path):
    index = make_index(changed, tmp_path / "other.h5", "--apply-exif")
    check_error(run("eval", photos / "cams", "--index", index), 65, "without --apply-exif", "other.h5")


def test_images_that_were_only_listed_need_their_own_index(photos, changed, tiny_net, tmp_path):
    index = make_index(changed, tmp_path / "list.h5", "--tags-only")
    run_ok("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    check_error(run("eval", tmp_path / "cams", "--index", photos / "truth.h5"), 65, "--tags-only", "--truth DIR")
    assert evaluate(tmp_path / "cams", "--truth", changed / "SegmentationClass") == evaluate(photos / "cams-truth")
    check_error(run("eval", photos / "cams", "--index", index), 65, "list.h5", "--tags-only")


def test_an_index_that_has_grown(photos, tmp_path):
    root = create_dataset(tmp_path / "grown", n=15).root
    index = make_index(root, tmp_path / "grown.h5", "--masks", root / "SegmentationClass")
    done = run("eval", photos / "cams", "--index", index, "--json")
    assert "Skipped 3 of 15 images of the index" in done.err and "not in this run" in done.err
    assert json.loads(done.out)["miou"] == evaluate(photos / "cams-truth")["miou"]
    assert (json.loads(done.out)["images"], json.loads(done.out)["missing"]) == (12, 0)


def test_an_index_that_was_replaced_or_removed(photos, tiny_net, tmp_path):
    root = copy_dataset_of(photos, tmp_path)
    index = make_index(root, tmp_path / "i.h5")
    run_ok("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    make_index(root, index, "--masks", root / "SegmentationClass", "--force")
    assert evaluate(tmp_path / "cams") == evaluate(photos / "cams-truth")
    index.unlink()
    check_error(run("eval", tmp_path / "cams"), 66, "i.h5 does not exist", "--index FILE", "--truth DIR")
    assert evaluate(tmp_path / "cams", "--truth", root / "SegmentationClass") == evaluate(photos / "cams-truth")


def copy_dataset_of(photos: Path, target: Path) -> Path:
    """Copy the data set of the fixture."""
    return Path(shutil.copytree(photos / "set", target / "set"))


def test_masks_in_a_folder(photos, tmp_path):
    masks = Path(shutil.copytree(photos / "set/SegmentationClass", tmp_path / "masks"))
    for number in (3, 7):
        (masks / f"picture_{number:03d}.png").rename(masks / f"other_{number}.png")
    done = run("eval", photos / "cams", "--truth", masks, "--json")
    assert done.code == 0 and json.loads(done.out)["images"] == 10
    messages = "\n".join(list_messages(done))
    assert "Skipped 2 of 12 images of the run because" in messages
    assert "Ignored 2 files" in messages and "other_3, other_7" in messages
    resize_file(masks / "picture_005.png")
    check_error(run("eval", photos / "cams", "--truth", masks), 65, "picture_005.png", "30x40", "48x64")


def test_folders_without_usable_masks(photos, tmp_path):
    check_error(run("eval", photos / "cams", "--truth", tmp_path / "nowhere"), 66, "nowhere", "--truth")
    check_error(run("eval", photos / "cams", "--truth", tmp_path), 66, "none of the 12 images", "picture_000.png")
    check_error(run("eval", photos / "cams", "--truth", tmp_path, "--index", photos / "tags.h5"), 2, "--truth")
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(tmp_path / "picture_001.png")
    check_error(run("eval", photos / "cams", "--truth", tmp_path), 65, "picture_001.png", "9")
    done = run("eval", photos / "cams", "--truth", photos / "set/SegmentationClass", "--dry-run")
    assert done.code == 0 and "12 images with ground truth" in done.err


def test_a_background_chosen_on_a_folder_is_recorded(photos, tmp_path):
    run_ok("eval", photos / "cams", "--truth", photos / "set/SegmentationClass", "-o", tmp_path / "e.json")
    run_ok("pseudo", photos / "cams", "--background", f"from:{tmp_path / 'e.json'}", "-o", tmp_path / "pseudo")
    recorded = Run([tmp_path / "pseudo"]).first.provenance[-1]["config"]["background"]
    assert recorded["chosen_on"] == "ground-truth" and len(recorded["truth"]) == 64


def test_runs_merged_with_an_index_of_the_same_images(photos, tiny_net, tmp_path):
    make_index(photos / "set", tmp_path / "parts", "--shard-size", "5")
    run_ok("cams", "cnn", tmp_path / "parts", "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    run_ok("merge", tmp_path / "cams", "--index", photos / "truth.h5", "-o", tmp_path / "one.h5")
    assert evaluate(tmp_path / "one.h5") == evaluate(photos / "cams-truth")
    assert np.array_equal(read_image_records(Shard(tmp_path / "one.h5")), read_image_records(Shard(photos / "tags.h5")))


class TestTrainedOnTheseImages:
    """The warning follows the images, not the index file."""

    @pytest.fixture(scope="class")
    def net(self, photos) -> Path:
        """Return a network trained on the masks of the first six images."""
        root, folder = photos / "set", photos / "half"
        write_half = "id,labels\n" + "\n".join((root / "labels.csv").read_text().splitlines()[1:7]) + "\n"
        folder.mkdir()
        (folder / "labels.csv").write_text(write_half)
        run_ok("index", "table", folder / "labels.csv", "--images", root / "JPEGImages", "--class-names",
               root / "classes.txt", "--masks", root / "SegmentationClass", "-o", folder / "half.h5")
        run_ok("train-seg", folder / "half.h5", "--masks", "truth", *TRAINING, "-o", folder / "net.safetensors")
        return folder / "net.safetensors"

    def score(self, photos: Path, net: Path, lines: slice, folder: Path) -> str:
        """Segment some images from an index without masks, and return what `eval` says with their masks."""
        root = photos / "set"
        table = folder / "labels.csv"
        table.write_text("id,labels\n" + "\n".join((root / "labels.csv").read_text().splitlines()[lines]) + "\n")
        run_ok("index", "table", table, "--images", root / "JPEGImages", "--class-names", root / "classes.txt",
               "-o", folder / "i.h5")
        run_ok("segment", "net", folder / "i.h5", "--net", net, "-o", folder / "masks", "--device", "cpu")
        return run("eval", folder / "masks", "--truth", root / "SegmentationClass").err

    def test_all_of_them(self, photos, net, tmp_path):
        assert "trained on these images" in self.score(photos, net, slice(2, 5), tmp_path)

    def test_some_of_them(self, photos, net, tmp_path):
        assert "trained on 2 of the 5 images" in self.score(photos, net, slice(5, 10), tmp_path)

    def test_none_of_them(self, photos, net, tmp_path):
        assert "trained on" not in self.score(photos, net, slice(7, 12), tmp_path)


def write_format_1_0(path: Path, contents: ShardContents) -> str:
    """Write a shard as versions before 1.1 did."""
    data, digest = encode_shard(replace(contents, image_records=None), format_version="1.0")
    path.write_bytes(data)
    return digest


class TestFormat10:
    """Files of format 1.0, written by an earlier version, stay readable and usable."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        """Return a copy of an index and CAMs of format 1.0; the index contains its photographs and masks."""
        return Path(shutil.copytree(TESTS / "format_1_0", tmp_path / "old"))

    def test_every_command_reads_them(self, folder, tmp_path):
        assert Shard(folder / "index.h5").attribute("format_version") == "1.0"
        run_ok("check", folder / "index.h5", folder / "cams")
        result = evaluate(folder / "cams")
        assert result["images"] == 3 and 0 < result["miou"] < 1
        run_ok("pseudo", folder / "cams", "-o", tmp_path / "pseudo")
        run_ok("show", folder / "cams", "--truth", "-o", tmp_path / "sheet.png")
        run_ok("info", folder / "cams")

    def test_an_index_with_the_same_contents_is_up_to_date(self, photos, tmp_path, monkeypatch):
        """An upgrade of wsss does not make the results of an older version out of date."""
        from stages.index import stage
        table = ("index", "table", photos / "set/labels.csv", "--images", photos / "set/JPEGImages", "-o",
                 tmp_path / "i.h5")
        with monkeypatch.context() as patch:
            patch.setattr(stage, "write_shard", write_format_1_0)
            run_ok(*table)
        old = (tmp_path / "i.h5").read_bytes()
        assert Shard(tmp_path / "i.h5").attribute("format_version") == "1.0"
        done = run(*table)
        assert done.code == 0 and "is up to date" in done.err and (tmp_path / "i.h5").read_bytes() == old

    def test_results_of_image_files_are_up_to_date(self, photos, tiny_net, tmp_path, monkeypatch):
        from stages.flow import image_inputs
        command = ("cams", "cnn", photos / "set/JPEGImages/picture_001.jpg", "--net", tiny_net, "--classes", "cat",
                   "-o", tmp_path / "out", *SMALL)
        with monkeypatch.context() as patch:
            patch.setattr(image_inputs, "write_shard", write_format_1_0)
            run_ok(*command)
        old = (tmp_path / "out/images.h5").read_bytes()
        done = run(*command)
        assert done.code == 0 and "up to date" in done.err and (tmp_path / "out/images.h5").read_bytes() == old

    def test_what_is_made_from_them_belongs_to_its_images(self, folder, tmp_path):
        run_ok("pseudo", folder / "cams", "-o", tmp_path / "pseudo")
        made = Shard(tmp_path / "pseudo/masks-00000-of-00001.h5")
        assert made.attribute("format_version") == "1.1"
        assert np.array_equal(read_image_records(made), read_image_records(Shard(folder / "index.h5")))

    def test_they_need_their_own_index(self, folder, photos):
        check_error(run("eval", folder / "cams", "--index", photos / "truth.h5"), 65, "digests differ")
