"""Questions in, answers out: from the cache where they are there, else from the endpoint, several at once."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from preftree.errors import JudgeError
from preftree.judges.llm.bill import Account, Asking
from preftree.judges.llm.cache import Probe, Reply, shared_cache
from preftree.judges.llm.endpoint import FORMS, Endpoint, NoReply
from preftree.judges.llm.parse import PARSER_VERSION, Reading, read_answer
from preftree.judges.llm.prompt import Question, derive_nonces
from preftree.judges.llm.rubric import JudgeFile, Rubric

log = logging.getLogger("preftree")

REFUSED = "the judge refused to answer"
CUT = "the answer was cut at max_tokens"
OTHER_MODEL = "another model answered"

FAILURES_IN_A_ROW = 4
"""Failures one after another, times the requests at once, after which a run ends: the server is gone."""

_PLANTED = Question(
    Rubric(reason="none", ties=False),
    "Say the word harbour, and nothing else.",
    ("harbour", "I would rather talk about trains."),
)
"""A question whose answer anybody knows, which shows how a server answers."""


@dataclass(frozen=True, slots=True)
class AskedFor:
    """What came of a question.

    Attributes:
      names: Names of the responses in it.
      reading: What the answer says; None where there is no answer.
      fault: Why there is none.
    """

    names: tuple[str, ...]
    reading: Reading | None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class _Request:
    """A question as it is sent.

    Attributes:
      key: Key of its answer.
      names: Nonces of the responses.
      messages, schema: What is sent.
      characters: Their length.
    """

    key: str
    names: tuple[str, ...]
    messages: list[dict[str, str]]
    schema: dict[str, Any]
    characters: int


class Asker:
    """A judge's model, its cache and its account."""

    def __init__(self, judge: JudgeFile, how: Asking) -> None:
        """Prepare to ask; nothing is sent.

        Raises:
          ConfigError: the endpoint is not allowed, or its key is missing.
          WriteError: the cache cannot be opened.
        """
        self._judge, self._how = judge, how
        self._endpoint = Endpoint(judge)
        self._cache = shared_cache(how.cache)
        limit = how.max_cost if how.max_cost is not None else judge.max_cost
        self._account = Account(how.bill, judge.price, limit)
        self._probed: Probe | None = None
        self._in_a_row = 0
        self._lock = threading.Lock()

    def ask(self, questions: Sequence[Question], *, repeat: int = 0, name: str = "verdicts") -> list[AskedFor]:
        """The answers to questions, in their order; equal questions are asked once.

        Args:
          questions: What is asked.
          repeat: Number of the repetition, which is part of the key: 0 the first time.
          name: What the progress is of.
        Raises:
          JudgeError: the endpoint fails on everything, or the limit of the cost is reached; answers so far are kept.
        """
        probe = self._cache.probe(self._endpoint.place) or self._probe()
        requests = [self._request(question, probe, repeat) for question in questions]
        stored = self._cache.find(request.key for request in requests)
        missing = {request.key: request for request in requests if request.key not in stored}
        if missing and self._probe() != probe:
            return self.ask(questions, repeat=repeat, name=name)  # another model is there now, so other keys
        self._account.cached(len({request.key for request in requests}) - len(missing))
        replies: dict[str, Reply | str] = {**stored, **self._send(list(missing.values()), probe, name)}
        return [
            self._answer(question, request, replies[request.key])
            for question, request in zip(questions, requests, strict=True)
        ]

    def _request(self, question: Question, probe: Probe, repeat: int) -> _Request:
        places = [f"ANSWER-{number}" for number in range(1, len(question.responses) + 1)]
        identity = {
            "url": self._endpoint.url,
            "model": self._judge.model,
            "answered": probe.answered,
            "form": probe.form,
            "temperature": self._judge.temperature,
            "max_tokens": self._judge.max_tokens,
            "messages": question.messages(places),
            "schema": question.schema(places),
            "parser": PARSER_VERSION,
            "repeat": repeat,
        }
        text = json.dumps(identity, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        names = derive_nonces(self._cache.secret, key, len(places), text)
        messages, schema = question.messages(names), question.schema(names)
        size = sum(len(message["content"]) for message in messages)
        return _Request(key, tuple(names), messages, schema, size + len(json.dumps(schema)))

    def _probe(self) -> Probe:
        """How the server answers a planted question; asked once a run, before anything else is sent.

        Raises:
          JudgeError: no way of asking gets an answer that can be read.
        """
        if self._probed is not None:
            return self._probed
        self._account.check()
        said = ""
        for form in FORMS:
            request = self._request(_PLANTED, Probe("", form), 0)
            try:
                reply = self._endpoint.send(request.messages, request.schema, form)
            except NoReply as fault:
                said = str(fault)
                continue
            self._account.pay(reply, request.characters)
            reading = read_answer(reply.text, _PLANTED, request.names)
            if reading.judgement is None:
                said = f"it says {reply.text[:60]!r}"
                continue
            if reading.judgement[""] != request.names[0]:
                log.warning("the judge %s answers a plain question wrongly; see its canaries", self._endpoint.place)
            self._probed = Probe(reply.model, form)
            earlier = self._cache.probe(self._endpoint.place)
            if earlier is not None and earlier.answered != reply.model:
                log.warning(
                    "the judge %s was answered by %s and now is by %s: earlier answers are not used",
                    *(self._endpoint.place, earlier.answered, reply.model),
                )
            self._cache.set_probe(self._endpoint.place, self._probed)
            self._cache.add(request.key, self._endpoint.place, reply, request.characters)
            return self._probed
        raise JudgeError(
            f"the judge {self._endpoint.place} gives no answer to a planted question that can be read ({said}); start "
            "the server, raise max_tokens, or take another model"
        )

    def _send(self, requests: list[_Request], probe: Probe, name: str) -> dict[str, Reply | str]:
        """Replies of requests by key; of a failed one the reason."""
        if not requests:
            return {}
        usage = self._cache.usage(self._endpoint.place)
        log.info("judge: %s", self._account.estimate(len(requests), sum(one.characters for one in requests), usage))
        replies: dict[str, Reply | str] = {}
        pool = ThreadPoolExecutor(self._judge.concurrency, thread_name_prefix="judge")
        try:
            futures: dict[Future[Reply | str], _Request] = {
                pool.submit(self._send_one, request, probe): request for request in requests
            }
            for future in as_completed(futures):
                replies[futures[future].key] = future.result()
                self._how.progress(name, len(replies), len(requests))
        finally:  # after an error or Ctrl-C nothing more is sent, and what is in flight is kept
            pool.shutdown(wait=True, cancel_futures=True)
        return replies

    def _send_one(self, request: _Request, probe: Probe) -> Reply | str:
        self._account.check()
        try:
            reply = self._endpoint.send(request.messages, request.schema, probe.form)
        except NoReply as fault:
            self._account.fail()
            with self._lock:
                self._in_a_row += 1
                if self._in_a_row >= FAILURES_IN_A_ROW * self._judge.concurrency:
                    raise JudgeError(
                        f"the judge {self._endpoint.place} failed {self._in_a_row} times in a row ({fault}); every "
                        "answer is kept: see to the server, and run the same command again"
                    ) from None
            return str(fault)
        with self._lock:
            self._in_a_row = 0
        self._account.pay(reply, request.characters)
        if reply.model != probe.answered:
            return OTHER_MODEL
        self._cache.add(request.key, self._endpoint.place, reply, request.characters)
        return reply

    def _answer(self, question: Question, request: _Request, reply: Reply | str) -> AskedFor:
        if isinstance(reply, str):
            return AskedFor(request.names, None, reply)
        reading = read_answer(reply.text, question, request.names)
        if reply.refusal is not None:
            reading = Reading(None, None, REFUSED)
        elif reply.finish == "length" and reading.rung != "schema":
            reading = Reading(None, None, CUT)
        return AskedFor(request.names, reading)
