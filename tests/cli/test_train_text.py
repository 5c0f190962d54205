"""`wsss train-text` and `wsss setup nltk`: captions to a net, on a seeded CLIP."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cli.runner import good, refused, run
from seeded_clip import Recipe
from stages.nets.files import load_net
from stages.nets.text_grounded import CoDe

CAPTIONS = ("p0,A red dog on the lawn", "p1,Two cats near a car", "p1,A cat", "p2,A horse", "p3,red and blue",
            "p4,A boat on the sea", "p5,")
HOW = ("--crop-size", "32", "--batch-size", "2", "--threads", "1", "--device", "cpu", "--warmup", "1", "--lr", "1e-3",
       "--workers", "0")
SHORT = (*HOW, "--steps", "4", "--save-every", "2", "--unfreeze-at", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a CLIP (seeded.json, seeded.pt) and an index of captions (c.h5)."""
    folder = tmp_path_factory.mktemp("captions")
    Recipe(99, 64, 2, 1, 64, 64, 2, 1).write(folder)
    (folder / "images").mkdir()
    draws = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(draws.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"images/p{number}.png")
    (folder / "t.csv").write_text("\n".join(("id,caption", *CAPTIONS)))
    good("index", "table", "t.csv", "--images", "images", "-o", "c.h5", cwd=folder)
    return folder


def trained(place, method, output, *more):
    clip = ("--clip", "seeded.json", "--weights", "seeded.pt")
    return run("train-text", method, "c.h5", *clip, "-o", output, *(more or SHORT), cwd=place)


def test_tcl_learns_from_whole_captions(place, tmp_path):
    done = trained(place, "tcl", tmp_path / "tcl.safetensors")
    assert (done.code, done.out) == (0, f"{tmp_path / 'tcl.safetensors'}\n"), done.err
    assert "1 images have no caption and are left out" in done.err
    assert "nouns" not in done.err
    assert "for 64 images a step" not in done.err, "the rate was given"
    net, description = load_net(tmp_path / "tcl.safetensors")
    assert (description["task"], description["stride"], description["supervision"]) == (
        "text-segmentation", 4, "captions")
    given = torch.load(place / "seeded.pt")
    for name, tensor in given.items():
        torch.testing.assert_close(net.clip.model.state_dict()[name], tensor)
    block = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    assert not torch.equal(net.segmenter.last_block.mlp.c_fc.weight, given[block])
    lines = [json.loads(line) for line in (tmp_path / "tcl.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"image", "map", "area", "area_negative", "smooth"} <= set(lines[0])
    again = trained(place, "tcl", tmp_path / "tcl.safetensors")
    assert again.code == 0 and "up to date" in again.err


def test_a_rate_that_is_for_more_images_is_told(place, tmp_path):
    how = (*HOW[:-4], "--workers", "0", "--steps", "1")
    assert "--lr" not in how
    done = trained(place, "tcl", tmp_path / "a.safetensors", *how)
    assert "--lr 5e-06 is CoDe's for 64 images a step" in done.err and "here are 2: " in done.err
    assert "--lr 1.56e-07 --lr-floor 1.95e-08" in done.err
    assert "here are 4: " in trained(place, "tcl", tmp_path / "b.safetensors", *how, "--accumulate", "2").err


def test_the_last_block_waits(place, tmp_path):
    assert trained(place, "tcl", tmp_path / "a.safetensors", *HOW, "--steps", "2", "--unfreeze-at", "2").code == 0
    net, _ = load_net(tmp_path / "a.safetensors")
    kept, own = net.segmenter.last_block, net.clip.model.visual.transformer.resblocks[-1]
    assert all(torch.equal(one, other) for one, other in zip(kept.parameters(), own.parameters(), strict=True))
    assert any(one.abs() > 0 for name, one in net.named_parameters() if name.endswith("gate"))
    assert trained(place, "tcl", tmp_path / "b.safetensors", *HOW, "--steps", "3", "--unfreeze-at", "2").code == 0
    kept = load_net(tmp_path / "b.safetensors")[0].segmenter.last_block
    assert not any(torch.equal(one, other) for one, other in zip(kept.parameters(), own.parameters(), strict=True)
                   if one.ndim > 1)


def test_code_counts_nouns_and_records_who_found_them(place, tmp_path):
    done = trained(place, "code", tmp_path / "code.safetensors", *SHORT, "--nouns", "rules")
    assert done.code == 0, done.err
    assert "nouns: the built-in rules" in done.err
    assert "6 captions: 2 have one noun; 1 have none and are left out" in done.err
    net, description = load_net(tmp_path / "code.safetensors")
    assert isinstance(net, CoDe)
    assert description["provenance"][-1]["inputs"]["selector"] == "rules"
    assert net.region_prompt.abs().sum() > 0 and net.word_prompt.abs().sum() > 0
    off = ("--no-region-prompt", "--no-word-prompt", "--lambda-hcl", "0.25")
    assert trained(place, "code", tmp_path / "off.safetensors", *SHORT, "--nouns", "rules", *off).code == 0
    net, _ = load_net(tmp_path / "off.safetensors")
    assert net.region_prompt.abs().sum() == net.word_prompt.abs().sum() == 0
    other = trained(place, "code", tmp_path / "off.safetensors", *SHORT, "--nouns", "rules")
    refused(other, 73, "lambda_hcl: 0.25 -> 0.5")


def test_nouns_of_a_table(place, tmp_path):
    table = tmp_path / "nouns.csv"
    table.write_text("id,nouns\np0,dog\np1,cats;car\np4,boat\n")
    how = (*SHORT, "--nouns", "file", "--nouns-file", table)
    done = trained(place, "code", tmp_path / "x.safetensors", *how)
    assert "6 captions: 2 have one noun; 2 have none" in done.err
    assert done.code == 0, done.err
    table.write_text("id,nouns\np0,dog\np1,cats;car\np4,sea\n")
    refused(trained(place, "code", tmp_path / "x.safetensors", *how), 73, "inputs.nouns")
    table.write_text("id,nouns\np0,dog\n")
    refused(trained(place, "code", tmp_path / "y.safetensors", *how), 65, "5 of 6 captions have no noun", "c.h5")
    refused(trained(place, "code", tmp_path / "y.safetensors", *SHORT, "--nouns", "file"), 2, "--nouns-file")


def test_templates_of_a_file_are_recorded(place, tmp_path):
    (tmp_path / "templates.txt").write_text("a photo of a {}\n")
    how = (*SHORT, "--nouns", "rules", "--template", tmp_path / "templates.txt")
    assert trained(place, "code", tmp_path / "x.safetensors", *how).code == 0
    _, description = load_net(tmp_path / "x.safetensors")
    assert description["provenance"][-1]["config"]["template"] == ["a photo of a {}"]
    (tmp_path / "templates.txt").write_text("a bad photo of a {}\n")
    refused(trained(place, "code", tmp_path / "x.safetensors", *how), 73, "template")


def test_settings_that_can_not_be_meant_are_told_before_the_captions_are_read(place, tmp_path):
    done = trained(place, "code", tmp_path / "x.safetensors", *SHORT, "--nouns", "rules", "--crop-size", "40")
    refused(done, 2, "--crop-size 40 is no multiple of the patch")
    assert "captions" not in done.err


def test_a_loss_that_is_not_finite_names_the_options_that_are_there(place, tmp_path):
    done = trained(place, "tcl", tmp_path / "x.safetensors", *SHORT, "--lambda-smooth", "1e39")
    refused(done, 65, "the loss is inf at step 0; try a smaller --lr or --gradient-clip, or a longer --warmup")


SOME_JAPANESE = ("p0,猫が草の上にいる", "p1,A cat in a boat", "p2,A horse by a car", "p3,犬と車")
SOME_FRENCH = tuple(f"p{number % 6},un chien dort sur le canapé rouge devant la grande fenêtre" for number in range(12))


@pytest.fixture
def indexed(place, tmp_path):
    """Return what makes an index of captions of the images of `place`."""
    def index(*captions):
        (tmp_path / "t.csv").write_text("\n".join(("id,caption", *captions)))
        good("index", "table", tmp_path / "t.csv", "--images", place / "images", "-o", tmp_path / "c.h5", "--force")
        return tmp_path / "c.h5"

    return index


def test_captions_in_another_language_are_told(place, tmp_path, indexed):
    clip = ("--clip", place / "seeded.json", "--weights", place / "seeded.pt", *SHORT, "--steps", "1", "--nouns",
            "rules")
    done = run("train-text", "code", indexed(*SOME_JAPANESE), *clip, "-o", tmp_path / "a.safetensors")
    assert done.code == 0, done.err
    assert "2 have none and are left out (2 are in another script than the Latin one)" in done.err
    assert "seem not to be in English" not in done.err
    refused(run("train-text", "code", indexed(*SOME_JAPANESE[:2], SOME_JAPANESE[3]), *clip, "-o",
                tmp_path / "b.safetensors"), 65, "2 of 3 captions have no noun", "in English, or give --nouns file")
    done = run("train-text", "code", indexed(*SOME_FRENCH), *clip, "-o", tmp_path / "b.safetensors")
    assert done.code == 0, done.err
    assert 'seem not to be in English: 0 of their first 132 words are such as "the"' in done.err
    (tmp_path / "nouns.csv").write_text("id,nouns\n" + "\n".join(f"p{number},dog" for number in range(6)))
    done = run("train-text", "code", tmp_path / "c.h5", *clip[:-1], "file", "--nouns-file", tmp_path / "nouns.csv",
               "-o", tmp_path / "c.safetensors")
    assert done.code == 0 and "English" not in done.err, done.err


def test_what_can_not_be_meant_so(place, tmp_path, tiny_index):
    output = tmp_path / "x.safetensors"
    refused(trained(place, "tcl", output, *SHORT, "--crop-size", "40"), 2, "--crop-size 40", "16 times")
    clip = ("--clip", place / "seeded.json", "--weights", place / "seeded.pt")
    refused(run("train-text", "tcl", tiny_index, *clip, "-o", output, *SHORT), 65,
            "no image has a caption", "index a table with a column caption")
    refused(run("train-text", "tcl", "c.h5", "--clip", "RN50", "--weights", "random", "-o", output, *SHORT, cwd=place),
            2, "training on text takes a CLIP with OpenAI's two towers", "ViT-B-16")
    assert not output.exists()


def archive_of(folder, words="tagdict"):
    content = {"weights": {"bias": {"NN": 1.0, "DT": 0.0}}, "classes": ["DT", "NN"], words: {"A": "DT"}}
    with zipfile.ZipFile(folder / "tagger.zip", "w") as archive:
        for name, value in content.items():
            archive.writestr(f"averaged_perceptron_tagger_eng/averaged_perceptron_tagger_eng.{name}.json",
                             json.dumps(value))
    return folder / "tagger.zip"


def test_setup_puts_the_tagger_where_nltk_looks(tmp_path, monkeypatch):
    import nltk

    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "data")])
    told = good("setup", "nltk", "--from", archive_of(tmp_path))
    assert told == [str(tmp_path / "data" / "taggers" / "averaged_perceptron_tagger_eng")]
    assert good("setup", "nltk", "--from", tmp_path / "tagger.zip") == told
    from stages.data.nouns import noun_selector
    assert noun_selector("auto").nouns("x", "A dog") == ("dog",)
    next((tmp_path / "data").rglob("*.classes.json")).write_text("[]")
    refused(run("setup", "nltk", "--from", tmp_path / "tagger.zip"), 73, "another tagger is there", "--force")
    assert good("setup", "nltk", "--from", tmp_path / "tagger.zip", "--force") == told
    refused(run("setup", "nltk", "--from", archive_of(tmp_path, "other")), 65,
            "holds no averaged_perceptron_tagger_eng.tagdict.json", "JSON, not the older pickle")
    (tmp_path / "no.zip").write_text("no zip")
    refused(run("setup", "nltk", "--from", tmp_path / "no.zip"), 65, "no archive that can be read")
    refused(run("setup", "nltk", "--from", tmp_path / "gone.zip"), 66, "no such file")


def test_a_training_that_is_stopped_goes_on_to_the_same_net(place, tmp_path, monkeypatch):
    from stages.training import loop

    how = (*SHORT, "--nouns", "rules", "--steps", "5")
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert trained(place, "code", whole, *how).code == 0
    wanted, steps = loop.any_wants, []
    monkeypatch.setattr(loop, "any_wants", lambda *given: steps.append(1) or len(steps) == 3 or wanted(*given))
    done = trained(place, "code", cut, *how)
    assert done.code == 75 and "stopped after step 3 of 5" in done.err, done.err
    assert trained(place, "code", cut, *how).code == 0
    assert cut.read_bytes() == whole.read_bytes()
