"""The rules of tests/layers.py hold for the project, and each detects a violation."""

from __future__ import annotations

from pathlib import Path

import pytest

import layers

ROOT = Path(__file__).resolve().parent.parent
LIBRARY_SOURCES = layers.read_project(ROOT)
ALL_SOURCES = layers.read_project(ROOT, ("stages", "wsss_cli", "wsss_api", "tests", "examples"))

# A project without violations, to detect rules that are too strict.
CLEAN = {
    "wsss_cli/__init__.py": "",
    "wsss_cli/cams.py": (
        "import sys\nimport typer\nfrom rich.console import Console\nfrom stages import STAGES\n"
        "from stages.errors import UsageError\nfrom stages.settings import checked\nfrom wsss_cli import options\n"
        "from stages.cams.config import Cnn\nfrom stages.flow.execution import Stop\n"
        "def command():\n    from stages.cams.stage import run\n    return run\n"),
    "wsss_cli/options.py": "",
    "stages/__init__.py": "STAGES = ()\n",
    "stages/cams/__init__.py": "",
    "stages/cams/config.py": (
        "from dataclasses import dataclass\nfrom stages.settings import setting\n"
        "from stages.training.config import Training\n"),
    "stages/cams/stage.py": (
        "import torch\nfrom stages.shards import reader\nfrom stages.flow import map\nfrom . import cnn\n"
        "from stages.cams.registry import METHODS\nfrom ..nets import load\n"),
    "stages/cams/cnn.py": "import torch\nfrom stages.kernels import walk\nfrom stages.nets import load\n",
    "stages/refine/config.py": "",
    "stages/refine/stage.py": "from stages.shards import reader\n",
    "stages/shards/reader.py": "import h5py\n",
    "stages/kernels/walk.py": (
        "import math\nimport numpy as np\nfrom scipy import sparse\nimport torch.nn.functional as F\n"
        "from stages.kernels import grid\ndef f():\n    import pydensecrf.densecrf\n"),
    "stages/nets/__init__.py": "import torch\nfrom stages.nets import registry\n",
    "stages/data/images.py": "from PIL import Image\nfrom stages.shards import reader\n",
    "stages/training/config.py": "from stages.settings import setting\n",
    "stages/training/loop.py": "from stages.data import images\nfrom stages.shards import reader\n",
    "wsss.py": (
        "import os\nfrom stages import VERSION\nfrom stages.errors import WsssError\n"
        "from stages.flow.execution import Report\nfrom wsss_api.commands import COMMANDS\n"
        "def f():\n    from wsss_api.runs import Run\n    import numpy\n"),
    "wsss_api/runs.py": (
        "import numpy as np\nimport torch\nfrom stages.cams.stage import build\nfrom stages.shards import reader\n"
        "from wsss_api.commands import COMMANDS\ndef f():\n    import pandas\n"),
}
LONG_FUNCTION = "def f():\n" + "    pass\n" * layers.MAX_FUNCTION_LINES

# (rule, file, source, line of the violation)
PLANTED = [
    (layers.check_command_line_imports, "wsss_cli/a.py", "import os\nimport torch\n", 2),
    (layers.check_command_line_imports, "wsss_cli/a.py", "from stages.cams.stage import run\n", 1),
    (layers.check_command_line_imports, "wsss_cli/a.py", "from stages.cams import stage\n", 1),
    (layers.check_command_line_imports, "wsss_cli/a.py", "from stages import shards\n", 1),
    (layers.check_command_line_imports, "wsss_cli/a.py", "def f():\n    from stages.cams.cnn import maps\n", 2),
    (layers.check_command_line_imports, "wsss_cli/a.py", "def f():\n    from stages.training import loop\n", 2),
    (layers.check_command_line_imports, "wsss_cli/a.py", "def f():\n    from ..stages.shards import reader\n", 2),
    (layers.check_command_line_imports, "wsss_cli/a.py", "from stages.flow import map\n", 1),
    (layers.check_command_line_arithmetic, "wsss_cli/a.py", "def f():\n    import numpy as np\n", 2),
    (layers.check_command_line_arithmetic, "wsss_cli/a.py", "import math\n", 1),
    (layers.check_command_line_arithmetic, "wsss_cli/a.py", "import importlib\nm = importlib.import_module('torch')\n",
     2),
    (layers.check_stage_isolation, "stages/refine/crf.py", "from stages.cams.cnn import maps\n", 1),
    (layers.check_stage_isolation, "stages/refine/crf.py", "def f():\n    from stages import cams\n", 2),
    (layers.check_stage_isolation, "stages/refine/crf.py", "from ..cams import cnn\n", 1),
    (layers.check_stage_isolation, "stages/refine/crf.py", "\nm = __import__('stages.cams.cnn')\n", 2),
    (layers.check_stage_isolation, "stages/training/a.py", "from stages.cams.config import Cnn\n", 1),
    (layers.check_stage_isolation, "stages/flow/a.py", "import wsss_cli\n", 1),
    (layers.check_h5py_imports, "stages/cams/stage.py", "import h5py\n", 1),
    (layers.check_h5py_imports, "stages/data/a.py", "def f():\n    from h5py import File\n", 2),
    (layers.check_kernel_imports, "stages/kernels/a.py", "from stages.data import images\n", 1),
    (layers.check_kernel_imports, "stages/kernels/a.py", "import timm\n", 1),
    (layers.check_kernel_imports, "stages/kernels/a.py", "import pydensecrf\n", 1),
    (layers.check_method_imports, "stages/cams/cnn.py", "import torch\nfrom stages.shards import reader\n", 2),
    (layers.check_method_imports, "stages/cams/cnn.py", "from stages import flow\n", 1),
    (layers.check_config_imports, "stages/cams/config.py", "import numpy\n", 1),
    (layers.check_config_imports, "stages/cams/config.py", "from stages.nets import NAMES\n", 1),
    (layers.check_net_and_data_imports, "stages/nets/a.py", "from stages.data import images\n", 1),
    (layers.check_net_and_data_imports, "stages/nets/a.py", "def f():\n    import stages.shards.reader\n", 2),
    (layers.check_net_and_data_imports, "stages/data/a.py", "from stages.flow import map\n", 1),
    (layers.check_python_interface, "wsss.py", "import numpy\n", 1),
    (layers.check_python_interface, "wsss.py", "import os\nfrom stages.cams.stage import build\n", 2),
    (layers.check_python_interface, "wsss_api/a.py", "from wsss_cli import options\n", 1),
    (layers.check_python_interface, "wsss_api/a.py", "import wsss\n", 1),
    (layers.check_python_interface, "wsss_api/a.py", "import pandas\n", 1),
    (layers.check_python_interface, "stages/cams/a.py", "from wsss_api.runs import Run\n", 1),
    (layers.check_file_lengths, "stages/cams/a.py", "\n" * (layers.MAX_FILE_LINES + 1), layers.MAX_FILE_LINES + 1),
    (layers.check_function_lengths, "stages/cams/a.py", "\n" + LONG_FUNCTION, 2),
    (layers.check_module_names, "stages/cams/utils.py", "", 1),
    (layers.check_module_names, "stages/helpers/walk.py", "", 1),
]


@pytest.mark.parametrize("rule", layers.IMPORT_RULES, ids=lambda rule: rule.__name__)
def test_project_follows_import_rules(rule):
    assert LIBRARY_SOURCES
    violations = rule(LIBRARY_SOURCES)
    assert not violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize("rule", layers.SHAPE_RULES, ids=lambda rule: rule.__name__)
def test_project_follows_shape_rules(rule):
    violations = rule(ALL_SOURCES)
    assert not violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize("rule", layers.IMPORT_RULES + layers.SHAPE_RULES, ids=lambda rule: rule.__name__)
def test_rules_accept_a_clean_project(rule):
    assert rule(CLEAN) == []


@pytest.mark.parametrize(("rule", "path", "source", "line"), PLANTED)
def test_rules_detect_planted_violations(rule, path, source, line):
    violations = rule({**CLEAN, path: source})
    assert len(violations) == 1
    assert violations[0].startswith(f"{path}:{line}: ")


def test_every_rule_has_a_planted_violation():
    assert {rule for rule, *_ in PLANTED} == set(layers.IMPORT_RULES + layers.SHAPE_RULES)


def test_light_modules_of_the_flow_are_light():
    """Top-level imports of wsss_cli must not import torch, because `wsss --help` must take at most 0.4 s."""
    for module in layers.LIGHT_MODULES:
        path = module.replace(".", "/") + ".py"
        if path in LIBRARY_SOURCES:
            heavy_imports = [imported.location for imported in layers.find_imports(path, LIBRARY_SOURCES[path])
                             if not imported.is_late and imported.top_level in layers.ARITHMETIC - {"math"}]
            assert not heavy_imports
