"""`wsss train-text` and `wsss setup nltk` from the command line, with a seeded CLIP."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cli.runner import check_error, run, run_ok
from seeded_clip import ClipRecipe
from stages.nets.net_files import load_net
from stages.nets.text_grounded import CoDe

CAPTIONS = ("p0,A red dog on the lawn", "p1,Two cats near a car", "p1,A cat", "p2,A horse", "p3,red and blue",
            "p4,A boat on the sea", "p5,")
OPTIONS = ("--crop-size", "32", "--batch-size", "2", "--threads", "1", "--device", "cpu", "--warmup", "1", "--lr",
           "1e-3", "--workers", "0")
SHORT = (*OPTIONS, "--steps", "4", "--save-every", "2", "--unfreeze-at", "2")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Return a folder with a CLIP (seeded.json, seeded.pt) and an index with captions (c.h5)."""
    folder = tmp_path_factory.mktemp("captions")
    ClipRecipe(99, 64, 2, 1, 64, 64, 2, 1).write(folder)
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"images/p{number}.png")
    (folder / "t.csv").write_text("\n".join(("id,caption", *CAPTIONS)))
    run_ok("index", "table", "t.csv", "--images", "images", "-o", "c.h5", cwd=folder)
    return folder


def run_training(workspace, method, output, *options):
    clip = ("--clip", "seeded.json", "--weights", "seeded.pt")
    return run("train-text", method, "c.h5", *clip, "-o", output, *(options or SHORT), cwd=workspace)


def test_tcl_trains_on_whole_captions(workspace, tmp_path):
    done = run_training(workspace, "tcl", tmp_path / "tcl.safetensors")
    assert (done.code, done.out) == (0, f"{tmp_path / 'tcl.safetensors'}\n"), done.err
    assert "Skipping 1 images without a caption" in done.err
    assert "nouns" not in done.err
    assert "for 64 images per step" not in done.err, "--lr is set"
    net, description = load_net(tmp_path / "tcl.safetensors")
    assert (description["task"], description["stride"], description["supervision"]) == (
        "text-segmentation", 4, "captions")
    initial_state = torch.load(workspace / "seeded.pt")
    for name, tensor in initial_state.items():
        torch.testing.assert_close(net.clip.model.state_dict()[name], tensor)
    block = "visual.transformer.resblocks.1.mlp.c_fc.weight"
    assert not torch.equal(net.segmenter.last_block.mlp.c_fc.weight, initial_state[block])
    lines = [json.loads(line) for line in (tmp_path / "tcl.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert {"image", "map", "area", "area_negative", "smooth"} <= set(lines[0])
    again = run_training(workspace, "tcl", tmp_path / "tcl.safetensors")
    assert again.code == 0 and "up to date" in again.err


def test_default_learning_rate_for_another_batch_size_warns(workspace, tmp_path):
    options = (*OPTIONS[:-4], "--workers", "0", "--steps", "1")
    assert "--lr" not in options
    done = run_training(workspace, "tcl", tmp_path / "a.safetensors", *options)
    assert "the default --lr 5e-06 is CoDe's for 64 images per step" in done.err
    assert "but a step has 2. In proportion, use --lr 1.56e-07 --lr-floor 1.95e-08" in done.err
    assert "but a step has 4. " in run_training(workspace, "tcl", tmp_path / "b.safetensors", *options, "--accumulate",
                                                "2").err


def test_last_block_is_frozen_until_unfreeze_at(workspace, tmp_path):
    assert run_training(workspace, "tcl", tmp_path / "a.safetensors", *OPTIONS, "--steps", "2", "--unfreeze-at",
                        "2").code == 0
    net, _ = load_net(tmp_path / "a.safetensors")
    last_block, clip_block = net.segmenter.last_block, net.clip.model.visual.transformer.resblocks[-1]
    pairs = zip(last_block.parameters(), clip_block.parameters(), strict=True)
    assert all(torch.equal(copy, original) for copy, original in pairs)
    assert any(parameter.abs() > 0 for name, parameter in net.named_parameters() if name.endswith("gate"))
    assert run_training(workspace, "tcl", tmp_path / "b.safetensors", *OPTIONS, "--steps", "3", "--unfreeze-at",
                        "2").code == 0
    last_block = load_net(tmp_path / "b.safetensors")[0].segmenter.last_block
    pairs = zip(last_block.parameters(), clip_block.parameters(), strict=True)
    assert not any(torch.equal(copy, original) for copy, original in pairs if copy.ndim > 1)


def test_code_reports_noun_counts_and_records_the_selector(workspace, tmp_path):
    done = run_training(workspace, "code", tmp_path / "code.safetensors", *SHORT, "--nouns", "rules")
    assert done.code == 0, done.err
    assert "Finding nouns with the built-in rules" in done.err
    assert "Of 6 captions, 2 have one noun; 1 have none and are skipped" in done.err
    net, description = load_net(tmp_path / "code.safetensors")
    assert isinstance(net, CoDe)
    assert description["provenance"][-1]["inputs"]["selector"] == "rules"
    assert net.region_prompt.abs().sum() > 0 and net.word_prompt.abs().sum() > 0
    off = ("--no-region-prompt", "--no-word-prompt", "--lambda-hcl", "0.25")
    assert run_training(workspace, "code", tmp_path / "off.safetensors", *SHORT, "--nouns", "rules", *off).code == 0
    net, _ = load_net(tmp_path / "off.safetensors")
    assert net.region_prompt.abs().sum() == net.word_prompt.abs().sum() == 0
    other = run_training(workspace, "code", tmp_path / "off.safetensors", *SHORT, "--nouns", "rules")
    check_error(other, 73, "lambda_hcl: 0.25 -> 0.5")


def test_nouns_from_a_table(workspace, tmp_path):
    table = tmp_path / "nouns.csv"
    table.write_text("id,nouns\np0,dog\np1,cats;car\np4,boat\n")
    options = (*SHORT, "--nouns", "file", "--nouns-file", table)
    done = run_training(workspace, "code", tmp_path / "x.safetensors", *options)
    assert "Of 6 captions, 2 have one noun; 2 have none" in done.err
    assert done.code == 0, done.err
    table.write_text("id,nouns\np0,dog\np1,cats;car\np4,sea\n")
    check_error(run_training(workspace, "code", tmp_path / "x.safetensors", *options), 73, "inputs.nouns")
    table.write_text("id,nouns\np0,dog\n")
    check_error(run_training(workspace, "code", tmp_path / "y.safetensors", *options), 65,
                "5 of 6 captions have no noun", "c.h5")
    check_error(run_training(workspace, "code", tmp_path / "y.safetensors", *SHORT, "--nouns", "file"), 2,
                "--nouns-file")


def test_templates_from_a_file_are_recorded(workspace, tmp_path):
    (tmp_path / "templates.txt").write_text("a photo of a {}\n")
    options = (*SHORT, "--nouns", "rules", "--template", tmp_path / "templates.txt")
    assert run_training(workspace, "code", tmp_path / "x.safetensors", *options).code == 0
    _, description = load_net(tmp_path / "x.safetensors")
    assert description["provenance"][-1]["config"]["template"] == ["a photo of a {}"]
    (tmp_path / "templates.txt").write_text("a bad photo of a {}\n")
    check_error(run_training(workspace, "code", tmp_path / "x.safetensors", *options), 73, "template")


def test_invalid_crop_size_is_reported_before_captions_are_read(workspace, tmp_path):
    done = run_training(workspace, "code", tmp_path / "x.safetensors", *SHORT, "--nouns", "rules", "--crop-size", "40")
    check_error(done, 2, "--crop-size 40 is not a multiple of the network's patch size 16", "--crop-size 48")
    assert "captions" not in done.err


def test_nonfinite_loss_names_existing_options(workspace, tmp_path):
    done = run_training(workspace, "tcl", tmp_path / "x.safetensors", *SHORT, "--lambda-smooth", "1e39")
    check_error(done, 65, "the loss is inf at step 0. Use a smaller --lr or --gradient-clip, or a longer --warmup")


SOME_JAPANESE = ("p0,猫が草の上にいる", "p1,A cat in a boat", "p2,A horse by a car", "p3,犬と車")
SOME_FRENCH = tuple(f"p{number},un {animal} dort sur le canapé rouge devant la grande fenêtre"
                    for animal in ("chien", "chat") for number in range(6))


@pytest.fixture
def index_captions(workspace, tmp_path):
    """Return a function that makes an index with the captions of the images of `workspace`."""
    def index(*captions):
        (tmp_path / "t.csv").write_text("\n".join(("id,caption", *captions)))
        run_ok("index", "table", tmp_path / "t.csv", "--images", workspace / "images", "-o", tmp_path / "c.h5",
               "--force")
        return tmp_path / "c.h5"

    return index


def test_captions_in_other_languages_warn(workspace, tmp_path, index_captions):
    clip = ("--clip", workspace / "seeded.json", "--weights", workspace / "seeded.pt", *SHORT, "--steps", "1",
            "--nouns", "rules")
    done = run("train-text", "code", index_captions(*SOME_JAPANESE), *clip, "-o", tmp_path / "a.safetensors")
    assert done.code == 0, done.err
    assert "2 have none and are skipped (2 of them have letters of a script other than Latin)" in done.err
    assert "seem not to be in English" not in done.err
    check_error(run("train-text", "code", index_captions(*SOME_JAPANESE[:2], SOME_JAPANESE[3]), *clip, "-o",
                tmp_path / "b.safetensors"), 65, "2 of 3 captions have no noun",
                "Use English captions, or pass their nouns with --nouns file")
    done = run("train-text", "code", index_captions(*SOME_FRENCH), *clip, "-o", tmp_path / "b.safetensors")
    assert done.code == 0, done.err
    assert 'seem not to be in English: only 0 of their first 132 words are function words such as "the"' in done.err
    (tmp_path / "nouns.csv").write_text("id,nouns\n" + "\n".join(f"p{number},dog" for number in range(6)))
    done = run("train-text", "code", tmp_path / "c.h5", *clip[:-1], "file", "--nouns-file", tmp_path / "nouns.csv",
               "-o", tmp_path / "c.safetensors")
    assert done.code == 0 and "English" not in done.err, done.err


def test_invalid_arguments_and_inputs(workspace, tmp_path, tiny_index):
    output = tmp_path / "x.safetensors"
    check_error(run_training(workspace, "tcl", output, *SHORT, "--crop-size", "40"), 2, "--crop-size 40",
                "--crop-size 48")
    clip = ("--clip", workspace / "seeded.json", "--weights", workspace / "seeded.pt")
    check_error(run("train-text", "tcl", tiny_index, *clip, "-o", output, *SHORT), 65,
            "no image of the index has a caption", "Make the index from a table with a column `caption`")
    check_error(run("train-text", "tcl", "c.h5", "--clip", "RN50", "--weights", "random", "-o", output, *SHORT,
                    cwd=workspace),
            2, "training on text needs a CLIP with OpenAI's image and text transformers", "ViT-B-16")
    assert not output.exists()


def write_archive(folder, words="tagdict"):
    content = {"weights": {"bias": {"NN": 1.0, "DT": 0.0}}, "classes": ["DT", "NN"], words: {"A": "DT"}}
    with zipfile.ZipFile(folder / "tagger.zip", "w") as archive:
        for name, value in content.items():
            archive.writestr(f"averaged_perceptron_tagger_eng/averaged_perceptron_tagger_eng.{name}.json",
                             json.dumps(value))
    return folder / "tagger.zip"


def test_setup_installs_the_tagger_for_nltk(tmp_path, monkeypatch):
    import nltk

    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "data")])
    paths = run_ok("setup", "nltk", "--from", write_archive(tmp_path))
    assert paths == [str(tmp_path / "data" / "taggers" / "averaged_perceptron_tagger_eng")]
    assert run_ok("setup", "nltk", "--from", tmp_path / "tagger.zip") == paths
    from stages.data.nouns import build_noun_selector
    assert build_noun_selector("auto").select_nouns("x", "A dog") == ("dog",)
    next((tmp_path / "data").rglob("*.classes.json")).write_text("[]")
    check_error(run("setup", "nltk", "--from", tmp_path / "tagger.zip"), 73, "another tagger is installed here",
                "--force")
    assert run_ok("setup", "nltk", "--from", tmp_path / "tagger.zip", "--force") == paths
    check_error(run("setup", "nltk", "--from", write_archive(tmp_path, "other")), 65,
            "does not contain averaged_perceptron_tagger_eng.tagdict.json", "JSON and not the older pickle")
    (tmp_path / "no.zip").write_text("no zip")
    check_error(run("setup", "nltk", "--from", tmp_path / "no.zip"), 65, "is not a readable zip archive")
    check_error(run("setup", "nltk", "--from", tmp_path / "gone.zip"), 66, "no such file")


def test_stopped_training_resumes_to_the_same_network(workspace, tmp_path, monkeypatch):
    from stages.training import loop

    options = (*SHORT, "--nouns", "rules", "--steps", "5")
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert run_training(workspace, "code", whole, *options).code == 0
    is_set, calls = loop.is_set_on_any_rank, []
    monkeypatch.setattr(loop, "is_set_on_any_rank",
                        lambda *arguments: calls.append(1) or len(calls) == 3 or is_set(*arguments))
    done = run_training(workspace, "code", cut, *options)
    assert done.code == 75 and "stopped after step 3 of 5" in done.err, done.err
    assert run_training(workspace, "code", cut, *options).code == 0
    assert cut.read_bytes() == whole.read_bytes()
