"""Values of options are converted as typer converts them, with or without pydantic."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from wsss_cli.help_pages import Command

Words = Annotated[list[str], typer.Argument()]
Count = Annotated[int, typer.Option("-n", "--count", min=0, max=99)]
Rate = Annotated[float, typer.Option("--rate")]
Limit = Annotated[float | None, typer.Option("--limit", min=0.5)]
Fast = Annotated[bool | None, typer.Option("--fast/--no-fast")]
Loud = Annotated[int, typer.Option("-v", count=True)]
Name = Annotated[str, typer.Option("--name", envvar="WSSS_TEST_NAME")]


def print_values(words: Words, count: Count = 3, rate: Rate = 1, limit: Limit = None, fast: Fast = None,
                 loud: Loud = 0, name: Name = "") -> None:
    """Print the values as Python writes them."""
    print([words, count, rate, limit, fast, loud, name])


def invoke(command_class: type | None, words: list[str], **environment: str) -> tuple[int, str]:
    """Return exit code and output of a command of typer's own class, or of one that converts values directly."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(cls=command_class)(print_values)
    done = CliRunner().invoke(app, words, env=environment)
    return done.exit_code, done.output


@pytest.mark.parametrize("words", [
    "a", "a b", "", "a -n 4", "a -n 100", "a -n -1", "a -n 1.0", "a -n 1.5", "a -n x", "a -n 1_000", "a -n ٣",
    "a -n 999999999999999999999", "a --rate 2", "a --rate 1e3", "a --rate .5", "a --rate nan", "a --rate inf",
    "a --rate x", "a --limit 0.5", "a --limit 0.4", "a --limit 1", "a --fast", "a --no-fast", "a -v", "a -vvv",
    "a --name b", "a --name", "a --unknown", "-- -n", "a -n +7", "a -n 007", "a --rate 0.1000000000000000055"])
def test_values_and_messages_are_those_of_typer(words):
    expected = invoke(None, words.split())
    assert invoke(Command, words.split()) == expected


def test_values_of_the_environment_and_with_blanks_are_those_of_typer():
    for words in (["a", "-n", " 4 "], ["a", "--name", " b "], ["a", "-n", ""], ["a", "--rate", ""]):
        assert invoke(Command, words, WSSS_TEST_NAME="n") == invoke(None, words, WSSS_TEST_NAME="n"), words
    assert "'from the environment'" in invoke(Command, ["a"], WSSS_TEST_NAME="from the environment")[1]
