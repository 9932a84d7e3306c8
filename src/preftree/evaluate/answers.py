"""Responses of one side of a comparison: from a model, sampled into files; from a file; or from the data itself."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from preftree.data.prompts import Prompt, encode_prompts, prompt_key, read_demonstrations, read_prompts
from preftree.data.rows.faults import RowFault
from preftree.data.rows.fields import text
from preftree.data.rows.messages import messages, response_messages
from preftree.data.sources.files import SUFFIXES
from preftree.data.sources.reader import find_source, read_rows
from preftree.errors import ConfigError, DataError
from preftree.generate.hf import load_sampler
from preftree.generate.job import describe_job, read_job, sample_file
from preftree.generate.protocol import Sampling
from preftree.models.load import load_tokenizer
from preftree.records import Text
from preftree.train.step_model import model_at

log = logging.getLogger("preftree")

REFERENCE = "chosen"
"""Name of the side that holds the answers in the prompts' file."""


class Interrupted(Exception):
    """A signal ended the sampling; the responses drawn so far are in their file."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Responses of one side.

    Attributes:
      name: Name of the side.
      texts: Responses, [prompts][samples].
      finished: Share of the responses that the model ended itself; None where that is not known.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    finished: float | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """A side of a comparison, as the command line names it.

    Attributes:
      name: Name in tables.
      kind: A model to sample, a file of responses, or the reference answers.
      place: The model's folder or hub id, or the file.
    """

    name: str
    kind: Literal["model", "file", "reference"]
    place: str


@dataclass(frozen=True, slots=True)
class SampleFiles:
    """Settings for sampling models into files.

    Attributes:
      folder: Folder of the files; an existing file is used again.
      samples: Responses to each prompt; at temperature 0 one, since all would be the same.
      batch_size: Responses at once.
      precision: Precision of the weights: fp32 or bf16.
      stop: Returns the number of a signal to end the work between two blocks, or 0.
      progress: Called with the name of a file, the number of its rows, and their number at the end.
    """

    folder: Path
    samples: int = 1
    batch_size: int = 32
    precision: Literal["fp32", "bf16"] = "fp32"
    stop: Callable[[], int] = lambda: 0
    progress: Callable[[str, int, int], None] = lambda name, rows, total: None


def find_sides(words: Sequence[str]) -> list[Side]:
    """The sides that words name: `chosen`, a data file, a run's folder, a model's folder or hub id; no name twice.

    Raises:
      DataError: a data file does not exist.
    """
    sides = [_find_side(word) for word in words]
    names = [side.name for side in sides]
    return [
        replace(side, name=f"{side.name} ({names[: at + 1].count(side.name)})") if names.count(side.name) > 1 else side
        for at, side in enumerate(sides)
    ]


def _find_side(word: str) -> Side:
    if word == REFERENCE:
        return Side(word, "reference", word)
    path = Path(word).expanduser()
    if word.lower().endswith(SUFFIXES):
        if not path.is_file():
            raise DataError(f"{word} does not exist; give a file as `preftree generate` writes it")
        return Side(path.name.partition(".")[0], "file", word)
    if (model := model_at(word)) != word:
        return Side(path.resolve().name, "model", model)
    name = path.resolve().parent.name if path.name == "model" and path.is_dir() else Path(word).name
    return Side(name or word, "model", word)


def read_questions(path: str, *, most: int | None, seed: int) -> list[Prompt]:
    """The different prompts of a file, in order of first sight; `most` of them, chosen by seed, where there are more.

    Raises:
      DataError: the file cannot be read, or has one prompt only, which no interval over prompts can rest on.
    """
    rows = read_prompts(path)
    prompts = list({prompt_key(prompt.text): prompt for prompt in reversed(rows)}.values())[::-1]
    if repeats := len(rows) - len(prompts):  # an interval is over different prompts
        log.info("%s: %d rows ask what an earlier row asks, and are left out", path, repeats)
    if most is not None and len(prompts) > most:
        places = np.sort(np.random.default_rng(seed).choice(len(prompts), most, replace=False))
        prompts = [prompts[index] for index in places.tolist()]
    if len(prompts) < 2:
        raise DataError(f"{path} has one prompt, and an interval over prompts needs two; add prompts")
    return prompts


def reference_answers(path: str, prompts: Sequence[Prompt]) -> Answers:
    """The answers in a data file, all different ones of a prompt.

    Raises:
      DataError: the file has none, or not for every prompt.
    """
    answers: dict[str, list[str]] = {}
    for where, demonstration in read_demonstrations(path):
        texts = answers.setdefault(prompt_key(demonstration.prompt), [])
        if (answer := _as_text(demonstration.response, str(where))) not in texts:
            texts.append(answer)
    return Answers(REFERENCE, _for_each(prompts, answers, path))


def read_answers(side: Side, prompts: Sequence[Prompt]) -> Answers:
    """The responses of a file to prompts, as `preftree generate` writes it: `prompt` and `response`.

    Raises:
      DataError: a row cannot be read, a prompt has no response, or the file is not as it was written.
    """
    read_job(Path(side.place))
    answers: dict[str, list[str]] = {}
    ended: list[bool] = []
    keys = {prompt_key(prompt.text) for prompt in prompts}
    others = 0
    for raw in read_rows(find_source(side.place)):
        try:
            if isinstance(raw.row, RowFault):
                raise raw.row
            key, response = _exchange(raw.row)
        except RowFault as fault:
            raise DataError(f"{raw.where}: {fault}; fix the row") from fault
        if key not in keys:
            others += 1
            continue
        answers.setdefault(key, []).append(response)
        ended += [raw.row["finished"]] if isinstance(raw.row.get("finished"), bool) else []
    if others:
        log.info("%s: %d responses to other prompts are left out", side.place, others)
    texts = _for_each(prompts, answers, side.place)
    known = len(ended) == sum(map(len, texts))
    return Answers(side.name, texts, float(np.mean(ended)) if known else None)


def draw_answers(
    side: Side, prompts: Sequence[Prompt], samplings: Sequence[Sampling], how: SampleFiles
) -> list[Answers]:
    """Responses of a model to prompts, once for each way of sampling; drawn into files, or found there.

    Raises:
      ModelError: the model cannot be loaded.
      Interrupted: a signal came in between.
    """
    tokenizer = load_tokenizer(side.place)
    sampler, weights = load_sampler(side.place, tokenizer, precision=how.precision, batch_size=how.batch_size)
    ids = encode_prompts(tokenizer, prompts)
    drawn = []
    for sampling in samplings:
        samples = how.samples if sampling.temperature else 1
        total = samples * len(prompts)
        job = describe_job(weights, how.precision, ids, sampling, samples)
        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]+", "_", side.name)
        out = how.folder / f"{name}-t{sampling.temperature:g}-{digest}.jsonl"
        done = sample_file(
            sampler,
            prompts,
            ids,
            out,
            sampling,
            job,
            samples=samples,
            batch_size=how.batch_size,
            stop=how.stop,
            progress=lambda rows, name=out.name, total=total: how.progress(name, rows, total),
        )
        if done < total:
            raise Interrupted
        drawn.append(read_answers(Side(side.name, "file", str(out)), prompts))
    return drawn


def draws_of(side: Side, num_prompts: int, samples: int, sampling: Sampling) -> tuple[Any, ...] | None:
    """The source of a side's random numbers: seed, numbers of prompts and samples; None where unknown, or greedy.

    Two sides with equal ones draw alike, and how often one wins is then not how often it wins against a fresh sample.

    Raises:
      DataError: what `preftree generate` wrote beside a file cannot be read.
    """
    if side.kind == "model":
        return (sampling.seed, num_prompts, samples) if sampling.temperature else None
    job = None if side.kind == "reference" else read_job(Path(side.place))
    return (job.seed, job.num_prompts, job.samples) if job is not None and job.temperature else None


def _exchange(row: dict[str, Any]) -> tuple[str, str]:
    """The key of a row's prompt, and the response as text; raises RowFault."""
    prompt, response = row.get("prompt"), row.get("response", row.get("completion"))
    for name, value in (("prompt", prompt), ("response", response)):
        if value is None:
            raise RowFault("missing_field", name, f"'{name}' is missing")
    question = messages(prompt, "prompt") if isinstance(prompt, list) else text(prompt, "prompt")
    if isinstance(response, list):
        return prompt_key(question), _as_text(response_messages(messages(response, "response"), "response"), "")
    if not isinstance(response, str):  # a cut character is no fault here, and an empty response is one as any
        raise RowFault("wrong_type", "response", "'response' must be text or a list of messages")
    return prompt_key(question), response


def _as_text(response: Text, where: str) -> str:
    if isinstance(response, str):
        return response
    first, *more = response
    if more:
        raise DataError(f"{where}: a response of {len(response)} turns cannot be judged as one answer; drop the row")
    return first.content


def _for_each(prompts: Sequence[Prompt], answers: dict[str, list[str]], path: str) -> tuple[tuple[str, ...], ...]:
    for prompt in prompts:
        if prompt_key(prompt.text) not in answers:
            question = prompt_key(prompt.text)[:60]
            raise DataError(f"{path} has no answer to the prompt of {prompt.where} ({question!r}); give one that has")
    return tuple(tuple(answers[prompt_key(prompt.text)]) for prompt in prompts)


def collect_answers(
    side: Side, path: str, prompts: Sequence[Prompt], samplings: Sequence[Sampling], how: SampleFiles
) -> list[Answers]:
    """The answers of a side to prompts: of a model once for each way of sampling, of a file or the data once.

    Raises:
      ConfigError: reference answers were asked for, and the prompts are lines of text.
      DataError, ModelError, Interrupted: as the functions above.
    """
    if side.kind == "model":
        return draw_answers(side, prompts, samplings, how)
    if side.kind == "file":
        return [read_answers(side, prompts)]
    if path.endswith(".txt"):
        raise ConfigError(f"'{REFERENCE}' stands for the answers in --prompts, and {path} holds prompts only")
    return [reference_answers(path, prompts)]
