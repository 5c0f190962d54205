"""The fork that runs a command of a test ends, prints and reads as the process that a user starts."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(("args", "stdin"), [
    (("--version",), None), (("eval", "gone.h5"), None), (("info",), None), (("pseudo", "-", "-o", "out"), ""),
    (("check", "-"), "gone.h5\n"), (("cams", "cnn", "--nosuch"), None)], ids=str)
def test_a_fork_gives_the_result_of_a_new_process(wsss, args, stdin):
    forked = wsss(*args, input=stdin)
    assert forked == wsss(*args, input=stdin, env={})
    assert forked.code or forked.out


def test_a_fork_leaves_nothing_for_the_next(wsss, tmp_path):
    (tmp_path / "list.csv").write_text("id,tags\n")
    first = wsss("index", "table", "list.csv", "--images", ".", "-o", "i.h5")
    assert first.code == 66
    assert wsss("index", "table", "list.csv", "--images", ".", "-o", "i.h5") == first
