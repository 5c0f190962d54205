"""Batches are limited by pixels as well as by the number of images."""

from __future__ import annotations

from pathlib import Path

from flow.workers import StageRunner


def test_batches_of_large_images_are_smaller(tmp_path: Path) -> None:
    runner = StageRunner(tmp_path, ("L1", "L2", "L3", "a1", "a2", "a3"))
    for size, batches in ((3, [["L1"], ["L2"], ["L3"], ["a1", "a2", "a3"]]),
                          (4, [["L1", "L2"], ["L3"], ["a1", "a2", "a3"]]), (1, [[name] for name in runner.ids])):
        runner.run(str(size), batch_size=size, shard_size=6)
        assert runner.batches() == batches
