"""A name that is no folder here is asked for once, and what comes of it is one sentence."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi
from typer.testing import CliRunner

from preftree.cli.main import app
from preftree.errors import ConfigError, ModelError
from preftree.models import on_hub
from preftree.models.load import load_base, load_tokenizer
from preftree.models.on_hub import push_folder, require_login


class Nothing(BaseHTTPRequestHandler):
    """A hub without models, which counts what it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    Nothing.asked = []
    server = HTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(on_hub, "HfApi", lambda: HfApi(endpoint=endpoint))
    on_hub.ask_hub.cache_clear()
    yield Nothing.asked
    server.shutdown()
    server.server_close()


class Hub(BaseHTTPRequestHandler):
    """A hub that takes one model by plain commits, and keeps what it is sent."""

    sent: dict[str, Any]

    def do_GET(self) -> None:
        self._answer({"name": "me", "type": "user"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.sent[self.path] = body, self.headers["Authorization"]
        if "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            self._answer(
                {"success": True, "commitOid": "c0ffee", "commitUrl": "https://huggingface.co/me/mine/commit/c0ffee"}
            )
        else:
            self._answer({"url": "https://huggingface.co/me/mine", "name": "me/mine", "warnings": [], "errors": []})

    def _answer(self, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    Hub.sent = {}
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(on_hub, "HfApi", lambda: HfApi(endpoint=f"http://127.0.0.1:{server.server_port}"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    yield Hub.sent
    server.shutdown()
    server.server_close()


def test_a_folder_is_pushed_with_its_card_in_one_commit(tmp_path: Path, sent: dict[str, Any]) -> None:
    folder = tmp_path / "out"
    (folder / "inner").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "inner/weights.safetensors").write_bytes(b"\0\1\2")
    line = f"folder = {str(folder)!r}  # where it was written"
    (folder / "README.md").write_text(f"---\ntags: [preftree]\n---\n\n    {line}\n")
    require_login("me/mine")
    assert push_folder(folder, "me/mine") == "https://huggingface.co/me/mine/commit/c0ffee"
    created, token = sent["/api/repos/create"]
    assert json.loads(created)["name"] == "mine" and json.loads(created)["visibility"] == "private"
    assert {authorization for _, authorization in sent.values()} == {token} == {"Bearer hf_of_the_test"}
    lines = [json.loads(line) for line in sent["/api/models/me/mine/commit/main"][0].splitlines()]
    files = {row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in lines if row["key"] == "file"}
    assert files == {
        "config.json": b"{}",
        "inner/weights.safetensors": b"\0\1\2",
        "README.md": b"---\ntags: [preftree]\n---\n\n    folder = 'me/mine'\n",
    }
    assert line in (folder / "README.md").read_text()


def test_what_keeps_a_push_from_starting_is_said_first(
    tmp_path: Path, sent: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["export", str(tmp_path), str(tmp_path / "out"), "--merged", "--push"]
    with pytest.raises(ConfigError, match=r"--push names a model of the Hugging Face hub, OWNER/NAME, got 'mine'"):
        CliRunner().invoke(app, [*words, "mine"], catch_exceptions=False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"--push needs a token of the Hugging Face hub: `hf auth login`"):
        CliRunner().invoke(app, [*words, "me/mine"], catch_exceptions=False)
    assert sent == {} and not (tmp_path / "out").exists()


def test_a_name_that_is_nowhere_is_asked_for_once(asked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    for load in (load_tokenizer, load_base):
        with (
            caplog.at_level("INFO", "preftree"),
            pytest.raises(ModelError, match=r"neither a folder 'nope' here nor a model of this name"),
        ):
            load("nope")
    assert "there is no folder 'nope' here; asking the Hugging Face hub" in caplog.text
    assert asked == ["/api/models/nope"] * 2  # once for each command: an error is not remembered


def test_a_hub_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    on_hub.ask_hub.cache_clear()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids to ask"):
        load_base("nope")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(on_hub, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9"))
    with pytest.raises(ModelError, match=r"no folder 'nope' here, and the Hugging Face hub does not answer.*refused"):
        load_base("nope")
    with pytest.raises(ModelError, match=r"neither a folder 'a b' here"):
        load_base("a b")
