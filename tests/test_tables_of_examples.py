"""table.py and best.py of the examples, called as in their Makefiles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run_script(script: str, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(EXAMPLES / script), *args], cwd=cwd, capture_output=True, text=True,
                          check=False)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, miou, value in (("a", 0.40, 0.3), ("b", 0.44, 0.2), ("c", 0.42, None)):
        background = None if value is None else {"rule": "constant", "value": value, "chosen_on": "ground-truth"}
        result = {"miou": miou, "images": 7, "background": background}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    return tmp_path


def test_rows_of_equal_name_give_mean_and_deviation(results: Path) -> None:
    done = run_script("table.py", "CAM@train=a.json", "CAM@train=b.json", "net@val=c.json", "--tsv", cwd=results)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == [
        "CAM\ttrain\t7\t42.0 +- 2.8 (2 seeds)\tconstant:0.3, constant:0.2\tits ground truth",
        "net\tval\t7\t42.0\t-\t-"]


def test_average_counts_each_row_once(results: Path) -> None:
    done = run_script("table.py", "x@voc=a.json", "x@voc=b.json", "x@city=c.json", "--average", "x", "--tsv",
                      cwd=results)
    assert done.stdout.splitlines()[-1] == "x\tmean of 2\t-\t42.0\t-\t-"


def test_row_with_a_missing_file(results: Path) -> None:
    assert run_script("table.py", "CAM=none.json", cwd=results).returncode == 66
    done = run_script("table.py", "CAM=none.json", "net=c.json", "--skip-missing", "--markdown", cwd=results)
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()] == ["| ", "| ---", "| net"]


def test_best_value_is_recorded_as_chosen_on_the_ground_truth(results: Path) -> None:
    done = run_script("best.py", "constant:0.3=a.json", "constant:0.2=b.json", "-o", "best.json", cwd=results)
    assert (done.returncode, done.stdout) == (0, "constant:0.2\n")
    best = json.loads((results / "best.json").read_text())
    assert best["miou"] == 0.44
    assert best["background"] == {"rule": "constant", "value": 0.2, "chosen_on": "ground-truth", "of": 2}
    assert run_script("best.py", "constant:0.3", cwd=results).returncode == 65
