"""Python API: load, tokenise, score, compute losses, sample and measure; `api/train.py` trains.

The package `preftree` exports every function of this module and imports it at the first use. Errors raise
`preftree.errors.UserError`; nothing exits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from preftree.api.train import Data, dpo, ppo, reward_model, rloo, sft
from preftree.config.dpo import DpoConfig
from preftree.config.load import check_config
from preftree.data.prompts import encode_prompts, prompts_in_memory
from preftree.data.rows.columns import parse_columns
from preftree.data.sources.memory import named_rows, write_rows
from preftree.data.store.example import Examples
from preftree.data.store.token_store import TokenStore
from preftree.data.tokens.budgets import Budgets, Truncation
from preftree.data.tokens.row_examples import Turns
from preftree.data.tokens.tokenize import tokenize_file
from preftree.errors import ConfigError
from preftree.generate.hf import generate
from preftree.generate.protocol import Sampling
from preftree.losses.quantities import pair_up, sum_responses
from preftree.losses.types import PairSums
from preftree.losses.value_and_gradient import LossValue, value_and_gradient
from preftree.models.load import load_model, load_tokenizer
from preftree.models.write_folder import save_new
from preftree.records import Kind
from preftree.reference.protocol import LiveReference, NoReference
from preftree.runtime.logs import quiet_transformers
from preftree.runtime.paths import cache_root
from preftree.runtime.ranks import open_ranks
from preftree.scoring.scorer import Precision, Scorer, evaluation_mode
from preftree.train.objective import bind_loss, bind_objective
from preftree.train.preference_task import PreferenceTask
from preftree.train.step.evaluation import measure as measure_task
from preftree.tree.pack import plan_step

__all__ = [
    "Data",
    "LoadedModel",
    "ResponseScores",
    "dpo",
    "load",
    "loss",
    "measure",
    "ppo",
    "reward_model",
    "rloo",
    "sample",
    "score",
    "sft",
    "tokenize",
]


@dataclass(frozen=True, eq=False, slots=True)
class LoadedModel:
    """A language model with its tokenizer, for scoring and sampling.

    Attributes:
      scorer: Scorer of packed trees; `scorer.model` is the transformers model.
      tokenizer: Its tokenizer.
    """

    scorer: Scorer
    tokenizer: PreTrainedTokenizerBase

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's parameters, for an optimiser."""
        return self.scorer.model.parameters()

    def save(self, folder: str | Path) -> None:
        """Write a model folder, new or empty, with its tokenizer, that transformers loads."""
        save_new(self.scorer.model, self.tokenizer, Path(folder))


def load(model: str | Path, *, precision: Precision = "fp32") -> LoadedModel:
    """Load a model folder, an adapter folder, a GGUF file or a hub id, in fp32 weights and without dropout.

    Args:
      model: The folder or id.
      precision: `fp32`, or `bf16` for bfloat16 matrix products.
    Raises:
      ModelError: it cannot be loaded.
    """
    quiet_transformers()
    loaded = load_model(str(model))
    return LoadedModel(Scorer(loaded, precision=precision), load_tokenizer(str(model)))


def tokenize(
    data: Data,
    tokenizer: PreTrainedTokenizerBase | LoadedModel,
    *,
    kind: Kind = "pair",
    max_length: int | None = 1024,
    max_prompt_length: int | None = None,
    max_response_length: int | None = None,
    truncation: Truncation = "drop",
    format: str | None = None,
    columns: str | Mapping[str, str] | None = None,
    turns: Turns = "last",
    keep_repeats: bool = False,
    max_rejected: float = 0.05,
) -> TokenStore:
    """Tokenise data as a run does; the result is a sequence of examples, kept on disk.

    Args:
      data: A file, or rows in memory.
      tokenizer: The model's tokenizer, or the loaded model.
      kind: Kind of an example: `pair`, `response` (labelled), `list` (ranked), or `demonstration`.
      max_length: Most tokens of prompt and response together.
      max_prompt_length: Most tokens of a prompt.
      max_response_length: Most tokens of a response.
      truncation: `drop` a row over a budget, `trim_prompt` from its beginning, or `trim_response` at its end.
      format: The rows' format; detected by default.
      columns: What fields are, in place of a format: `{"prompt": "question", "chosen": "best", "rejected": "worst"}`.
      turns: Assistant turns of a demonstration that are scored, `last` or `all`.
      keep_repeats: Whether rows that repeat or contradict earlier ones are examples too.
      max_rejected: Largest share of faulty rows; above it the data are refused.
    Raises:
      DataError: the data cannot be read, is of another kind, or holds too many faults; rows are named.
    """
    if isinstance(tokenizer, LoadedModel):
        tokenizer = tokenizer.tokenizer
    with TemporaryDirectory() as folder, ExitStack() as stack:
        path = str(data) if isinstance(data, str | Path) else write_rows(data, Path(folder) / "data.jsonl", "data")
        stack.enter_context(named_rows({} if isinstance(data, str | Path) else {path: "data"}))
        store, _ = tokenize_file(
            path,
            tokenizer,
            kind=kind,
            cache_dir=cache_root(),
            budgets=Budgets(max_length, max_prompt_length, max_response_length),
            truncation=truncation,
            format_name=format,
            columns=None if columns is None else parse_columns(columns),
            turns=turns,
            keep_repeats=keep_repeats,
            max_rejected_share=max_rejected,
        )
    return store


class ResponseScores(NamedTuple):
    """Log-probs of responses, those of an example side by side, in the order of the data.

    Attributes:
      logps: Summed log-prob of each response, nats, [R].
      num_tokens: Scored tokens of each response, [R].
      token_logps: Log-prob of each scored token, nats, response after response, [I].
      examples: The example that each response belongs to, [R].
    """

    logps: Float[Tensor, " R"]
    num_tokens: Int[Tensor, " R"]
    token_logps: Float[Tensor, " I"]
    examples: Int[Tensor, " R"]

    @property
    def pairs(self) -> PairSums:
        """Sums of the chosen and the rejected responses of pairs, the input of losses."""
        if len(self.logps) % 2 or not torch.equal(self.examples[::2], self.examples[1::2]):
            raise ConfigError("these examples are not pairs; tokenise them with kind='pair'")
        first = torch.arange(0, len(self.logps), 2, device=self.logps.device)
        return pair_up(self.logps, self.num_tokens, first, first + 1)


def score(
    model: LoadedModel,
    data: Examples | Data,
    *,
    rows: Sequence[int] | None = None,
    gradient: bool = False,
    micro_batch_tokens: int = 8192,
) -> ResponseScores:
    """Log-probs of responses under a model; a shared prompt is computed once.

    Args:
      model: The model.
      data: Tokenised examples, or pairs as `tokenize` takes them.
      rows: Indices of the examples to score; all by default.
      gradient: Whether the scores can be differentiated; all activations then stay in memory.
      micro_batch_tokens: Most tokens computed at once.
    Raises:
      ConfigError: an example alone is larger than micro_batch_tokens.
    """
    store = data if isinstance(data, Examples) else tokenize(data, model)
    scorer, places = model.scorer, np.arange(len(store)) if rows is None else np.asarray(rows, np.int64)
    sequences = [store[int(place)].sequences for place in places]
    prompts = store.prompts[places].tolist()
    try:
        (plan,) = plan_step(sequences, prompts, budget=micro_batch_tokens, sharing=scorer.sharing)
    except ValueError as error:
        raise ConfigError(f"micro_batch_tokens is too small ({error}); raise it") from error
    tokens: dict[int, Tensor] = {}
    for micro in plan:
        batch = micro.batch.to(scorer.device)
        with torch.set_grad_enabled(gradient), evaluation_mode(scorer):
            logps = scorer(batch)
        lengths = [int(sum(s.scored.sum() for s in sequences[index])) for index in micro.examples]
        tokens |= zip(micro.examples, logps.split(lengths), strict=True)
    token_logps = torch.cat([tokens[index] for index in range(len(places))])
    counts = torch.tensor([int(s.scored.sum()) for group in sequences for s in group], device=token_logps.device)
    examples = np.repeat(np.arange(len(places)), [len(group) for group in sequences])
    sums = sum_responses(token_logps, counts)
    return ResponseScores(sums[0], sums[1], token_logps, torch.from_numpy(examples).to(token_logps.device))


def loss(name: str, **arguments: Any) -> LossValue:
    """Value and gradient of a loss of `preftree losses`.

    Args:
      name: The loss, or FILE.py:FUNCTION for a custom loss.
      arguments: Inputs by name (`policy`, `ref`, `margins`, ...), as `preftree losses NAME` lists them: tensors or the
        types of `preftree.losses`. Options (`beta`, ...).
    Raises:
      ConfigError: no such loss, an input is missing, or an option is unknown or out of its range.
    """
    names = bind_loss(name).inputs
    bound = bind_loss(name, {key: value for key, value in arguments.items() if key not in names})
    if missing := [key for key in names if key not in arguments]:
        raise ConfigError(f"loss {name!r} needs the input {missing[0]!r}; it takes {', '.join(names)}")
    return value_and_gradient(bound, {key: arguments[key] for key in names})


def sample(
    model: LoadedModel,
    prompts: Sequence[str | Sequence[Mapping[str, Any]] | Mapping[str, Any]],
    *,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[str]]:
    """Sampled responses, `samples` to each prompt.

    Prompts are texts, conversations (`[{"role", "content", ...}, ...]`), or rows as a file has them: `{"prompt": ...}`
    with `system`, `tools` and `chat_template_kwargs` beside it.

    Raises:
      DataError: a prompt is none of these, or the template refuses it.
      ConfigError: a prompt is empty, or an option is out of its range.
    """
    asked = prompts_in_memory(prompts)
    with named_rows({"prompts": "prompts"}):
        ids = [row for row in encode_prompts(model.tokenizer, asked) for _ in range(samples)]
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    with evaluation_mode(model.scorer):
        drawn = generate(model.scorer.model, model.tokenizer, ids, sampling, batch_size=batch_size)
    return [[each.text for each in drawn[start : start + samples]] for start in range(0, len(drawn), samples)]


def measure(
    model: LoadedModel,
    data: Examples | Data,
    *,
    reference: LoadedModel | None = None,
    loss: str | Sequence[Mapping[str, Any]] = "dpo",
    micro_batch_tokens: int = 8192,
    **options: Any,
) -> dict[str, float]:
    """Figures of a policy on preferences, as a run computes for held-out rows: loss, accuracy, margin, ...

    Args:
      model: The policy.
      data: Tokenised examples of the loss's kind, or data as `tokenize` takes it.
      reference: The reference; required by losses that need one.
      loss: Name of the loss; `options` are its options and `beta`. Or a sum, its parts as {name, weight, ...}.
      micro_batch_tokens: Most tokens computed at once.
    Raises:
      ConfigError: the loss does not exist, or needs a reference and got none.
      TrainingError: a figure is not finite; rows are named.
    """
    beta = {"beta": options.pop("beta")} if "beta" in options else {}
    chosen = {"name": loss, **options} if isinstance(loss, str) else [dict(part) for part in loss]
    settings = {"model": "-", "data": "-", "out": "-", "loss": chosen, **beta}
    _, objective = bind_objective(check_config(DpoConfig, settings))
    if objective.needs_reference and reference is None:
        raise ConfigError(f"loss {objective.label!r} needs a reference; give reference=preftree.load(MODEL)")
    store = data if isinstance(data, Examples) else tokenize(data, model, kind=objective.kind)
    compared = NoReference() if reference is None else LiveReference(lambda: nullcontext(reference.scorer))
    with open_ranks() as ranks, evaluation_mode(model.scorer):
        figures = measure_task(
            PreferenceTask(objective, compared),
            store,
            np.arange(len(store)),
            model.scorer,
            budget=micro_batch_tokens,
            ranks=ranks,
            held_out=True,
        )
    assert figures is not None, "no signal stops it"
    return figures
