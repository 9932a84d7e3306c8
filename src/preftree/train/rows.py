"""Which rows of which files a run trains on, in which order, and which it holds out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerBase

from preftree.config.schema import DpoConfig, Pace, RunConfig
from preftree.data.budgets import Budgets
from preftree.data.order import hold_out, iterate_steps, order_groups, steps_per_epoch
from preftree.data.store import TokenStore
from preftree.data.tokenize import tokenize_file
from preftree.distributed.reduce import lead_first
from preftree.distributed.world import World
from preftree.errors import ConfigError, DataError
from preftree.reference.key import cache_root
from preftree.tree.layout import TokenSequence

log = logging.getLogger("preftree")

# One held-out part for every training seed, so that runs which differ in the seed alone can be compared on it.
SPLIT_SEED = 0


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """Some examples of a store.

    Attributes:
      store: The tokenised examples.
      rows: Which of them, in file order, [N].
    """

    store: TokenStore
    rows: Int[np.ndarray, " N"]


@dataclass(frozen=True, eq=False, slots=True)
class Data:
    """What a run trains on, and what it is evaluated on."""

    train: Part
    held_out: Part | None


def open_data(config: RunConfig, tokenizer: PreTrainedTokenizerBase, world: World) -> Data:
    """Tokenise the files of a run, or open what an earlier run made of them; rank 0 does it, the others then find it.

    Raises:
      DataError: a file cannot be read, is of another kind, holds too many faults, or nothing that can be trained on.
    """
    store = lead_first(world, lambda: _tokenize(config, config.data.path, config.data.format, tokenizer))
    rows = _usable(store, config, config.data.path)
    held: Part | None = None
    if isinstance(config.eval_data, str):
        place = config.eval_data
        other = lead_first(world, lambda: _tokenize(config, place, config.data.format, tokenizer))
        held = Part(other, _usable(other, config, place))
    if isinstance(config.eval_data, float):
        kept, out = hold_out(store.prompts[rows], config.eval_data, SPLIT_SEED)
        rows, held = rows[kept], Part(store, rows[out])
    return Data(Part(store, rows), held)


def num_steps(pace: Pace, num_examples: int) -> int:
    """Optimiser steps of a run: its epochs, or max_steps, whichever ends first; one epoch where neither is set."""
    length = steps_per_epoch(num_examples, pace.batch_size)
    if pace.epochs is None and pace.max_steps is not None:
        return pace.max_steps
    whole = length * (pace.epochs or 1)
    return whole if pace.max_steps is None else min(whole, pace.max_steps)


def steps_from(part: Part, config: RunConfig, first: int, last: int) -> Iterator[Int[np.ndarray, " B"]]:
    """The rows of steps `first` to `last - 1`, the same wherever a run is taken up."""
    groups = order_groups(part.store.prompts[part.rows], config.data.order, config.batch_size)
    steps = iterate_steps(
        first, last, num_examples=len(part.rows), batch_size=config.batch_size, seed=config.seed, groups=groups
    )
    for step in steps:
        yield part.rows[step.indices]


def probe_rows(part: Part, most: int = 4, longest: int = 2048) -> list[int]:
    """A few rows from the shortest up, for the gates at the start.

    Args:
      part: Where to choose from.
      most: How many.
      longest: Most tokens of a row, since a plain forward keeps every logit; the shortest row where all are longer.
    """
    by_size = part.rows[np.argsort(part.store.num_tokens[part.rows], kind="stable")]
    by_size = by_size[: max(1, int((part.store.num_tokens[by_size] <= longest).sum()))]
    return by_size[np.unique(np.linspace(0, len(by_size) - 1, most).round().astype(int))].tolist()


class PromptGroups:
    """The responses to each prompt of a part, prompt after prompt, read as they are asked for."""

    def __init__(self, part: Part) -> None:
        """Group the rows; prompts come in the order in which they first stand in the data."""
        self._part = part
        _, first, group = np.unique(part.store.prompts[part.rows], return_index=True, return_inverse=True)
        order = np.argsort(first[group], kind="stable")
        cuts = np.flatnonzero(np.diff(first[group][order])) + 1
        self._rows = np.split(part.rows[order], cuts)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Iterator[TokenSequence]]:
        for rows in self._rows:
            yield (sequence for row in rows for sequence in self._part.store[int(row)].sequences)

    def name(self, group: int) -> str:
        """Where the first row of a group stands in the data."""
        return str(self._part.store.provenance(int(self._rows[group][0])))


def check_budget(part: Part, shares_prefixes: bool, budget: int) -> None:
    """Stop before the start where an example alone is larger than a micro-batch.

    Raises:
      ConfigError: one is; it is named with its size.
    """
    store = part.store
    if shares_prefixes:
        sizes = store.num_tokens[part.rows]
    else:
        lengths = ([len(sequence.trimmed().ids) - 1 for sequence in store[int(row)].sequences] for row in part.rows)
        sizes = np.array([len(some) * max(some) for some in lengths])  # rows are padded to the longest
    longest = int(sizes.argmax())
    if sizes[longest] > budget:
        where = store.provenance(int(part.rows[longest]))
        raise ConfigError(
            f"micro_batch_tokens must be at least {sizes[longest]} to hold {where}, got {budget}; "
            "raise it, or lower max_length"
        )


def _tokenize(config: RunConfig, path: str, format_name: str | None, tokenizer: PreTrainedTokenizerBase) -> TokenStore:
    pairs = isinstance(config, DpoConfig)
    kind: Literal["preference", "demonstration"] = "preference" if pairs else "demonstration"
    store, report = tokenize_file(
        path,
        tokenizer,
        kind=kind,
        cache_dir=Path(config.cache or cache_root()),
        budgets=Budgets(config.max_length, config.max_prompt_length, config.max_response_length),
        truncation=config.truncation,
        format_name=format_name,
        chosen_side=not pairs and config.side == "chosen",
        max_rejected_share=config.data.max_rejected,
    )
    for line in report.lines():
        log.info("%s", line)
    return store


def _usable(store: TokenStore, config: RunConfig, path: str) -> Int[np.ndarray, " N"]:
    """The rows of `path` that the recipe can train on: of pairs, those that are no ties."""
    ties: Bool[np.ndarray, " N"] = store.ties
    rows = np.flatnonzero(~ties)
    if len(rows) < len(store):
        first = ", ".join(str(store.provenance(int(row))) for row in np.flatnonzero(ties)[:3])
        log.info("  left out %d ties, which loss %s cannot use; first %s", int(ties.sum()), _loss_name(config), first)
    if not len(rows):
        raise DataError(f"{path} holds nothing but ties, which loss {_loss_name(config)} cannot use; add other pairs")
    return rows


def _loss_name(config: RunConfig) -> str:
    return config.loss_label if isinstance(config, DpoConfig) else "sft"
