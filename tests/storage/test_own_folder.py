"""Folders of results: those of somebody else are left as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftree.errors import ConfigError, TrainingError
from preftree.storage.own_folder import own_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_with_files_of_something_else_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds model, and no run or result of Preftree; nothing was written"):
        own_folder(tmp_path).__enter__()
    assert names(tmp_path) == ["model"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file is a file, and a folder is wanted"):
        own_folder(tmp_path / "file").__enter__()


def test_an_empty_folder_and_one_of_ours_are_taken_and_half_written_files_go(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with own_folder(folder), pytest.raises(TrainingError, match="in use"), own_folder(folder):
        pass
    (folder / "metrics.jsonl").write_text("")
    (folder / ".model.0123abcd.staging").mkdir()
    with own_folder(folder):
        assert names(folder) == [".lock", "metrics.jsonl"]


@pytest.mark.parametrize(
    "files",
    [
        ["config.yaml", "metrics.jsonl"],
        ["checkpoints/step-000004/MANIFEST.json"],
        ["beta0.1/config.yaml", "beta0.1/.lock"],
    ],
)
def test_folders_of_earlier_versions_are_known_by_their_files(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with own_folder(tmp_path):
        pass
    for name in files:
        (tmp_path / name).unlink()


def test_a_disk_that_was_full_when_the_mark_was_written_is_no_foreign_folder(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    with own_folder(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith("process ")
