"""What is asked where, and that a key is seen by nobody but the server it is for."""

from __future__ import annotations

import logging
import socket
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from preftree.errors import ConfigError, JudgeError, UserError
from preftree.judges.llm.endpoint import check_address
from preftree.judges.llm.specs import find_llm
from preftree.judges.pairwise import load_judge
from preftree.judges.rewards import load_rewards
from preftree.records import Comparison
from support.fake_openai import FakeOpenai
from support.judge_files import judge_file, model_judge

KEY = "canary-key-7Gh2"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://93.184.216.34/v1", "is not on this computer, so it must begin with https"),
        ("http://0.0.0.0:8000/v1", "is not on this computer"),
        ("ftp://127.0.0.1/v1", "must begin with https://"),
        ("127.0.0.1:8000/v1", "must begin with https://"),
        ("https://name:secret@127.0.0.1/v1", "must hold no name, password or query"),
        ("https://127.0.0.1/v1?key=secret", "must hold no name, password or query"),
        ("https://169.254.169.254/latest", "link-local or metadata address"),
        ("https://[fe80::1]/v1", "link-local or metadata address"),
        ("https://[::ffff:169.254.169.254]/v1", "link-local or metadata address"),
        ("https://[fd00:ec2::254]/v1", "link-local or metadata address"),
        ("http://100.100.100.200/v1", "link-local or metadata address"),
        ("http://127.0.0.1:99999/v1", "is no address"),
    ],
)
def test_addresses_that_are_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check_address(url)
    assert "secret" not in str(caught.value)


def test_a_name_that_leads_to_a_metadata_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: answer)
    with pytest.raises(ConfigError, match="metadata"):
        check_address("https://judge.example/v1")


def test_addresses_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: [])
    for url in ("http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:1/v1", "https://api.example.com/v1"):
        assert check_address(url + "/") == url


class _Elsewhere(BaseHTTPRequestHandler):
    """Sends everything to another address, with a status that repeats the request."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(307)
        self.send_header("Location", self.server.target)  # pyright: ignore[reportAttributeAccessIssue]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


def test_redirects_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    redirecting: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere)
    with FakeOpenai() as server:
        redirecting.target = f"{server.url}/chat/completions"
        Thread(target=redirecting.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{redirecting.server_address[1]}/v1"
        judge = model_judge(tmp_path, url, api_key_env="JUDGE_KEY")
        with pytest.raises(JudgeError, match="redirects elsewhere"):
            judge.compare([Comparison("p", "a", "b")])
        assert not server.counts
        redirecting.shutdown()
        redirecting.server_close()


def test_a_key_is_in_no_file_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that repeats the key it gets, in an error and in an answer."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    pairs = [Comparison("p", "quality 1", "quality 2")]
    with FakeOpenai(key=KEY, reply=lambda body, text: text.replace("scripted", f"key {KEY}")) as server:
        judge = model_judge(tmp_path, server.url, api_key_env="JUDGE_KEY")
        (verdict,) = judge.compare(pairs)
        assert (verdict.choice, verdict.reason) == ("right", "key ***")
        monkeypatch.setenv("JUDGE_KEY", KEY + "-wrong")
        wrong = model_judge(tmp_path, server.url, api_key_env="JUDGE_KEY", temperature=0.5)
        with pytest.raises(JudgeError, match=r"refuses access \(401") as caught:
            wrong.compare(pairs)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(judge) + repr(vars(judge))
    assert KEY not in said
    for path in tmp_path.rglob("*"):
        assert KEY.encode() not in path.read_bytes(), path
    assert (tmp_path / "answers.db").stat().st_mode & 0o077 == 0


def test_a_missing_key_is_named_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"\$JUDGE_KEY is not set"):
        model_judge(tmp_path, "http://127.0.0.1:1/v1", api_key_env="JUDGE_KEY")


def test_the_account_of_one_company_is_not_sent_to_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-canary")
    found = find_llm("openai:m@http://127.0.0.1:8000/v1")
    assert found is not None and found.api_key_env is None
    theirs = find_llm("openai:m@https://api.openai.com/v1")
    assert theirs is not None and theirs.api_key_env == "OPENAI_API_KEY"
    with FakeOpenai(key="none") as server:
        assert (
            model_judge(tmp_path, server.url).compare([Comparison("p", "quality 1", "quality 2")])[0].choice == "right"
        )


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("openai:model", "must be openai:MODEL@URL"),
        ("openai:@http://127.0.0.1/v1", "must be openai:MODEL@URL"),
        ("llm:missing.yaml", "cannot be read"),
    ],
)
def test_names_that_are_no_judge(spec: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_judge(spec)
    with pytest.raises(UserError, match=says):
        load_rewards(spec)


def test_a_rubric_of_the_other_kind_is_one_sentence(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    pairs, ranks = judge_file(tmp_path, url), judge_file(tmp_path, url, mode="ranking")
    with pytest.raises(ConfigError, match=r"compares two responses \(mode: pairwise\); to score one give"):
        load_rewards(f"llm:{pairs}")
    with pytest.raises(ConfigError, match="each response needs its own score"):
        load_rewards(f"llm:{ranks}")
    with pytest.raises(ConfigError, match=r"orders lists \(mode: ranking\); to compare two"):
        load_judge(f"llm:{ranks}")


def test_a_server_that_is_gone_ends_the_work_with_one_sentence(tmp_path: Path) -> None:
    with FakeOpenai() as server:
        judge = model_judge(tmp_path, server.url, concurrency=2, retries=0)
        judge.compare([Comparison("p", "quality 1", "quality 2")])
    with pytest.raises(JudgeError, match=r"failed \d+ times in a row|planted question"):
        judge.compare([Comparison(f"p{row}", "quality 1", "quality 2") for row in range(100)])
    assert judge.compare([Comparison("p", "quality 1", "quality 2")])[0].choice == "right"  # what was paid for is kept
