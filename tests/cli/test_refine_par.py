"""`refine par` as users run it: maps at image size, on a coarser grid, with a background; flat photographs."""

from __future__ import annotations

import numpy as np
import torch

from cli.runner import check_error, read_items, run, run_ok
from stages.refine.config import ParConfig
from stages.refine.pamr import refine_by_colours
from stages.shards import Run


def test_maps_at_image_size_and_background(wsss, maps, tmp_path):
    done = wsss("refine", "par", maps, "--device", "cpu", "--background", "power:1", "-o", tmp_path / "out")
    assert (done.code, done.out) == (0, f"{tmp_path / 'out' / 'cams-00000-of-00001.h5'}\n"), done.err
    refined = Run([tmp_path / "out"], "cams")
    assert refined.first.attribute("background") == "included"
    before = read_items(maps, "cams", "class_ids")
    for item_id, cam in read_items(tmp_path / "out", "cams", "cam").items():
        assert (cam.shape, cam.dtype) == ((len(before[item_id]) + 1, 48, 64), np.uint8)
        assert cam.max() == 255
        assert refined.item(item_id).datasets["class_ids"].tolist() == [0, *before[item_id]]
    assert "mIoU" in "\n".join(run_ok("eval", tmp_path / "out"))
    check_error(run("refine", "par", tmp_path / "out", "--background", "power:1", "-o", tmp_path / "x"), 2,
                "already include a background")


def test_settings_change_result(maps, tmp_path):
    run_ok("refine", "par", maps, "--device", "cpu", "--iterations", "1", "-o", tmp_path / "out")
    reference = read_items(tmp_path / "out", "cams", "cam")
    for number, option in enumerate((("--colour-scale", "2"), ("--position-weight", "1"), ("--dilations", "1,2"))):
        check_error(run("refine", "par", maps, "--device", "cpu", "--iterations", "1", *option, "-o",
                        tmp_path / "out"), 73, option[0].strip("-").replace("-", "_"))
        run_ok("refine", "par", maps, "--device", "cpu", "--iterations", "1", *option, "-o", tmp_path / str(number))
        changed = read_items(tmp_path / str(number), "cams", "cam")
        assert any((changed[item_id] != cam).any() for item_id, cam in reference.items()), option


def test_invalid_options(maps, tmp_path):
    for option in (("--dilations", ""), ("--colour-scale", "0"), ("--position-weight", "2"),
                   ("--background", "two-thresholds:0.1,0.3")):
        check_error(run("refine", "par", maps, *option, "-o", tmp_path / "out"), 2, option[0])


def test_flat_image_has_no_edges_on_a_coarser_grid():
    """Means of equal colours are equal, so nothing but the distances decides."""
    scores = torch.rand(1, 31, 60, generator=torch.Generator().manual_seed(1))
    maps = [refine_by_colours(torch.full((31, 60, 3), value, dtype=torch.uint8), scores,
                              ParConfig(grid_stride=3, iterations=3))[0] for value in (0, 77, 253)]
    np.testing.assert_array_equal(maps[1], maps[0])
    np.testing.assert_array_equal(maps[2], maps[0])
