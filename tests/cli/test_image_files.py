"""From photographs to pictures in one command: `cams`, `segment` and `features` of image files and folders."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import TRAINING, check_error, list_messages, read_items, run, run_ok
from cli.test_clip_es import clip
from cli.test_mctformer import train_net as train_mctformer
from stages.nets.net_files import read_net
from stages.shards import Run, Shard

CPU = ("--device", "cpu")
ROTATED_90 = 6  # the EXIF orientation of a photograph taken upright with most phones
__all__ = ["clip"]  # a fixture


@pytest.fixture
def photos(tiny_dataset, tmp_path) -> Path:
    """Return a folder with two photographs, one of them in a sub-folder, and a file that is not an image."""
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    copy_image(tiny_dataset, 0, tmp_path / "photos" / "b.jpg")
    copy_image(tiny_dataset, 1, tmp_path / "photos" / "trip" / "a.jpg")
    (tmp_path / "photos" / "notes.txt").write_text("two photographs")
    return tmp_path / "photos"


def copy_image(dataset, position: int, target: Path) -> Path:
    return Path(shutil.copy(dataset.root / "JPEGImages" / f"{dataset.ids[position]}.jpg", target))


def read_config(path: Path) -> dict:
    """Return the settings in the provenance of a run."""
    return Run([path]).first.provenance[-1]["config"]


def read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def check_pictures(folder: Path, photo: Path, image_id: str) -> None:
    """Check that there is a picture with panels in the shape of the photograph, next to each other."""
    height, width = read_picture(photo).shape[:2]
    picture = read_picture(folder / f"{image_id}.png")
    scale = 480 / max(height, width)
    assert picture.shape[0] >= scale * height and picture.shape[1] >= 2 * scale * width


@pytest.fixture(scope="module")
def networks(tiny_index, tiny_net, tmp_path_factory) -> dict[str, Path]:
    """Return a network for each command that needs one."""
    folder = tmp_path_factory.mktemp("networks")
    run_ok("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", folder / "seg.safetensors")
    return {"cams cnn": tiny_net, "cams gradcam": tiny_net, "features": tiny_net,
            "cams mctformer": train_mctformer(tiny_index, folder / "mct.safetensors"),
            "segment net": folder / "seg.safetensors"}


@pytest.mark.parametrize("command", ["cams cnn", "cams gradcam", "cams mctformer"])
def test_cams_of_a_photograph_take_one_command(command, networks, tiny_dataset, tmp_path):
    photo = copy_image(tiny_dataset, 0, tmp_path / "IMG_1.jpg")
    done = run(*command.split(), "IMG_1.jpg", "--net", networks[command], *CPU, cwd=tmp_path)
    assert (done.code, done.out) == (0, "cams/cams-00000-of-00001.h5\n"), done.err
    shard = Run([tmp_path / "cams"], "cams").first
    assert (shard.ids, shard.classes) == (("IMG_1",), ("background", "cat", "dog"))
    assert (read_config(tmp_path / "cams")["tags"], read_config(tmp_path / "cams")["classes"]) == ("best:0.5", [])
    check_pictures(tmp_path / "cams", photo, "IMG_1")
    item = shard.item("IMG_1")
    scores = sorted(zip(item.datasets["scores"], item.datasets["class_ids"], strict=True), reverse=True)
    listed = ", ".join(f"{shard.classes[class_id]} {score:.2f}" for score, class_id in scores)
    if scores[0][0] < 0.5:
        listed = f"no class reaches 0.5; the highest is {listed}; choose with --classes"
    assert list_messages(done) == ["Writing to the folder cams. Use --output to choose another.",
                                     f"IMG_1.jpg: {listed} -> cams/IMG_1.png"]
    again = run(*command.split(), "IMG_1.jpg", "--net", networks[command], *CPU, cwd=tmp_path)
    assert again.code == 0 and "up to date" in again.err and again.out == done.out


def test_clip_es_maps_all_words_that_are_given(clip, photos, tmp_path):
    command = ("cams", "clip-es", "photos/b.jpg", *clip, "--words", "cow; wet grass = grass, lawn; sky")
    done = run(*command, "-o", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert Run([tmp_path / "out"]).classes == ("background", "cow", "wet grass", "sky")
    assert read_items(tmp_path / "out", "cams", "class_ids")["b"].tolist() == [1, 2, 3]
    config = read_config(tmp_path / "out")
    assert (config["tags"], config["words"]["classes"]) == ("all", [["cow"], ["grass", "lawn"], ["sky"]])
    assert re.search(r"^b.jpg: .*wet grass 0\.\d\d.* -> out/b.png$", done.err, re.MULTILINE)
    check_pictures(tmp_path / "out", photos / "b.jpg", "b")
    run_ok(*command, "--classes", "sky,cow", "-o", "two", cwd=tmp_path)
    assert read_items(tmp_path / "two", "cams", "class_ids")["b"].tolist() == [1, 3]
    check_error(run(*command, "--classes", "horse", "-o", "x", cwd=tmp_path), 2, "--words has no class 'horse'",
                "The classes are cow, wet grass, sky")
    check_error(run(*command, "--names", "voc", "-o", "x", cwd=tmp_path), 2, "--names voc and --words both")
    run_ok("cams", "clip-es", "photos/b.jpg", *clip, "--names", "voc", "-o", "voc", cwd=tmp_path)
    assert read_config(tmp_path / "voc")["tags"] == "best:0.5"
    assert not (tmp_path / "x").exists()


def test_clip_es_words_for_the_classes_of_an_index(clip, tiny_index, tmp_path):
    words = ("--words", "dog = puppy, dog; cat")
    run_ok("cams", "clip-es", tiny_index, *clip, *words, "-o", tmp_path / "out")
    assert read_config(tmp_path / "out")["words"]["classes"] == [["cat"], ["puppy", "dog"]]
    assert Run([tmp_path / "out"]).classes == ("background", "cat", "dog")
    check_error(run("cams", "clip-es", tiny_index, *clip, "--words", "cow; dog", "-o", tmp_path / "x"), 2,
                "--words names the classes cow, dog, but those of the index are cat, dog")


@pytest.mark.parametrize("command", ["cams cnn", "segment net", "features"])
def test_folders_of_photographs(command, networks, photos, tmp_path):
    done = run(*command.split(), "photos", "--net", networks[command], *CPU, cwd=tmp_path)
    folder = tmp_path / {"cams cnn": "cams", "segment net": "masks", "features": "features"}[command]
    assert (done.code, done.out) == (0, f"{folder.name}/{folder.name}-00000-of-00001.h5\n"), done.err
    assert Run([folder]).first.ids == ("b", "a")
    assert list_messages(done)[:2] == ["Skipping 1 file that is not an image: notes.txt",
                                         f"Writing to the folder {folder.name}. Use --output to choose another."]
    if command == "features":
        assert not list(folder.glob("*.png"))
        return
    check_pictures(folder, photos / "trip" / "a.jpg", "a")
    assert re.search(rf"^trip/a.jpg: .* -> {folder.name}/a.png$", done.err, re.MULTILINE)


def test_photographs_of_one_name_and_a_rerun_inside_the_folder(networks, photos, tiny_dataset):
    copy_image(tiny_dataset, 2, photos / "trip" / "b.jpg")
    command = ("cams", "cnn", ".", "--net", networks["cams cnn"], *CPU)
    for _ in range(2):  # the second time there are pictures in photos/cams
        assert run_ok(*command, cwd=photos) == ["cams/cams-00000-of-00001.h5"]
        assert Run([photos / "cams"]).first.ids == ("b", "trip~a", "trip~b")
    assert {path.stem for path in (photos / "cams").glob("*.png")} == {"b", "trip~a", "trip~b"}


def test_paths_on_standard_input(wsss, networks, photos, tmp_path):
    done = wsss("cams", "cnn", "--net", networks["cams cnn"], *CPU, "--classes", "dog", input="photos\nphotos/b.jpg\n")
    assert (done.code, done.out) == (0, "cams/cams-00000-of-00001.h5\n"), done.err
    assert {name: ids.tolist() for name, ids in read_items(tmp_path / "cams", "cams", "class_ids").items()} == {
        "b": [2], "a": [2]}


def test_a_damaged_photograph_fails_and_the_others_do_not(networks, photos, tmp_path):
    data = (photos / "b.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(data[:len(data) // 2])  # its header is intact
    (photos / "page.jpg").write_bytes(b"<html>not found</html>")
    done = run("cams", "cnn", "photos", "--net", networks["cams cnn"], *CPU, "-o", "out", cwd=tmp_path)
    assert done.code == 65 and "2 of 4 images failed" in done.err
    assert set(Shard(tmp_path / "out" / "cams-00000-of-00001.h5").errors) == {"cut", "page"}
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.png")) == ["a", "b"]


def test_rotated_photographs_are_used_as_in_an_index_with_apply_exif(networks, tiny_dataset, tmp_path):
    (tmp_path / "photos").mkdir()
    copy_image(tiny_dataset, 1, tmp_path / "photos" / "plain.jpg")
    exif = Image.Exif()
    exif[0x0112] = ROTATED_90
    with Image.open(copy_image(tiny_dataset, 0, tmp_path / "source.jpg")) as image:
        image.crop((0, 0, 64, 40)).save(tmp_path / "photos" / "phone.jpg", exif=exif, quality=95)
    command = ("--net", networks["cams cnn"], *CPU)
    done = run("cams", "cnn", "photos", *command, "-o", "out", cwd=tmp_path)
    assert done.code == 0 and "Rotated 1 of 2 photographs as their EXIF orientation says." in done.err
    height, width = read_picture(tmp_path / "out" / "phone.png").shape[:2]
    assert height > 480 and width < 480 * 4, "panels are upright"
    run_ok("index", "folder", "photos", "--apply-exif", "--classes-of", networks["cams cnn"], "-o", "i.h5",
           cwd=tmp_path)
    run_ok("cams", "cnn", "i.h5", *command, "--tags", "best:0.5", "-o", "indexed", cwd=tmp_path)
    for name in ("class_ids", "cam", "scores"):
        of_files, of_index = (read_items(tmp_path / folder, "cams", name) for folder in ("out", "indexed"))
        assert set(of_files) == set(of_index) == {"phone", "plain"}
        for item_id, array in of_files.items():
            np.testing.assert_array_equal(array, of_index[item_id])
    run_ok("pseudo", "out", "-o", "masks", cwd=tmp_path)
    assert read_items(tmp_path / "masks", "masks", "mask")["phone"].shape == (64, 40)


def test_chosen_classes_have_the_cams_that_all_classes_have(networks, tiny_index, photos, tmp_path):
    command = ("cams", "cnn", "--net", networks["cams cnn"], *CPU)
    run_ok(*command, photos, "--tags", "all", "-o", tmp_path / "all")
    run_ok(*command, photos, "--classes", "dog", "-o", tmp_path / "dog")
    all_cams, dog_cams = (read_items(tmp_path / folder, "cams", "cam") for folder in ("all", "dog"))
    for item_id, cam in dog_cams.items():
        np.testing.assert_array_equal(cam, all_cams[item_id][1:])
    run_ok(*command, tiny_index, "--classes", "dog; cat", "-o", tmp_path / "index")
    assert {tuple(ids) for ids in read_items(tmp_path / "index", "cams", "class_ids").values()} == {(1, 2)}
    assert read_config(tmp_path / "index")["classes"] == ["cat", "dog"]


def test_unknown_classes_and_two_selections_are_errors(networks, tiny_index, photos, tmp_path):
    for source in (tiny_index, photos):
        command = ("cams", "cnn", source, "--net", networks["cams cnn"], *CPU, "-o", tmp_path / "out")
        check_error(run(*command, "--classes", "Dgo,cat"), 2, f"{networks['cams cnn']} has no class 'Dgo'",
                    "Did you mean dog? The classes are cat, dog")
        check_error(run(*command, "--classes", "background"), 2, "has no class 'background'")
        check_error(run(*command, "--classes", "cat", "--tags", "all"), 2, "--classes cat and --tags all both")
    assert not (tmp_path / "out").exists()


def test_best_maps_the_highest_class_where_none_reaches_the_threshold(networks, tiny_index, photos, tmp_path):
    command = ("cams", "cnn", "--net", networks["cams cnn"], *CPU)
    done = run(*command, photos / "b.jpg", "--tags", "best:1", "-o", tmp_path / "out")
    run_ok(*command, photos / "b.jpg", "--tags", "all", "-o", tmp_path / "all")
    scores = read_items(tmp_path / "all", "cams", "scores")["b"]
    assert read_items(tmp_path / "out", "cams", "class_ids")["b"].tolist() == [1 + scores.argmax()]
    name = ("cat", "dog")[scores.argmax()]
    assert f"b.jpg: no class reaches 1; the highest is {name} {scores.max():.2f}; choose with --classes" in done.err
    run_ok(*command, tiny_index, "--tags", "best:0", "-o", tmp_path / "index")
    assert {tuple(ids) for ids in read_items(tmp_path / "index", "cams", "class_ids").values()} == {(1, 2)}


@pytest.mark.parametrize("command", ["cams cnn", "segment net", "features"])
def test_the_output_may_be_left_out_with_image_files_only(command, networks, tiny_index, photos, tmp_path):
    words = (*command.split(), "--net", networks[command], *CPU)
    check_error(run(*words, tiny_index, cwd=tmp_path), 2, "missing option '-o' / '--output'",
                f"See `wsss {command} --help`")
    check_error(run(*words, cwd=tmp_path), 2, "missing option '-o' / '--output'")
    folder = tmp_path / {"cams cnn": "cams", "segment net": "masks", "features": "features"}[command]
    folder.mkdir()
    (folder / "mine.txt").touch()
    check_error(run(*words, photos / "b.jpg", cwd=tmp_path), 73, f"{folder.name}: already exists and holds other files",
                f"--output {folder.name}-2")
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_other_photographs_need_another_folder(networks, tiny_index, photos, tmp_path):
    command = ("cams", "cnn", "--net", networks["cams cnn"], *CPU)
    run_ok(*command, "photos/b.jpg", cwd=tmp_path)
    before = (tmp_path / "cams" / "images.h5").read_bytes()
    (tmp_path / "cams-2").mkdir()
    check_error(run(*command, "photos", cwd=tmp_path), 73, "cams/images.h5: is an index of other images, without a",
                "for example --output cams-3", "--force")
    check_error(run(*command, "photos/trip/a.jpg", cwd=tmp_path), 73, "other images, without a and with b")
    assert (tmp_path / "cams" / "images.h5").read_bytes() == before
    run_ok(*command, "photos", "--force", cwd=tmp_path)
    assert Run([tmp_path / "cams"]).first.ids == ("b", "a")
    run_ok(*command, tiny_index, "-o", "run", cwd=tmp_path)
    check_error(run(*command, "photos", "-o", "run", cwd=tmp_path), 73, "run: holds another run (cams-0")
    assert not (tmp_path / "run" / "images.h5").exists()


def test_a_dry_run_writes_nothing(networks, photos, tmp_path):
    command = ("cams", "cnn", "photos", "--net", networks["cams cnn"], *CPU, "-n")
    done = run(*command, cwd=tmp_path)
    assert (done.code, done.out) == (0, "")
    assert list_messages(done)[-1] == "Would compute CAMs of 2 image files."
    assert not (tmp_path / "cams").exists()


def test_the_root_of_an_index_does_not_move_image_files(networks, photos, tmp_path):
    run_ok("cams", "cnn", photos, "--net", networks["cams cnn"], *CPU, "--root", tmp_path / "elsewhere", "-o",
           tmp_path / "out")


def test_pictures_of_large_photographs_are_small(networks, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 2048, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg")
    for command, folder in (("cams cnn", "cams"), ("segment net", "masks")):
        run_ok(*command.split(), "large.jpg", "--net", networks[command], *CPU, "--scales", "0.5", cwd=tmp_path)
        assert max(read_picture(tmp_path / folder / "large.png").shape) < 2400


def test_classes_of_a_network_library(photos, tmp_path):
    import torch
    from torchvision import models

    torch.manual_seed(0)
    for name, num_classes in (("imagenet", 1000), ("mine", 3)):
        torch.save(models.squeezenet1_1(num_classes=num_classes).state_dict(), tmp_path / f"{name}.pth")
    (tmp_path / "names.txt").write_text("cow\nwet grass\nsky\n")
    command = ("cams", "gradcam", "photos/b.jpg", "--net", "torchvision:squeezenet1_1", "--layer", "features", *CPU)
    run_ok(*command, "--weights", "imagenet.pth", "-o", "imagenet", cwd=tmp_path)
    shard = Run([tmp_path / "imagenet"]).first
    assert (len(shard.classes), shard.classes[1], shard.classes[1000]) == (1001, "tench", "toilet tissue")
    assert read_config(tmp_path / "imagenet")["score"] == "softmax"
    assert 0 < shard.item("b").datasets["scores"][0] < 0.5
    done = run(*command, "--weights", "mine.pth", "-o", "x", cwd=tmp_path)
    check_error(done, 2, "mine.pth is not a network of ImageNet's 1000 classes", "--names FILE")
    named = (*command, "--weights", "mine.pth", "--names", "names.txt")
    run_ok(*named, "--classes", "wet grass", "-o", "mine", cwd=tmp_path)
    assert Run([tmp_path / "mine"]).classes == ("background", "cow", "wet grass", "sky")
    assert read_config(tmp_path / "mine")["score"] == "sigmoid"
    check_error(run(*named, "--classes", "gras", "-o", "x", cwd=tmp_path), 2, "names.txt has no class 'gras'")


def test_names_are_for_image_files_and_library_networks(networks, tiny_index, photos, tmp_path):
    (tmp_path / "names.txt").write_text("cow\n")
    command = ("cams", "gradcam", "--net", networks["cams cnn"], *CPU, "--names", tmp_path / "names.txt", "-o",
               tmp_path / "out")
    check_error(run(*command, photos), 2, "--names", "has no effect, because the network has class names")
    check_error(run(*command, tiny_index, "--weights", networks["cams cnn"]), 2, "because the index has class names")


def test_an_index_takes_the_classes_of_a_network(networks, tiny_dataset, photos, tmp_path):
    net = networks["cams cnn"]
    shutil.move(photos / "trip" / "a.jpg", photos / "a.jpg")
    done = run("index", "folder", "photos", "--classes-of", net, "-o", "new.h5", cwd=tmp_path)
    assert done.code == 0 and "their tags are unknown" in done.err
    index = Shard(tmp_path / "new.h5")
    assert index.classes == ("background", "cat", "dog")
    assert index.provenance[-1]["inputs"] == {"classes_of": read_net(net)[1]["sha256"]}
    run_ok("cams", "cnn", "new.h5", "--net", net, *CPU, "--tags", "predicted:0", "-o", "cams", cwd=tmp_path)
    run_ok("segment", "net", "new.h5", "--net", networks["segment net"], *CPU, "-o", "masks", cwd=tmp_path)
    (tmp_path / "tags.csv").write_text("id,labels\na,dog\n")
    run_ok("index", "table", "tags.csv", "--images", "photos", "--classes-of", net, "-o", "table.h5", cwd=tmp_path)
    table = Shard(tmp_path / "table.h5")
    assert (table.classes, table.item("a").datasets["labels"].tolist()) == (("background", "cat", "dog"), [2])


def test_tags_of_an_index_must_be_classes_of_the_network(networks, photos, tmp_path):
    net = networks["cams cnn"]
    check_error(run("index", "folder", photos, "--classes-of", net, "-o", tmp_path / "x.h5"), 65,
                "the tag 'trip' is not a class", "cat, dog")
    (tmp_path / "names.txt").write_text("cat\n")
    check_error(run("index", "folder", photos, "--classes-of", net, "--class-names", tmp_path / "names.txt", "-o",
                    tmp_path / "x.h5"), 2, "--class-names and --classes-of both")
    check_error(run("index", "folder", photos, "--classes-of", photos / "b.jpg", "-o", tmp_path / "x.h5"), 65, "b.jpg")
    check_error(run("index", "folder", photos, "--classes-of", "gone.safetensors", "-o", tmp_path / "x.h5"), 66, "gone")


def test_inputs_without_a_photograph(networks, photos, tmp_path):
    command = ("cams", "cnn", "--net", networks["cams cnn"], *CPU)
    (photos / "empty").mkdir()
    check_error(run(*command, "photos/empty", cwd=tmp_path), 66, "photos/empty: holds no shards and no photographs")
    (photos / "new2.dng").touch()
    check_error(run(*command, "photos/new2.dng", cwd=tmp_path), 65, "new2.dng: not an image this ")
    check_error(run(*command, "photos/gone.jpg", cwd=tmp_path), 66, "gone.jpg: does not exist")
    (photos / "index.h5").touch()
    check_error(run(*command, "photos", cwd=tmp_path), 2, "photos holds both shards (index.h5) and image files (b.jpg)")
    assert not (tmp_path / "cams").exists()
