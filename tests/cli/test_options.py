"""Options are built from the fields of a Config, and a recipe fills in what the command line leaves out."""

from __future__ import annotations

import dataclasses
import json

import pytest
import typer

from cli.runner import check_error, run, run_ok
from stages.cams.config import CnnConfig
from stages.check.config import CheckConfig
from stages.cooc.config import CoocConfig
from stages.errors import UsageError
from stages.eval.config import EvalConfig
from stages.export.config import CocoConfig, LabelStudioConfig, PngConfig
from stages.export.config import VocConfig as ExportVocConfig
from stages.import_.config import CamsConfig as ImportCamsConfig
from stages.import_.config import CocoConfig as ImportCocoConfig
from stages.import_.config import MasksConfig, RegionsConfig
from stages.index.config import (
    FiftyoneConfig,
    FolderConfig,
    ShapesConfig,
    SplitConfig,
    TableConfig,
    VocConfig,
    YoloConfig,
)
from stages.info.config import InfoConfig
from stages.pseudo.config import PseudoConfig
from stages.refine.config import CrfConfig
from stages.segment.config import GroundedConfig, NetConfig
from stages.settings import option_name, setting, validate_config
from stages.show.config import ShowConfig
from stages.train_cls.config import CamConfig, CsdCamConfig, CsdMctformerConfig
from stages.train_seg.config import SegConfig
from wsss_cli.app import app
from wsss_cli.options import ConfigVariants, build_config, build_config_options

COMMANDS = {
    "index voc": VocConfig, "index table": TableConfig, "index coco": ShapesConfig, "index folder": FolderConfig,
    "index yolo": YoloConfig, "index cvat": ShapesConfig, "index fiftyone": FiftyoneConfig,
    "index split": SplitConfig, "cooc": CoocConfig,
    "train-cls cam": CamConfig, "cams cnn": CnnConfig, "refine crf": CrfConfig, "pseudo": PseudoConfig,
    "train-seg": SegConfig, "segment net": NetConfig, "segment code": GroundedConfig,
    "import masks": MasksConfig, "import cams": ImportCamsConfig, "import coco": ImportCocoConfig,
    "import regions": RegionsConfig, "eval": EvalConfig, "info": InfoConfig, "check": CheckConfig,
    "show": ShowConfig, "export png": PngConfig, "export voc": ExportVocConfig,
    "export coco": CocoConfig, "export labelstudio": LabelStudioConfig}


def command_of(name: str):
    """Return the command as the parser knows it."""
    found = typer.main.get_command(app)
    for word in name.split():
        found = found.commands[word]
    return found


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_field_is_an_option_with_its_default_and_nothing_is_typed_twice(name):
    config = COMMANDS[name]
    parameters = {one.name: one for one in command_of(name).params}
    for field in dataclasses.fields(config):
        option = parameters[field.name]
        assert option_name(field.name) in option.opts
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        assert option.default == default, field.name
        assert field.metadata["help"].split(".")[0] in option.help
        assert not field.metadata["source"] or field.metadata["source"] in option.help
    spelled = [spelling for one in parameters.values() for spelling in (*one.opts, *one.secondary_opts)]
    assert len(spelled) == len(set(spelled))


@pytest.mark.parametrize("config", sorted(set(COMMANDS.values()), key=lambda one: (one.__module__, one.__name__)),
                         ids=lambda one: f"{one.__module__}.{one.__name__}")
def test_the_defaults_of_the_options_are_the_defaults_of_the_config(config):
    defaults = {name: default for name, (_, default) in build_config_options(config).items()}
    assert build_config(config, defaults) == config()
    assert validate_config(config()) == config()


@dataclasses.dataclass(frozen=True)
class Example:
    """One field of each type."""

    share: float = setting(0.5, "A share.", low=0, high=1)
    size: int = setting(3, "A size.", low=1)
    width: float | None = setting(None, "A width.", low=0.1)
    scales: tuple[float, ...] = setting((0.5, 1.0), "Scales.", low=0.1)
    sides: tuple[int, ...] = setting((), "Sides.")
    between: tuple[float, ...] = setting((0.0, 1.0), "A range.", lengths=(0, 2), ascending=True)
    way: str = setting("left", "A way.", choices=("left", "right"))
    flip: bool = setting(True, "Flip.")


def built(**given: object) -> Example:
    defaults = {name: default for name, (_, default) in build_config_options(Example).items()}
    return build_config(Example, {**defaults, **given})


@pytest.mark.parametrize(("text", "values"), [
    ("0.5,1,2", (0.5, 1.0, 2.0)), ("1", (1.0,)), ("", ()), (" 1 , 2 ", (1.0, 2.0)), ((0.5, 2), (0.5, 2.0)),
    ([1], (1.0,))])
def test_comma_lists(text, values):
    scales = built(scales=text).scales
    assert scales == values
    assert all(isinstance(one, float) for one in scales)


@pytest.mark.parametrize(("name", "text"), [("scales", "1;2"), ("scales", "one"), ("sides", "1.5")])
def test_what_is_no_comma_list_of_numbers(name, text):
    with pytest.raises(UsageError, match=f"--{name} {text}"):
        built(**{name: text})


def test_none_stays_none_and_a_value_is_one():
    assert built().width is None
    assert built(width=0.5).width == 0.5


@pytest.mark.parametrize(("given", "told"), [
    ({"share": 1.5}, "--share 1.5 .* from 0 to 1"), ({"share": float("nan")}, "--share nan"),
    ({"size": 0}, "--size 0 .* 1 or more"), ({"scales": "1,0.01"}, "--scales 0.01"), ({"width": 0.0}, "--width 0.0"),
    ({"way": "up"}, "--way 'up' .* left, right"), ({"between": "1"}, "--between takes 2 numbers or none, not 1"),
    ({"between": "1,2,3"}, "not 3"), ({"between": "2,1"}, "--between 2.0,1.0 is not a range. Give the smaller")])
def test_values_out_of_range(given, told):
    with pytest.raises(UsageError, match=told):
        validate_config(built(**given))


BASES = ConfigVariants("base", {"cam": CsdCamConfig, "mctformer": CsdMctformerConfig})


def test_variants_have_the_options_of_all_and_the_defaults_of_the_chosen_one():
    options = build_config_options(BASES)
    for base, config in BASES.configs.items():
        assert {field.name for field in dataclasses.fields(config)} <= set(options)
        defaults = {name: default for name, (_, default) in options.items()}
        assert build_config(BASES, {**defaults, "base": base}) == config() == validate_config(config())
        given = build_config(BASES, {**defaults, "base": base, "epochs": 3, "crop_area": "0.5,1", "colour_jitter": ""})
        assert given == dataclasses.replace(config(), epochs=3, crop_area=(0.5, 1.0), colour_jitter=())
    told = {one.name: one for one in command_of("train-cls csd").params}
    assert "cam: 8; mctformer: 60 (MCTformer" in told["epochs"].help and told["epochs"].default is None
    assert "cam: none (DeiT: 0.08,1); mctformer: 0.08,1.0 (DeiT)" in told["crop_area"].help
    assert told["lambda_fg"].default == 0.01 and "CSD: lambda_1" in told["lambda_fg"].help


@pytest.mark.parametrize(("given", "told"), [
    ({}, "--base is missing.*one of cam, mctformer"), ({"base": "irn"}, "--base 'irn' is not one of cam"),
    ({"base": "mctformer", "dropout": 0.0}, "--dropout has no effect with --base mctformer")])
def test_variants_that_can_not_be_chosen_so(given, told):
    defaults = {name: default for name, (_, default) in build_config_options(BASES).items()}
    with pytest.raises(UsageError, match=told):
        build_config(BASES, {**defaults, **given})


@pytest.fixture
def provenance(tiny_index, tiny_net, tmp_path):
    """Return a function: the settings that `cams cnn` recorded under some options."""

    def recorded(*options: object) -> dict:
        output = tmp_path / f"cams{len(list(tmp_path.iterdir()))}"
        run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "-o", output, "--device", "cpu", *options)
        return json.loads(good_json("info", output))[0]["provenance"][-1]["config"]

    return recorded


def good_json(*args: object) -> str:
    return "\n".join(run_ok(*args, "--json"))


def test_a_recipe_fills_in_what_the_command_line_leaves_out(provenance, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[cams.cnn]\nscales = [1.0, 0.5]\nflip = false\ngrid-stride = 8\ntags = "all"\n'
                      '[cams.other]\nfoo = 1\n[pseudo]\nbackground = "power:2"\n')
    config = provenance("--config", recipe, "--grid-stride", "2", "--tags", "index")
    assert (config["scales"], config["flip"]) == ([1.0, 0.5], False)
    assert (config["grid_stride"], config["tags"]) == (2, "index"), "the command line wins, also with the default"


def test_the_same_by_recipe_and_by_options(provenance, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[cams.cnn]\nscales = [1]\nflip = false\n")
    assert provenance("--config", recipe) == provenance("--scales", "1", "--no-flip")


@pytest.mark.parametrize(("text", "code", "told"), [
    ("[cams.cnn]\nscale = 1\n", 2, ("[cams.cnn]", "'scale'")),
    ("[cams.cnn]\nscales = [9]\n", 2, ("--scales 9",)),
    ("[cams.cnn]\nscales = ['x']\n", 2, ("--scales",)),
    ("[cams.cnn]\nscales = true\n", 2, ("scales",)),
    ("[cams.cnn]\nflip = 'no'\n", 2, ("flip",)),
    ("[cams.cnn]\nbatch-size = 'two'\n", 2, ("batch",)),
    ("[cams.cnn]\nbatch-size = 1.5\n", 2, ("batch",)),
    ("[cams]\ncnn = 3\n", 2, ("cams",)),
    ("cams = 3\n", 2, ("cams",)),
    ("[cams.cnn\n", 65, ("TOML",)),
    (None, 66, ("recipe.toml",))], ids=str)
def test_recipes_that_can_not_be_meant_so(tiny_index, tiny_net, tmp_path, text, code, told):
    recipe = tmp_path / "recipe.toml"
    if text is not None:
        recipe.write_text(text)
    done = run("cams", "cnn", tiny_index, "--net", tiny_net, "-o", tmp_path / "cams", "--config", recipe)
    check_error(done, code, *told)
    assert not (tmp_path / "cams").exists()


def test_a_recipe_without_a_section_for_the_stage(provenance, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("")
    assert provenance("--config", recipe, "--scales", "1") == provenance("--scales", "1")


def test_a_recipe_without_a_section_for_the_stage_is_a_warning(tiny_index, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[train-cls.cam]\nlr = 0.1\n")
    for method, told in (("cam", False), ("mixup", True)):
        done = run("train-cls", method, tiny_index, "-n", "--config", recipe, "-o", tmp_path / "x.safetensors")
        assert done.code == 0
        assert (f"{recipe} has no section [train-cls.mixup]" in done.err) == told
