"""What is known about each loss, written down a second time, in numpy and float64, apart from the code under test."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import expit, logsumexp

Options = dict[str, float | str]


@dataclass(frozen=True)
class Facts:
    """What is known about a loss.

    options: settings to try. oracle: the formula on numpy inputs; where `constants`, it takes `at` as well: the inputs
    from which what has no gradient is computed. at_reference: the loss where policy == reference. delta_only: a
    function of the gap between the sides alone (or a function of the options that tells). swap: loss minus the loss of
    the swapped pair. spread: standard deviation of the logratios that are drawn. state: running state to try. zero:
    some examples may have no gradient. exempt: laws that do not hold, with the reason. moves: how far to move an
    option that has no effect when moved by 0.03.
    """

    options: tuple[Options, ...]
    oracle: Callable[..., np.ndarray]
    at_reference: Callable[..., float | None] | None
    delta_only: bool | Callable[[Options], bool]
    swap: Callable[..., np.ndarray] | None = None
    spread: float = 5.0
    state: dict[str, float] = field(default_factory=dict)
    constants: bool = False
    zero: bool = False
    exempt: dict[str, str] = field(default_factory=dict)
    moves: dict[str, float] = field(default_factory=dict)


def gap(policy, ref):
    return (policy.chosen - policy.rejected) - (ref.chosen - ref.rejected)


def gap_per_token(policy, ref):
    chosen = policy.chosen / policy.chosen_tokens - ref.chosen / policy.chosen_tokens
    return chosen - (policy.rejected / policy.rejected_tokens - ref.rejected / policy.rejected_tokens)


def softplus(x):
    return np.logaddexp(0, x)


def exp_with_tangent(x):
    """e^x, from 40 on its tangent."""
    return np.where(x < 40, np.exp(np.minimum(x, 40)), math.exp(40) * (x - 39))


def ratios(policy, ref):
    return policy.chosen - ref.chosen, policy.rejected - ref.rejected


def mean_logps(policy):
    return policy.chosen / policy.chosen_tokens, policy.rejected / policy.rejected_tokens


def lists_of(values, sizes):
    return np.split(values, np.cumsum(sizes)[:-1]) if len(sizes) else []


# One function for each formula that does not fit a line.


def _exo(policy, ref, beta, label_smoothing):
    x = beta * gap(policy, ref)
    q, label = np.stack([expit(x), expit(-x)]), np.array([[1 - label_smoothing], [label_smoothing]])
    log_q = np.stack([-softplus(-x), -softplus(x)])
    return (q * (log_q - np.log(label))).sum(0)


def _slope(rho, divergence, alpha):
    if divergence == "alpha_divergence":
        return (1 - exp_with_tangent(-alpha * rho)) / alpha
    return {
        "reverse_kl": rho,
        "forward_kl": 1 - exp_with_tangent(-rho),
        "js_divergence": math.log(2) - softplus(-rho),
    }[divergence]


def _f_dpo(policy, ref, beta, divergence, alpha=None):
    chosen, rejected = (_slope(rho, divergence, alpha) for rho in ratios(policy, ref))
    return softplus(-beta * (chosen - rejected))


def _chi_po(policy, ref, beta, reward_bound):
    chosen, rejected = (exp_with_tangent(rho) + rho for rho in ratios(policy, ref))
    return softplus(-np.clip(beta * (chosen - rejected), -2 * reward_bound, 2 * reward_bound))


def _orpo(policy, odds_weight):
    chosen, rejected = mean_logps(policy)
    # log(p / (1 - p)) = -log(e^-lp - 1)
    odds = [-np.where(lp > -30, np.log(np.expm1(np.minimum(-lp, 30))), -lp) for lp in (chosen, rejected)]
    return -chosen + odds_weight * softplus(odds[1] - odds[0])


def _alphapo(policy, beta, gamma, alpha):
    chosen, rejected = (lp if alpha == 0 else (1 - exp_with_tangent(-alpha * lp)) / alpha for lp in mean_logps(policy))
    return softplus(gamma - beta * (chosen - rejected))


def _gpo(policy, ref, beta, f):
    x = beta * gap(policy, ref)
    return {
        "logistic": softplus(-x),
        "hinge": np.maximum(0, 1 - x),
        "squared": (1 - x) ** 2,
        "exponential": exp_with_tangent(-x),
        "truncated_quadratic": np.maximum(0, 1 - x) ** 2,
        "savage": expit(-x) ** 2,
    }[f]


def _discopop(policy, ref, beta, tau):
    x = beta * gap(policy, ref)
    return expit(-x / tau) * softplus(-x) + exp_with_tangent(-x - softplus(-x / tau))


def _ld_dpo(policy_tokens, ref_tokens, beta, alpha):
    sides = []
    both = (policy_tokens.chosen.num_tokens, policy_tokens.rejected.num_tokens)
    for policy, ref in zip(policy_tokens, ref_tokens, strict=True):
        values = zip(lists_of(policy.logps - ref.logps, policy.num_tokens), *both, strict=True)
        sides.append(np.array([v[: min(a, b)].sum() + alpha * v[min(a, b) :].sum() for v, a, b in values]))
    return softplus(-beta * (sides[0] - sides[1])) if len(both[0]) else np.zeros(0)


def _sampo(policy_tokens, ref_tokens, uniforms, beta):
    def kept(count, few, generator):
        return torch.randperm(count, generator=generator, device="cpu")[:few].numpy() if few < count else range(count)

    values = []
    sides = [
        lists_of(policy.logps - ref.logps, policy.num_tokens)
        for policy, ref in zip(policy_tokens, ref_tokens, strict=True)
    ]
    for uniform, chosen, rejected in zip(uniforms, *sides, strict=True):
        generator, few = torch.Generator("cpu").manual_seed(int(uniform * 2**53)), min(len(chosen), len(rejected))
        sums = [sum(side[i] for i in kept(len(side), few, generator)) for side in (chosen, rejected)]
        values.append(softplus(-beta * (sums[0] - sums[1])))
    return np.array(values)


def _token_unlikelihood(policy_tokens, alpha):
    chosen, rejected = (lists_of(side.logps, side.num_tokens) for side in policy_tokens)
    values = zip(chosen, rejected, strict=True)
    return np.array([-w.sum() - alpha * np.log(-np.expm1(lost)).sum() for w, lost in values])


def _alpha_dpo(policy, ref, beta, gamma, alpha, at):
    away = gap_per_token(at["policy"], at["ref"])
    z = (away - np.mean(away)) / np.std(away, ddof=1) if len(away) > 1 and np.ptp(away) > 0 else 0 * away
    chosen, rejected = mean_logps(policy)
    return softplus(gamma + alpha * z - beta * (chosen - rejected))


def _tpo(policy_lists, beta, nll_weight):
    values = []
    rows = zip(
        lists_of(policy_lists.values, policy_lists.sizes),
        lists_of(policy_lists.num_tokens, policy_lists.sizes),
        strict=True,
    )
    for logps, tokens in rows:
        second = logps[1] if len(logps) > 2 else logps[0]
        values.append(softplus(beta * (logps[-1] - second)) - nll_weight * logps[0] / tokens[0])
    return np.array(values)


def _kto(responses, ref_responses, desirable, mismatched, ref_mismatched, beta, desirable_weight, undesirable_weight):
    rho, z = responses.values - ref_responses.values, max(0.0, np.mean(mismatched.values - ref_mismatched.values))
    return np.where(
        desirable, desirable_weight * expit(-beta * (rho - z)), undesirable_weight * expit(-beta * (z - rho))
    )


def _kto_pair(policy, ref, beta, at):
    z_chosen, z_rejected = (max(0.0, np.mean(rho)) for rho in ratios(at["policy"], at["ref"]))
    chosen, rejected = ratios(policy, ref)
    return (1 - expit(beta * (chosen - z_rejected)) + 1 - expit(beta * (z_chosen - rejected))) / 2


def _bco(responses, ref_responses, desirable, state, beta, shift, at):
    seen = beta * (at["responses"].values - at["ref_responses"].values)
    sums, counts = [], []
    for label, of_label in (("desirable", desirable), ("undesirable", ~desirable)):
        sums.append(state[f"{label}_mean"] * state[f"num_{label}"] + seen[of_label].sum())
        counts.append(state[f"num_{label}"] + of_label.sum())
    if shift == "responses":
        centre = sum(sums) / sum(counts) if sum(counts) else 0.0
    else:
        centre = np.mean([total / count for total, count in zip(sums, counts, strict=True) if count] or [0.0])
    reward = beta * (responses.values - ref_responses.values) - centre
    return np.where(desirable, softplus(-reward), softplus(reward))


def _aot(high, low, beta, label_smoothing):
    d = beta * (np.sort(high) - np.sort(low))
    values = (1 - label_smoothing) * softplus(-d) + label_smoothing * softplus(d)
    rank = np.argsort(np.argsort(high, kind="stable"), kind="stable")
    return values[rank]


def _beta_dpo(policy, ref, uniforms, state, beta, sensitivity, keep, at):
    now = gap(at["policy"], at["ref"])
    mean, std = 0.9 * state["mean"] + 0.1 * np.mean(now), 0.9 * state["std"] + 0.1 * np.std(now, ddof=1)
    weight = np.exp(-(((now - mean) / std) ** 2) / 2)
    count = max(1, int(keep * len(now)))
    with np.errstate(divide="ignore"):
        kept = np.isin(np.arange(len(now)), np.argsort(-np.log(uniforms) / weight, kind="stable")[:count])
    strength = max(1e-3, beta * (1 + sensitivity * (np.mean(now[kept]) - mean)))
    return softplus(-strength * gap(policy, ref)) * kept * len(now) / count


def _plackett_luce(policy_lists, ref_lists, beta):
    rows = lists_of(beta * (policy_lists.values - ref_lists.values), policy_lists.sizes)
    return np.array([sum(logsumexp(s[k:]) - s[k] for k in range(len(s))) for s in rows])


def _lipo(policy_lists, ref_lists, list_scores, beta, at):
    values = []
    now = lists_of(beta * (at["policy_lists"].values - at["ref_lists"].values), policy_lists.sizes)
    rows = lists_of(beta * (policy_lists.values - ref_lists.values), policy_lists.sizes)
    for s, score, fixed in zip(rows, lists_of(list_scores, policy_lists.sizes), now, strict=True):
        rank = {index: place + 1 for place, index in enumerate(sorted(range(len(s)), key=lambda i: -fixed[i]))}
        total = 0.0
        for i, j in itertools.permutations(range(len(s)), 2):
            if score[i] > score[j]:
                gain = abs(2 ** score[i] - 2 ** score[j])
                discount = abs(1 / math.log(1 + rank[i]) - 1 / math.log(1 + rank[j]))
                total += gain * discount * softplus(s[j] - s[i])
        values.append(total)
    return np.array(values)


def _rrhf(policy_lists, list_scores, nll_weight):
    values = []
    rows = lists_of(policy_lists.values / policy_lists.num_tokens, policy_lists.sizes)
    for p, score in zip(rows, lists_of(list_scores, policy_lists.sizes), strict=True):
        wrong = [max(0, p[i] - p[j]) for i in range(len(p)) for j in range(len(p)) if score[i] < score[j]]
        values.append(sum(wrong) - nll_weight * p[np.argmax(score)])
    return np.array(values)


def _rao_kupper(policy, ref, ties, beta, nu):
    d = beta * gap(policy, ref)
    win, lost = -softplus(-(d - math.log(nu))), -softplus(d + math.log(nu))
    # In logs: far out, 1 - win - loss rounds to 0.
    return np.where(ties, -np.log(nu**2 - 1) - win - lost, -win)


def _davidson(policy, ref, ties, beta, nu):
    d = beta * gap(policy, ref)
    # With strengths e^(d/2) and e^(-d/2), the three outcomes weigh e^(d/2), e^(-d/2) and 2 nu.
    total = np.logaddexp(np.logaddexp(d / 2, -d / 2), math.log(2 * nu))
    return np.where(ties, total - math.log(2 * nu), total - d / 2)


def _cal_dpo(policy, ref, beta):
    chosen, rejected = ratios(policy, ref)
    return softplus(rejected - chosen) + (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


LN_2 = 0.6931471805599453
BETAS: tuple[Options, ...] = ({"beta": 0.1}, {"beta": 0.5}, {"beta": 3.0})
SMOOTH: tuple[Options, ...] = (
    {"beta": 0.1, "label_smoothing": 0.0},
    {"beta": 0.5, "label_smoothing": 0.1},
    {"beta": 2.0, "label_smoothing": 0.3},
)

FACTS: dict[str, Facts] = {
    "dpo": Facts(
        options=BETAS,
        oracle=lambda policy, ref, beta: softplus(-beta * gap(policy, ref)),
        at_reference=lambda beta: LN_2,
        delta_only=True,
        swap=lambda policy, ref, beta: -beta * gap(policy, ref),
    ),
    "cdpo": Facts(
        options=SMOOTH,
        oracle=lambda policy, ref, beta, label_smoothing: (
            softplus(-beta * gap(policy, ref)) + label_smoothing * beta * gap(policy, ref)
        ),
        at_reference=lambda beta, label_smoothing: LN_2,
        delta_only=True,
        swap=lambda policy, ref, beta, label_smoothing: -(1 - 2 * label_smoothing) * beta * gap(policy, ref),
    ),
    "dpo_soft": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda policy, ref, win_prob, ties, beta: (
            softplus(beta * gap(policy, ref)) - np.where(ties, 0.5, win_prob) * beta * gap(policy, ref)
        ),
        at_reference=lambda beta: LN_2,
        delta_only=True,
    ),
    "robust": Facts(
        options=SMOOTH,
        oracle=lambda policy, ref, beta, label_smoothing: (
            softplus(-beta * gap(policy, ref)) - label_smoothing / (1 - 2 * label_smoothing) * beta * gap(policy, ref)
        ),
        at_reference=lambda beta, label_smoothing: LN_2,
        delta_only=True,
        swap=lambda policy, ref, beta, label_smoothing: -beta * gap(policy, ref) / (1 - 2 * label_smoothing),
    ),
    "ipo": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}, {"beta": 2.0}),
        oracle=lambda policy, ref, beta: (gap_per_token(policy, ref) - 0.5 / beta) ** 2,
        at_reference=lambda beta: 0.25 / beta**2,
        delta_only=False,
        swap=lambda policy, ref, beta: -2 * gap_per_token(policy, ref) / beta,
    ),
    "ipo_sum": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}, {"beta": 2.0}),
        oracle=lambda policy, ref, beta: (gap(policy, ref) - 0.5 / beta) ** 2,
        at_reference=lambda beta: 0.25 / beta**2,
        delta_only=True,
        swap=lambda policy, ref, beta: -2 * gap(policy, ref) / beta,
    ),
    "hinge": Facts(
        options=({"beta": 0.05}, {"beta": 0.02}),
        oracle=lambda policy, ref, beta: np.maximum(0, 1 - beta * gap(policy, ref)),
        at_reference=lambda beta: 1.0,
        delta_only=True,
        zero=True,
    ),
    "slic": Facts(
        options=({"margin": 1.0, "nll_weight": 0.1}, {"margin": 9.0, "nll_weight": 0.5}),
        oracle=lambda policy, margin, nll_weight: (
            np.maximum(0, margin - policy.chosen + policy.rejected) - nll_weight * policy.chosen
        ),
        at_reference=None,
        delta_only=False,
        zero=True,
        exempt={"direction": "where the gap exceeds the margin, the rejected response has no gradient"},
    ),
    "kto": Facts(
        options=(
            {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
            {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.5},
        ),
        oracle=_kto,
        at_reference=lambda beta, desirable_weight, undesirable_weight: (
            0.5 if desirable_weight == undesirable_weight == 1 else None
        ),
        delta_only=False,
    ),
    "kto_pair": Facts(
        options=({"beta": 0.1}, {"beta": 0.3}),
        oracle=_kto_pair,
        at_reference=lambda beta: 0.5,
        delta_only=False,
        constants=True,
    ),
    "bco": Facts(
        options=({"beta": 0.01, "shift": "labels"}, {"beta": 0.3, "shift": "responses"}),
        oracle=_bco,
        at_reference=lambda beta, shift: LN_2,
        delta_only=False,
        state={"desirable_mean": 0.9, "num_desirable": 12.0, "undesirable_mean": -0.3, "num_undesirable": 4.0},
        constants=True,
    ),
    "bco_pair": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda policy, ref, beta: (
            softplus(-beta * (policy.chosen - ref.chosen)) + softplus(beta * (policy.rejected - ref.rejected))
        ),
        at_reference=lambda beta: 2 * LN_2,
        delta_only=False,
    ),
    "orpo": Facts(
        options=({"odds_weight": 0.1}, {"odds_weight": 2.0}), oracle=_orpo, at_reference=None, delta_only=False
    ),
    "simpo": Facts(
        options=({"beta": 2.0, "gamma": 1.0}, {"beta": 0.5, "gamma": 0.3}),
        oracle=lambda policy, beta, gamma: softplus(gamma - beta * (mean_logps(policy)[0] - mean_logps(policy)[1])),
        at_reference=None,
        delta_only=False,
    ),
    "cpo": Facts(
        options=({"beta": 0.1, "nll_weight": 1.0}, {"beta": 0.5, "nll_weight": 0.3}),
        oracle=lambda policy, beta, nll_weight: (
            softplus(-beta * (policy.chosen - policy.rejected)) - nll_weight * mean_logps(policy)[0]
        ),
        at_reference=None,
        delta_only=False,
    ),
    "alphapo": Facts(
        options=(
            {"beta": 2.5, "gamma": 0.25, "alpha": 0.25},
            {"beta": 0.5, "gamma": 0.0, "alpha": -0.5},
            {"beta": 0.5, "gamma": 0.1, "alpha": 0.0},
        ),
        oracle=_alphapo,
        at_reference=None,
        delta_only=False,
    ),
    "rrhf": Facts(
        options=({"nll_weight": 1.0}, {"nll_weight": 0.2}),
        oracle=_rrhf,
        at_reference=None,
        delta_only=False,
        zero=True,
        exempt={"direction": "lists in the right order leave their worst response without a gradient"},
    ),
    "apo_zero": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda policy, ref, beta: (
            1 - expit(beta * (policy.chosen - ref.chosen)) + expit(beta * (policy.rejected - ref.rejected))
        ),
        at_reference=lambda beta: 1.0,
        delta_only=False,
    ),
    "apo_zero_unpaired": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda responses, ref_responses, desirable, beta: np.where(
            desirable,
            1 - expit(beta * (responses.values - ref_responses.values)),
            expit(beta * (responses.values - ref_responses.values)),
        ),
        at_reference=lambda beta: 0.5,
        delta_only=False,
    ),
    "apo_down": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda policy, ref, beta: (
            expit(beta * (policy.chosen - ref.chosen)) + 1 - expit(beta * gap(policy, ref))
        ),
        at_reference=lambda beta: 1.0,
        delta_only=False,
        exempt={"direction": "at the reference what pulls the chosen response down equals what pulls it up"},
    ),
    "dpop": Facts(
        options=({"beta": 0.3, "penalty": 50.0}, {"beta": 0.1, "penalty": 2.0}),
        oracle=lambda policy, ref, beta, penalty: softplus(
            -beta * (gap(policy, ref) - penalty * np.maximum(0, ref.chosen - policy.chosen))
        ),
        at_reference=lambda beta, penalty: LN_2,
        delta_only=False,
    ),
    "sppo": Facts(
        options=({"beta": 0.001}, {"beta": 0.1}),
        oracle=lambda policy, ref, beta: (
            (policy.chosen - ref.chosen - 0.5 / beta) ** 2 + (policy.rejected - ref.rejected + 0.5 / beta) ** 2
        ),
        at_reference=lambda beta: 0.5 / beta**2,
        delta_only=False,
    ),
    "sppo_soft": Facts(
        options=({"beta": 0.001}, {"beta": 0.1}),
        oracle=lambda policy, ref, win_prob, beta: (
            (policy.chosen - ref.chosen - (win_prob - 0.5) / beta) ** 2
            + (policy.rejected - ref.rejected - (1 - win_prob - 0.5) / beta) ** 2
        ),
        at_reference=None,
        delta_only=False,
    ),
    "nca": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda policy, ref, beta: (
            softplus(-beta * (policy.chosen - ref.chosen))
            + (softplus(beta * (policy.chosen - ref.chosen)) + softplus(beta * (policy.rejected - ref.rejected))) / 2
        ),
        at_reference=lambda beta: 2 * LN_2,
        delta_only=False,
    ),
    "exo": Facts(
        options=({"beta": 0.1, "label_smoothing": 0.001}, {"beta": 0.5, "label_smoothing": 0.2}),
        oracle=_exo,
        at_reference=lambda beta, label_smoothing: math.log(0.5 / math.sqrt(label_smoothing * (1 - label_smoothing))),
        delta_only=True,
    ),
    "f_dpo": Facts(
        options=(
            {"beta": 0.1, "divergence": "js_divergence"},
            {"beta": 0.5, "divergence": "forward_kl"},
            {"beta": 0.5, "divergence": "reverse_kl"},
            {"beta": 0.5, "divergence": "alpha_divergence", "alpha": 0.5},
            {"beta": 0.5, "divergence": "alpha_divergence", "alpha": 1e-6},
        ),
        oracle=_f_dpo,
        at_reference=lambda **_: LN_2,
        delta_only=lambda options: options["divergence"] == "reverse_kl",
        spread=1.0,
    ),
    "chi_po": Facts(
        options=({"beta": 0.05, "reward_bound": 0.2}, {"beta": 0.2, "reward_bound": 0.5}),
        oracle=_chi_po,
        at_reference=lambda beta, reward_bound: LN_2,
        delta_only=False,
        spread=1.0,
        zero=True,
    ),
    "tdpo1": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda policy, ref, kl, beta: softplus(-beta * (gap(policy, ref) - kl.rejected + kl.chosen)),
        at_reference=lambda beta: LN_2,
        delta_only=True,
    ),
    "tdpo2": Facts(
        options=({"beta": 0.1, "alpha": 0.5}, {"beta": 0.5, "alpha": 1.0}),
        oracle=lambda policy, ref, kl, beta, alpha, at: softplus(
            -beta * (gap(policy, ref) - alpha * (kl.rejected - at["kl"].chosen))
        ),
        at_reference=lambda beta, alpha: LN_2,
        delta_only=True,
        constants=True,
        zero=True,  # the chosen response's divergence
    ),
    "ld_dpo": Facts(
        options=({"beta": 0.1, "alpha": 0.5}, {"beta": 0.5, "alpha": 0.1}),
        oracle=_ld_dpo,
        at_reference=lambda beta, alpha: LN_2,
        delta_only=True,
    ),
    "r_dpo": Facts(
        options=({"beta": 0.1, "alpha": 0.05}, {"beta": 0.5, "alpha": 0.2}),
        # Reward beta rho + alpha n of each side.
        oracle=lambda policy, ref, beta, alpha: softplus(
            (beta * (policy.rejected - ref.rejected) + alpha * policy.rejected_tokens)
            - (beta * (policy.chosen - ref.chosen) + alpha * policy.chosen_tokens)
        ),
        at_reference=None,
        delta_only=True,
    ),
    "ln_dpo": Facts(
        options=({"beta": 5.0}, {"beta": 0.5}),
        oracle=lambda policy, ref, beta: softplus(-beta * gap_per_token(policy, ref)),
        at_reference=lambda beta: LN_2,
        delta_only=False,
    ),
    "wpo": Facts(
        options=({"beta": 0.01}, {"beta": 0.5}),
        oracle=lambda policy, ref, confidence, beta: (
            np.exp(confidence.chosen) * np.exp(confidence.rejected) * softplus(-beta * gap(policy, ref))
        ),
        at_reference=None,
        delta_only=True,
    ),
    "wpo_clipped": Facts(
        options=({"beta": 0.01}, {"beta": 0.5}),
        oracle=lambda policy, ref, confidence, beta: (
            np.minimum(1, np.exp(confidence.chosen) * np.exp(confidence.rejected)) * softplus(-beta * gap(policy, ref))
        ),
        at_reference=None,
        delta_only=True,
    ),
    "aot": Facts(
        options=({"beta": 0.01, "label_smoothing": 0.0}, {"beta": 0.5, "label_smoothing": 0.1}),
        oracle=lambda policy, ref, beta, label_smoothing: _aot(
            policy.chosen - policy.rejected, ref.chosen - ref.rejected, beta, label_smoothing
        ),
        at_reference=lambda beta, label_smoothing: LN_2,
        delta_only=True,
    ),
    "aot_unpaired": Facts(
        options=({"beta": 0.01, "label_smoothing": 0.0}, {"beta": 0.5, "label_smoothing": 0.1}),
        oracle=lambda policy, ref, beta, label_smoothing: _aot(*ratios(policy, ref), beta, label_smoothing),
        at_reference=lambda beta, label_smoothing: LN_2,
        delta_only=False,
    ),
    "rpo": Facts(
        options=({"beta": 0.01, "nll_weight": 0.005}, {"beta": 0.5, "nll_weight": 0.1}),
        oracle=lambda policy, ref, beta, nll_weight: (
            softplus(-beta * gap(policy, ref)) - beta * nll_weight * policy.chosen
        ),
        at_reference=None,
        delta_only=False,
    ),
    "iterative_rpo": Facts(
        options=({"beta": 0.1, "nll_weight": 1.0}, {"beta": 0.5, "nll_weight": 0.3}),
        oracle=lambda policy, ref, beta, nll_weight: (
            softplus(-beta * gap(policy, ref)) - nll_weight * mean_logps(policy)[0]
        ),
        at_reference=None,
        delta_only=False,
    ),
    "modpo": Facts(
        options=({"beta": 0.1, "objective_weight": 0.5}, {"beta": 0.5, "objective_weight": 0.9}),
        oracle=lambda policy, ref, other_margins, beta, objective_weight: softplus(
            -(beta / objective_weight) * gap(policy, ref) + (1 / objective_weight - 1) * other_margins
        ),
        at_reference=None,
        delta_only=True,
    ),
    "odpo": Facts(
        options=({"beta": 0.1, "alpha": 1.0}, {"beta": 0.5, "alpha": 0.3}),
        # The gap has to beat log(margins^alpha): odds of margins^alpha to e^(beta gap).
        oracle=lambda policy, ref, margins, beta, alpha: np.logaddexp(
            0, np.log(margins**alpha) - beta * gap(policy, ref)
        ),
        at_reference=None,
        delta_only=True,
    ),
    "gpo": Facts(
        options=tuple(
            {"beta": 0.05, "f": f}
            for f in ("logistic", "hinge", "squared", "exponential", "truncated_quadratic", "savage")
        ),
        oracle=_gpo,
        at_reference=lambda beta, f: {"logistic": LN_2, "savage": 0.25}.get(f, 1.0),
        delta_only=True,
        zero=True,
    ),
    "beta_dpo": Facts(
        options=(
            {"beta": 0.1, "sensitivity": 0.1, "keep": 0.8},
            {"beta": 0.3, "sensitivity": 0.05, "keep": 0.5},
        ),
        oracle=_beta_dpo,
        at_reference=None,
        delta_only=True,
        state={"mean": 1.0, "std": 4.0},
        constants=True,
        zero=True,
        exempt={"direction": "pairs that are not drawn have no gradient"},
        moves={"keep": 0.2},
    ),
    "plackett_luce": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}), oracle=_plackett_luce, at_reference=None, delta_only=True
    ),
    "lipo": Facts(
        options=({"beta": 0.05}, {"beta": 0.5}),
        oracle=_lipo,
        at_reference=None,
        delta_only=True,
        constants=True,
        zero=True,  # responses of equal score and no other
    ),
    "rao_kupper": Facts(
        options=({"beta": 0.1, "nu": 3.0}, {"beta": 0.5, "nu": 1.2}),
        oracle=_rao_kupper,
        at_reference=None,
        delta_only=True,
    ),
    "davidson": Facts(
        options=({"beta": 0.1, "nu": 1.0}, {"beta": 0.5, "nu": 0.2}),
        oracle=_davidson,
        at_reference=None,
        delta_only=True,
    ),
    "cal_dpo": Facts(
        options=({"beta": 0.001}, {"beta": 0.1}),
        oracle=_cal_dpo,
        at_reference=lambda beta: LN_2 + 0.5 / beta**2,
        delta_only=False,
    ),
    "discopop": Facts(
        options=({"beta": 0.05, "tau": 0.05}, {"beta": 0.5, "tau": 2.0}),
        oracle=_discopop,
        at_reference=lambda beta, tau: (LN_2 + 1) / 2,
        delta_only=True,
        exempt={"direction": "its slope at the reference is wrong for tau < 0.1023; see test_limits.py"},
    ),
    "unlikelihood": Facts(
        options=({"alpha": 1.0}, {"alpha": 0.3}),
        oracle=lambda policy, alpha: -policy.chosen + alpha * policy.rejected,
        at_reference=None,
        delta_only=lambda options: options["alpha"] == 1,
    ),
    "reference_free": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=lambda policy, beta: softplus(-beta * (policy.chosen - policy.rejected)),
        at_reference=None,
        delta_only=True,
        swap=lambda policy, beta: -beta * (policy.chosen - policy.rejected),
    ),
    "constrained_dpo": Facts(
        options=(
            {"beta": 0.1, "bound": 0.0, "step_size": 0.01},
            {"beta": 0.5, "bound": 0.3, "step_size": 0.1},
        ),
        oracle=lambda policy, ref, costs, state, beta, bound, step_size: softplus(
            -beta * gap(policy, ref) - state["multiplier"] * (costs.chosen - costs.rejected)
        ),
        at_reference=None,
        delta_only=True,
        state={"multiplier": 0.7},
    ),
    "sft": Facts(options=({},), oracle=lambda logps: -logps, at_reference=None, delta_only=False),
    "cpo_simpo": Facts(
        options=({"beta": 10.0, "gamma": 5.4, "nll_weight": 0.05}, {"beta": 0.5, "gamma": 0.3, "nll_weight": 1.0}),
        oracle=lambda policy, beta, gamma, nll_weight: (
            softplus(gamma - beta * (mean_logps(policy)[0] - mean_logps(policy)[1]))
            - nll_weight * mean_logps(policy)[0]
        ),
        at_reference=None,
        delta_only=False,
    ),
    "simper": Facts(
        options=({},),
        oracle=lambda policy: np.exp(mean_logps(policy)[1]) - np.exp(mean_logps(policy)[0]),
        at_reference=None,
        delta_only=False,
        swap=lambda policy: 2 * (np.exp(mean_logps(policy)[1]) - np.exp(mean_logps(policy)[0])),
        zero=True,  # of the most unlikely
    ),
    "dpo_shift": Facts(
        options=({"beta": 0.1, "shift": 0.95}, {"beta": 0.5, "shift": 0.5}),
        oracle=lambda policy, ref, beta, shift: softplus(
            -beta * ((policy.chosen - ref.chosen) - shift * (policy.rejected - ref.rejected))
        ),
        at_reference=lambda beta, shift: LN_2,
        delta_only=False,
    ),
    "sampo": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}),
        oracle=_sampo,
        at_reference=lambda beta: LN_2,
        delta_only=False,
        zero=True,
        exempt={"direction": "tokens that are not drawn have no gradient"},
    ),
    "token_unlikelihood": Facts(
        options=({"alpha": 1.0}, {"alpha": 0.3}),
        oracle=_token_unlikelihood,
        at_reference=None,
        delta_only=False,
    ),
    "rebel": Facts(
        options=({"beta": 1.0}, {"beta": 0.1}),
        oracle=lambda policy, ref, margins, beta: (beta * gap(policy, ref) - margins) ** 2,
        at_reference=None,
        delta_only=True,
    ),
    "alpha_dpo": Facts(
        options=({"beta": 2.5, "gamma": 1.0, "alpha": 0.05}, {"beta": 0.5, "gamma": 0.3, "alpha": 1.0}),
        oracle=_alpha_dpo,
        at_reference=None,
        delta_only=False,
        constants=True,
    ),
    "tpo": Facts(
        options=({"beta": 0.01, "nll_weight": 1.0}, {"beta": 0.5, "nll_weight": 0.3}),
        oracle=_tpo,
        at_reference=None,
        delta_only=False,
        zero=True,  # the responses between the second and the last
    ),
}
