"""What a run writes down: rows as they come, cut where a checkpoint stood, and figures for the reader."""

from __future__ import annotations

import errno
import io
import json
import logging
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from preftree.errors import CheckpointError, TrainingError
from preftree.run_folder.metrics_file import Tracker, cut_rows, open_tracker, row_in_words
from preftree.trackers.guarded import Trackers, open_trackers
from preftree.trackers.protocol import TrackedRun

ROW = {"step": 1, "loss": 0.5, "accuracy": 0.75, "margin": 0.1, "pairs": 4, "pairs_per_second": 8.0}


def board_in(folder: Path) -> Trackers:
    return open_trackers(["tensorboard"], TrackedRun(folder, {}))


def test_rows_are_on_disk_when_write_returns(tmp_path: Path) -> None:
    with open_tracker(
        tmp_path, leads=True, num_steps=3, first_step=0, keep_rows=None, trackers=lambda: board_in(tmp_path)
    ) as tracker:
        for step in (1, 2):
            tracker.write(ROW | {"step": step})
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == list(range(1, step + 1))
        tracker.write({"split": "eval", "step": 2, "loss": 0.25})
        assert tracker.num_rows == 3
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.5)]
    assert [(event.step, event.value) for event in events.Scalars("eval/loss")] == [(2, 0.25)]


def test_only_the_rank_that_leads_writes(tmp_path: Path) -> None:
    with open_tracker(tmp_path, leads=False, num_steps=3, first_step=0, keep_rows=4) as tracker:
        tracker.write(ROW)
        assert tracker.num_rows == 5
    assert not list(tmp_path.iterdir())


def test_rows_past_the_checkpoint_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n{"a"')
    assert cut_rows(path, 3)[0] == 3
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    assert cut_rows(path, 1)[0] == 1
    assert path.read_text() == '{"a": 1}\n'
    with pytest.raises(CheckpointError, match=r"has 1 rows where the checkpoint counted 2; put the file back"):
        cut_rows(path, 2)
    assert cut_rows(path, 0)[0] == 0
    assert path.read_text() == ""
    assert cut_rows(tmp_path / "missing.jsonl", 5)[0] == 0


def test_a_row_that_is_no_json_is_our_own_fault(tmp_path: Path) -> None:
    with io.FileIO(tmp_path / "rows", "w") as file, pytest.raises(ValueError, match="JSON compliant"):
        Tracker(file=file).write(ROW | {"loss": float("nan")})
    assert (tmp_path / "rows").read_bytes() == b""


def test_a_full_disk_is_a_sentence() -> None:
    with io.FileIO("/dev/full", "w") as full, pytest.raises(TrainingError, match="/dev/full cannot be written"):
        Tracker(file=full).write(ROW)


def test_rows_that_cannot_reach_the_disk_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with io.FileIO(tmp_path / "rows", "w") as file:
        tracker = Tracker(file=file)
        tracker.write(ROW)
        tracker.sync()
        monkeypatch.setattr("os.fsync", fail)
        with pytest.raises(TrainingError, match=r"rows cannot be written \(Input/output error\)"):
            tracker.sync()


def test_lines_for_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with open_tracker(tmp_path, leads=True, num_steps=9, first_step=0, keep_rows=None) as tracker:
        for step in range(1, 10):
            tracker.write(ROW | {"step": step})
        tracker.write({"split": "eval", "accuracy_low": 0.5, "accuracy_high": 0.9, **ROW, "step": 9})
    lines = [record.message for record in caplog.records]
    assert len(lines) == 3  # the first step, the last, and the evaluation
    assert lines[0] == "step 1/9  loss 0.5000  accuracy 0.750  margin +0.100  8.0 pairs/s"
    assert lines[1].startswith("step 9/9  loss 0.5000") and lines[1].endswith("0:00:00 left")
    assert lines[2].startswith("step 9, held out: loss 0.5000  accuracy 0.750 [0.500, 0.900]  margin +0.100")


def test_a_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    with open_tracker(tmp_path, leads=True, num_steps=2, first_step=0, keep_rows=None) as tracker:
        tracker.write(ROW)
        tracker.write(ROW | {"step": 2})
    shown = screen.getvalue()
    assert "2/2" in shown
    assert "loss 0.5000  accuracy 0.750  margin +0.100  8.0 pairs/s" in shown


def test_describe_takes_what_is_there() -> None:
    assert row_in_words({"step": 3, "loss": 2.0, "examples_per_second": 10.0}) == "loss 2.0000  10.0 examples/s"
