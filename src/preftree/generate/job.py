"""Sampling job: responses to a file of prompts, written as they are sampled; a stopped job resumes where its file ends.

OUT.jsonl       one object a response, prompts in their order: prompt, response, sample, finished, tokens; the best of
                several also has best_of, reward, rewards and kl_bound
OUT.jsonl.job   digests of model and prompts, the options of sampling, and the digest of the rows in OUT.jsonl
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from preftree.data.prompts import Prompt, prompts_digest
from preftree.data.rows.conversion import plain_text
from preftree.errors import DataError, JudgeError
from preftree.generate.protocol import Sampler, Sampling
from preftree.records import Text
from preftree.storage.atomic import append_durably, make_folder
from preftree.storage.json_file import read_json, write_json

log = logging.getLogger("preftree")

BATCHES_AT_ONCE = 8
"""Number of batches whose rows are sorted by length, and then written, together."""


@dataclass(frozen=True, slots=True)
class BestOf:
    """Keep the best of several responses.

    Attributes:
      num: Number of responses that are sampled for each that is kept.
      rewards: (prompts, responses) -> rewards; the first of the highest wins, and nan is no reward.
      name: Name of the rewards, with a digest where there is one.
    """

    num: int
    rewards: Callable[[Sequence[Text], Sequence[str]], Float[np.ndarray, " N"]]
    name: str

    @property
    def kl_bound(self) -> float:
        """Upper bound of the KL to the sampler, nats: ln N - (N - 1) / N.

        Source: Stiennon et al. 2020, arXiv:2009.01325, Appendix G.3; that it is a bound and not always the value:
        Beirami et al. 2024, arXiv:2401.01879.
        """
        return math.log(self.num) - (self.num - 1) / self.num


def describe_job(
    weights: str,
    dtype: str,
    ids: Sequence[Sequence[int]],
    sampling: Sampling,
    samples: int,
    *,
    best_of: BestOf | None = None,
    engine: str = "hf",
) -> dict[str, Any]:
    """Everything that decides the bytes of the output, except the rounding of the machine."""
    options = asdict(sampling)
    optional = {
        "stop": list(options.pop("stop")),
        "best_of": best_of and best_of.num,
        "reward": best_of and best_of.name,
        "engine": "" if engine == "hf" else engine,
    }
    return {
        "weights": weights,
        "dtype": dtype,
        "prompts": prompts_digest(ids),
        "num_prompts": len(ids),
        "samples": samples,
        **options,
        **{name: value for name, value in optional.items() if value},
    }


def sample_file(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
    out: Path,
    sampling: Sampling,
    job: Mapping[str, Any],
    *,
    samples: int,
    batch_size: int,
    best_of: BestOf | None = None,
    stop: Callable[[], int] = lambda: 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Sample the rows that `out` lacks, and append them.

    Args:
      sampler: The model in its engine.
      prompts, ids: The prompts, and their token ids.
      out: A .jsonl file, new or of the same job.
      sampling: How responses are drawn.
      job: Description of the job from `describe_job`.
      samples: Number of responses to each prompt, in adjacent rows.
      batch_size: Responses that the sampler computes at once.
      best_of: Makes each response the best of several, which have different random numbers.
      stop: Called between blocks; ends the job if it returns a signal's number.
      progress: Called after each block with the number of rows in the file.
    Returns:
      Number of rows in the file.
    Raises:
      DataError: the file is of another job, or cannot be written.
    """
    total = samples * len(prompts)
    each = best_of.num if best_of else 1
    block = max(1, BATCHES_AT_ONCE * batch_size // each)
    kept = _open(out, job)
    done = kept.rows
    if done > total:
        raise DataError(f"{out} holds {done} rows, and this job has {total}; choose another OUT")
    progress(done)
    while done < total and not stop():
        rows = range(done, min(done + block, total))
        repeated = [ids[row // samples] for row in rows for _ in range(each)]
        drawn = sampler(repeated, sampling, first_row=done * each)
        lines = []
        for index, row in enumerate(rows):
            candidates, prompt = drawn[index * each : (index + 1) * each], prompts[row // samples].text
            best, more = 0, {}
            if best_of:
                rewards = best_of.rewards([prompt] * each, [response.text for response in candidates])
                best = _best(rewards, best_of.name)
                known = [None if math.isnan(value) else value for value in rewards.tolist()]
                more = {"best_of": each, "reward": float(rewards[best]), "rewards": known}
                more["kl_bound"] = best_of.kl_bound
            chosen = candidates[best]
            line = {"prompt": plain_text(prompt), "response": chosen.text, "sample": row % samples}
            line |= {"finished": chosen.finished, "tokens": chosen.num_tokens, **more}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        try:
            content = "".join(lines).encode()
            append_durably(out, content)
            kept.add(content)
            kept.note(out, job)
        except OSError as error:
            reason = error.strerror
            raise DataError(f"{out} cannot be written ({reason}); fix that and repeat the same command") from error
        done = rows.stop
        progress(done)
    return done


def _best(rewards: Float[np.ndarray, " N"], name: str) -> int:
    """The first of the highest rewards; a response without one (nan) is never the best."""
    if np.isnan(rewards).all():
        raise JudgeError(f"reward {name!r} gave no value to any of {len(rewards)} responses; see the judge's answers")
    return int(np.nanargmax(rewards))


@dataclass(slots=True)
class _Kept:
    """The rows of a file of responses: their number, bytes, and running digest."""

    rows: int = 0
    size: int = 0
    hashed: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, content: bytes) -> None:
        self.rows += content.count(b"\n")
        self.size += len(content)
        self.hashed.update(content)

    def note(self, out: Path, job: Mapping[str, Any]) -> None:
        """Write the description of the job beside the file, with the digest of the rows."""
        done = {"rows": self.rows, "size": self.size, "sha256": self.hashed.hexdigest()}
        write_json(_description(out), {**job, "done": done})


class _Done(BaseModel):
    """Rows that a description knows of."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rows: int
    size: int
    sha256: str


class JobFile(BaseModel):
    """Schema of the description beside a file of responses.

    Attributes:
      seed, temperature, num_prompts, samples: Settings of the job.
      done: Rows, bytes and SHA-256 of the file; None in earlier versions.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    seed: int
    temperature: float
    num_prompts: int
    samples: int
    done: _Done | None = None


def read_job(out: Path) -> JobFile | None:
    """The description beside a file of responses, which is compared with it; None where it has none.

    Raises:
      DataError: the description cannot be read, or the file is not as it was written.
    """
    if not _description(out).is_file():
        return None
    job = read_json(_description(out), JobFile, "put it back, or move it away")
    if job.done is not None:
        try:
            content = out.read_bytes()
        except OSError as error:
            raise DataError(
                f"{out} cannot be read ({error.strerror}), though {_description(out)} describes it; put it back, or "
                "draw it again"
            ) from error
        if len(content) != job.done.size or hashlib.sha256(content).hexdigest() != job.done.sha256:
            raise DataError(
                f"{out} is not as `preftree generate` wrote it, or is not complete; draw it again, or delete "
                f"{_description(out)} if the change is meant"
            )
    return job


def _description(out: Path) -> Path:
    return out.with_name(out.name + ".job")


def _open(out: Path, job: Mapping[str, Any]) -> _Kept:
    """The rows in the file; rows that its description does not know of are cut off."""
    description = _description(out)
    kept = _Kept()
    if not out.exists():
        if description.exists():
            read_json(description, JobFile, "choose another OUT")  # another program's file is not replaced
        try:
            make_folder(out.parent)
            kept.note(out, job)
            out.touch()
        except OSError as error:
            raise DataError(f"{out} cannot be written ({error.strerror}); choose another OUT") from error
        return kept
    if not description.is_file():
        raise DataError(f"{out} exists and was not written by `preftree generate`; choose another OUT")
    earlier = read_json(description, JobFile, f"delete it and {out}, or choose another OUT")
    before = earlier.model_dump(exclude={"done"}, exclude_unset=True)
    names = dict.fromkeys((*before, *job))
    changed = [f"{key} was {before.get(key)}, is {job.get(key)}" for key in names if before.get(key) != job.get(key)]
    if changed:
        raise DataError(f"{out} is of another job ({'; '.join(changed)}); undo that, or choose another OUT")
    try:
        content = out.read_bytes()
        size = content.rfind(b"\n") + 1
        if earlier.done is None:
            log.info("%s has no digest of its rows: an earlier version wrote it; they are counted alone", out)
        else:
            size = earlier.done.size
            if hashlib.sha256(content[:size]).hexdigest() != earlier.done.sha256:
                raise DataError(
                    f"{out} is not as `preftree generate` wrote it; put it back, or delete it to draw again"
                )
        if size < len(content):
            os.truncate(out, size)
        kept.add(content[:size])
        return kept
    except OSError as error:
        raise DataError(f"{out} cannot be used ({error.strerror}); fix that and repeat the same command") from error
