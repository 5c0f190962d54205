"""The instruction sets under which the numerical tests run, by processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from processors import ROOT, SETS, TESTS, read_cpu_flags, select_sets

NAMES = [instructions.onednn for instructions in SETS]


@pytest.mark.parametrize(("best", "extra"), [(0, ()), (1, ()), (2, ("gfni",)), (4, ()), (5, ("avx512_fp16",))])
def test_emulates_every_set_below_the_best(best: int, extra: tuple[str, ...]) -> None:
    flags = frozenset().union(*(instructions.flags for instructions in SETS[:best + 1]), extra)
    emulated, missing = select_sets(flags)
    assert [instructions.onednn for instructions in emulated] == NAMES[:best]
    assert [instructions.onednn for instructions in missing] == NAMES[best + 1:]


def test_reads_flags_of_linux(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvmx flags\t: ept\nflags\t\t: fpu sse4_1 avx2 fma\n\nprocessor\t: 1\n")
    assert read_cpu_flags(cpuinfo) == {"fpu", "sse4_1", "avx2", "fma"}
    assert read_cpu_flags(tmp_path / "none") == frozenset()
    assert select_sets(frozenset()) == ([], list(SETS))


def test_listed_tests_exist() -> None:
    assert all((ROOT / "tests" / path.partition("::")[0]).exists() for path in TESTS)
