"""A Chromium for the tests of the page: the one of the machine, or that which --install-browser installs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.chromium import Browser, find_chromium


@pytest.fixture(scope="session")
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Return a running browser, or skip the test with the reason."""
    executable = find_chromium()
    if executable is None:
        if os.environ.get("WSSS_INSTALL_BROWSER") != "1":
            pytest.skip("Chromium is missing; `make test-browser` installs it as root (Debian)")
        install_chromium()
        executable = find_chromium()
    driven = Browser(str(executable), Path(tmp_path_factory.mktemp("chromium")))
    yield driven
    driven.close()


def install_chromium() -> None:
    """Install Debian's Chromium, or skip the test with the reason."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("Chromium can't be installed: that needs root and apt-get install chromium")
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "-y", "chromium"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if done.returncode:
            pytest.skip(f"Chromium can't be installed: {(done.stderr.strip() or 'apt-get failed').splitlines()[-1]}")
