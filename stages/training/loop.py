"""The training loop of all `train-*` stages: each passes a network, a loss and a function that draws samples."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.errors import BadData, CannotCreate, Stopped, Unavailable, UsageError
from stages.flow.device import count_cores, resolve_device, use_threads
from stages.flow.execution import Output, Report, Stop, Summary
from stages.nets.net_description import read_verified_description
from stages.nets.net_files import serialise_net
from stages.nets.precision import DTYPES
from stages.shards import describe_differences, extract_request
from stages.shards.disk import append_line, replace_file
from stages.training.batching import count_steps_per_epoch, iterate_batches, select_batch_indices
from stages.training.checkpoint import Checkpoint, remove_leftover_checkpoint
from stages.training.config import LoopConfig
from stages.training.distributed import (
    World,
    average_gradients,
    broadcast_weights,
    is_set_on_any_rank,
    join_process_group,
)
from stages.training.epoch_statistics import EpochStatistics, TrainingMonitor
from stages.training.optimiser import build_optimiser, set_learning_rates, set_training_mode
from stages.training.tensorboard_events import EventWriter, check_tensorboard, name_scalars

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class TrainingJob:
    """What to train: the network, its loss, its samples, and optional callbacks.

    `loss(net, batch)` returns named scalars, of which "loss" is minimised. It may also return "predicted", the (logits,
    targets) of the batch, and "counted", integers by name, which the log sums over an epoch.
    `draw(position, generator)` returns one of the `num_samples` samples. With `draw_batch_value`, it gets what
    `draw_batch_value(generator)` returned for the batch as a third argument.
    `head_parameters` are those of new layers, and `description` goes into the network's file.
    `monitor` looks for problems in the predictions of each epoch.
    `finalise_net(net)` computes buffers of the trained network before it is written.
    `summarise_counts(total_counts)` returns a sentence about all "counted" so far, which is reported at the end. It is
    called after every epoch, and may raise BadData when the counts show that nothing can be learnt.
    `steps` is the length of a training that is not counted in epochs, `report_every` the number of steps after which
    such a training writes a log line and a checkpoint. `begin_step(step)` is called before each step.
    """

    net: nn.Module
    loss: Callable[[nn.Module, Batch], dict[str, Any]]
    draw: Callable[..., Mapping[str, np.ndarray]]
    num_samples: int
    head_parameters: list[nn.Parameter]
    description: dict[str, Any]
    monitor: TrainingMonitor | None = None
    finalise_net: Callable[[nn.Module], None] | None = None
    summarise_counts: Callable[[Mapping[str, int]], str] | None = None
    steps: int = 0
    report_every: int = 0
    begin_step: Callable[[int], None] | None = None
    draw_batch_value: Callable[[np.random.Generator], Any] | None = None


def resolve_settings(config: Any) -> Any:
    """Return the settings with device, precision and threads resolved, as the provenance records them.

    Raises Unavailable when torchrun started more processes than there are GPUs, UsageError when all processes are given
    the same GPU, and whatever `resolve_device` raises.
    """
    device = resolve_device(config.device)
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda" and local_world_size > 1:
        _check_gpus(config.device, local_world_size)
    precision = config.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    threads = config.threads or max(1, count_cores() // local_world_size)
    return replace(config, device=device, precision=precision, threads=threads)


def _check_gpus(requested_device: str, local_world_size: int) -> None:
    if ":" in requested_device:
        raise UsageError(f"--device {requested_device} names one GPU for all {local_world_size} processes of torchrun",
                         "Use --device cuda, with which each process takes a GPU of its own")
    num_gpus = torch.cuda.device_count()
    if local_world_size > num_gpus:
        raise Unavailable(f"torchrun started {local_world_size} processes on a machine with {num_gpus} GPUs",
                          f"Start torchrun with --nproc-per-node={num_gpus}")


def check_existing_net(entry: Mapping[str, Any], output: Output) -> Summary | None:
    """Return a summary when the output is already the requested network, None when it has to be trained.

    An up-to-date file gets a new modification time, except in a dry run. Raises CannotCreate, with the settings that
    differ, when the output is another network.
    """
    if output.force or not output.path.exists():
        return None
    description = read_verified_description(output.path)
    request = extract_request(dict(entry))
    differences = describe_differences(extract_request(description["provenance"][-1]), request)
    if differences:
        raise CannotCreate(f"the file already exists and was trained with different settings ({differences})",
                           "Use --force to replace it, or choose another -o", where=str(output.path))
    if not output.dry_run:
        os.utime(output.path)
        remove_leftover_checkpoint(output.path, request)
    return Summary(num_up_to_date=1)


def try_skip_training(entry: Mapping[str, Any], output: Output, report: Report) -> Summary | None:
    """Return a summary when there is nothing to train (the output is up to date, or --dry-run), else None.

    Raises as `check_existing_net`, and as `EventWriter` where there is something to train.
    """
    summary = check_existing_net(entry, output)
    if summary:
        report.info(f"{output.path} is up to date")
        report.print_path(output.path)
    elif output.dry_run:
        report.info(f"Would train {output.path}")
    if not (summary or output.dry_run):
        check_tensorboard(output.tensorboard)
    return summary or (Summary() if output.dry_run else None)


def train(job: TrainingJob, config: LoopConfig, output: Output, *, requested_device: str, stop: Stop,
          report: Report) -> Summary:
    """Train `job` and write its network; resume from the checkpoint of an interrupted run where there is one.

    `config` has resolved settings, `requested_device` is --device as given. Equal settings, inputs, world size, threads
    and versions give the same bytes on a CPU, however often the run was interrupted. Raises Stopped (with a checkpoint
    saved), BadData (the loss is not finite, or the monitor found a problem and `output.keep_going` is off: the
    checkpoint of the epoch before is kept), CannotCreate, IoFailed.
    """
    use_threads(config.threads)
    with join_process_group(config.device) as world:
        device = _set_up_device(config.device, requested_device, world)
        return _Training(job, config, output, world, device, stop, report).run()


def _set_up_device(kind: str, requested_device: str, world: World) -> torch.device:
    """Return the device of this process; on CUDA also select it and turn on deterministic kernels."""
    if kind == "cpu":
        return torch.device("cpu")
    # The gradient of bilinear upsampling has no deterministic kernel on CUDA: hence warn_only, and no warning.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("ignore", ".* does not have a deterministic implementation")
    torch.backends.cudnn.benchmark = False
    device = torch.device(requested_device if ":" in requested_device else f"cuda:{world.local_rank}")
    torch.cuda.set_device(device)
    return device


class _Training:
    """One training: its state, its loop, its log and its checkpoints."""

    def __init__(self, job: TrainingJob, config: LoopConfig, output: Output, world: World, device: torch.device,
                 stop: Stop, report: Report) -> None:
        self.job, self.config, self.output, self.world, self.device = job, config, output, world, device
        self.stop, self.report = stop, report
        self.net = job.net.to(device, memory_format=torch.channels_last)
        set_training_mode(self.net, getattr(config, "freeze_bn", "no"))
        self.optimiser = build_optimiser(self.net, job.head_parameters, config)
        self.average: dict[str, torch.Tensor] = {}
        self.statistics = EpochStatistics(world)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.steps_per_epoch = count_steps_per_epoch(
            job.num_samples, config.batch_size * config.accumulate, world.size)
        self.steps = job.steps or self.steps_per_epoch * config.epochs
        self.report_every = job.report_every or self.steps_per_epoch
        self.events: EventWriter | None = None
        self.seconds_waited = 0.0  # for images, since the last line of the log

    def run(self) -> Summary:
        """Train from the checkpoint, or from the start, to the end, and write the network."""
        request = extract_request(self.job.description["provenance"][-1])
        checkpoint = Checkpoint(self.output.path, request, is_main_process=self.world.is_main_process)
        finished = False
        try:
            first_step = self._restore_checkpoint(checkpoint)
            if self.output.tensorboard and self.world.is_main_process:
                self.events = EventWriter(self.output.tensorboard, first_step, self.report)
            self._run_steps(first_step, checkpoint)
            self.report.start_phase("finishing")
            if self.job.finalise_net:
                self._save_checkpoint(checkpoint, self.steps)
            if self.job.summarise_counts:
                self.report.info(self.job.summarise_counts(self.statistics.total_counts))
            if self.world.is_main_process:
                replace_file(self.output.path, serialise_net(self._build_final_state(), self.job.description))
                self.report.print_path(self.output.path)
            finished = True
        finally:
            if self.events:
                self.events.close()
            checkpoint.release(finished=finished)
        return Summary(num_written=1, work=self._describe_work(first_step))

    def _describe_epoch(self, step: int) -> str:
        """Return the epoch of a step as a phase, "" for a training that is not counted in epochs."""
        return "" if self.job.steps else f"epoch {step // self.steps_per_epoch + 1} of {self.config.epochs}"

    def _describe_work(self, first_step: int) -> str:
        """Return what this run has trained, such as `8 epochs`; `epochs 3 to 8` after it was resumed."""
        unit, first, last = ("step", first_step, self.steps) if self.job.steps else (
            "epoch", first_step // self.steps_per_epoch, self.config.epochs)
        if not first:
            return f"{last} {unit}{'' if last == 1 else 's'}"
        return f"{unit}s {first + 1} to {last}" if first + 1 < last else f"the last {unit}"

    def _restore_checkpoint(self, checkpoint: Checkpoint) -> int:
        """Load the checkpoint where there is one; return the number of steps already done."""
        broadcast_weights(self.net, self.world)
        if self.config.average:
            self.average = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        # Every process reads the checkpoint itself: all of them see the same file system.
        step, scaler = checkpoint.restore(self.net, self.optimiser, self.average,
                                          statistics=self.statistics, discard_unusable=self.output.force)
        self.average = {name: tensor.to(self.device) for name, tensor in self.average.items()}
        if scaler:
            self.scaler.load_state_dict(scaler)
        if step and self.world.is_main_process:
            self.report.info(f"Resuming after step {step} of {self.steps} from {checkpoint.path}.")
        return step

    def _run_steps(self, first_step: int, checkpoint: Checkpoint) -> None:
        self.report.start_progress("", self.steps, unit="steps")
        self.report.advance(first_step, resumed=True)
        sums: dict[str, float] = {}
        start_time, start_step, step = time.time(), first_step, first_step
        batches = iterate_batches(self.job.draw, self._plan_batches(first_step), self.config.seed, self.output.workers,
                                  self.job.draw_batch_value)
        with contextlib.closing(batches):
            while step < self.steps:
                self.report.start_phase(self._describe_epoch(step))
                for name, value in self._run_step(step, batches).items():
                    sums[name] = sums.get(name, 0.0) + value
                step += 1
                self.report.advance()
                if step % self.report_every == 0 or step == self.steps:
                    means = {name: value / (step - start_step) for name, value in sums.items()}
                    self._end_epoch(step, means, time.time() - start_time, checkpoint)
                    sums, start_time, start_step = {}, time.time(), step
                if is_set_on_any_rank(self.stop.requested, self.world, self.device) and step < self.steps:
                    self._save_checkpoint(checkpoint, step)
                    raise Stopped(f"stopped after step {step} of {self.steps}",
                                  "Run the same command again to resume", where=str(self.output.path))

    def _plan_batches(self, first_step: int) -> Iterator[tuple[int, list[int]]]:
        """Yield (epoch, positions) of each batch of this process from `first_step` on."""
        config, world = self.config, self.world
        for step in range(first_step, self.steps):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            positions = select_batch_indices(self.job.num_samples, config.batch_size * config.accumulate, config.seed,
                                             epoch, step_in_epoch, world.rank, world.size)
            for start in range(0, len(positions), config.batch_size):
                yield epoch, positions[start:start + config.batch_size]

    def _run_step(self, step: int, batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Make one optimiser step from `--accumulate` batches, and return the mean of each named loss."""
        config = self.config
        # Seeding every step makes dropout a function of the step, so a checkpoint needs no generator state.
        torch.manual_seed((config.seed * 1_000_003 + step) * 4096 + self.world.rank)
        rate = set_learning_rates(self.optimiser, config, step, self.steps)
        if self.job.begin_step:
            self.job.begin_step(step)
        self.optimiser.zero_grad(set_to_none=True)
        means: dict[str, float] = {"lr": rate}
        num_batches = self._count_batches_per_step()
        for _ in range(num_batches):
            start = time.perf_counter()
            loaded = next(batches)
            self.seconds_waited += time.perf_counter() - start
            batch = {name: self._move_to_device(tensor) for name, tensor in loaded.items()}
            with torch.autocast(self.device.type, DTYPES[config.precision], enabled=config.precision != "fp32"):
                losses = self.job.loss(self.net, batch)
            if (predicted := losses.pop("predicted", None)) and self.job.monitor:
                self.statistics.add_predictions(*predicted)
            self.statistics.add_counts(losses.pop("counted", {}))
            self.scaler.scale(losses["loss"] / num_batches).backward()
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + value.item() / num_batches
        if not math.isfinite(means["loss"]):
            raise BadData(f"the loss is {means['loss']} at step {step}", _suggest_smaller_steps(config),
                          where=str(self.output.path))
        self._update_weights()
        return means

    def _count_batches_per_step(self) -> int:
        """Return the number of batches of this process in a step: fewer than `--accumulate` where images are few."""
        batch_size, world_size = self.config.batch_size, self.world.size
        images_per_step = min(self.job.num_samples, batch_size * self.config.accumulate * world_size)
        images_per_process = -(-images_per_step // world_size)
        return max(1, -(-images_per_process // batch_size))

    def _update_weights(self) -> None:
        """Average the gradients over all processes, clip them, step the optimiser and update the running average."""
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        average_gradients(parameters, self.world)
        if self.config.max_gradient_norm:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        for name, tensor in self.net.state_dict().items() if self.average else ():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - self.config.average)
            else:
                self.average[name].copy_(tensor)

    def _move_to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 4:
            return tensor.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return tensor.to(self.device, non_blocking=True)

    def _end_epoch(self, step: int, means: dict[str, float], seconds: float, checkpoint: Checkpoint) -> None:
        """Write the log line of an epoch, check its metrics and counts, and save a checkpoint."""
        metrics, num_images = self._compute_metrics()
        line = {"epoch": step // self.steps_per_epoch, "step": step, "seconds": round(seconds, 2),
                "waited": round(self.seconds_waited, 2),
                **{name: round(value, 6) for name, value in {**means, **metrics}.items()}}
        self.seconds_waited = 0.0
        if self.world.is_main_process:
            append_line(self.output.log_path, json.dumps(line, ensure_ascii=False).encode())
            if self.events:
                self.events.write(step, name_scalars(means, metrics, seconds))
            progress = f"step {step}/{self.steps}" if self.job.steps else f"epoch {line['epoch']}/{self.config.epochs}"
            self.report.info(f"{progress}: loss {line['loss']:.4f}, {line['seconds']} s")
        self._check_metrics(num_images)
        if self.job.summarise_counts:
            self.job.summarise_counts(self.statistics.total_counts)
        if step < self.steps:
            self._save_checkpoint(checkpoint, step)

    def _compute_metrics(self) -> tuple[dict[str, float], int]:
        """Return the monitor's metrics of the epoch that ends, with its counts, and the number of images behind them.
        """
        predictions, counts = self.statistics.gather_predictions(), self.statistics.gather_counts()
        self.statistics.end_epoch()
        if predictions is None or self.job.monitor is None:
            return {**counts}, 0
        metrics = self.job.monitor.compute_metrics(*predictions)
        self.statistics.history += [metrics] if metrics else []
        return {**metrics, **counts}, len(predictions[0])

    def _check_metrics(self, num_images: int) -> None:
        """Raise BadData when the monitor finds a problem in the last epoch; with --keep-going report it only."""
        if not self.job.monitor:
            return
        problem, remedy = self.job.monitor.describe_problem(self.statistics.history, num_images)
        if problem and not self.output.keep_going:
            raise BadData(problem, remedy, where=str(self.output.path))
        if problem and self.world.is_main_process:
            self.report.info(f"warning: {problem}.")

    def _save_checkpoint(self, checkpoint: Checkpoint, step: int) -> None:
        statistics = self.statistics.gather_state()
        if self.world.is_main_process:
            checkpoint.save(step, self.net, self.optimiser, self.average, self.scaler.state_dict(), statistics,
                            self.statistics.history)

    def _build_final_state(self) -> dict[str, torch.Tensor]:
        """Return the state dict to write. Raises BadData when it holds values that are not finite."""
        state = self.average or self.net.state_dict()
        if self.job.finalise_net:
            self.net.load_state_dict(state)
            self.job.finalise_net(self.net)
            state = self.net.state_dict()
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise BadData(f"the weights {name} are not finite after the last step",
                              _suggest_smaller_steps(self.config), where=str(self.output.path))
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _suggest_smaller_steps(config: Any) -> str:
    """Return the remedy for weights or losses that are not finite (in `train-text`, --clip names a CLIP model)."""
    clip_option = "--gradient-clip" if hasattr(config, "gradient_clip") else "--clip"
    return f"Use a smaller --lr or {clip_option}, or a longer --warmup"
