"""Imports torchvision without torch._dynamo, which takes ten times as long to import as the rest of torchvision."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo.utils"


class _PostponedModule(ModuleType):
    """Stands for torch._dynamo.utils during an import, and imports it as soon as anything of it is used."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        """Call the function of this name, which torchvision (0.29) imports by name for its `roi_align`."""
        return _import_real_module().is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the real module."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_import_real_module(), name)


def _import_real_module() -> Any:
    """Import torch._dynamo.utils, in place of the module that stands for it."""
    if isinstance(sys.modules.get(_NAME), _PostponedModule):
        del sys.modules[_NAME]
    return importlib.import_module(_NAME)


@contextmanager
def _postpone_dynamo() -> Iterator[None]:
    postponed = _PostponedModule(_NAME)
    if "torch._dynamo" not in sys.modules:
        sys.modules[_NAME] = postponed
    try:
        yield
    finally:
        if sys.modules.get(_NAME) is postponed:
            del sys.modules[_NAME]


def import_torchvision_models() -> Any:
    """Return the module torchvision.models.

    On two busy cores, importing torch took 2.7 s of processor time, torch._dynamo another 2.5 s, and the rest of
    torchvision 0.2 s. Only `torch.compile` needs torch._dynamo, and imports it by itself.
    """
    with _postpone_dynamo():
        return importlib.import_module("torchvision.models")
