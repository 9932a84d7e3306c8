"""Samples for a file of prompts, written as they are drawn; a job that was stopped goes on where its file ends.

OUT.jsonl       one object a response, prompts in their order: prompt, response, sample, finished, tokens
OUT.jsonl.job   what the file is of: digests of model and prompts, and how was sampled
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from preftree.data.kinds import plain_text
from preftree.data.prompts import Prompt
from preftree.errors import DataError
from preftree.generate.hf import Sampling, generate
from preftree.storage.atomic import write_atomic

BATCHES_AT_ONCE = 8
"""Batches whose rows are sorted by length together, and written together."""


def describe_job(
    weights: str, dtype: str, ids: Sequence[Sequence[int]], sampling: Sampling, samples: int
) -> dict[str, Any]:
    """What decides every byte of the output, the machine's rounding aside."""
    digest = hashlib.sha256()
    for own in ids:
        digest.update(np.array([len(own), *own], np.int64).tobytes())
    return {
        "weights": weights,
        "dtype": dtype,
        "prompts": digest.hexdigest(),
        "num_prompts": len(ids),
        "samples": samples,
        **asdict(sampling),
    }


def sample_file(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    ids: Sequence[Sequence[int]],
    out: Path,
    sampling: Sampling,
    job: Mapping[str, Any],
    *,
    samples: int,
    batch_size: int,
    stop: Callable[[], int] = lambda: 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Draw what `out` lacks, and append it.

    Args:
      model, tokenizer: What answers.
      prompts, ids: The prompts, and their token ids.
      out: A .jsonl file, new or of the same job.
      sampling: How responses are drawn.
      job: As `describe_job` has it.
      samples: Responses to each prompt, one after the other.
      batch_size: Rows computed at once; a text depends on it only through the rounding of the products.
      stop: A signal's number ends the job between two blocks.
      progress: Told how many rows are there, block by block.
    Returns:
      Rows in the file now.
    Raises:
      DataError: the file is of another job, or cannot be written.
    """
    total = samples * len(prompts)
    done = _open(out, job)
    if done > total:
        raise DataError(f"{out} holds {done} rows, and this job has {total}; choose another OUT")
    progress(done)
    while done < total and not stop():
        rows = range(done, min(done + BATCHES_AT_ONCE * batch_size, total))
        drawn = generate(
            model, tokenizer, [ids[row // samples] for row in rows], sampling, batch_size=batch_size, first_row=done
        )
        lines = []
        for row, one in zip(rows, drawn, strict=True):
            told = {"prompt": plain_text(prompts[row // samples].text), "response": one.text}
            told |= {"sample": row % samples, "finished": one.finished, "tokens": len(one.ids) + one.finished}
            lines.append(json.dumps(told, ensure_ascii=False) + "\n")
        _append(out, "".join(lines).encode())
        done = rows.stop
        progress(done)
    return done


def _open(out: Path, job: Mapping[str, Any]) -> int:
    """Rows that are there; a line that was cut short is taken away."""
    about = out.with_name(out.name + ".job")
    if not out.exists():
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(about, json.dumps(job, indent=1) + "\n")
            out.touch()
        except OSError as error:
            raise DataError(f"{out} cannot be written ({error.strerror}); choose another OUT") from error
        return 0
    try:
        before = json.loads(about.read_bytes())
    except (OSError, ValueError):
        raise DataError(f"{out} exists and was not written by `preftree generate`; choose another OUT") from None
    changed = [f"{key} was {before.get(key)}, is {job[key]}" for key in job if before.get(key) != job[key]]
    if changed:
        raise DataError(f"{out} is of another job ({'; '.join(changed)}); put that back, or choose another OUT")
    content = out.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(out, whole)
    return content.count(b"\n")


def _append(out: Path, lines: bytes) -> None:
    try:
        with out.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(
            f"{out} cannot be written ({error.strerror}); mend that and give the same command again"
        ) from error
