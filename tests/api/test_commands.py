"""Every command is a function with the settings, defaults and results of the command."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle

import pytest
import typer

import wsss
from cli.every_command import list_commands
from cli.runner import run_ok
from wsss_api.commands import COMMANDS, load_configs
from wsss_cli.app import app

PROGRAM = list_commands(typer.main.get_command(app))
# What only a terminal needs.
TERMINAL_OPTIONS = {"paths", "config_file", "quiet", "verbose", "debug", "json", "null", "format", "per_class"}


def test_every_command_is_a_function():
    assert list(wsss.stages()) == list(COMMANDS)
    assert set(COMMANDS) == {name for name in PROGRAM if name != "help"}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_table_says_what_the_program_says(command):
    program = PROGRAM[command.name]
    parameters = {parameter.name: parameter for parameter in program.params}
    settings = {field.name for config in load_configs(command).values() for field in dataclasses.fields(config)}
    assert program.short_help == command.summary
    assert (parameters["paths"].metavar or "") == command.inputs
    named = settings | {*command.required, *command.optional, *command.options}
    assert set(parameters) - (TERMINAL_OPTIONS - settings) == named
    required = {name for name, parameter in parameters.items() if parameter.required} - {"paths", "output"}
    assert required == set(command.required)
    for config in load_configs(command).values():
        for field in dataclasses.fields(config):
            default = parameters[field.name].default
            if not command.has_variants and not isinstance(field.default, tuple):
                assert default == field.default, field.name


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_functions_have_signatures_and_documentation(command):
    function = wsss
    for part in command.function_name.split("."):
        function = getattr(function, part)
    parameters = inspect.signature(function).parameters
    assert function.__doc__.startswith(command.summary)
    for name in (*command.required, *command.optional, *command.options, "report"):
        assert name in parameters and name in function.__doc__


def test_functions_write_the_bytes_of_the_commands(inside):
    messages: list[str] = []
    result = wsss.cams.cnn("train.h5", net="cam.safetensors", scales=(1, 0.5), device="cpu", shard_size=3,
                           allow_errors=1, output="from-python", report=messages.append)
    assert [path.read_bytes() for path in result.paths] == [
        path.read_bytes() for path in sorted((inside / "cams").glob("*.h5"))]
    assert len(result.paths) == 3
    assert (result.num_images, result.num_failed, result.num_written, result.num_up_to_date) == (8, 1, 3, 0)
    assert messages == list(result.messages) and "1 of 2 images failed" in messages[-1]
    again = wsss.run("cams cnn", "train.h5", net=wsss.load_net("cam.safetensors"), scales="1,0.5", device="cpu",
                     shard_size=3, allow_errors="20%", output="from-python")
    assert again.num_up_to_date == 3 and again.paths == result.paths


def test_a_result_is_the_input_of_the_next_function(inside, tmp_path):
    cams = wsss.cams.cnn(wsss.open_run("train.h5"), net="cam.safetensors", scales=[1.0], device="cpu", allow_errors=1,
                         output=tmp_path / "cams")
    masks = wsss.pseudo(cams, allow_errors=1, output=tmp_path / "masks")
    assert len(masks.open()) == 7
    again = wsss.pseudo(cams, allow_errors=1, jobs=2, output=tmp_path / "more" / "masks.h5")
    assert again.path == tmp_path / "more" / "masks.h5" and again.open().kind == "masks"
    net = wsss.train_seg("train.h5", masks=masks, net="wsss:tiny", crop_size=32, epochs=1, batch_size=4, threads=1,
                         device="cpu", output=tmp_path / "seg.safetensors")
    assert wsss.load_net(net.path).task == "segmentation"


def test_values_are_what_commands_print_as_json(inside, tmp_path):
    assert wsss.eval("masks").value == json.loads("\n".join(run_ok("eval", "masks", "--json")))
    assert wsss.info("cam.safetensors").value == json.loads("\n".join(run_ok("info", "cam.safetensors", "--json")))
    assert wsss.log("cam.safetensors", "cams").value == json.loads(
        "\n".join(run_ok("log", "cam.safetensors", "cams", "--format", "json")))
    counts = wsss.cooc("train.h5", output=tmp_path / "cooc.h5")
    printed = run_ok("cooc", "train.h5", "-o", tmp_path / "again.h5", "--json")
    assert counts.value == json.loads("\n".join(printed))
    assert wsss.check("masks").value == {line.split("\t")[0]: line.split("\t")[1] for line in run_ok("check", "masks")}
    result = wsss.eval("masks", output=tmp_path / "eval.json")
    assert json.loads(result.path.read_text()) == result.value


def test_runs_are_compared(inside, tmp_path):
    compared = wsss.eval(wsss.open_run("masks"), "CAM=cams", per_image=tmp_path / "images.csv", draws=100)
    assert [run["name"] for run in compared.value["runs"]] == ["masks", "CAM"]
    assert compared.value["differences"][0]["conclusion"] in compared.messages
    assert (tmp_path / "images.csv").read_text().startswith("id,masks,CAM,CAM - masks,")


def test_photographs_need_no_output(inside, tmp_path, photo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = wsss.cams.cnn(photo, net=inside / "cam.safetensors", scales=1, device="cpu")
    assert result.path.name == "cams" and (tmp_path / "cams" / "turned.png").exists()
    with pytest.raises(wsss.UsageError, match=r"cams cnn: output is missing\. Pass output="):
        wsss.cams.cnn(inside / "train.h5", net=inside / "cam.safetensors")


def test_failed_images_are_an_error_with_the_result(inside, tmp_path):
    with pytest.raises(wsss.FailedImages, match=r"pseudo: 1 of 8 images failed\. .*allow_errors") as raised:
        wsss.pseudo("cams", output=tmp_path / "masks")
    assert list(raised.value.result.open().errors) == ["picture_007"]
    assert raised.value.code == 65
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_wrong_names_and_values(inside, tmp_path):
    for message, settings in (("cams cnn has no setting 'scale'. Did you mean 'scales'?", {"scale": (1,)}),
                              ("scales='x' is not a number", {"scales": "x"}),
                              ("flip=1 is not True or False", {"flip": 1}),
                              ("--max-side 8 is out of range", {"max_side": 8}),
                              ("root is empty", {"root": " "})):
        with pytest.raises(wsss.UsageError) as raised:
            wsss.cams.cnn("train.h5", net="cam.safetensors", output=tmp_path / "cams", **settings)
        assert message in str(raised.value)
    with pytest.raises(wsss.UnknownSetting):
        wsss.run("pseudo", "cams", output=tmp_path / "masks", net="cam.safetensors")
    with pytest.raises(wsss.UsageError, match="Did you mean 'cams cnn'"):
        wsss.run("cams cn", "train.h5")
    with pytest.raises(wsss.UsageError, match="Use cams cnn or cams clip-es"):
        wsss.run("cams", "train.h5")
    with pytest.raises(wsss.UsageError, match="base is missing; choose one of cam, mctformer"):
        wsss.train_cls.csd("train.h5", masks="masks", output=tmp_path / "net.safetensors")
    with pytest.raises(wsss.UsageError, match="net is missing"):
        wsss.cams.cnn("train.h5", output=tmp_path / "cams")
    with pytest.raises(wsss.MissingInput, match=r"gone\.h5: does not exist"):
        wsss.pseudo("gone.h5", output=tmp_path / "masks")
    with pytest.raises(wsss.CannotCreate, match="different settings"):
        wsss.pseudo("cams", output="masks", background="constant:0.4")


def test_the_threads_of_torch_are_left_alone(inside, tmp_path):
    import torch
    torch.set_num_threads(2)
    wsss.cams.cnn("train.h5", net="cam.safetensors", scales=1, allow_errors=1, output=tmp_path / "cams")
    assert torch.get_num_threads() == 2


def test_a_report_receives_progress(inside, tmp_path):
    class Counting(wsss.SilentReport):
        num_images = 0

        def advance(self, count: int = 1, *, resumed: bool = False) -> None:
            self.num_images += count

    report = Counting()
    wsss.pseudo("cams", output=tmp_path / "masks", allow_errors=1, report=report)
    assert report.num_images == 8
