"""References of a policy in a step: none, a table of log-probs, or a model that scores beside the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from preftree.reference.store import ReferenceTable
from preftree.scoring.scorer import Scorer
from preftree.scoring.vocabulary import TokenFigures, token_figures
from preftree.tree.layout import TokenSequence, TreeBatch
from preftree.tree.to_device import send


@runtime_checkable
class Reference(Protocol):
    """Reference of a step."""

    def score(
        self,
        policy: Scorer,
        batch: TreeBatch,
        sequences: Sequence[TokenSequence],
        *,
        kl: bool = False,
        confidence: bool = False,
    ) -> TokenFigures:
        """Score a batch under the policy and the reference.

        Args:
          policy: The model in training.
          batch: The sequences, laid out as trees.
          sequences: The same, in the batch's order.
          kl: Whether KL(reference || policy) of every token is computed; needs a reference that is a model.
          confidence: Whether the policy's confidence in every token is computed.
        """
        ...


class NoReference:
    """Absence of a reference, for losses of the policy's log-probs alone."""

    def score(
        self,
        policy: Scorer,
        batch: TreeBatch,
        sequences: Sequence[TokenSequence],
        *,
        kl: bool = False,
        confidence: bool = False,
    ) -> TokenFigures:
        """Score a batch under the policy; a KL is not available."""
        assert not kl, "a KL needs a reference that is a model"
        return token_figures(policy, batch, confidence=confidence)


@dataclass(frozen=True, eq=False, slots=True)
class TableReference:
    """Stored log-probs; the reference model is not needed.

    Attributes:
      table: Log-probs of every response that is trained on.
    """

    table: ReferenceTable

    def score(
        self,
        policy: Scorer,
        batch: TreeBatch,
        sequences: Sequence[TokenSequence],
        *,
        kl: bool = False,
        confidence: bool = False,
    ) -> TokenFigures:
        """Score a batch under the policy, and look up the reference's log-probs; a KL is not available."""
        assert not kl, "a KL needs a reference that is a model"
        figures = token_figures(policy, batch, confidence=confidence)
        return figures._replace(ref=send(self.table.gather(sequences), batch.input_T.device))


@dataclass(frozen=True, eq=False, slots=True)
class LiveReference:
    """A frozen model that scores beside the policy: a second model, or the policy with its adapter off.

    Attributes:
      active: Context in which the scorer computes the reference.
    """

    active: Callable[[], AbstractContextManager[Scorer]]

    def score(
        self,
        policy: Scorer,
        batch: TreeBatch,
        sequences: Sequence[TokenSequence],
        *,
        kl: bool = False,
        confidence: bool = False,
    ) -> TokenFigures:
        """Score a batch under both models."""
        return token_figures(policy, batch, live=self.active, kl=kl, confidence=confidence)
