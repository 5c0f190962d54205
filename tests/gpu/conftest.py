"""Fixtures of the tests on a real GPU."""

from __future__ import annotations

from cli.conftest import every_input, tiny_dataset, tiny_index, tiny_net  # noqa: F401
