"""Every recipe in examples/recipes loads for the commands that it has sections for, and says what it claims."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from stages import STAGES
from stages.settings import checked
from wsss_cli.options import build_config, config_options
from wsss_cli.recipe import section

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


def config_of(command: str) -> type:
    """Return the settings class of a command."""
    folder, name = CONFIGS[command]
    return getattr(importlib.import_module(f"stages.{folder}.config"), name)


def commands_of(recipe: Path) -> list[str]:
    """Return the commands that a recipe has sections for, as `train-cls cam`."""
    found = []
    for stage, settings in tomllib.loads(recipe.read_text(encoding="utf-8")).items():
        methods = [name for name, value in settings.items() if isinstance(value, dict)]
        found += [f"{stage} {method}" for method in methods] or [stage]
    return found


def loaded(recipe: Path, command: str):
    """Return the settings of a command under a recipe, everything else at its default."""
    config = config_of(command)
    defaults = {name: default for name, (_, default) in config_options(config).items()}
    return checked(build_config(config, {**defaults, **section(str(recipe), command, set(defaults))}))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_section_is_of_a_command_and_loads(recipe):
    commands = commands_of(recipe)
    assert commands
    for command in commands:
        assert command.split()[0] in {stage.name for stage in STAGES}
        given = section(str(recipe), command, set(config_options(config_of(command))))
        assert given, f"[{command}] is empty"
        settings = loaded(recipe, command)
        for name, value in given.items():
            found = getattr(settings, name)
            assert found == (tuple(value) if isinstance(value, list) else value), name
            # 1 and 1.0 are different settings in the provenance, so a recipe spells a number as the option would.
            default = getattr(config_of(command)(), name)
            assert default is None or type(found) is type(default), f"{command}: {name} = {value!r}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_networks_of_a_recipe_are_known(recipe):
    from stages.nets.registry import resolve
    for command in commands_of(recipe):
        settings = loaded(recipe, command)
        if hasattr(settings, "net"):
            source, name = resolve(settings.net)
            assert f"{source}:{name}" == settings.net


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_the_commands_in_its_head_name_it(recipe):
    commands = re.findall(r"^#   wsss (.*)$", recipe.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [line for line in commands if f"--config {recipe.name}" not in line] == []
    shown = {name for line in commands for name in CONFIGS if line.startswith(name)}
    assert shown == set(commands_of(recipe))


@pytest.mark.parametrize(("method", "decay"), [("psa", 5e-4), ("irn", 1e-4)])
def test_as_released_differs_in_the_momentum_alone(method, decay):
    meant, released = FOLDER / f"{method}.toml", FOLDER / f"{method}-as-released.toml"
    first, second = (tomllib.loads(path.read_text(encoding="utf-8")) for path in (meant, released))
    for stage, name in (("train-cls", "cam"), ("train-aff", method)):
        if stage in first:
            assert first[stage][name].pop("momentum") == 0.9
            assert second[stage][name].pop("momentum") == decay == second[stage][name]["weight_decay"]
    assert first == second
