"""Commands that repeat the steps behind runs: each step once, with the recorded settings, accepted by the program."""

from __future__ import annotations

import shlex

import typer

from markdown_blocks import check_command
from stages.report.commands import find_fields, list_options, list_word_options
from stages.report.plot_steps import compute_columns, plot_steps
from stages.report.provenance import Chain, list_steps
from wsss_cli.app import app

INDEX = {"stage": "index", "method": "table", "config": {"shard_size": 0, "tags": True}, "inputs": {}}
TRAIN = {"stage": "train-cls", "method": "cam", "config": {"epochs": 6, "long_side": [224, 400], "flip": False,
                                                            "processes": 1},
         "inputs": {"index": "1" * 64, "weights": "2" * 64}}
CAMS = {"stage": "cams", "method": "cnn", "config": {"scales": [0.5, 1.0], "shard_size": 256},
        "inputs": {"index": "3" * 64, "net": "4" * 64}}
CRF = {"stage": "refine", "method": "crf", "config": {"background": {"rule": "constant:0.3", "chosen_on": "given"}},
       "inputs": {"cams": "5" * 64}}
PSEUDO = {"stage": "pseudo", "config": {"background": "default", "threads": 1}, "inputs": {"cams": "6" * 64}}
NET = Chain("my net.safetensors", "4" * 64, [INDEX, TRAIN], {"2" * 64: "mobilenet.pth"})
CHAINS = [NET, Chain("cams", "5" * 64, [INDEX, CAMS]), Chain("crf", "6" * 64, [INDEX, CAMS, CRF]),
          Chain("masks", "7" * 64, [INDEX, CAMS, CRF, PSEUDO]), Chain("low", "8" * 64, [INDEX, CAMS, {
              **PSEUDO, "config": {"background": {"rule": "power:4"}}, "inputs": {"cams": "5" * 64}}])]


def test_common_steps_appear_once_and_before_those_that_read_them():
    steps = list_steps(CHAINS)
    assert [step.output for step in steps] == ["index.h5", "my net.safetensors", "index-2.h5", "cams", "crf", "masks",
                                               "low"]
    assert [step.sources for step in steps] == [[], [0], [], [2, 1], [3], [4], [3]]
    assert all(source < number for number, step in enumerate(steps) for source in step.sources)
    assert compute_columns(steps) == [0, 1, 0, 2, 3, 4, 3]


def test_commands_have_the_settings_that_are_not_defaults():
    commands = [step.command for step in list_steps(CHAINS)]
    assert commands[1] == ("wsss train-cls cam index.h5 --weights mobilenet.pth --epochs 6 "
                           "--no-flip -o 'my net.safetensors'")
    assert commands[3:] == [
        "wsss cams cnn index-2.h5 --net 'my net.safetensors' --scales 0.5,1.0 -o cams",
        "wsss refine crf cams --background constant:0.3 -o crf", "wsss pseudo crf -o masks",
        "wsss pseudo cams --background power:4 -o low"]


def test_the_program_accepts_every_command():
    root = typer.main.get_command(app)
    for step in list_steps(CHAINS):
        assert check_command(shlex.split(step.command)[1:], root) == "", step.command


def test_unknown_files_are_named_by_their_digest():
    steps = list_steps([Chain("cams", "5" * 64, [INDEX, CAMS])])
    assert "--net net.safetensors" in steps[-1].command
    assert any("444444444444" in note and "--net" in note for note in steps[-1].notes)
    assert list_steps([]) == []


def test_records_of_other_programs_do_no_harm():
    steps = list_steps([Chain("x", "9" * 64, [{"stage": "nonsense", "config": [1], "inputs": None}, {"config": {}}])])
    assert [step.output for step in steps] == ["nonsense", "x"]
    assert find_fields("nonsense", "", {}) == {}
    assert list_options("cams", "cnn", {"scales": {"a": 1}, "unknown": 3, "flip": None}) == []


def test_names_in_the_graph_are_escaped():
    html = plot_steps(list_steps([Chain("<i>&", "5" * 64, [INDEX, CAMS])]), ["<i>&"])
    assert "&lt;i&gt;&amp;" in html
    assert "<i>&" not in html
    assert html.count('class="node is-run"') == 1


def test_masks_and_the_scores_beside_them_are_one_step():
    segment = {"stage": "segment", "method": "net", "config": {}, "inputs": {"index": "3" * 64, "net": "4" * 64}}
    masks = Chain("predictions", "b" * 64, [INDEX, segment, {**segment, "inputs": {"cams": "a" * 64, "net": "4" * 64}}],
                  kind="masks")
    scores = Chain("scores", "a" * 64, [INDEX, segment], kind="cams")
    later = Chain("low", "c" * 64, [INDEX, segment, {**PSEUDO, "inputs": {"cams": "a" * 64}}], kind="masks")
    for chains in ([NET, masks, scores, later], [NET, later, scores, masks]):
        steps = {step.output: step for step in list_steps(chains)}
        assert set(steps) == {"index.h5", "my net.safetensors", "index-2.h5", "predictions", "low"}
        assert steps["predictions"].command == ("wsss segment net index.h5 --net 'my net.safetensors' -o predictions "
                                                "--scores scores")
        assert steps["low"].command == "wsss pseudo scores -o low"
        assert list_steps(chains)[steps["low"].sources[0]].output == "predictions"
    # Without a digest of masks, the command still says how the scores were written.
    assert list_steps([NET, scores])[-1].command.endswith("-o predictions --scores scores")


def test_a_network_comes_after_the_masks_it_learnt():
    learnt = {"stage": "train-seg", "config": {}, "inputs": {"index": "1" * 64, "masks": "7" * 64}}
    steps = list_steps([Chain("seg.safetensors", "d" * 64, [INDEX, learnt]), *CHAINS])
    position = next(number for number, step in enumerate(steps) if step.output == "seg.safetensors")
    assert "--masks masks" in steps[position].command
    assert "masks" in [steps[source].output for source in steps[position].sources]
    assert all(source < number for number, step in enumerate(steps) for source in step.sources)


def test_what_the_settings_do_not_say_is_said_in_words():
    several = {**TRAIN, "config": {"processes": 4}}
    assert list_steps([Chain("n", "f" * 64, [INDEX, several])])[-1].command.startswith(
        "torchrun --nproc_per_node 4 -m wsss_cli train-cls cam ")
    chosen = {**PSEUDO, "config": {"background": {"rule": "constant:0.3", "chosen_on": "ground-truth"}}}
    step = list_steps([Chain("m", "f" * 64, [INDEX, CAMS, chosen])])[-1]
    assert "--background constant:0.3" in step.command
    assert "chosen on the ground truth" in step.notes[0]
    index = {**INDEX, "inputs": {"classes_of": "4" * 64}}
    assert "--classes-of 'my net.safetensors'" in list_steps([NET, Chain("i.h5", "e" * 64, [index])])[-1].command


def test_words_are_given_as_they_were_typed():
    words = {"source": "--words", "classes": [["cat"], ["grass", "lawn"]], "background": ["sky"]}
    expected = ["--words", "cat; wet grass = grass, lawn; background = sky"]
    assert list_word_options(words, ["background", "cat", "wet grass"]) == expected
    assert list_word_options({**words, "classes": [["a, b"]]})[1].startswith("a, b;")
    assert list_word_options({**words, "source": "words.txt"}) == ["--words", "words.txt"]
    assert list_word_options({**words, "source": "sclip-voc"}) == []
    assert list_word_options({"source": "--words", "classes": [[]]}) == []


def test_steps_of_another_program_have_no_command():
    steps = list_steps([Chain("x", "9" * 64, [{"stage": "pseudo", "tool": "other"}, PSEUDO])])
    assert [bool(step.command) for step in steps] == [False, True]
    assert "another program (other)" in steps[0].notes[0]
    assert plot_steps(steps, ["x"]).count("<pre") == 1


def test_a_run_of_several_shards_is_one_step():
    """Runs made from it know the digest of their own shard, not that of the whole run."""
    cams = Chain("cams", "a" * 64, [INDEX, CAMS], parts=("5" * 64, "b" * 64))
    crf = Chain("crf", "c" * 64, [INDEX, CAMS, CRF], parts=("6" * 64,))
    for chains in ([NET, cams, crf], [NET, crf, cams]):
        steps = list_steps(chains)
        assert sorted(step.output for step in steps if "index" not in step.output) == ["cams", "crf", NET.name]
        [refined] = [step for step in steps if step.output == "crf"]
        assert "wsss refine crf cams" in refined.command
