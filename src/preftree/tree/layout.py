"""Layout of sequences with a common prefix as trees, so that the prefix is computed once.

Shape suffixes: T packed input tokens, S scored predictions, I incidences of a prediction and a response, R responses.

A *sequence* is a prompt followed by one response. A *tree* is the trie of a few sequences; a *branch* of it is a run of
tokens that belong to the same set of sequences. Tokens are in depth-first order, so the subtree of token k is
the span `k <= q < end[k]`: exactly the tokens that may attend to k.

    sequences  P P P a b c        tree      P P P -+- a -+- b c
               P P P a d                           |     +- d
               P P P e                             +- e

    token      P P P a b      The last token of a sequence predicts nothing, so it is not an input:
    position   0 1 2 3 4      c, d and e are targets only, and T = 5.
    end        5 5 5 5 5

The last prompt token predicts the first token of every response, so targets cannot be a shifted copy of the inputs:
each prediction has a source (a token's index in T) and a target (a token id). Two responses that begin alike share a
prediction; incidences map responses to the predictions that they sum.

Responses to one prompt share every beginning. Sequences of different prompts share one of at least LEAST_SHARED tokens,
such as a system prompt, tools, examples, or earlier turns of a dialogue: a shorter one saves less than another branch
costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from preftree.tree.to_device import send

LEAST_SHARED = 64
"""Fewest tokens, after the branch before, that sequences of different prompts share."""


@dataclass(frozen=True, eq=False, slots=True)
class TokenSequence:
    """A prompt and one response as token ids.

    Attributes:
      ids: Token ids, int32, [L].
      scored: Whether each token's log-prob counts towards the response, [L]; never the first, which nothing predicts.
    """

    ids: Int[np.ndarray, " L"]
    scored: Bool[np.ndarray, " L"]

    def trimmed(self) -> TokenSequence:
        """The sequence up to its last scored token: later tokens cannot influence a score."""
        last = int(np.flatnonzero(self.scored)[-1]) + 1 if self.scored.any() else 0
        return TokenSequence(self.ids[:last], self.scored[:last])


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which sequences may be laid out as one tree; a fact of the model that computes them.

    Attributes:
      prefixes: Whether a common beginning is computed once; otherwise each sequence is a separate tree.
      switch: Sequences of more inputs than this share nothing with the others, since the model has other angles for
        them (longrope); None where there is no such length.
    """

    prefixes: bool = True
    switch: int | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """A run of tokens that share all their ancestors and all their descendants.

    Attributes:
      start: Index in T of its first token.
      stop: Index in T after its last token.
      depth: Position of its first token in the sequences that it belongs to.
      parent: Index of its parent branch, or -1 at a root.
    """

    start: int
    stop: int
    depth: int
    parent: int


@dataclass(frozen=True, eq=False, slots=True)
class Tree:
    """Trie of a few sequences; arrays as in TreeBatch, with indices from the tree's first token."""

    input_T: Int[np.ndarray, " T"]
    position_T: Int[np.ndarray, " T"]
    end_T: Int[np.ndarray, " T"]
    source_S: Int[np.ndarray, " S"]
    target_S: Int[np.ndarray, " S"]
    prediction_I: Int[np.ndarray, " I"]
    count_R: Int[np.ndarray, " R"]
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.input_T)


@dataclass(frozen=True, eq=False, slots=True)
class TreeBatch:
    """Concatenated trees, which a model scores in one forward.

    Attributes:
      input_T: Token ids, int64, [T].
      position_T: Depth of each token in its tree, [T]; the model's position id.
      end_T: First index after each token's subtree, [T]; k is visible to q iff k <= q < end[k].
      source_S: Index in T of the hidden state of each prediction, [S].
      target_S: Token id scored by each prediction, [S].
      prediction_I: Predictions, response after response and in token order within one, [I].
      count_R: Scored tokens of each response, [R]; they sum to I.
      branches: Branches, depth-first, for attention branch by branch.
    """

    input_T: Int[Tensor, " T"]
    position_T: Int[Tensor, " T"]
    end_T: Int[Tensor, " T"]
    source_S: Int[Tensor, " S"]
    target_S: Int[Tensor, " S"]
    prediction_I: Int[Tensor, " I"]
    count_R: Int[Tensor, " R"]
    branches: tuple[Branch, ...]

    def to(self, device: torch.device | str) -> TreeBatch:
        """The same batch with its tensors on `device`; branches remain Python objects."""
        tensors = {
            name: send(getattr(self, name), device)
            for name in ("input_T", "position_T", "end_T", "source_S", "target_S", "prediction_I", "count_R")
        }
        return replace(self, **tensors)


def grow_tree(
    sequences: Sequence[TokenSequence], prompts: Sequence[int] | None = None, switch: int | None = None
) -> Tree:
    """Lay out the trie of `sequences`; responses keep the order of `sequences`.

    Siblings are in the order of the sequences. Sequences without a common prefix give one tree with several roots,
    which is equivalent to several trees.

    Args:
      sequences: Prompts with a response each.
      prompts: Number of the prompt of each sequence; None where all have the same.
      switch: As `Sharing.switch`.
    Raises:
      ValueError: a sequence scores nothing, or scores its first token, which nothing predicts.
    """
    trimmed = [sequence.trimmed() for sequence in sequences]
    for index, sequence in enumerate(trimmed):
        if not len(sequence.ids):
            raise ValueError(f"sequence {index} has no scored token")
        if sequence.scored[0]:
            raise ValueError(
                f"sequence {index} scores its first token, which nothing predicts; begin with a BOS or a prompt"
            )

    inputs = [sequence.ids[:-1] for sequence in trimmed]
    numbers = [0] * len(inputs) if prompts is None else prompts
    branches: list[Branch] = []
    ends: list[int] = []
    branches_of: list[list[int]] = [[] for _ in inputs]  # branches of each sequence, root first
    total = 0

    def grow(members: list[int], depth: int, parent: int) -> None:
        nonlocal total
        for group in _alike(inputs, numbers, [index for index in members if len(inputs[index]) > depth], depth):
            length = common_length([inputs[index][depth:] for index in group])
            branch = len(branches)
            branches.append(Branch(total, total + length, depth, parent))
            ends.append(0)
            for index in group:
                branches_of[index].append(branch)
            total += length
            grow(group, depth + length, branch)
            ends[branch] = total

    for long in (False, True):
        grow([i for i, ids in enumerate(inputs) if (switch is not None and len(ids) > switch) == long], 0, -1)

    input_T = np.empty(total, np.int64)
    position_T = np.empty(total, np.int64)
    end_T = np.empty(total, np.int64)
    for branch, end in zip(branches, ends, strict=True):
        position_T[branch.start : branch.stop] = np.arange(branch.depth, branch.depth + branch.stop - branch.start)
        end_T[branch.start : branch.stop] = end
    keys = []
    for sequence, path in zip(trimmed, branches_of, strict=True):
        index_L = np.concatenate([np.arange(branches[b].start, branches[b].stop) for b in path])
        input_T[index_L] = sequence.ids[:-1]
        scored = np.flatnonzero(sequence.scored)
        keys.append(index_L[scored - 1] << 32 | sequence.ids[scored].astype(np.int64))
    key_S, prediction_I = np.unique(np.concatenate(keys), return_inverse=True)
    return Tree(
        input_T=input_T,
        position_T=position_T,
        end_T=end_T,
        source_S=key_S >> 32,
        target_S=key_S & 0xFFFFFFFF,
        prediction_I=prediction_I.astype(np.int64),
        count_R=np.array([len(key) for key in keys], np.int64),
        branches=tuple(branches),
    )


def batch_trees(trees: Sequence[Tree]) -> TreeBatch:
    """Concatenate trees; responses are in the order of the trees."""
    tokens = np.cumsum([0, *(len(tree) for tree in trees)])
    predictions = np.cumsum([0, *(len(tree.source_S) for tree in trees)])
    branches: list[Branch] = []
    for tree, start in zip(trees, tokens.tolist(), strict=False):
        first = len(branches)
        branches.extend(
            Branch(b.start + start, b.stop + start, b.depth, b.parent + first if b.parent >= 0 else -1)
            for b in tree.branches
        )

    def join(name: str, offsets: np.ndarray | None = None) -> Tensor:
        parts = [getattr(tree, name) for tree in trees]
        if offsets is not None:
            parts = [part + offset for part, offset in zip(parts, offsets, strict=False)]
        return torch.from_numpy(np.concatenate(parts) if parts else np.empty(0, np.int64))

    return TreeBatch(
        input_T=join("input_T"),
        position_T=join("position_T"),
        end_T=join("end_T", tokens),
        source_S=join("source_S", tokens),
        target_S=join("target_S"),
        prediction_I=join("prediction_I", predictions),
        count_R=join("count_R"),
        branches=tuple(branches),
    )


def _alike(inputs: Sequence[np.ndarray], prompts: Sequence[int], members: Sequence[int], depth: int) -> list[list[int]]:
    """Groups of sequences that share a branch from `depth` on, in the order of their first members."""
    groups: list[list[int]] = []
    alone = list(members)
    if len({prompts[index] for index in members}) > 1:
        by_beginning: dict[bytes, list[int]] = {}
        for index in members:
            by_beginning.setdefault(beginning(inputs[index], depth), []).append(index)
        groups = [
            group
            for tokens, group in by_beginning.items()
            if len(tokens) == LEAST_SHARED * inputs[group[0]].itemsize and len({prompts[index] for index in group}) > 1
        ]
        shared = {index for group in groups for index in group}
        alone = [index for index in members if index not in shared]
    by_next_token: dict[tuple[int, int], list[int]] = {}
    for index in alone:
        by_next_token.setdefault((prompts[index], int(inputs[index][depth])), []).append(index)
    return sorted([*groups, *by_next_token.values()], key=lambda group: group[0])


def beginning(ids: Int[np.ndarray, " L"], depth: int = 0) -> bytes:
    """The tokens from `depth` on that decide whether prompts share a branch; fewer than LEAST_SHARED share none."""
    return ids[depth : depth + LEAST_SHARED].tobytes()


def common_length(arrays: Sequence[np.ndarray]) -> int:
    """Length of the common prefix of all arrays."""
    first, *others = arrays
    length = len(first)
    for other in others:
        length = min(length, len(other))
        differs = np.flatnonzero(first[:length] != other[:length])
        if len(differs):
            length = int(differs[0])
    return length
