"""One line an epoch, whatever happened in between."""

import json
import logging
import math
from pathlib import Path

import pytest
from nnrules.errors import RunError

from nnrules_runtime.train import progress_picture
from nnrules_runtime.train.metrics import EpochMetrics, MetricsLog, peak_memory_bytes
from nnrules_runtime.train.progress_picture import can_draw, draw_progress


def epoch(number: int, **changes: object) -> EpochMetrics:
    values: dict[str, object] = {
        "epoch": number,
        "num_iterations": 5,
        "learning_rate": 0.01,
        "loss": 1.0 - 0.1 * number,
        "validation_loss": None,
        "dice": {"organ": 0.5, "tumour": None},
        "mean_dice": 0.5,
        "average_dice": 0.5,
        "is_best": number == 0,
        "seconds": 10.0,
        "seconds_per_iteration": 1.5,
        "share_waiting": 0.02,
        "num_skipped": 0,
        "peak_memory_bytes": 2**30,
        "peak_gpu_memory_bytes": None,
    }
    return EpochMetrics(**(values | changes))  # type: ignore[arg-type]


def test_epochs_are_read_as_they_were_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    for number in range(3):
        log.append(epoch(number))
    entries = log.read()
    assert [entry["epoch"] for entry in entries] == [0, 1, 2]
    assert entries[1]["dice"] == {"organ": 0.5, "tumour": None}
    assert entries[2]["loss"] == pytest.approx(0.8)


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(epoch(0, loss=math.nan, dice={"organ": math.inf}))
    entry = json.loads(log.path.read_text(), parse_constant=pytest.fail)
    assert entry["loss"] is None
    assert entry["dice"] == {"organ": None}


def test_continuing_drops_epochs_that_run_again_and_a_torn_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for number in range(4):
        log.append(epoch(number))
    with log.path.open("a") as stream:
        stream.write('{"epoch": 4, "lo')
    log.keep_before(2)
    assert [entry["epoch"] for entry in log.read()] == [0, 1]
    log.append(epoch(2))
    assert [json.loads(line)["epoch"] for line in log.path.read_text().splitlines()] == [0, 1, 2]


def test_continuing_without_a_file_is_fine(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl").keep_before(3)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="metrics"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl").append(epoch(0))


def test_memory_is_counted_in_bytes() -> None:
    assert 2**24 < peak_memory_bytes() < 2**40


def test_progress_is_drawn(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for number in range(3):
        log.append(epoch(number))
    draw_progress(log.read(), tmp_path / "progress.png")
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress_picture.importlib.util, "find_spec", lambda _: None)
    with caplog.at_level(logging.INFO):
        assert not can_draw()
    assert "nnrules[report]" in caplog.text
