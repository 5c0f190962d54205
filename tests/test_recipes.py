"""Every recipe in examples/recipes can be loaded for the commands of its sections, and documents them."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from stages import STAGES
from stages.settings import validate_config
from wsss_cli.options import build_config, build_config_options
from wsss_cli.recipe import read_section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "recipes"
RECIPES = sorted(FOLDER.glob("*.toml"))
CONFIGS = {"train-cls cam": ("train_cls", "CamConfig"), "cams cnn": ("cams", "CnnConfig"),
           "train-cls subcategory": ("train_cls", "SubcategoryConfig"), "features": ("features", "FeaturesConfig"),
           "cluster kmeans": ("cluster", "KmeansConfig"),
           "train-aff psa": ("train_aff", "PsaConfig"), "refine psa": ("refine", "PsaConfig"),
           "train-cls mctformer": ("train_cls", "MctformerConfig"), "cams mctformer": ("cams", "MctformerConfig"),
           "train-aff irn": ("train_aff", "IrnConfig"), "refine irn": ("refine", "IrnConfig"),
           "refine crf": ("refine", "CrfConfig"), "pseudo": ("pseudo", "PseudoConfig"),
           "train-seg": ("train_seg", "SegConfig"), "segment net": ("segment", "NetConfig"),
           "train-text code": ("train_text", "CodeConfig")}


def get_config_class(command: str) -> type:
    """Return the settings class of a command."""
    folder, name = CONFIGS[command]
    return getattr(importlib.import_module(f"stages.{folder}.config"), name)


def list_commands(recipe: Path) -> list[str]:
    """Return the commands of a recipe's sections, for example `train-cls cam`."""
    commands = []
    for stage, settings in tomllib.loads(recipe.read_text(encoding="utf-8")).items():
        methods = [name for name, value in settings.items() if isinstance(value, dict)]
        commands += [f"{stage} {method}" for method in methods] or [stage]
    return commands


def load_settings(recipe: Path, command: str):
    """Return the settings of a command with a recipe, and defaults for the others."""
    config = get_config_class(command)
    defaults = {name: default for name, (_, default) in build_config_options(config).items()}
    return validate_config(build_config(config, {**defaults, **read_section(str(recipe), command, set(defaults))}))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_section_loads(recipe):
    commands = list_commands(recipe)
    assert commands
    for command in commands:
        assert command.split()[0] in {stage.name for stage in STAGES}
        section = read_section(str(recipe), command, set(build_config_options(get_config_class(command))))
        assert section, f"[{command}] is empty"
        settings = load_settings(recipe, command)
        for name, value in section.items():
            loaded_value = getattr(settings, name)
            assert loaded_value == (tuple(value) if isinstance(value, list) else value), name
            # 1 and 1.0 are different in the provenance, so recipes must use the type of the default.
            default = getattr(get_config_class(command)(), name)
            assert default is None or type(loaded_value) is type(default), f"{command}: {name} = {value!r}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_networks_of_recipes_exist(recipe):
    from stages.nets.registry import resolve_backbone_name
    for command in list_commands(recipe):
        settings = load_settings(recipe, command)
        if hasattr(settings, "net"):
            source, name = resolve_backbone_name(settings.net)
            assert f"{source}:{name}" == settings.net


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_commands_in_the_comments_use_the_recipe(recipe):
    commands = re.findall(r"^#   wsss (.*)$", recipe.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [line for line in commands if f"--config {recipe.name}" not in line] == []
    documented = {name for line in commands for name in CONFIGS if line.startswith(name)}
    assert documented == set(list_commands(recipe))


@pytest.mark.parametrize(("method", "decay"), [("psa", 5e-4), ("irn", 1e-4)])
def test_as_released_differs_only_in_the_momentum(method, decay):
    published, released = FOLDER / f"{method}.toml", FOLDER / f"{method}-as-released.toml"
    first, second = (tomllib.loads(path.read_text(encoding="utf-8")) for path in (published, released))
    for stage, name in (("train-cls", "cam"), ("train-aff", method)):
        if stage in first:
            assert first[stage][name].pop("momentum") == 0.9
            assert second[stage][name].pop("momentum") == decay == second[stage][name]["weight_decay"]
    assert first == second
