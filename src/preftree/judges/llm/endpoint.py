"""An OpenAI-compatible server that is asked for one answer at a time.

Only https, or http on this computer; no redirects; no addresses of a cloud's metadata service. The key comes from the
environment, stands in no message of an error, and is taken out of whatever the server says.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import weakref
from typing import Any, Literal, NoReturn, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from preftree.errors import ConfigError, JudgeError
from preftree.judges.llm.cache import Reply
from preftree.judges.llm.rubric import JudgeFile

Form: TypeAlias = Literal["json_schema", "json_object", "text"]
FORMS: tuple[Form, ...] = ("json_schema", "json_object", "text")
"""Ways to ask a server for JSON, the strictest first."""

METADATA = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::/32"),
    ipaddress.ip_network("100.100.100.200/32"),
    ipaddress.ip_network("192.0.0.192/32"),
    ipaddress.ip_network("168.63.129.16/32"),
)
"""Addresses at which clouds hand out secrets, and all that are local to a link."""

NO_KEY = "none"
"""What is sent as a key where none is needed."""


class NoReply(Exception):
    """The server gave no answer that could be judged; the message is its reason in a few words."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Completion(BaseModel):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None


class Endpoint:
    """A model at a server.

    Attributes:
      place: Base URL and model, which identify it.
    """

    def __init__(self, judge: JudgeFile) -> None:
        """Make a client; nothing is sent.

        Raises:
          ConfigError: the address is not allowed, the key's variable is not set, or the extra is missing.
        """
        try:
            import openai
        except ImportError as error:
            raise ConfigError("a judge at an endpoint needs an extra: pip install 'preftree[judge]'") from error
        self.url = check_address(judge.endpoint or "")
        self.place = f"{self.url} {judge.model}"
        self._judge, self._key = judge, _key(judge)
        self._errors = openai
        # Proxies and netrc of the environment are for what is not on this computer.
        http = openai.DefaultHttpxClient(follow_redirects=False, trust_env=not _is_loopback(self.url))
        self._client = openai.OpenAI(
            api_key=self._key or NO_KEY,
            base_url=self.url,
            timeout=judge.timeout,
            max_retries=judge.retries,
            http_client=http,
        )
        weakref.finalize(self, self._client.close)
        self._client.organization = self._client.project = None  # of the environment; they belong to another account

    def send(self, messages: list[dict[str, str]], schema: dict[str, Any], form: str) -> Reply:
        """One answer.

        Raises:
          NoReply: the server failed on this question, also when it was asked again.
          JudgeError: it will fail on all: the key, the model or the address is wrong.
        """
        body: dict[str, Any] = {
            "model": self._judge.model,
            "messages": messages,
            "temperature": self._judge.temperature,
            "max_tokens": self._judge.max_tokens,
        }
        if form == "json_schema":
            described = {"name": "judgement", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": described}
        elif form == "json_object":
            body["response_format"] = {"type": "json_object"}
        errors = self._errors
        try:
            raw = self._client.chat.completions.with_raw_response.create(**body)
            return self._read(raw.http_response.content)
        except errors.APITimeoutError:
            raise NoReply("no answer in time") from None
        except errors.APIConnectionError as error:
            reason = self._clean(str(error.__cause__ or error))[:80]
            raise NoReply(f"connection failed ({reason})" if reason else "connection failed") from None
        except errors.APIStatusError as error:
            self._raise_status(error.status_code, self._clean(error.message))

    def _raise_status(self, status: int, message: str) -> NoReturn:
        where = f"the judge's server {self.url}"
        if 300 <= status < 400:
            raise JudgeError(f"{where} redirects elsewhere ({status}), which is not followed; give the last address")
        if status in (401, 403):
            name = self._judge.api_key_env
            advice = f"check the key in ${name}" if name else "give api_key_env, the name of a variable with a key"
            raise JudgeError(f"{where} refuses access ({status}: {message[:120]}); {advice}") from None
        if status == 404:
            raise JudgeError(
                f"{where} knows no {self._judge.model!r} ({message[:120]}); see its list of models"
            ) from None
        if status == 429:
            raise NoReply("too many requests (429)") from None
        raise NoReply(f"the server answers {status}") from None

    def _read(self, content: bytes) -> Reply:
        try:
            completion = _Completion.model_validate_json(content)
        except ValidationError:
            raise NoReply("the server's answer is no chat completion") from None
        if not completion.choices:
            raise NoReply("the server's answer is no chat completion")
        first, usage = completion.choices[0], completion.usage
        text, refusal = first.message.content or "", first.message.refusal or None
        if not text.strip() and refusal is None:
            raise NoReply("an empty answer")
        return Reply(
            self._clean(text),
            first.finish_reason or "",
            None if refusal is None else self._clean(refusal),
            completion.model or self._judge.model,
            usage and usage.prompt_tokens,
            usage and usage.completion_tokens,
        )

    def _clean(self, text: str) -> str:
        """Text without the key, which a server may repeat."""
        return text.replace(self._key, "***") if self._key else text


def check_address(url: str) -> str:
    """A base URL without its last slash.

    Raises:
      ConfigError: it is neither https nor on this computer, holds a password, or leads to a metadata service.
    """
    shown = f"the judge's endpoint {url.split('?')[0]!r}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"{shown} is no address ({error}); give https://HOST/v1") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{shown} must begin with https://, or http:// for a server on this computer")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("the judge's endpoint must hold no name, password or query; a key belongs in api_key_env")
    addresses = _addresses(host, port or (443 if parts.scheme == "https" else 80))
    if any(address in network for address in addresses for network in METADATA if address.version == network.version):
        raise ConfigError(f"{shown} leads to a link-local or metadata address, which is never asked")
    if parts.scheme == "http" and not _is_loopback(url):
        raise ConfigError(f"{shown} is not on this computer, so it must begin with https://")
    return url.rstrip("/")


def _addresses(host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Addresses of a host; none where it is not known, so that a cached judgement needs no network."""
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    plain = (ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in known)
    return [getattr(address, "ipv4_mapped", None) or address for address in plain]


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _key(judge: JudgeFile) -> str:
    if judge.api_key_env is None:
        return ""
    key = os.environ.get(judge.api_key_env, "").strip()
    if not key:
        raise ConfigError(f"${judge.api_key_env} is not set, and holds the key of the judge {judge.model!r}; set it")
    return key
