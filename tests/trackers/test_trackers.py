"""Trackers get what a run has, and a run goes on without one that fails; the libraries themselves are tried offline."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from preftree.config.dpo import DpoConfig
from preftree.config.load import load_config
from preftree.errors import ConfigError
from preftree.report.end_of_run import conclude
from preftree.run_folder.measured_file import Answered, Measured, write_measured
from preftree.trackers import guarded
from preftree.trackers.guarded import open_trackers
from preftree.trackers.protocol import ExperimentTracker, TrackedEnd, TrackedRun
from preftree.train.dpo import run_dpo
from support.small_runs import dpo_config, make_model, make_pairs, rows_of

BLOCK = 32768
LOSSES = [(1, 1.0), (2, 0.5), (3, 1 / 3)]
SAMPLES = [{"prompt": "Is it?", "start": "no", "policy": "yes, <b>it</b> is"}]


class Notebook:
    """A tracker that keeps what it gets, and fails when it is asked to."""

    def __init__(self, run: TrackedRun, fails: str = "") -> None:
        self.run, self.fails, self.known_as = run, fails, run.known_as or "first"
        self.calls: list[tuple[str, Any]] = []
        self._note("open", run)

    def _note(self, call: str, content: object) -> None:
        self.calls.append((call, content))
        if call == self.fails:
            raise RuntimeError(f"no {call}\ntoday")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._note("log", (step, figures))

    def end(self, end: TrackedEnd) -> None:
        self._note("end", end)

    def close(self) -> None:
        self._note("close", None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trackers")
    make_model(folder / "model")
    make_pairs(folder / "pairs.jsonl", 12)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Notebook]:
    """Trackers in place of the libraries: wandb works, mlflow fails at what `fails` says."""
    notebooks: list[Notebook] = []

    def open_class(name: str) -> Any:
        def make(run: TrackedRun) -> ExperimentTracker:
            notebooks.append(Notebook(run, fails=open_class.fails if name == "mlflow" else ""))  # type: ignore[attr-defined]
            return notebooks[-1]

        return make

    open_class.fails = "log"  # type: ignore[attr-defined]
    monkeypatch.setattr(guarded, "open_class", open_class)
    monkeypatch.setattr(guarded, "find_spec", lambda library: library)
    return notebooks


def test_a_run_tells_its_trackers_everything_and_goes_on_without_one_that_fails(
    place: Path, opened: list[Notebook], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "preftree"):
        run_dpo(dpo_config(place, "run", "max_steps=2", "eval_data=.3", "track=wandb,mlflow"))
    works, fails = opened
    assert caplog.text.count("tracker mlflow failed (no log today); the run goes on without it") == 1
    assert [call for call, _ in fails.calls] == ["open", "log"]
    assert works.run.config["data.path"] == str(place / "pairs.jsonl") and works.run.config["beta"] == 0.1
    logged = [content for call, content in works.calls if call == "log"]
    rows = rows_of(place / "run", clock=True)
    for (step, figures), row in zip(logged, rows, strict=True):
        assert step == row["step"]
        assert figures[f"{row.get('split', 'train')}/loss"] == row["loss"]
    assert works.calls[-1] == ("close", None)
    answer = Answered(prompt="Is it?", before="no", after="yes")
    write_measured(place / "run/measured.json", Measured(answers=(answer,)))
    conclude(place / "run")
    again = opened[2]
    assert again.run.known_as == "first" and again.run.first_step == 2
    (end,) = (content for call, content in again.calls if call == "end")
    assert end == TrackedEnd(
        place / "run/report.html", place / "run/model", [{"prompt": "Is it?", "start": "no", "policy": "yes"}]
    )


@pytest.mark.parametrize("call", ["open", "end", "close"])
def test_no_failure_gets_through(
    tmp_path: Path, opened: list[Notebook], call: str, caplog: pytest.LogCaptureFixture
) -> None:
    guarded.open_class.fails = call  # type: ignore[attr-defined]
    trackers = open_trackers(["wandb", "mlflow"], TrackedRun(tmp_path, {}))
    trackers.log({"step": 1, "loss": 2.0, "bad": float("nan"), "word": "x"})
    trackers.end(TrackedEnd(None, tmp_path))
    trackers.close()
    assert caplog.text.count(f"tracker mlflow failed (no {call} today)") == 1
    assert ("log", (1, {"train/loss": 2.0})) in opened[0].calls and opened[0].calls[-1][0] == "close"


def test_names_are_checked_before_a_run_starts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"track.*'tensorboard', 'wandb', 'mlflow' or 'trackio'.*wandbb"):
        dpo_config(place, "none", "track=wandbb")
    monkeypatch.setattr(guarded, "find_spec", lambda library: None)
    with pytest.raises(ConfigError, match=r"track=wandb needs wandb, which is not installed: pip install 'preftree\[t"):
        run_dpo(dpo_config(place, "none", "track=wandb"))
    assert not (place / "none").exists()
    words = [f"model={place / 'model'}", f"data={place / 'pairs.jsonl'}", "out=x"]
    for given, names in (("null", []), ("wandb,trackio", ["wandb", "trackio"]), ("[mlflow]", ["mlflow"])):
        assert load_config(DpoConfig, [*words, f"track={given}"]).track == names


def in_a_process(folder: Path, name: str, first: bool, **environment: str) -> None:
    """One sitting of a run in a tracker; the libraries keep threads and services, which end with the process."""
    code = f"""
from pathlib import Path
from preftree.trackers.guarded import open_trackers
from preftree.trackers.protocol import TrackedEnd, TrackedRun
run = Path({str(folder)!r})
config = {{"beta": 0.1, "data": {{"path": "p.jsonl"}}}}
trackers = open_trackers([{name!r}], TrackedRun(run, config, {0 if first else 2}))
for step in {[1, 2] if first else [3]!r}:
    trackers.log({{"step": step, "loss": 1.0 / step}})
    trackers.log({{"split": "eval", "step": step, "loss": 2.0 / step}})
if not {first}:
    trackers.end(TrackedEnd(run / "report.html", run / "model", {SAMPLES!r}))
trackers.close()
assert not trackers.open
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "failed" not in done.stderr, done.stderr
    assert done.stdout == ""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "report.html").write_text("<!doctype html><p>report</p>")
    return folder


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"needs {library}")


@pytest.mark.slow
@needs("mlflow")
def test_mlflow_keeps_two_sittings_as_one_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"MLFLOW_TRACKING_URI": f"file:{run / 'mlruns'}", "MLFLOW_ALLOW_FILE_STORE": "true"}
    in_a_process(run, "mlflow", True, **place)
    in_a_process(run, "mlflow", False, **place)
    (folder,) = {path.parent for path in run.glob("mlruns/*/*/params")}
    assert (folder / "params/beta").read_text() == "0.1" and (folder / "params/data.path").read_text() == "p.jsonl"
    lines = [line.split() for line in (folder / "metrics/train/loss").read_text().splitlines()]
    assert [(int(step), float(value)) for _, value, step in lines] == LOSSES
    assert len((folder / "metrics/eval/loss").read_text().splitlines()) == 3
    assert (folder / "tags/model").read_text() == str(run / "model")
    assert (folder / "artifacts/report.html").read_bytes() == (run / "report.html").read_bytes()
    assert json.loads((folder / "artifacts/samples.json").read_text()) == SAMPLES
    assert json.loads((run / "trackers.json").read_text())["mlflow"] == folder.name


@pytest.mark.slow
@needs("trackio")
def test_trackio_keeps_two_sittings_as_one_run(run: Path) -> None:
    import sqlite3

    in_a_process(run, "trackio", True, TRACKIO_DIR=str(run / "trackio"))
    in_a_process(run, "trackio", False, TRACKIO_DIR=str(run / "trackio"))
    (file,) = (run / "trackio").glob("preftree.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
        configs = base.execute("select config from configs").fetchall()
    figures = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert {name for name, *_ in rows} == {json.loads((run / "trackers.json").read_text())["trackio"]}
    assert [(step, row["train/loss"]) for step, row in figures if "train/loss" in row] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert any(row.get("model") == str(run / "model") for _, row in figures)
    assert any("yes, <b>it</b> is" in json.dumps(row.get("samples", "")) for _, row in figures)
    assert json.loads(configs[0][0])["data.path"] == "p.jsonl"
    assert list((run / "trackio").rglob("report.html"))


def leveldb_records(log: bytes) -> list[bytes]:
    """Records of a file in LevelDB's log format, behind its 7 bytes of head (github.com/google/leveldb, log_format.md).

    Blocks of 32,768 bytes hold parts: checksum (4 bytes), length (2), type (1 whole, 2 first, 3 middle, 4 last).
    """
    found, parts, at = [], b"", 0
    while at + 7 <= len(log):
        left = BLOCK - (at + 7) % BLOCK  # the head counts to the first block
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", log[at + 4 : at + 7])
        parts = (parts if kind in (3, 4) else b"") + log[at + 7 : at + 7 + length]
        if kind in (1, 4):
            found.append(parts)
        at += 7 + length
    return found


def _by_key(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.mark.slow
@needs("wandb")
def test_wandb_keeps_two_sittings_as_one_run(run: Path) -> None:
    from wandb.proto import wandb_internal_pb2 as records

    for first in (True, False):
        in_a_process(run, "wandb", first, WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(run))
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    figures: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    ids, config = set(), {}
    for file in files:
        for data in leveldb_records(file.read_bytes()[7:]):
            record = records.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                figures.append(_by_key(record.history.item))
            if record.HasField("summary"):
                summary |= _by_key(record.summary.update)
            if record.HasField("run"):
                ids.add(record.run.run_id)
                config |= _by_key(record.run.config.update)
    assert ids == {json.loads((run / "trackers.json").read_text())["wandb"]}
    assert config["data.path"] == "p.jsonl" and config["beta"] == 0.1
    assert [(row["step"], row["train/loss"]) for row in figures if "train/loss" in row] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert summary["model"] == str(run / "model")
    kinds = {row.get("samples._type", row.get("report._type")) for row in figures}
    assert {"table-file", "html-file"} <= kinds
    (table,) = run.glob("wandb/offline-run-*/files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [list(SAMPLES[0].values())]
