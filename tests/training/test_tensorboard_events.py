"""`--tensorboard`: events equal the log, also after interruptions, and never change the network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stages.errors import CannotCreate, Stopped, Unavailable
from stages.flow.execution import Output
from stages.training.tensorboard_events import EventWriter
from training.small import CONFIG, StopAfter, run_training

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    EventAccumulator = None

needs_tensorboard = pytest.mark.skipif(EventAccumulator is None, reason="the package tensorboard is not installed")


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) pairs of each scalar, as TensorBoard shows them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def read_log(path: Path) -> list[dict]:
    """Return the lines of a training's log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs_tensorboard
def test_events_are_the_lines_of_the_log_and_the_network_stays_the_same(tmp_path):
    plain = run_training(tmp_path / "plain.safetensors")
    assert run_training(tmp_path / "net.safetensors", tensorboard=tmp_path / "events") == plain
    events, log = read_events(tmp_path / "events"), read_log(tmp_path / "net.log.jsonl")
    assert set(events) == {"loss/loss", "loss/twice", "learning_rate", "seconds"}
    for name, key in (("loss/loss", "loss"), ("loss/twice", "twice"), ("learning_rate", "lr")):
        assert [step for step, _ in events[name]] == [line["step"] for line in log]
        # The log has six decimals, the events are float32.
        assert [value for _, value in events[name]] == pytest.approx([line[key] for line in log], rel=1e-6, abs=1e-6)


@needs_tensorboard
@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_a_resumed_training_has_every_step_once(tmp_path, is_killed):
    path, events = tmp_path / "net.safetensors", tmp_path / "events"
    with pytest.raises(Stopped):
        run_training(path, steps=4, tensorboard=events)
    if is_killed:  # after the events of an epoch, and before its checkpoint
        writer = EventWriter(events, 3, StopAfter())
        writer.write(6, {"loss/loss": 1e6})
        writer.close()
    run_training(path, tensorboard=events)
    steps = [step for step, _ in read_events(events)["loss/loss"]]
    assert steps == [line["step"] for line in read_log(tmp_path / "net.log.jsonl")] == [3, 6, 9]
    assert max(value for _, value in read_events(events)["loss/loss"]) < 1e3


@needs_tensorboard
def test_a_folder_that_cannot_be_written_ends_the_command_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CannotCreate, match=r"file.*can't be created"):
            run_training(tmp_path / "net.safetensors", tensorboard=folder)
    assert not (tmp_path / "net.log.jsonl").exists()


@needs_tensorboard
def test_a_full_disk_ends_the_events_with_a_message_but_not_the_training(tmp_path):
    report = StopAfter()
    writer = EventWriter(tmp_path, 0, report)
    writer._records._writer = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    for step in (1, 2):
        writer.write(step, {"loss/loss": 0.5})
    writer.close()
    message, = report.messages
    assert str(tmp_path) in message and "No space left on device; " in message.replace("(", "").replace(")", "")


def test_without_the_package_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(Unavailable, match=r"pip install 'wsss\[tensorboard\]'") as error:
        run_training(tmp_path / "net.safetensors", tensorboard=tmp_path / "events")
    assert error.value.code == 69 and not (tmp_path / "events").exists()


def test_the_option_is_no_setting():
    assert "tensorboard" not in vars(CONFIG)
    assert Output(Path("x.safetensors")).tensorboard is None
