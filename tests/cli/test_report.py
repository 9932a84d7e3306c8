"""`preftree report` and `preftree eval diagnose` as a user meets them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from preftree.cli.eval import app as eval_app
from preftree.cli.report import report
from preftree.errors import DataError
from preftree.report.end_of_run import conclude
from support.runs import dpo_rows, write_run

app = typer.Typer()
app.command("report")(report)
app.add_typer(eval_app, name="eval")


def run(*arguments: str):
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.fixture
def displaced(tmp_path: Path) -> Path:
    return write_run(tmp_path / "displaced", dpo_rows(chosen=lambda t: -150 * t, rejected=lambda t: -165 * t))


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return write_run(tmp_path / "healthy", dpo_rows())


def test_report_of_two_runs(displaced: Path, healthy: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    result = run("report", str(displaced), str(healthy), "-o", str(out))
    assert result.exit_code == 0
    assert "2 runs" in result.stderr
    assert "2 runs compared" in out.read_text("utf-8")


def test_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; give the folder of a run"):
        run("report", str(tmp_path / "nowhere"), "-o", str(tmp_path / "x.html"))
    assert not (tmp_path / "x.html").exists()


def test_diagnose_in_words(displaced: Path, healthy: Path) -> None:
    told = run("eval", "diagnose", str(displaced)).stdout
    assert told.startswith("warning: Likelihood displacement\n  The margin rose by ")
    assert "Try: Raise beta" in told and "Rule: chosen responses lost more than 100%" in told
    assert "chosen_logratio -150" in told
    assert run("eval", "diagnose", str(healthy)).stdout.startswith("clear: non-finite figures, reference drift, ")


def test_diagnose_as_json(displaced: Path, healthy: Path) -> None:
    said = json.loads(run("eval", "diagnose", str(displaced), "--json").stdout)
    assert [diagnosis["name"] for diagnosis in said["found"]] == ["displacement"]
    assert set(said["found"][0]) == {"name", "severity", "figures", "threshold", "message", "advice"}
    assert len(said["clear"]) == 9 and said["not_possible"] == {}
    assert json.loads(run("eval", "diagnose", str(healthy), "--json").stdout)["found"] == []


def test_a_run_ends_with_its_page_and_its_diagnoses(displaced: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "preftree"):
        conclude(displaced)
    assert (displaced / "report.html").is_file()
    warning, info = (record.getMessage() for record in caplog.records)
    assert warning.startswith("likelihood displacement: The margin rose by ")
    assert info == f"report in {displaced / 'report.html'}"


def test_a_page_that_cannot_be_made_does_not_fail_the_run(displaced: Path, caplog: pytest.LogCaptureFixture) -> None:
    (displaced / "measured.json").write_text("{")
    conclude(displaced)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "measured.json" in record.getMessage()
