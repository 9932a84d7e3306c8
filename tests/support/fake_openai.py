"""An OpenAI-compatible server on loopback with a scripted judge behind it, and fourteen faults.

    python -m support.fake_openai [--score KIND]

prints its port. `GET /counts` gives the numbers of requests; a process of its own survives what kills its client.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (
    "429",
    "500 burst",
    "stall",
    "cut JSON",
    "schema ignored",
    "prose before JSON",
    "content null",
    "refusal",
    "lower case",
    "zero width",
    "two verdicts",
    "missing usage",
    "other model",
    "reset",
)

PLANNED = {
    "429": "read",
    "500 burst": "read",
    "stall": "failed",
    "cut JSON": "invalid",
    "schema ignored": "read",
    "prose before JSON": "read",
    "content null": "failed",
    "refusal": "invalid",
    "lower case": "invalid",  # but for a tie, whose word has no other case
    "zero width": "read",
    "two verdicts": "invalid",
    "missing usage": "read",
    "other model": "failed",
    "reset": "failed",
}
"""State of a verdict under each fault; `read` is decided or tie, as the scripted judge says."""

Decide = Callable[[str, Sequence[str]], int | None]
"""(prompt, responses as shown) -> place of the better one; None for a tie."""


def by_digits(prompt: str, responses: Sequence[str]) -> int | None:
    """The response with the greater number after `quality`; of equals, the one that repeats the prompt's harbour."""
    values = [quality(text) for text in responses]
    return None if len(set(values)) < len(values) else values.index(max(values))


def quality(text: str) -> float:
    """The number that a scripted response holds; the planted right answer is worth most."""
    if text == "harbour":
        return 1e9
    written = re.search(r"quality (\d+)", text)
    return float(written[1]) if written else -float(len(text) % 97) / 1000


def always_left(prompt: str, responses: Sequence[str]) -> int | None:
    """The first response, except where the answer is planted."""
    return 1 if responses[-1] == "harbour" else 0


def fault_of(content: str) -> str | None:
    """The fault that a question asks for: `fault NAME;` in its prompt."""
    _, mark, rest = content.partition("fault ")
    return rest.partition(";")[0] if mark else None


class FakeOpenai(ThreadingHTTPServer):
    """The server. `decide` is the judge; `reply` may replace the text of an answer."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        decide: Decide = by_digits,
        *,
        model: str = "fake-1",
        reply: Callable[[dict[str, Any], str], str] | None = None,
        key: str = "",
        tokens: tuple[int, int] | None = None,
        delay: float = 0.0,
        stall: float = 1.5,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.decide, self.model, self.reply, self.key = decide, model, reply, key
        self.tokens, self.delay, self.stall = tokens, delay, stall
        self.counts: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.gone = False

    def __enter__(self) -> FakeOpenai:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.gone = True  # for the threads of open connections
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeOpenai

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        with self.server.lock:
            self._send(200, {"counts": dict(self.server.counts), "repeated": max(self.server.seen.values(), default=0)})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        if server.gone:
            self.close_connection = True
            return
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        planted = "harbour" in content
        with server.lock:
            server.counts["probe" if planted else "asked"] += 1
            server.seen[digest] += 1
            tries = server.seen[digest]
            server.bodies.append(body)
        if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
            said = f"Incorrect API key provided: {self.headers['Authorization']}"
            self._send(401, {"error": {"message": said}})
            return
        if server.delay:
            time.sleep(server.delay)
        fault = fault_of(content)
        if fault == "429" and tries < 2:
            self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"})
        elif fault == "500 burst" and tries < 3:
            self._send(500, {"error": {"message": "oops"}}, {"Retry-After": "0.01"})
        elif fault == "stall":
            time.sleep(server.stall)
            self.close_connection = True
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            self._answer(body, content, fault)

    def _answer(self, body: dict[str, Any], content: str, fault: str | None) -> None:
        server = self.server
        data = json.loads(content)
        names, texts = list(data["answers"]), list(data["answers"].values())
        keys = _schema_of(body)
        text = self._judgement(keys, data["prompt"], names, texts)
        if server.reply is not None and "harbour" not in texts:
            text = server.reply(body, text)
        verdict = json.loads(text).get("better", "") if text.startswith("{") else ""
        finish, model = "stop", server.model
        usage = {"prompt_tokens": len(content) // 4 + 100, "completion_tokens": 20, "total_tokens": 0}
        if server.tokens is not None:
            usage |= {"prompt_tokens": server.tokens[0], "completion_tokens": server.tokens[1]}
        if fault == "cut JSON":
            text, finish = text[: len(text) // 2], "length"
        elif fault == "schema ignored":
            text = f"Both answers have merits.\n\n{verdict}\n"
        elif fault == "prose before JSON":
            text = f"Let me think about it.\n```json\n{text}\n```"
        elif fault == "lower case":
            text = text.replace(names[0], names[0].lower()).replace(names[1], names[1].lower())
        elif fault == "zero width":
            text = text.replace(verdict, "\u200b" + verdict)
        elif fault == "two verdicts":
            text = f'{{"better": "{names[0]}"}} or rather {{"better": "{names[1]}"}}'
        elif fault == "other model":
            model = "fake-2"
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if fault == "content null":
            message["content"] = None
        elif fault == "refusal":
            message |= {"content": None, "refusal": "I will not judge this."}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [
                {"index": 0, "finish_reason": finish, "message": message | {"refusal": message.get("refusal")}}
            ],
            "usage": usage,
        }
        if fault == "missing usage":
            del answer["usage"]
        self._send(200, answer)

    def _judgement(self, keys: Sequence[str], prompt: str, names: list[str], texts: list[str]) -> str:
        """The scripted judge's answer in the form that was asked for."""
        decide = self.server.decide
        if "score" in keys:
            judged: dict[str, Any] = {"answer": names[0], "score": max(1, min(10, round(quality(texts[0]))))}
        elif "best_first" in keys:
            judged = {"best_first": sorted(names, key=lambda name: -quality(texts[names.index(name)]))}
        else:
            place = decide(prompt, texts)
            judged = {"better": "tie" if place is None else names[place]}
        return json.dumps(({"reason": "scripted"} if "reason" in keys else {}) | judged)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)


def _schema_of(body: dict[str, Any]) -> list[str]:
    form = body.get("response_format", {})
    return list(form["json_schema"]["schema"]["properties"]) if form.get("type") == "json_schema" else ["better"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    given = parser.parse_args()
    server = FakeOpenai(delay=given.delay)
    print(server.server_address[1], flush=True)
    server.serve_forever(0.01)
