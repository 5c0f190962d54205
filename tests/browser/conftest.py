"""A Chromium for the tests of the page: the one of the machine, or that which --install-browser installs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.chromium import Browser, find_chromium
from browser.pages import create_page, open_page


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


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of `create_page`. Tests must not change it."""
    return create_page(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="session")
def page(page_file: Path) -> str:
    """Return the address of the page of `create_page`."""
    return page_file.as_uri()


@pytest.fixture
def opened(browser: Browser, page: str):
    """Return the browser with the page open; afterwards there was no error and no request."""
    browser.problems.clear()
    open_page(browser, page)
    yield browser
    assert browser.problems == []


def install_chromium() -> None:
    """Install Debian's Chromium, or skip the test with the reason."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("Chromium can't be installed: that needs root and apt-get install chromium")
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-qq", "-y", "chromium"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if done.returncode:
            pytest.skip(f"Chromium can't be installed: {(done.stderr.strip() or 'apt-get failed').splitlines()[-1]}")
