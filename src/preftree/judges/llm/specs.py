"""Names of judges that are language models: `llm:FILE.yaml`, `openai:MODEL@URL`, `hf:PATH`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from urllib.parse import urlsplit

from preftree.errors import ConfigError
from preftree.judges.llm.rubric import JudgeFile, Mode, check_judge, read_judge_file

OPENAI = "api.openai.com"


def find_llm(spec: str, mode: Mode = "pairwise") -> JudgeFile | None:
    """The judge that a name refers to; None where the name is of another kind.

    Args:
      spec: The name.
      mode: What it is wanted for, which a name without a file leaves open.
    Raises:
      ConfigError: the file or the name is wrong.
    """
    kind, _, place = spec.partition(":")
    if kind == "llm":
        return read_judge_file(place)
    if kind == "hf":
        return check_judge(JudgeFile, {"model": spec, "mode": mode}, spec)
    if kind != "openai":
        return None
    model, at, url = place.rpartition("@")
    if not (model and at and url):
        raise ConfigError(f"judge {spec!r} must be openai:MODEL@URL, as openai:qwen3@http://127.0.0.1:8000/v1")
    # The variable's key belongs to one company; another server gets a key only where a file says so.
    key = {"api_key_env": "OPENAI_API_KEY"} if urlsplit(url).hostname == OPENAI else {}
    return check_judge(JudgeFile, {"model": model, "endpoint": url, "mode": mode, **key}, spec)


def identify_llm(spec: str, judge: JudgeFile) -> str:
    """The name of a judge with a digest of all that its verdicts depend on."""
    asked = judge.model_dump(exclude={"concurrency", "timeout", "retries", "price", "max_cost", "api_key_env"})
    for name in ("references", "canaries"):
        if asked[name] is not None:
            place = Path(asked[name])
            asked[name] = hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else ""
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"{spec} {digest[:16]}"
