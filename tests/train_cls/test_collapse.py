"""The monitor of collapsed trainings: its mAP equals scikit-learn's, and it reports collapses only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from stages.errors import BadData, Stopped
from stages.train_cls.collapse import MIN_IMAGES, CollapseMonitor, build_collapse_hint, compute_average_precision
from stages.train_cls.config import CamConfig, MixupConfig, SubcategoryConfig
from stages.training.config import TrainingConfig
from stages.training.loop import TrainingJob
from training.small import CONFIG, build_job, loss, run_training

MONITOR = CollapseMonitor(12, "try this")


def build_history(*maps: float) -> list[dict[str, float]]:
    return [{"map": value, "map_of_chance": 0.1, "map_of_chance_sd": 0.01} for value in maps]


def draw_labels(count: int, classes: int, share: float = 0.2, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy((np.random.default_rng(seed).random((count, classes)) < share).astype(np.uint8))


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_equals_sklearn(levels):
    generator = np.random.default_rng(levels)
    scores = generator.integers(levels, size=60) / 7
    present = generator.random((5, 60)) < 0.3
    precisions = compute_average_precision(scores, present)
    np.testing.assert_allclose(precisions, [average_precision_score(labels, scores) for labels in present])
    order = generator.permutation(60)
    np.testing.assert_array_equal(compute_average_precision(scores[order], present[:, order]), precisions)


def test_map_is_the_mean_over_classes_with_both_labels():
    targets = draw_labels(300, 6)
    targets[:, 4], targets[:, 5] = 0, 1
    logits = targets.float() + torch.from_numpy(np.random.default_rng(1).normal(0, 1, (300, 6))).float()
    metrics = MONITOR.compute_metrics(logits, targets)
    expected = [average_precision_score(targets[:, column], logits[:, column]) for column in range(4)]
    assert metrics["map"] == pytest.approx(np.mean(expected))
    assert metrics["map_of_chance"] == pytest.approx(0.22, abs=0.03) and 0.005 < metrics["map_of_chance_sd"] < 0.03
    order = torch.randperm(300)
    assert MONITOR.compute_metrics(logits[order], targets[order])["map"] == metrics["map"]
    assert MONITOR.compute_metrics(logits[:, 4:], targets[:, 4:]) == {}


@pytest.mark.parametrize("constant", [True, False])
def test_uninformative_logits_are_never_above_chance(constant):
    """Constant and random logits, in 20 draws each."""
    for seed in range(20):
        targets = draw_labels(MIN_IMAGES, 20, 0.07, seed)
        random_logits = torch.from_numpy(np.random.default_rng([seed, 1]).normal(0, 1, (MIN_IMAGES, 20))).float()
        logits = torch.zeros(MIN_IMAGES, 20) if constant else random_logits
        problem, _ = MONITOR.describe_problem([MONITOR.compute_metrics(logits, targets)] * 4, MIN_IMAGES)
        assert "chance gives" in problem


@pytest.mark.parametrize(("maps", "expected"), [
    ((0.1, 0.1, 0.1, 0.1), "epoch 4: its mAP is 0.100, where chance gives 0.100"),
    ((0.1, 0.1, 0.1), ""),  # before a third of the twelve epochs
    ((0.1, 0.1, 0.1, 0.14), "epoch 4"),
    ((0.1, 0.1, 0.1, 0.15), ""),
    ((0.1, 0.3, 0.6, 0.05), "chance gives"),
    ((0.2, 0.8, 0.4, 0.4), "epoch 4: its mAP is 0.400, down from 0.800 at epoch 2"),
    ((0.2, 0.8, 0.4), ""),  # a single epoch
    ((0.2, 0.8, 0.4, 0.7, 0.4), ""),
    ((0.2, 0.8, *[0.75] * 9, 0.4), "epoch 12"),  # in the last epoch one is enough
    ((0.2, 0.8, 0.5, 0.5), ""),
])
def test_collapse_near_chance_or_far_below_the_best_epoch(maps, expected):
    problem, remedy = MONITOR.describe_problem(build_history(*maps), MIN_IMAGES)
    assert expected in problem and bool(problem) == bool(expected)
    assert remedy == ("try this" if expected else "")
    few_images = MONITOR.describe_problem(build_history(*maps), MIN_IMAGES - 1)
    assert few_images == ((problem, remedy) if "down from" in problem else ("", ""))


def test_drop_within_the_noise_of_chance_is_no_collapse():
    noisy = [{**metrics, "map_of_chance_sd": 0.03} for metrics in build_history(0.2, 0.3, 0.19, 0.19)]
    assert MONITOR.describe_problem(noisy, MIN_IMAGES) == ("", "")
    assert "down from 0.300" in MONITOR.describe_problem(build_history(0.2, 0.3, 0.19, 0.19), MIN_IMAGES)[0]


def test_rare_classes_are_compared_with_their_own_chance():
    rare = [{"map": 0.009, "map_of_chance": 0.004, "map_of_chance_sd": 0.0005}] * 4
    assert MONITOR.describe_problem(rare, 5000) == ("", "")


def test_metrics_of_a_collapsed_and_of_a_good_training():
    """Mixup on 471 photographs of VOC: with ten times the weight of the concentration `paper`, and by default."""
    chance = ((0.0739, 0.0019), (0.0793, 0.0040), (0.0776, 0.0037))
    for maps, expected in (((0.0790, 0.0828, 0.0969), "epoch 3: its mAP is 0.097, where chance gives 0.078"),
                       ((0.0916, 0.3920, 0.6200), "")):
        history = [{"map": value, "map_of_chance": mean, "map_of_chance_sd": sd}
                   for value, (mean, sd) in zip(maps, chance, strict=True)]
        for num_epochs in (1, 2):
            assert CollapseMonitor(3, "").describe_problem(history[:num_epochs], 471) == ("", "")
        assert expected in CollapseMonitor(3, "").describe_problem(history, 471)[0]
        assert bool(expected) == bool(CollapseMonitor(3, "").describe_problem(history, 471)[0])


def test_first_two_epochs_are_not_compared_with_chance():
    for epochs in (1, 2):
        assert CollapseMonitor(epochs, "").describe_problem(build_history(*[0.1] * epochs), MIN_IMAGES) == ("", "")
    assert CollapseMonitor(3, "").describe_problem(build_history(0.1, 0.1, 0.1), MIN_IMAGES)[0]


def test_hint_names_the_settings_of_the_training():
    assert build_collapse_hint(CamConfig()) == "Use a smaller --lr or --clip 1, or --keep-going to train on regardless"
    assert "--lambda-con or --lambda-ent or --lr or --clip 1" in build_collapse_hint(MixupConfig())
    assert "--lambda-con" not in build_collapse_hint(MixupConfig(lambda_con=0.0, clip=1.0))
    assert "--subcategory-weight or --lr" in build_collapse_hint(SubcategoryConfig())


def build_collapsing_job(config: TrainingConfig) -> TrainingJob:
    """Return a training with four steps per epoch that collapses in its fourth epoch."""
    monitor = CollapseMonitor(config.epochs, "try this")
    return build_job(config, num_samples=100, loss=compute_collapsing_loss, monitor=monitor)


def compute_collapsing_loss(net: torch.nn.Module, batch: dict) -> dict:
    """Return the loss, with predictions that rank well at first and are constant from the 15th step on."""
    compute_collapsing_loss.steps += 1
    labels = batch["labels"] * (batch["image"].mean((1, 2, 3)) > 50)[:, None]
    return {**loss(net, batch), "predicted": (labels * (compute_collapsing_loss.steps < 15), labels)}


def test_collapsed_training_stops_unless_keep_going(tmp_path: Path):
    config = replace(CONFIG, epochs=6, batch_size=25)
    path, log = tmp_path / "net.safetensors", tmp_path / "net.log.jsonl"
    compute_collapsing_loss.steps = 0
    with pytest.raises(BadData, match=r"net\.safetensors: .*collapsed at epoch 5: .*\. Try this") as error:
        run_training(path, config, job=build_collapsing_job(config))
    assert error.value.code == 65 and not path.exists()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[0]["map"] == 1 and lines[4]["map"] < 0.6
    compute_collapsing_loss.steps = 16  # the checkpoint is that of the fourth epoch
    with pytest.raises(BadData, match="epoch 5"):
        run_training(path, config, job=build_collapsing_job(config))
    compute_collapsing_loss.steps = 16
    run_training(path, config, job=build_collapsing_job(config), keep_going=True)
    assert path.exists()


def test_metrics_cover_an_interrupted_epoch(tmp_path: Path):
    config = replace(CONFIG, epochs=2, batch_size=10)

    def predicting_loss(net: torch.nn.Module, batch: dict) -> dict:
        return {**loss(net, batch), "predicted": (net(batch["image"]), batch["labels"])}

    maps = []
    for steps in (None, 1, 13, 27):
        path = tmp_path / f"{steps}.safetensors"
        job = build_job(config, num_samples=150, loss=predicting_loss, monitor=CollapseMonitor(2, ""))
        if steps:
            with pytest.raises(Stopped):
                run_training(path, config, steps=steps, job=job)
            job = build_job(config, num_samples=150, loss=predicting_loss, monitor=CollapseMonitor(2, ""))
        run_training(path, config, job=job)
        log = path.with_suffix(".log.jsonl").read_text().splitlines()
        maps.append([json.loads(line)["map"] for line in log])
    assert len(maps[0]) == 2 and all(values == maps[0] for values in maps)
