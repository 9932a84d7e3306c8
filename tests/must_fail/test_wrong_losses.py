"""Wrong losses, rebuilt from descriptions of code in the wild: each breaks exactly the laws named beside it.

They take the same inputs as ours. `broken` runs every law of support/loss_laws.py; an empty set is what ours give.
"""

import pytest
import torch
from torch.nn.functional import logsigmoid

from preftree.losses import LOSSES, delta
from preftree.losses.table import inputs_of
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
