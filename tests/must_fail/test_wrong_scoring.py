"""Wrong roads from two models and a pair to a DPO loss, rebuilt from descriptions of code in the wild.

Each is run through the same laws as ours, and breaks exactly those named beside it. Most keep the loss at ln 2 where
policy and reference agree: that check alone catches few of them.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from preftree.losses import bind, delta, pair_up
from preftree.losses.quantities import sum_responses
from preftree.tree.layout import TokenSequence, batch_trees, grow_tree
from preftree.tree.mask import visible
from support.loss_laws import metrics_at
from support.toy_model import ToyModel, response_logp

BETA = 0.5
PROMPT, CHOSEN, REJECTED = [1, 4, 2], [7, 3, 5, 10], [9, 7]


class Result(NamedTuple):
    loss: Tensor
    margin: Tensor | None


# Ours: the rooms of the package, joined by a toy model.


def ours(policy: ToyModel, ref: ToyModel, beta: float) -> Result:
    sequences = [
        TokenSequence(
            np.array(PROMPT + response, np.int32), np.array([False] * len(PROMPT) + [True] * len(response), np.bool_)
        )
        for response in (CHOSEN, REJECTED)
    ]
    batch = batch_trees([grow_tree(sequences)])

    def score(model: ToyModel):
        logits = model(batch.input_T, batch.position_T, visible(batch.end_T, batch.position_T))
        logps_S = logits.log_softmax(-1)[batch.source_S, batch.target_S]
        sums = sum_responses(logps_S[batch.prediction_I], batch.count_R)
        return pair_up(sums.values, sums.num_tokens, torch.tensor([0]), torch.tensor([1]))

    policy_pairs = score(policy)
    with torch.no_grad():
        ref_pairs = score(ref)
    loss = bind("dpo", {"beta": beta})
    values = loss(policy=policy_pairs, ref=ref_pairs)
    return Result(values[0], metrics_at(loss, {"policy": policy_pairs, "ref": ref_pairs})["margin"][0])


# Theirs: a score of one response, put into an otherwise right loss, or a loss of its own.


def dpo_of(score, *, frozen: bool = True, scaled_margin: bool = True):
    def loss(policy: ToyModel, ref: ToyModel, beta: float) -> Result:
        chosen, rejected = score(policy, CHOSEN), score(policy, REJECTED)
        with torch.set_grad_enabled(not frozen):
            ref_gap = score(ref, CHOSEN) - score(ref, REJECTED)
        gap = chosen - rejected - ref_gap
        return Result(-logsigmoid(beta * gap), ((beta if scaled_margin else 1) * gap).detach())

    return loss


def right_score(model: ToyModel, response: list[int]) -> Tensor:
    ids = torch.tensor(PROMPT + response)
    logps = model.causal(ids[:-1]).log_softmax(-1)
    return logps.gather(1, ids[1:, None])[len(PROMPT) - 1 :].sum()


def unshifted(model: ToyModel, response: list[int]) -> Tensor:
    """The logits at a token are asked for that very token."""
    ids = torch.tensor(PROMPT + response)
    return model.causal(ids).log_softmax(-1).gather(1, ids[:, None])[len(PROMPT) :].sum()


def one_token_late(model: ToyModel, response: list[int]) -> Tensor:
    """Shifted, but the mask is not: the first response token is left out."""
    ids = torch.tensor(PROMPT + response)
    return model.causal(ids[:-1]).log_softmax(-1).gather(1, ids[1:, None])[len(PROMPT) :].sum()


def prompt_inclusive(model: ToyModel, response: list[int]) -> Tensor:
    ids = torch.tensor(PROMPT + response)
    return model.causal(ids[:-1]).log_softmax(-1).gather(1, ids[1:, None]).sum()


def prompt_inclusive_mean(model: ToyModel, response: list[int]) -> Tensor:
    return prompt_inclusive(model, response) / (len(PROMPT) + len(response) - 1)


def response_mean(model: ToyModel, response: list[int]) -> Tensor:
    return right_score(model, response) / len(response)


def prompt_only_mask(model: ToyModel, response: list[int]) -> Tensor:
    """The attention mask is 0 on the response: its tokens are invisible even to each other."""
    ids = torch.tensor(PROMPT + response)
    length = len(ids) - 1
    sees = torch.ones(length, length, dtype=torch.bool).tril() & (torch.arange(length) < len(PROMPT))
    logps = model(ids[:-1], torch.arange(length), sees).log_softmax(-1)
    return logps.gather(1, ids[1:, None])[len(PROMPT) - 1 :].sum()


def pads_after_the_prompt(model: ToyModel, response: list[int]) -> Tensor:
    """Prompts are padded to one length before the response is appended."""
    padded = [*PROMPT, 0, 0]
    ids = torch.tensor(padded + response)
    return model.causal(ids[:-1]).log_softmax(-1).gather(1, ids[1:, None])[len(padded) - 1 :].sum()


def pads_scored(model: ToyModel, response: list[int]) -> Tensor:
    """Pads after the response count as predictions."""
    padded = response + [0] * (len(CHOSEN) - len(response))
    return right_score(model, padded)


def prompt_forgotten(model: ToyModel, response: list[int]) -> Tensor:
    """The response is scored without its prompt."""
    ids = torch.tensor([PROMPT[-1], *response])
    return model.causal(ids[:-1]).log_softmax(-1).gather(1, ids[1:, None]).sum()


def policy_with_dropout(policy: ToyModel, ref: ToyModel, beta: float) -> Result:
    torch.manual_seed(0)
    policy.dropout.p = 0.5
    return dpo_of(right_score)(policy.train(), ref.eval(), beta)


def sketch(logits: Tensor, ref_logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """A sketch from notes on DPO: no gather, ratio or sigmoid; labels index time.

    The policy's softmax passes for the preferred text, the reference's softmax for the other one.
    """
    return (-logits.log_softmax(-1)[:, labels == 1] - beta * ref_logits.log_softmax(-1)[:, labels == 0]).mean()


def sketch_on_models(policy: ToyModel, ref: ToyModel, beta: float) -> Result:
    ids = torch.tensor(CHOSEN[:2] + REJECTED)
    with torch.no_grad():
        ref_logits = ref.causal(ids)[None]
    return Result(sketch(policy.causal(ids)[None], ref_logits, torch.tensor([1, 1, 0, 0]), beta), None)


# The laws.


def at_reference(implementation) -> None:
    """Policy == reference: ln 2."""
    policy = ToyModel(1)
    loss = implementation(policy, copy.deepcopy(policy), BETA).loss
    assert abs(loss.item() - math.log(2)) < 1e-12


def _true_delta(policy: ToyModel, ref: ToyModel) -> float:
    logps = [
        response_logp(model, PROMPT, response).item() for model in (policy, ref) for response in (CHOSEN, REJECTED)
    ]
    return logps[0] - logps[1] - logps[2] + logps[3]


def value(implementation) -> None:
    """-log sigmoid(beta delta), with log-probs by definition."""
    policy, ref = ToyModel(1), ToyModel(2)
    expected = np.logaddexp(0, -BETA * _true_delta(policy, ref))
    assert abs(implementation(policy, ref, BETA).loss.item() - expected) < 1e-10 * expected


def gradient(implementation) -> None:
    """The paper's gradient: -beta sigmoid(r_l - r_w) (grad log pi(y_w) - grad log pi(y_l))."""
    policy, ref = ToyModel(1), ToyModel(2)
    weights = list(policy.parameters())
    pull = torch.autograd.grad(response_logp(policy, PROMPT, CHOSEN), weights)
    push = torch.autograd.grad(response_logp(policy, PROMPT, REJECTED), weights)
    factor = -BETA / (1 + math.exp(BETA * _true_delta(policy, ref)))
    got = torch.autograd.grad(implementation(policy, ref, BETA).loss, weights)
    for found, up, down in zip(got, pull, push, strict=True):
        assert torch.allclose(found, factor * (up - down), rtol=1e-9, atol=1e-12)


def margin(implementation) -> None:
    """The reported margin is beta delta."""
    policy, ref = ToyModel(1), ToyModel(2)
    reported = implementation(policy, ref, BETA).margin
    assert reported is not None, "no margin"
    assert abs(reported.item() - BETA * _true_delta(policy, ref)) < 1e-10
    assert not reported.requires_grad


def frozen_reference(implementation) -> None:
    """No gradient reaches the reference."""
    policy, ref = ToyModel(1), ToyModel(2)
    implementation(policy, ref, BETA).loss.backward()
    assert all(weight.grad is None for weight in ref.parameters())


LAWS = (at_reference, value, gradient, margin, frozen_reference)


def broken(implementation) -> set[str]:
    found = set()
    for law in LAWS:
        try:
            law(implementation)
        except AssertionError:
            found.add(law.__name__)
    return found


SCORE = {"value", "gradient", "margin"}

WRONG = [
    ("unshifted", dpo_of(unshifted), SCORE),
    ("one_token_late", dpo_of(one_token_late), SCORE),
    ("prompt_inclusive_mean", dpo_of(prompt_inclusive_mean), SCORE),
    ("response_mean", dpo_of(response_mean), SCORE),
    ("prompt_only_mask", dpo_of(prompt_only_mask), SCORE),
    ("pads_after_the_prompt", dpo_of(pads_after_the_prompt), SCORE),
    ("pads_scored", dpo_of(pads_scored), SCORE),
    ("prompt_forgotten", dpo_of(prompt_forgotten), SCORE),
    ("policy_with_dropout", policy_with_dropout, {"at_reference", *SCORE}),
    ("reference_in_the_graph", dpo_of(right_score, frozen=False), {"frozen_reference"}),
    ("margin_without_beta", dpo_of(right_score, scaled_margin=False), {"margin"}),
    ("sketch", sketch_on_models, {"at_reference", *SCORE}),
]


@pytest.mark.parametrize(("implementation", "laws"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_wrong_road_is_caught(implementation, laws):
    assert broken(implementation) == laws


@pytest.mark.parametrize(
    "implementation",
    [ours, dpo_of(right_score), dpo_of(prompt_inclusive)],
    ids=["ours", "plain_and_right", "prompt_summed_on_both_sides_cancels"],
)
def test_right_roads_break_no_law(implementation):
    assert broken(implementation) == set()


def test_the_sketch_never_pushes_the_rejected_text_down():
    """d loss / d rejected logits = 0, and beta has no part in the gradient; in ours both are otherwise."""
    labels = torch.tensor([1, 1, 0, 0])
    logits = torch.randn(1, 4, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ref_logits = logits.flip(1)

    def slope(loss_of_logits, beta):
        leaf = logits.clone().requires_grad_()
        return torch.autograd.grad(loss_of_logits(leaf, beta), leaf)[0]

    def wrong(x, beta):
        return sketch(x, ref_logits, labels, beta)

    def right(x, beta):
        def score(y):
            logps = y.log_softmax(-1)[0, torch.arange(4), torch.tensor([3, 5, 9, 2])]
            sums = sum_responses(logps, torch.tensor([2, 2]))
            return pair_up(sums.values, sums.num_tokens, torch.tensor([0]), torch.tensor([1]))

        policy, ref = score(x), score(ref_logits)
        assert delta(policy, ref).item() != 0
        return bind("dpo", {"beta": beta})(policy, ref).sum()

    assert (slope(wrong, 0.5)[:, labels == 0] == 0).all()
    assert torch.equal(slope(wrong, 0.5), slope(wrong, 0.1))
    assert (slope(right, 0.5)[:, labels == 0] != 0).all()
    assert not torch.isclose(slope(right, 0.5), slope(right, 0.1)).any()
