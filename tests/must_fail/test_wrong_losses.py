"""Wrong losses, rebuilt from descriptions of code in the wild: each breaks exactly the laws named beside it.

They take the same inputs as ours. `broken` runs every law of support/loss_laws.py; an empty set is what ours give.
"""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from preftree.losses import LOSSES, delta
from preftree.losses.registry import inputs_of
from support.loss_facts import FACTS
from support.loss_laws import Case, broken


def sides_swapped(policy, ref, *, beta):
    return -logsigmoid(-beta * delta(policy, ref))


def weight_of_the_appendix(policy, ref, *, beta):
    """The paper's App. A.4 weighs the gradient by sigmoid(r_w - r_l); Section 4 has it right."""
    d = delta(policy, ref)
    weight = torch.sigmoid(beta * d).detach()
    value = -logsigmoid(beta * d).detach()
    return value - beta * weight * (d - d.detach())


def no_reference(policy, ref, *, beta):
    return -logsigmoid(beta * (policy.chosen - policy.rejected))


def rejected_without_gradient(policy, ref, *, beta):
    return -logsigmoid(beta * delta(policy._replace(rejected=policy.rejected.detach()), ref))


def log_of_sigmoid(policy, ref, *, beta):
    return -torch.log(torch.sigmoid(beta * delta(policy, ref)))


def clamped_gap(policy, ref, *, beta):
    return -logsigmoid((beta * delta(policy, ref)).clamp(-50, 50))


def beta_outside(policy, ref, *, beta):
    return -beta * logsigmoid(delta(policy, ref))


def reduced(policy, ref, *, beta):
    return -logsigmoid(beta * delta(policy, ref)).mean()


def broadcast(policy, ref, *, beta):
    """A column against a row: every chosen response against every rejected one."""
    gap = (policy.chosen - ref.chosen)[:, None] - (policy.rejected - ref.rejected)[None, :]
    return -logsigmoid(beta * gap).mean(dim=1)


def averaged_over_tokens(policy, ref, *, beta):
    """Mean log-probs under the name DPO: beta then depends on the lengths."""
    chosen = (policy.chosen - ref.chosen) / policy.chosen_tokens
    return -logsigmoid(beta * (chosen - (policy.rejected - ref.rejected) / policy.rejected_tokens))


def smoothing_lost(policy, ref, *, beta, label_smoothing):
    """The option is accepted and does nothing: TRL 1.16's `sigmoid` with `label_smoothing`."""
    return -logsigmoid(beta * delta(policy, ref))


def smoothing_unbounded(policy, ref, *, beta, label_smoothing):
    """The sign of robust DPO (which divides by 1 - 2 label_smoothing) under cDPO's name."""
    margin = beta * delta(policy, ref)
    return -(1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin)


def summed_as_ipo(policy, ref, *, beta):
    return LOSSES["ipo_sum"].function(policy, ref, beta=beta)


def averaged_as_ipo_sum(policy, ref, *, beta):
    return LOSSES["ipo"].function(policy, ref, beta=beta)


def target_one_over_beta(policy, ref, *, beta):
    """1/2 beta read as (1/2) beta."""
    return (delta(policy, ref) - beta / 2).square()


def lengths_from_nonzero_ratios(policy, ref, *, beta):
    """Counts only responses whose ratio is not 0, as code does that infers lengths from ratios: 0/0 at the start."""
    chosen, rejected = policy.chosen - ref.chosen, policy.rejected - ref.rejected
    chosen_tokens = policy.chosen_tokens * (chosen != 0)
    rejected_tokens = policy.rejected_tokens * (rejected != 0)
    return (chosen / chosen_tokens - rejected / rejected_tokens - 1 / (2 * beta)).square()


def sft_of_the_probability(logps):
    return -logps.exp()


def length_penalised(policy, ref, *, beta, alpha):
    """R-DPO with a minus, as some notes print it: a longer chosen response would need a larger margin."""
    return -logsigmoid(beta * delta(policy, ref) - alpha * (policy.chosen_tokens - policy.rejected_tokens))


def penalty_outside_beta(policy, ref, *, beta, penalty):
    """DPOP with lambda max(0, ...) subtracted from beta * delta, not multiplied by beta."""
    return -logsigmoid(beta * delta(policy, ref) - penalty * (ref.chosen - policy.chosen).clamp(min=0))


def baseline_with_gradient(policy, ref, *, beta):
    """KTO on pairs as it was once released: the mean that stands for the KL divergence is trained as well."""
    chosen, rejected = policy.chosen - ref.chosen, policy.rejected - ref.rejected
    if not len(chosen):
        return chosen
    z_chosen, z_rejected = chosen.mean().clamp(min=0), rejected.mean().clamp(min=0)
    return ((beta * (z_rejected - chosen)).sigmoid() + (beta * (rejected - z_chosen)).sigmoid()) / 2


def baseline_below_zero(policy, ref, *, beta):
    """KTO's baseline without the max(0, ...) that a KL divergence has."""
    chosen, rejected = policy.chosen - ref.chosen, policy.rejected - ref.rejected
    z_chosen, z_rejected = chosen.detach().mean(), rejected.detach().mean()
    return ((beta * (z_rejected - chosen)).sigmoid() + (beta * (rejected - z_chosen)).sigmoid()) / 2


def divergence_of_the_label_from_the_policy(policy, ref, *, beta, label_smoothing):
    """EXO with the arguments of its KL divergence exchanged: cDPO, up to a constant."""
    margin = beta * delta(policy, ref)
    entropy = (1 - label_smoothing) * math.log(1 - label_smoothing) + label_smoothing * math.log(label_smoothing)
    return entropy - (1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def undivided(policy, ref, *, beta, label_smoothing):
    """Robust DPO without the division by 1 - 2 label_smoothing: biased, where it was to be unbiased."""
    margin = beta * delta(policy, ref)
    return -(1 - label_smoothing) * logsigmoid(margin) + label_smoothing * logsigmoid(-margin)


def odds_of_whole_responses(policy, *, odds_weight):
    """ORPO's odds from summed log-probs: p is then so small that the odds are p."""
    chosen, rejected = (x - torch.log1p(-x.exp()) for x in (policy.chosen, policy.rejected))
    return -policy.chosen / policy.chosen_tokens - odds_weight * logsigmoid(chosen - rejected)


def sorted_against_each_other(policy, ref, *, beta, label_smoothing):
    """AOT with the reference's gaps sorted the other way round."""
    high, order = (policy.chosen - policy.rejected).sort()
    margin = beta * (high - (ref.chosen - ref.rejected).sort(descending=True).values)
    values = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return values[order.argsort()]


def left_where_it_was_sorted(policy, ref, *, beta, label_smoothing):
    """AOT's values in sorted order, so that each meets the weight of another pair."""
    margin = beta * ((policy.chosen - policy.rejected).sort().values - (ref.chosen - ref.rejected).sort().values)
    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def beta_in_the_contrast(policy, ref, *, beta):
    """Cal-DPO with DPO's beta in its first term."""
    chosen, rejected = policy.chosen - ref.chosen, policy.rejected - ref.rejected
    contrast = -logsigmoid(beta * (chosen - rejected))
    return contrast + (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square()


def divergences_exchanged(policy, ref, kl, *, beta):
    """TDPO1 with the chosen response's divergence in the rejected one's place."""
    return -logsigmoid(beta * (delta(policy, ref) - (kl.chosen - kl.rejected)))


def nothing_detached(policy, ref, kl, *, beta, alpha):
    """TDPO2 with gradient through the chosen response's divergence as well."""
    return -logsigmoid(beta * (delta(policy, ref) - alpha * (kl.rejected - kl.chosen)))


def the_best_against_all(policy_lists, ref_lists, *, beta):
    """A ranking's likelihood without its later places: the best response against the rest, and no more."""
    reward = beta * (policy_lists.logps - ref_lists.logps)
    rows = reward.split(policy_lists.sizes.tolist()) if len(reward) else ()
    return torch.stack([row.logsumexp(0) - row[0] for row in rows]) if rows else reward


def a_tie_is_half_a_win(policy, ref, ties, *, beta, nu):
    """A tie as the mean of a win and a loss: no probability of its own."""
    margin = beta * delta(policy, ref)
    return torch.where(ties, (-logsigmoid(margin) - logsigmoid(-margin)) / 2, -logsigmoid(margin))


def margin_added(policy, *, beta, gamma):
    """SimPO's margin with a plus: every pair is satisfied sooner."""
    means = policy.chosen / policy.chosen_tokens - policy.rejected / policy.rejected_tokens
    return -logsigmoid(beta * means + gamma)


WRONG = [
    (sides_swapped, "dpo", {"formula", "direction", "symmetry", "extremes"}),
    (weight_of_the_appendix, "dpo", {"gradient"}),
    (no_reference, "dpo", {"formula", "reference", "symmetry"}),
    (rejected_without_gradient, "dpo", {"gradient", "direction"}),
    (log_of_sigmoid, "dpo", {"extremes"}),
    (clamped_gap, "dpo", {"extremes"}),
    (beta_outside, "dpo", {"formula", "reference", "extremes"}),
    (reduced, "dpo", {"formula", "unreduced", "permutation", "symmetry", "extremes"}),
    (broadcast, "dpo", {"formula", "unreduced", "symmetry", "shift", "extremes"}),
    (averaged_over_tokens, "dpo", {"formula", "symmetry", "shift"}),
    (smoothing_lost, "cdpo", {"formula", "symmetry", "extremes", "options_count"}),
    (smoothing_unbounded, "cdpo", {"formula", "reference", "symmetry", "extremes"}),
    (summed_as_ipo, "ipo", {"formula", "symmetry", "shift"}),
    (averaged_as_ipo_sum, "ipo_sum", {"formula", "symmetry", "shift"}),
    (target_one_over_beta, "ipo_sum", {"formula", "reference", "symmetry", "extremes"}),
    (lengths_from_nonzero_ratios, "ipo", {"reference", "direction", "extremes"}),
    (length_penalised, "r_dpo", {"formula"}),
    (penalty_outside_beta, "dpop", {"formula", "extremes"}),
    (baseline_with_gradient, "kto_pair", {"gradient"}),
    (baseline_below_zero, "kto_pair", {"formula", "gradient"}),
    (divergence_of_the_label_from_the_policy, "exo", {"formula", "reference", "extremes"}),
    (undivided, "robust", {"formula", "reference", "symmetry", "extremes"}),
    (odds_of_whole_responses, "orpo", {"formula"}),
    (sorted_against_each_other, "aot", {"formula", "reference", "direction"}),
    (left_where_it_was_sorted, "aot", {"formula", "permutation", "extremes"}),
    (beta_in_the_contrast, "cal_dpo", {"formula", "extremes"}),
    (divergences_exchanged, "tdpo1", {"formula", "extremes"}),
    (nothing_detached, "tdpo2", {"gradient"}),
    (the_best_against_all, "plackett_luce", {"formula"}),
    (a_tie_is_half_a_win, "rao_kupper", {"formula", "extremes", "options_count"}),
    (margin_added, "simpo", {"formula", "extremes"}),
    (sft_of_the_probability, "sft", {"formula", "extremes"}),
]


def _case(function, name):
    return Case(name, function, inputs_of(LOSSES[name]), FACTS[name].options[min(1, len(FACTS[name].options) - 1)])


@pytest.mark.parametrize(("function", "name", "laws"), WRONG, ids=[wrong[0].__name__ for wrong in WRONG])
def test_wrong_loss_is_caught(function, name, laws):
    assert broken(_case(function, name)) == laws


@pytest.mark.parametrize("name", LOSSES)
def test_ours_breaks_no_law(name):
    assert broken(_case(LOSSES[name].function, name)) == set()
