"""Gates at the start: an untrained policy must agree with its reference, and a table with the model that it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from preftree.errors import CacheError, TrainingError
from preftree.losses.quantities import sum_responses
from preftree.reference.key import layout_digests
from preftree.reference.store import ReferenceTable
from preftree.scoring.scorer import Scorer, evaluation_mode
from preftree.scoring.vocabulary import ActiveScorer
from preftree.tree.layout import TokenSequence
from preftree.tree.pack import pack

TIMES_NOISE = 4.0


@dataclass(frozen=True, slots=True)
class GateReport:
    """Figures of the gate, in nats per response, for the response that comes closest to failing.

    Attributes:
      num_responses: Responses compared.
      noise: Largest difference between two packings of the same responses, in the run's precision.
      largest_logratio: |policy - reference|.
      tolerance: Allowed difference: 4 x noise, but at least the rounding of the log-probs.
    """

    num_responses: int
    noise: float
    largest_logratio: float
    tolerance: float


def verify_start(
    scorer: Scorer, table: ReferenceTable, groups: Sequence[Sequence[TokenSequence]], *, budget: int = 8192
) -> GateReport:
    """Compare the policy with its reference before the first step of a fresh run that starts at its reference.

    Rounding depends on the packing. It is measured on the same responses: each group alone against as many together as
    the budget holds. Where the table's entries come from trees with other branches, or the budget holds no two groups,
    each response alone is measured as well. The policy may differ from the table by 4 times that. Where that is less
    than the rounding of the log-probs themselves (on some CPUs packings agree to the last bit),
    `4 * eps * sqrt(sum(logp ** 2))` over a response's tokens is allowed: about 1e-5 nats in fp32. A zero difference
    cannot be required, since the table was computed in larger batches.

    Args:
      scorer: The policy in training mode, since active dropout is one of the faults to detect.
      table: The reference log-probs; holds every response of `groups`.
      groups: A few prompts with their responses, as passed to `build_reference`.
      budget: Most tokens of a forward; a larger group is computed alone.
    Raises:
      TrainingError: they differ by more; both figures are in the message.
      CacheError: the table lacks a response.
    """
    report = _compare_with_table(scorer, table, groups, budget)
    _require(report, f", or delete {table.folder}")
    return report


def verify_table(
    scorer: Scorer, table: ReferenceTable, groups: Sequence[Sequence[TokenSequence]], *, budget: int = 8192
) -> GateReport:
    """Score a few rows again with the reference itself, whatever the policy is by now.

    Args:
      scorer: The reference.
      table: Its log-probs; holds every response of `groups`.
      groups: A few prompts with their responses.
      budget: Most tokens of a forward; a larger group is computed alone.

    Raises:
      CacheError: the table differs by more than `verify_start` allows; both figures are in the message.
    """
    report = _compare_with_table(scorer, table, groups, budget)
    if not report.largest_logratio <= report.tolerance:
        raise CacheError(
            f"reference cache {table.folder} differs from its model by {report.largest_logratio:.3g} nats in a "
            f"response that was scored again (allowed: {report.tolerance:.3g}); delete that folder, and it is computed "
            "again"
        )
    return report


def verify_live_start(
    scorer: Scorer, live: ActiveScorer, groups: Sequence[Sequence[TokenSequence]], *, budget: int = 8192
) -> GateReport:
    """As `verify_start`, with a reference that scores beside the policy: both compute the same batches.

    Args:
      scorer: The policy in training mode.
      live: The reference.
      groups: A few prompts with their responses.
      budget: Most tokens of a forward; a larger group is computed alone.

    Raises:
      TrainingError: they differ by more than `verify_start` allows; both figures are in the message.
    """
    probe = _probe(scorer, groups, budget)
    counts = torch.tensor([int(sequence.scored.sum()) for sequence in probe.sequences])
    with torch.no_grad(), live() as reference:
        sums = _packed(reference, groups, probe.bins)
    # Only the sum over a response's tokens is known here; equal tokens give the smallest bound.
    rounding = torch.finfo(sums.dtype).eps * sums.double().abs() / counts.sqrt()
    report = _compare(probe.policy, sums, torch.full_like(rounding, probe.packing), rounding)
    _require(report, "")
    return report


@dataclass(frozen=True, eq=False, slots=True)
class _Probe:
    """The policy's sums, and their dependence on the packing.

    Attributes:
      sequences: The responses, [R].
      bins: Groups that are computed together.
      policy: Summed log-probs, nats, [R].
      packing: Largest difference between two packings of the same groups.
      cutting: The same, including each response in a separate tree.
    """

    sequences: list[TokenSequence]
    bins: list[list[int]]
    policy: Float[Tensor, " R"]
    packing: float
    cutting: float


def _probe(scorer: Scorer, groups: Sequence[Sequence[TokenSequence]], budget: int) -> _Probe:
    sequences = [sequence for group in groups for sequence in group]
    sizes = [len(scorer.lay_out([group]).input_T) for group in groups]
    bins = [sorted(some) for some in pack(sizes, max([budget, *sizes]))]
    with torch.no_grad():
        policy = _packed(scorer, groups, bins)
        with evaluation_mode(scorer):
            together = _packed(scorer, groups, bins)
            one_group = torch.cat([_sums(scorer, [group]) for group in groups])
            one_response = torch.cat([_sums(scorer, [[sequence]]) for sequence in sequences])
    packing = float((together - one_group).abs().max())
    cutting = max(packing, float((together - one_response).abs().max()))
    if len(bins) == len(groups):
        packing = cutting  # nothing was packed, so `packing` does not measure rounding
    return _Probe(sequences, bins, policy, packing, cutting)


def _compare_with_table(
    scorer: Scorer, table: ReferenceTable, groups: Sequence[Sequence[TokenSequence]], budget: int
) -> GateReport:
    probe = _probe(scorer, groups, budget)
    tokens = torch.from_numpy(table.gather(probe.sequences))
    counts = torch.tensor([int(sequence.scored.sum()) for sequence in probe.sequences])
    reference = sum_responses(tokens, counts).values
    size = sum_responses(tokens.double().square(), counts).values.sqrt()
    cuts = layout_digests(scorer.lay_out(groups).to("cpu"))
    noise = torch.where(torch.from_numpy(cuts == table.layouts(probe.sequences)), probe.packing, probe.cutting)
    return _compare(probe.policy, reference, noise, torch.finfo(tokens.dtype).eps * size)


def _compare(policy: Tensor, reference: Tensor, noise: Tensor, rounding: Tensor) -> GateReport:
    allowed = TIMES_NOISE * torch.maximum(noise, rounding)
    logratio = (policy - reference).abs()
    worst = int((logratio / allowed).nan_to_num(torch.inf).argmax())
    return GateReport(len(policy), float(noise[worst]), float(logratio[worst]), float(allowed[worst]))


def _require(report: GateReport, advice: str) -> None:
    if not report.largest_logratio <= report.tolerance:  # nan compares false with everything
        raise TrainingError(
            f"before the first step the policy differs from its reference by {report.largest_logratio:.3g} nats in a "
            f"response, while packing noise is {report.noise:.3g} (allowed: {report.tolerance:.3g}); the reference has "
            f"other weights or another adapter, or dropout is on: check both models{advice}"
        )


def _packed(
    scorer: Scorer, groups: Sequence[Sequence[TokenSequence]], bins: Sequence[Sequence[int]]
) -> Float[Tensor, " R"]:
    """Sums from one forward for each bin of groups, in the order of `groups`."""
    sums: dict[int, Tensor] = {}
    for some in bins:
        parts = _sums(scorer, [groups[index] for index in some]).split([len(groups[index]) for index in some])
        sums |= zip(some, parts, strict=True)
    return torch.cat([sums[index] for index in range(len(groups))])


def _sums(scorer: Scorer, groups: Sequence[Sequence[TokenSequence]]) -> Float[Tensor, " R"]:
    batch = scorer.lay_out(groups)
    return sum_responses(scorer(batch), batch.count_R).values.cpu()
