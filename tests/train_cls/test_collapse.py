"""The watch over a training: mAP as scikit-learn has it, and what is a collapse and what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from stages.errors import BadData, Stopped
from stages.train_cls.collapse import FEWEST, CollapseWatch, advice_for, average_precision
from stages.train_cls.config import CamConfig, MixupConfig, SubcategoryConfig
from stages.training.config import TrainingConfig
from stages.training.loop import Job
from training.small import CONFIG, job_of, loss, trained

WATCH = CollapseWatch(12, "try this")


def figures(*maps: float) -> list[dict[str, float]]:
    return [{"map": one, "map_of_chance": 0.1, "map_of_chance_sd": 0.01} for one in maps]


def labels_of(count: int, classes: int, share: float = 0.2, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy((np.random.default_rng(seed).random((count, classes)) < share).astype(np.uint8))


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision(levels):
    generator = np.random.default_rng(levels)
    scores = generator.integers(levels, size=60) / 7
    present = generator.random((5, 60)) < 0.3
    found = average_precision(scores, present)
    np.testing.assert_allclose(found, [average_precision_score(one, scores) for one in present])
    order = generator.permutation(60)
    np.testing.assert_array_equal(average_precision(scores[order], present[:, order]), found)


def test_the_measure_is_the_mean_over_classes_that_can_be_told_apart():
    targets = labels_of(300, 6)
    targets[:, 4], targets[:, 5] = 0, 1
    logits = targets.float() + torch.from_numpy(np.random.default_rng(1).normal(0, 1, (300, 6))).float()
    found = WATCH.measure(logits, targets)
    known = [average_precision_score(targets[:, one], logits[:, one]) for one in range(4)]
    assert found["map"] == pytest.approx(np.mean(known))
    assert found["map_of_chance"] == pytest.approx(0.22, abs=0.03) and 0.005 < found["map_of_chance_sd"] < 0.03
    order = torch.randperm(300)
    assert WATCH.measure(logits[order], targets[order])["map"] == found["map"]
    assert WATCH.measure(logits[:, 4:], targets[:, 4:]) == {}


@pytest.mark.parametrize("constant", [True, False])
def test_logits_that_say_nothing_are_chance(constant):
    """A net that says the same of all images, and one that says anything: never above chance, in 20 draws."""
    for seed in range(20):
        targets = labels_of(FEWEST, 20, 0.07, seed)
        drawn = torch.from_numpy(np.random.default_rng([seed, 1]).normal(0, 1, (FEWEST, 20))).float()
        logits = torch.zeros(FEWEST, 20) if constant else drawn
        what, _ = WATCH.verdict([WATCH.measure(logits, targets)] * 4, FEWEST)
        assert "chance gives" in what


@pytest.mark.parametrize(("maps", "told"), [
    ((0.1, 0.1, 0.1, 0.1), "epoch 4: its mAP is 0.100, chance gives 0.100"),
    ((0.1, 0.1, 0.1), ""),  # a third of twelve passes is not over
    ((0.1, 0.1, 0.1, 0.14), "epoch 4"),
    ((0.1, 0.1, 0.1, 0.15), ""),
    ((0.1, 0.3, 0.6, 0.05), "chance gives"),
    ((0.2, 0.8, 0.4, 0.4), "epoch 4: its mAP is 0.400, it was 0.800 at epoch 2"),
    ((0.2, 0.8, 0.4), ""),  # a single pass
    ((0.2, 0.8, 0.4, 0.7, 0.4), ""),
    ((0.2, 0.8, *[0.75] * 9, 0.4), "epoch 12"),  # the last pass decides alone
    ((0.2, 0.8, 0.5, 0.5), ""),
])
def test_verdicts(maps, told):
    what, do = WATCH.verdict(figures(*maps), FEWEST)
    assert told in what and bool(what) == bool(told)
    assert do == ("try this" if told else "")
    assert WATCH.verdict(figures(*maps), FEWEST - 1) == ("", "")


def test_a_fall_within_what_chance_does_is_none():
    noisy = [{**one, "map_of_chance_sd": 0.03} for one in figures(0.2, 0.3, 0.19, 0.19)]
    assert WATCH.verdict(noisy, FEWEST) == ("", "")
    assert "it was 0.300" in WATCH.verdict(figures(0.2, 0.3, 0.19, 0.19), FEWEST)[0]


def test_rare_classes_are_held_against_their_own_chance():
    rare = [{"map": 0.009, "map_of_chance": 0.004, "map_of_chance_sd": 0.0005}] * 4
    assert WATCH.verdict(rare, 5000) == ("", "")


def test_a_training_that_did_collapse_and_one_that_did_not():
    """Mixup on 471 photographs of VOC, ten times the concentration's weight in its form `paper`; and as by default."""
    chance = ((0.0739, 0.0019), (0.0793, 0.0040), (0.0776, 0.0037))
    for maps, told in (((0.0790, 0.0828, 0.0969), "epoch 3: its mAP is 0.097, chance gives 0.078"),
                       ((0.0916, 0.3920, 0.6200), "")):
        history = [{"map": one, "map_of_chance": mean, "map_of_chance_sd": sd}
                   for one, (mean, sd) in zip(maps, chance, strict=True)]
        for passes in (1, 2):
            assert CollapseWatch(3, "").verdict(history[:passes], 471) == ("", "")
        assert told in CollapseWatch(3, "").verdict(history, 471)[0]
        assert bool(told) == bool(CollapseWatch(3, "").verdict(history, 471)[0])


def test_short_trainings_are_not_judged_by_chance():
    for epochs in (1, 2):
        assert CollapseWatch(epochs, "").verdict(figures(*[0.1] * epochs), FEWEST) == ("", "")
    assert CollapseWatch(3, "").verdict(figures(0.1, 0.1, 0.1), FEWEST)[0]


def test_advice_names_the_settings_of_the_training():
    assert advice_for(CamConfig()) == "try a smaller --lr or --clip 1; --keep-going trains on all the same"
    assert "--lambda-con or --lambda-ent or --lr or --clip 1" in advice_for(MixupConfig())
    assert "--lambda-con" not in advice_for(MixupConfig(lambda_con=0.0, clip=1.0))
    assert "--subcategory-weight or --lr" in advice_for(SubcategoryConfig())


def falling(config: TrainingConfig) -> Job:
    """Return a training of four steps a pass that collapses in its fourth."""
    return job_of(config, n_samples=100, loss=told_by, watch=CollapseWatch(config.epochs, "try this"))


def told_by(net: torch.nn.Module, batch: dict) -> dict:
    """Return the loss, and predictions that rank well at first and the same for all from the 15th step on."""
    told_by.steps += 1
    labels = batch["labels"] * (batch["image"].mean((1, 2, 3)) > 50)[:, None]
    return {**loss(net, batch), "predicted": (labels * (told_by.steps < 15), labels)}


def test_a_training_that_collapses_stops_and_can_be_made_to_go_on(tmp_path: Path):
    config = replace(CONFIG, epochs=6, batch_size=25)
    path, log = tmp_path / "net.safetensors", tmp_path / "net.log.jsonl"
    told_by.steps = 0
    with pytest.raises(BadData, match=r"net\.safetensors: .*collapsed at epoch 5: .*; try this") as told:
        trained(path, config, job=falling(config))
    assert told.value.code == 65 and not path.exists()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["map"] == 1 and lines[4]["map"] < 0.6
    told_by.steps = 16  # what is kept is the state after the fourth pass
    with pytest.raises(BadData, match="epoch 5"):
        trained(path, config, job=falling(config))
    told_by.steps = 16
    trained(path, config, job=falling(config), keep_going=True)
    assert path.exists()


def test_a_pass_cut_in_two_is_measured_whole(tmp_path: Path):
    config = replace(CONFIG, epochs=2, batch_size=10)

    def seen(net: torch.nn.Module, batch: dict) -> dict:
        return {**loss(net, batch), "predicted": (net(batch["image"]), batch["labels"])}

    maps = []
    for steps in (None, 1, 13, 27):
        path = tmp_path / f"{steps}.safetensors"
        job = job_of(config, n_samples=150, loss=seen, watch=CollapseWatch(2, ""))
        if steps:
            with pytest.raises(Stopped):
                trained(path, config, steps=steps, job=job)
            job = job_of(config, n_samples=150, loss=seen, watch=CollapseWatch(2, ""))
        trained(path, config, job=job)
        log = path.with_suffix(".log.jsonl").read_text().splitlines()
        maps.append([json.loads(line)["map"] for line in log])
    assert len(maps[0]) == 2 and all(one == maps[0] for one in maps)
