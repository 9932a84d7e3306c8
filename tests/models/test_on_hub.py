"""A name that is no folder here is asked for once, and what comes of it is one sentence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import HfApi

from preftree.errors import ModelError
from preftree.models import on_hub
from preftree.models.load import load_base, load_tokenizer


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
