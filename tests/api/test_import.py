"""`import wsss` is light, has documented names, and says what is missing."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import wsss
from conftest import ROOT

HEAVY = ("torch", "torchvision", "timm", "h5py", "numpy", "scipy", "PIL", "safetensors", "sklearn", "pandas", "typer")


def test_import_is_light():
    code = ("import sys, wsss; wsss.stages(), wsss.cams.cnn.__doc__, wsss.pseudo; "
            f"print([name for name in {HEAVY!r} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", wsss.__all__)
def test_every_public_name_exists_and_is_documented(name):
    value = getattr(wsss, name)
    assert isinstance(value, str) or inspect.getdoc(value)
    assert name in dir(wsss)


def test_errors_are_those_of_the_stages_and_of_python():
    assert issubclass(wsss.UnknownId, KeyError) and issubclass(wsss.UnknownId, wsss.MissingInput)
    assert issubclass(wsss.UnknownSetting, TypeError) and issubclass(wsss.UnknownSetting, wsss.UsageError)
    assert issubclass(wsss.FailedImages, wsss.BadData)
    assert issubclass(wsss.MissingInput, wsss.Error)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'psuedo'"):
        wsss.psuedo  # noqa: B018
    with pytest.raises(AttributeError, match="Did you mean 'clip_es'"):
        wsss.cams.clipes  # noqa: B018
    with pytest.raises(wsss.UsageError, match=r"Call wsss\.cams\.cnn or wsss\.cams\.clip_es"):
        wsss.cams("photos.h5", output="cams")
