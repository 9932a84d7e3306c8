"""Checks at every start: packed trees must agree with the plain forward of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.errors import ModelError, TrainingError
from preftree.losses.quantities import sum_responses
from preftree.models.reward_model import reward_head
from preftree.scoring.attention.dispatch import plain_attention
from preftree.scoring.probe import run_own_forward
from preftree.scoring.scorer import Scorer
from preftree.tree.layout import TokenSequence

ABSOLUTE = 1e-3
"""Allowed difference of any figure: nats, or units of a reward."""

PER_TOKEN = 5e-5
"""Further allowance for each token, nats. In fp32, trees and plain rows differ by 1e-6 to 1e-5 a token; an ignored
window, sink or scale makes a difference of 0.1 or more."""

RELATIVE = 1e-4
"""Further allowance as a share of a reward. In fp32, trees and plain rows differ by 1e-6 of it; a wrong mask or
position makes a difference of 0.1 or more."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Result of a check.

    Attributes:
      num_responses: Number of responses that were compared.
      difference: Difference for the response nearest to its limit, or beyond it; nats, or units of a reward.
      tolerance: Difference allowed for this response.
    """

    num_responses: int
    difference: float
    tolerance: float


def verify_scorer(scorer: Scorer, groups: Sequence[Sequence[TokenSequence]]) -> ProbeReport:
    """Compare log-probs of responses on packed trees with those of each sequence in the plain forward of transformers.

    Both run in the weights' precision (no autocast), so that rounding cannot hide an error of the layout.

    Args:
      scorer: The model to be trained.
      groups: A few prompts, each with its responses.
    Raises:
      TrainingError: they differ by more than rounding; both figures are in the message.
    """
    with _weights_precision(scorer):
        batch = scorer.lay_out(groups)
        sums = sum_responses(scorer(batch), batch.count_R)
        plain = _on_plain_rows(scorer, groups, _plain_logp)
    tolerance = ABSOLUTE + PER_TOKEN * sums.num_tokens.double()
    names = [f"a response of {number} tokens the log-prob" for number in sums.num_tokens.tolist()]
    return _compare(scorer, sums.values, plain, tolerance, names)


def verify_rewards(scorer: Scorer, groups: Sequence[Sequence[TokenSequence]]) -> ProbeReport:
    """Compare rewards of responses on packed trees with those of each sequence in the plain forward of transformers.

    As `verify_scorer`. A zero head, with which all rewards agree, has random weights during the comparison.

    Args:
      scorer: The reward model to be trained.
      groups: A few prompts, each with its responses with marked ends.
    Raises:
      TrainingError: they differ by more than rounding; both figures are in the message.
    """
    with _weights_precision(scorer), _nonzero_head(scorer):
        rewards = scorer(scorer.lay_out(groups)).double()
        plain = _on_plain_rows(scorer, groups, _plain_reward)
    tolerance = ABSOLUTE + RELATIVE * plain.abs()
    return _compare(scorer, rewards, plain, tolerance, ["a response the reward"] * len(plain))


def require_finite_figures(scorer: Scorer, step: int) -> None:
    """Run the model in its own forward on a few rows, as whoever loads it will.

    Args:
      scorer: A trained model; its weights are finite, which does not make its figures so.
      step: The step after which it is to be written.
    Raises:
      TrainingError: a logit or a reward is not finite.
    """
    with _weights_precision(scorer):
        try:
            run_own_forward(scorer.model)
        except ModelError as error:
            raise TrainingError(
                f"after step {step} {error}; nothing is written: start again from the last good checkpoint with a "
                "lower lr, or a smaller max_grad_norm"
            ) from error


def _compare(
    scorer: Scorer,
    on_trees: Float[Tensor, " R"],
    plain: Float[Tensor, " R"],
    tolerance: Float[Tensor, " R"],
    names: Sequence[str],
) -> ProbeReport:
    difference = (on_trees - plain).abs()
    excess = difference / tolerance
    # nan compares false with everything, so it counts as infinite here, and the comparison below is a negation.
    worst = int(torch.where(excess.isnan(), torch.inf, excess).argmax())
    report = ProbeReport(len(plain), float(difference[worst]), float(tolerance[worst]))
    if not report.difference <= report.tolerance:
        raise TrainingError(
            f"{type(scorer.model).__name__} gives {names[worst]} {float(on_trees[worst]):.6f} on a packed tree and "
            f"{float(plain[worst]):.6f} in the plain forward (allowed difference {report.tolerance:.1e}); this "
            "architecture is not supported correctly, please report it"
        )
    return report


def _on_plain_rows(
    scorer: Scorer,
    groups: Sequence[Sequence[TokenSequence]],
    figure: Callable[[Scorer, TokenSequence], Float[Tensor, ""]],
) -> Float[Tensor, " R"]:
    with plain_attention(scorer.model):
        return torch.stack([figure(scorer, sequence) for group in groups for sequence in group]).double()


def _plain_logp(scorer: Scorer, sequence: TokenSequence) -> Float[Tensor, ""]:
    ids = torch.from_numpy(sequence.trimmed().ids).long().to(scorer.device)
    scored = torch.from_numpy(sequence.trimmed().scored[1:]).to(scorer.device)
    # The last token predicts nothing, and is no input on trees: it must not decide the angles of a longrope model.
    logits = scorer.model(input_ids=ids[None, :-1], use_cache=False).logits[0]
    logps = logits.to(scorer.dtype).log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    return logps[scored].double().sum()


def _plain_reward(scorer: Scorer, sequence: TokenSequence) -> Float[Tensor, ""]:
    """Reward of one row, without padding; the end mark is not a token of it."""
    ids = torch.from_numpy(sequence.ids[:-1]).long().to(scorer.device)
    return scorer.model(input_ids=ids[None], use_cache=False).logits[0, 0]


@contextmanager
def _weights_precision(scorer: Scorer) -> Iterator[None]:
    precision, scorer.precision = scorer.precision, "fp32"
    try:
        with torch.no_grad():
            yield
    finally:
        scorer.precision = precision


@contextmanager
def _nonzero_head(scorer: Scorer) -> Iterator[None]:
    weight = reward_head(scorer.model).weight
    is_zero = not bool(weight.any())
    if is_zero:
        generator = torch.Generator().manual_seed(0)
        weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
    try:
        yield
    finally:
        if is_zero:
            weight.zero_()
