"""`wsss train-aff irn` and `wsss refine irn`, as users run them."""

from __future__ import annotations

import numpy as np
import pytest

from cli.runner import good, refused, run
from stages.nets.files import read_net
from stages.shards import Run

pytest.importorskip("pydensecrf")
TRAINING = ("--net", "wsss:tiny", "--crop-size", "48", "--epochs", "1", "--batch-size", "4", "--threads", "1",
            "--radius", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def relations(tiny_index, tiny_net, maps):
    """Return a net of boundaries trained on `maps` and the backbone of `tiny_net`. Not to be changed."""
    net = maps.parent / "irn.safetensors"
    done = run("train-aff", "irn", tiny_index, "--cams", maps, *TRAINING, "--weights", tiny_net, "-o", net)
    assert (done.code, done.out.splitlines()) == (0, [str(net)]), done.err
    assert "head dropped" in done.err
    return net


def test_the_net_has_a_backbone_as_given_and_a_measured_mean(tiny_net, relations):
    given, (held, described) = read_net(tiny_net)[0], read_net(relations)
    assert all(np.array_equal(held[key], value) for key, value in given.items() if key.startswith("backbone."))
    assert held["mean_displacement"].abs().min() > 0
    assert (described["task"], described["architecture"]["head"], described["architecture"]["radius"]) == (
        "affinity", "irn", 4)
    assert (described["stride"], described["supervision"]) == (4, "tags")
    assert set(described["provenance"][-1]["inputs"]) == {"index", "cams", "weights"}
    log = relations.with_suffix(".log.jsonl").read_text()
    assert '"affinity"' in log and '"displacement"' in log


def test_the_net_is_the_same_twice_and_leaves_nothing_beside(tiny_index, tiny_net, maps, relations, tmp_path):
    again, command = tmp_path / "again.safetensors", ("train-aff", "irn", tiny_index, "--cams", maps, *TRAINING)
    good(*command, "--weights", tiny_net, "-o", again)
    assert again.read_bytes() == relations.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.log.jsonl", "again.safetensors"]
    assert "up to date" in run(*command, "--weights", tiny_net, "-o", again).err
    refused(run(*command, "--weights", tiny_net, "--class-threshold", "0.4", "-o", again), 73, "class_threshold")


def test_walked_maps(maps, relations, tmp_path):
    good("refine", "irn", maps, "--net", relations, "--device", "cpu", "-o", tmp_path / "walked")
    good("refine", "irn", maps, "--net", relations, "--device", "cpu", "--batch-size", "4", "-o", tmp_path / "four")
    walked, four, given = Run([tmp_path / "walked"]), Run([tmp_path / "four"]), Run([maps])
    assert walked.first.attribute("background") == "none"
    for item_id in given.ids:
        item, before = walked.item(item_id), given.item(item_id)
        assert item.datasets["cam"].shape == (len(before.datasets["class_ids"]), 12, 16)
        np.testing.assert_array_equal(item.datasets["class_ids"], before.datasets["class_ids"])
        assert item.datasets["cam"].max() == 1 and item.datasets["cam"].min() >= 0
        assert list(item.attrs["covers"]) == [48, 64]
        np.testing.assert_allclose(four.item(item_id).datasets["cam"].astype(float),
                                   item.datasets["cam"].astype(float), atol=2e-3)
    good("pseudo", tmp_path / "walked", "--background", "constant:0.25", "-o", tmp_path / "masks")
    good("refine", "crf", tmp_path / "walked", "--background", "constant:0.4", "-o", tmp_path / "crf")
    good("eval", tmp_path / "walked")


def test_one_side_of_the_mirror_and_other_steps_give_other_maps(maps, relations, tmp_path):
    digests = set()
    for number, more in enumerate(((), ("--no-flip",), ("--steps", "16"), ("--radius", "3"), ("--beta", "5"))):
        out = tmp_path / f"{number}.h5"
        good("refine", "irn", maps, "--net", relations, "--device", "cpu", *more, "-o", out)
        cams = Run([out])
        digests.add(b"".join(cams.item(item_id).datasets["cam"].tobytes() for item_id in cams.ids))
    assert len(digests) == 5


def test_wrong_input(tiny_index, tiny_net, maps, relations, tmp_path):
    command, out = ("train-aff", "irn", tiny_index, "--cams", maps, *TRAINING), ("-o", tmp_path / "x.safetensors")
    refused(run(*command, "--crop-size", "50", *out), 2, "50", "multiple of 4")
    refused(run(*command, "--radius", "10", "--crop-size", "72", *out), 2, "--crop-size 72", "give 76 or more")
    refused(run(*command, "--background-threshold", "0.5", *out), 2, "--background-threshold 0.5", "0.3")
    refused(run(*command, "--scale-range", "1", *out), 2, "--scale-range")
    refused(run(*command, "--freeze", "stem", *out), 2, "--freeze")
    refused(run(*command, "--freeze-bn", "no", *out), 2, "--freeze-bn")
    walk = ("refine", "irn", maps, "--device", "cpu")
    good("train-aff", "psa", tiny_index, "--cams", maps, "--net", "wsss:tiny", "--crop-size", "40", "--radius", "3",
         "--epochs", "1", "--threads", "1", "--device", "cpu", "-o", tmp_path / "psa.safetensors")
    refused(run(*walk, "--net", tmp_path / "psa.safetensors", "-o", tmp_path / "y"), 65, "psa", "train-aff irn")
    refused(run("refine", "psa", maps, "--net", relations, "-o", tmp_path / "y"), 65, "irn", "train-aff psa")
    refused(run(*walk, "--net", tiny_net, "-o", tmp_path / "y"), 65, "classification", "train-aff irn")
    refused(run(*walk, "--net", tmp_path / "gone.safetensors", "-o", tmp_path / "y"), 66, "gone.safetensors")
    good("refine", "crf", maps, "-o", tmp_path / "crf")
    refused(run("refine", "irn", tmp_path / "crf", "--net", relations, "-o", tmp_path / "y"), 65, "background")
    refused(run("train-aff", "irn", tiny_index, "--cams", tmp_path / "crf", *TRAINING, *out), 65, "background")
    refused(run("cams", "cnn", tiny_index, "--net", relations, "-o", tmp_path / "y"), 65, "affinity")
    assert not (tmp_path / "x.safetensors").exists()
