"""torchvision is imported without the compiler of torch, and works as if it had been imported with it."""

from __future__ import annotations

import os
import subprocess
import sys

from conftest import ROOT

SCRIPT = """
import sys
import torch
from stages.nets.torchvision_import import import_torchvision_models
models = import_torchvision_models()
assert models.get_model("squeezenet1_1", num_classes=2)(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "the compiler was imported"
from torchvision import ops
assert ops.roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0, 0, 0, 4, 4.0]]), 2).tolist() == [[[[1, 1], [1, 1]]]]
is_supported = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
import torch._dynamo
assert is_supported == torch._dynamo.utils.is_compile_supported("cpu")
assert import_torchvision_models() is models
"""


def test_torchvision_is_imported_without_the_compiler() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_anything_else_of_the_postponed_module_imports_it(monkeypatch) -> None:
    from stages.nets import torchvision_import

    imported = []
    monkeypatch.setattr(torchvision_import, "_import_real_module", lambda: imported.append(1) or os)
    postponed = torchvision_import._PostponedModule("name")
    assert imported == []
    assert postponed.sep == os.sep
    assert imported == [1]
    assert not hasattr(postponed, "__wrapped__")
