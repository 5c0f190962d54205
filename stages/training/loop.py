"""The one training loop: every `train-*` gives it a net, a loss and a way to draw a sample."""

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
from stages.flow.device import cores, resolve_device, use_threads
from stages.flow.execution import Output, Report, Stop, Summary
from stages.nets.files import net_bytes, read_net
from stages.nets.precision import DTYPES
from stages.shards import differences, request_of
from stages.shards.disk import append_line, replace_file
from stages.training.checkpoint import Checkpoint, drop_leftover
from stages.training.config import LoopConfig
from stages.training.distributed import World, any_wants, average_gradients, joined, share_weights
from stages.training.optimiser import build_optimiser, hold_batch_norm, set_rate
from stages.training.order import batch_positions, batches, steps_per_epoch
from stages.training.predictions import Predictions, Watch

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Job:
    """What is to be trained.

    `loss(net, batch)` returns named scalars, of which "loss" is minimised, and may return "predicted", (logits,
    targets) of the batch, and "counted", whole numbers by name, which the log sums over a pass; `draw(position,
    generator)` returns one sample of the `n_samples`; with `draw_shared`, `draw` gets as its third argument what
    `draw_shared(generator)` returned for the batch; `head` are the parameters that start anew; `description` is what
    the net's file says; `watch` judges what was predicted in each pass; `finish(net)` measures what belongs to the
    trained net before it is written; `sum_up(total)` says in words what was counted so far, which is told at the end:
    it is asked after every pass, and may raise BadData where nothing can be learnt. `steps` is the length of the
    training where it is not told in passes, `report_every` the steps after which it logs and saves where a pass is too
    long for that; `begin_step` is called with the number of each step.
    """

    net: nn.Module
    loss: Callable[[nn.Module, Batch], dict[str, Any]]
    draw: Callable[..., Mapping[str, np.ndarray]]
    n_samples: int
    head: list[nn.Parameter]
    description: dict[str, Any]
    watch: Watch | None = None
    finish: Callable[[nn.Module], None] | None = None
    sum_up: Callable[[Mapping[str, int]], str] | None = None
    steps: int = 0
    report_every: int = 0
    begin_step: Callable[[int], None] | None = None
    draw_shared: Callable[[np.random.Generator], Any] | None = None


def resolved(config: Any) -> Any:
    """Return the settings with device, precision and threads resolved: what enters the provenance.

    Raises Unavailable where torchrun started more processes than there are GPUs, UsageError for one GPU named to them
    all, and as `resolve_device`.
    """
    device = resolve_device(config.device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda" and local > 1:
        _check_gpus(config.device, local)
    precision = config.precision
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return replace(config, device=device, precision=precision, threads=config.threads or max(1, cores() // local))


def _check_gpus(ordinal: str, processes_here: int) -> None:
    if ":" in ordinal:
        raise UsageError(f"--device {ordinal} is one GPU, and torchrun started {processes_here} processes here",
                         "give --device cuda: each takes its own")
    count = torch.cuda.device_count()
    if processes_here > count:
        raise Unavailable(f"torchrun started {processes_here} processes here, and there are {count} GPUs",
                          f"give torchrun --nproc-per-node={count}")


def finished_before(entry: Mapping[str, Any], output: Output) -> Summary | None:
    """Return a summary when the net is there as wanted (touched, but not by a dry run); None when it is to be trained.

    Raises CannotCreate naming the keys that differ when there is another one.
    """
    if output.force or not output.path.exists():
        return None
    _, description = read_net(output.path)
    request = request_of(dict(entry))
    changed = differences(request_of(description["provenance"][-1]), request)
    if changed:
        raise CannotCreate(f"exists with other settings ({changed})",
                           "give those settings, another -o, or --force to replace it", where=str(output.path))
    if not output.dry_run:
        os.utime(output.path)
        drop_leftover(output.path, request)
    return Summary(up_to_date=1)


def without_training(entry: Mapping[str, Any], output: Output, report: Report) -> Summary | None:
    """Return the answer where nothing is to be trained: the net is there as wanted, or --dry-run; else None.

    Raises as `finished_before`.
    """
    done = finished_before(entry, output)
    if done:
        report.tell(f"{output.path} is up to date")
        report.finished(output.path)
    elif output.dry_run:
        report.tell(f"would train {output.path}")
    return done or (Summary() if output.dry_run else None)


def train(job: Job, config: LoopConfig, output: Output, *, ordinal: str, stop: Stop, report: Report) -> Summary:
    """Train `job` under resolved settings and write its net; resume what an interrupted run left.

    `ordinal` is the --device as given. Equal settings, inputs, world size, threads and versions end bit-equal
    on a CPU, however often the run was stopped. Raises Stopped (state kept), BadData (loss not finite, or the watch
    finds fault and `output.keep_going` is off: the state of the pass before is kept), CannotCreate, IoFailed.
    """
    use_threads(config.threads)
    with joined(config.device) as world:
        device = _device(config.device, ordinal, world)
        return _Training(job, config, output, world, device, stop, report).run()


def _device(kind: str, ordinal: str, world: World) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    # Deterministic kernels where CUDA has them; bilinear upsampling's gradient has none, and is let through silently.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("ignore", ".* does not have a deterministic implementation")
    torch.backends.cudnn.benchmark = False
    device = torch.device(ordinal if ":" in ordinal else f"cuda:{world.local_rank}")
    torch.cuda.set_device(device)
    return device


class _Training:
    """One run of the loop."""

    def __init__(self, job: Job, config: LoopConfig, output: Output, world: World, device: torch.device,
                 stop: Stop, report: Report) -> None:
        self.job, self.config, self.output, self.world, self.device = job, config, output, world, device
        self.stop, self.report = stop, report
        self.net = job.net.to(device, memory_format=torch.channels_last)
        hold_batch_norm(self.net, getattr(config, "freeze_bn", "no"))
        self.optimiser = build_optimiser(self.net, job.head, config)
        self.average: dict[str, torch.Tensor] = {}
        self.predictions = Predictions(world)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        per_epoch = steps_per_epoch(job.n_samples, config.batch_size * config.accumulate, world.size)
        self.per_epoch, self.steps = per_epoch, job.steps or per_epoch * config.epochs
        self.report_every = job.report_every or per_epoch

    def run(self) -> Summary:
        """Train from the last state to the end, and write the net."""
        request = request_of(self.job.description["provenance"][-1])
        checkpoint = Checkpoint(self.output.path, request, leads=self.world.leads)
        finished = False
        try:
            self._steps(self._restore(checkpoint), checkpoint)
            if self.job.finish:
                self._save(checkpoint, self.steps)
            if self.job.sum_up:
                self.report.tell(self.job.sum_up(self.predictions.total))
            if self.world.leads:
                replace_file(self.output.path, net_bytes(self._final(), self.job.description))
                self.report.finished(self.output.path)
            finished = True
        finally:
            checkpoint.release(finished=finished)
        return Summary(made=1)

    def _restore(self, checkpoint: Checkpoint) -> int:
        share_weights(self.net, self.world)
        if self.config.average:
            self.average = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        # Every process reads the state itself: the file is there for all, or the run has one process.
        step, scaler = checkpoint.restore(self.net, self.optimiser, self.average,
                                          predictions=self.predictions, discard=self.output.force)
        self.average = {name: tensor.to(self.device) for name, tensor in self.average.items()}
        if scaler:
            self.scaler.load_state_dict(scaler)
        if step and self.world.leads:
            self.report.tell(f"goes on after step {step} of {self.steps}")
        return step

    def _steps(self, first: int, checkpoint: Checkpoint) -> None:
        self.report.begin("steps", self.steps)
        self.report.advance(first)
        totals: dict[str, float] = {}
        started, since, step = time.time(), first, first
        samples = batches(self.job.draw, self._wanted(first), self.config.seed, self.output.workers,
                          self.job.draw_shared)
        with contextlib.closing(samples):
            while step < self.steps:
                for name, value in self._step(step, samples).items():
                    totals[name] = totals.get(name, 0.0) + value
                step += 1
                self.report.advance()
                if step % self.report_every == 0 or step == self.steps:
                    means = {name: value / (step - since) for name, value in totals.items()}
                    self._end_epoch(step, means, time.time() - started, checkpoint)
                    totals, started, since = {}, time.time(), step
                if any_wants(self.stop.requested, self.world, self.device) and step < self.steps:
                    self._save(checkpoint, step)
                    raise Stopped(f"stopped after step {step} of {self.steps}", "run the same command again to "
                                  "go on", where=str(self.output.path))

    def _wanted(self, first: int) -> Iterator[tuple[int, list[int]]]:
        config, world = self.config, self.world
        for step in range(first, self.steps):
            epoch, place = divmod(step, self.per_epoch)
            together = batch_positions(self.job.n_samples, config.batch_size * config.accumulate, config.seed,
                                       epoch, place, world.rank, world.size)
            for start in range(0, len(together), config.batch_size):
                yield epoch, together[start:start + config.batch_size]

    def _step(self, step: int, samples: Iterator[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Do one step of the optimiser, and return the mean of each named loss."""
        config = self.config
        # Seeding every step makes dropout a function of the step, so no generator state has to be kept.
        torch.manual_seed((config.seed * 1_000_003 + step) * 4096 + self.world.rank)
        rate = set_rate(self.optimiser, config, step, self.steps)
        if self.job.begin_step:
            self.job.begin_step(step)
        self.optimiser.zero_grad(set_to_none=True)
        told: dict[str, float] = {"lr": rate}
        share = -(-min(self.job.n_samples, config.batch_size * config.accumulate * self.world.size) // self.world.size)
        expected = max(1, -(-share // config.batch_size))
        for _ in range(expected):
            batch = {name: self._moved(tensor) for name, tensor in next(samples).items()}
            with torch.autocast(self.device.type, DTYPES[config.precision], enabled=config.precision != "fp32"):
                losses = self.job.loss(self.net, batch)
            if (predicted := losses.pop("predicted", None)) and self.job.watch:
                self.predictions.add(*predicted)
            self.predictions.count(losses.pop("counted", {}))
            self.scaler.scale(losses["loss"] / expected).backward()
            for name, value in losses.items():
                told[name] = told.get(name, 0.0) + value.item() / expected
        if not math.isfinite(told["loss"]):
            raise BadData(f"the loss is {told['loss']} at step {step}", _calmer(config), where=str(self.output.path))
        self._apply()
        return told

    def _apply(self) -> None:
        parameters = [one for group in self.optimiser.param_groups for one in group["params"]]
        average_gradients(parameters, self.world)
        if self.config.largest_gradient:
            self.scaler.unscale_(self.optimiser)
            nn.utils.clip_grad_norm_(parameters, self.config.largest_gradient)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        for name, tensor in self.net.state_dict().items() if self.average else ():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - self.config.average)
            else:
                self.average[name].copy_(tensor)

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim == 4:
            return tensor.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        return tensor.to(self.device, non_blocking=True)

    def _end_epoch(self, step: int, means: dict[str, float], seconds: float, checkpoint: Checkpoint) -> None:
        figures, count = self._measured()
        line = {"epoch": step // self.per_epoch, "step": step, "seconds": round(seconds, 2),
                **{name: round(value, 6) for name, value in {**means, **figures}.items()}}
        if self.world.leads:
            append_line(self.output.log_path, json.dumps(line, ensure_ascii=False).encode())
            where = f"step {step}/{self.steps}" if self.job.steps else f"epoch {line['epoch']}/{self.config.epochs}"
            self.report.tell(f"{where}: loss {line['loss']:.4f}, {line['seconds']} s")
        self._judge(count)
        if self.job.sum_up:
            self.job.sum_up(self.predictions.total)
        if step < self.steps:
            self._save(checkpoint, step)

    def _measured(self) -> tuple[dict[str, float], int]:
        """Return the watch's figures of the pass that ends, with what was counted, and how many samples they are of."""
        found, counted = self.predictions.together(), self.predictions.counted()
        self.predictions.clear()
        if found is None or self.job.watch is None:
            return {**counted}, 0
        figures = self.job.watch.measure(*found)
        self.predictions.history += [figures] if figures else []
        return {**figures, **counted}, len(found[0])

    def _judge(self, count: int) -> None:
        what, do = self.job.watch.verdict(self.predictions.history, count) if self.job.watch else ("", "")
        if what and not self.output.keep_going:
            raise BadData(what, do, where=str(self.output.path))
        if what and self.world.leads:
            self.report.tell(what)

    def _save(self, checkpoint: Checkpoint, step: int) -> None:
        seen = self.predictions.tensors()
        if self.world.leads:
            checkpoint.save(step, self.net, self.optimiser, self.average, self.scaler.state_dict(), seen,
                            self.predictions.history)

    def _final(self) -> dict[str, torch.Tensor]:
        state = self.average or self.net.state_dict()
        if self.job.finish:
            self.net.load_state_dict(state)
            self.job.finish(self.net)
            state = self.net.state_dict()
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise BadData(f"the weights {name} are not finite after the last step",
                              _calmer(self.config), where=str(self.output.path))
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _calmer(config: Any) -> str:
    """Return what to try where weights or losses are not finite; `train-text` has a CLIP behind --clip."""
    clip = "--gradient-clip" if hasattr(config, "gradient_clip") else "--clip"
    return f"try a smaller --lr or {clip}, or a longer --warmup"
