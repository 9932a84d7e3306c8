import math

import pytest
import torch

from preftree.losses import (
    LOSSES,
    bind,
    by_label,
    columns_of,
    list_metrics,
    pair_metrics,
    response_metrics,
    weighted_means,
    with_gradient,
)
from preftree.losses.types import ResponseSums
from support.loss_facts import FACTS
from support.loss_laws import LEAVES, Case, draw, leaves, lists, metrics_at, pairs, take, with_leaves

# As in test_values.py, then the same with the sides swapped, then a tie.
POLICY = pairs([-10.0, -12.0, -11.5], [-12.0, -10.0, -11.5], [4, 2, 3], [2, 4, 3])
REF = pairs([-11.0, -11.0, -11.0], [-11.0, -11.0, -11.0], [4, 2, 3], [2, 4, 3])
GIVEN = {"policy": POLICY, "ref": REF}


def test_worked_by_hand():
    metrics = metrics_at(bind("dpo", {"beta": 0.5}), GIVEN)
    expected = {
        "loss": [0.31326168751822286, 1.3132616875182228, math.log(2)],
        "accuracy": [1, 0, 0.5],
        "margin": [1, -1, 0],
        "chosen_rewards": [0.5, -0.5, -0.25],
        "rejected_rewards": [-0.5, 0.5, -0.25],
        "chosen_logps": [-10, -12, -11.5],
        "rejected_logps": [-12, -10, -11.5],
        "chosen_logratio": [1, -1, -0.5],
        "rejected_logratio": [-1, 1, -0.5],
        "grad_weight": [0.2689414213699951, 0.7310585786300049, 0.5],  # sigmoid(-margin)
        "chosen_tokens": [4, 2, 3],
        "rejected_tokens": [2, 4, 3],
    }
    assert list(metrics) == list(expected)
    for name, values in expected.items():
        assert metrics[name].tolist() == pytest.approx(values, rel=1e-12), name
        assert metrics[name].shape == (3,), name
        assert not metrics[name].requires_grad, name


@pytest.mark.parametrize(
    ("name", "options", "weights"),
    [
        # (1 - e) sigmoid(-m) - e sigmoid(m): the label is worth less once the margin passes its fixed point
        ("cdpo", {"beta": 0.5, "label_smoothing": 0.1}, [0.16894142136999513, 0.6310585786300049, 0.4]),
        ("ipo", {"beta": 0.5}, [2 * 0.25 / 4 / 0.5, 2 * 1.75 / 2 / 0.5, 2 * 1 / 3 / 0.5]),
        ("ipo_sum", {"beta": 0.5}, [2 * 1 / 0.5, 2 * 3 / 0.5, 2 * 1 / 0.5]),
    ],
)
def test_grad_weight_of_other_losses(name, options, weights):
    metrics = metrics_at(bind(name, options), GIVEN)
    assert metrics["grad_weight"].tolist() == pytest.approx(weights, rel=1e-12)
    assert metrics["loss"].tolist() == bind(name, options)(POLICY, REF).tolist()
    assert metrics["margin"].tolist() == [1, -1, 0]  # the same meaning for every loss: beta * delta, in summed nats


PAIR_LOSSES = [name for name, spec in LOSSES.items() if spec.kind == "pair"]
DEMANDED = ("policy", "ref")


def drawn(name, seed=0, num=7):
    """The loss, its inputs, and the policy's and the reference's logps, which metrics are always given."""
    spec, options = LOSSES[name], FACTS[name].options[min(1, len(FACTS[name].options) - 1)]
    names = (*spec.inputs, *(name for name in DEMANDED if spec.kind == "pair" and name not in spec.inputs))
    return bind(name, options), draw(Case(name, spec.function, names, options), seed=seed, num=num)


@pytest.mark.parametrize("name", [name for name in PAIR_LOSSES if LOSSES[name].scope == "example"])
@pytest.mark.parametrize("seed", [0, 1])
def test_grad_weight_by_finite_differences(name, seed):
    """Against a move of all tokens of the chosen response alike. (Of a step's losses the gradient law has it.)"""
    loss, given = drawn(name, seed)
    step = 1e-5

    def moved(by):
        policy = given["policy"]
        new = dict(given, policy=policy._replace(chosen=policy.chosen + by))
        if "policy_tokens" in given:
            tokens = given["policy_tokens"]
            each = (by / tokens.chosen.num_tokens).repeat_interleave(tokens.chosen.num_tokens)
            new["policy_tokens"] = tokens._replace(chosen=tokens.chosen._replace(logps=tokens.chosen.logps + each))
        return loss(**{name: new[name] for name in loss.inputs})

    expected = ((moved(step) - moved(-step)) / (2 * step)).abs() / loss.options.get("beta", 1.0)
    torch.testing.assert_close(metrics_at(loss, given)["grad_weight"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_every_pair_loss_has_its_metrics(name):
    loss, given = drawn(name)
    metrics = metrics_at(loss, given)
    assert tuple(metrics) == columns_of(LOSSES[name])
    assert ("chosen_logratio" in metrics) == LOSSES[name].needs_reference
    assert metrics["loss"].tolist() == loss(**{key: given[key] for key in loss.inputs}).tolist()
    torch.testing.assert_close(metrics["margin"], metrics["chosen_rewards"] - metrics["rejected_rewards"])
    for name, values in metrics.items():
        assert values.shape == (7,), name
        assert not values.requires_grad, name


@pytest.mark.parametrize(
    ("name", "options", "chosen", "rejected"),
    [  # of the first pair above: -10 nats in 4 tokens, -12 in 2, against -11 and -11
        ("slic", {}, -10, -12),
        ("cpo", {"beta": 0.5}, -5, -6),
        ("simpo", {}, 2 * -2.5, 2 * -6),
        ("alphapo", {"beta": 2, "alpha": -1}, 2 * (math.exp(-2.5) - 1), 2 * (math.exp(-6) - 1)),
        ("orpo", {}, -2.5 - math.log(1 - math.exp(-2.5)), -6 - math.log(1 - math.exp(-6))),
        ("ln_dpo", {"beta": 2}, 2 * 0.25, 2 * -0.5),
        ("r_dpo", {"beta": 0.5, "alpha": 0.1}, 0.5 + 0.4, -0.5 + 0.2),
        ("chi_po", {"beta": 0.5}, 0.5 * (math.e + 1), 0.5 * (math.exp(-1) - 1)),
        ("f_dpo", {"beta": 0.5, "divergence": "forward_kl"}, -0.5 * math.exp(-1), -0.5 * math.e),
        ("cal_dpo", {}, 1, -1),
    ],
)
def test_rewards_are_the_loss_s_own(name, options, chosen, rejected):
    metrics = metrics_at(bind(name, options), GIVEN)
    assert metrics["chosen_rewards"][0].item() == pytest.approx(chosen, rel=1e-12)
    assert metrics["rejected_rewards"][0].item() == pytest.approx(rejected, rel=1e-12)


def test_a_tie_in_the_data_is_neither_right_nor_wrong():
    ties = torch.tensor([True, False, False])
    accuracy = metrics_at(bind("davidson", {}), GIVEN | {"ties": ties})["accuracy"]
    assert accuracy.tolist() == [0.5, 0, 0.5]


def test_responses_by_hand():
    """Liked: +1 and -1 nats; disliked: -2. beta is 0.5."""
    responses = ResponseSums(torch.tensor([-10.0, -12.0, -5.0], dtype=torch.float64), torch.tensor([4, 2, 3]))
    ref = ResponseSums(torch.tensor([-11.0, -11.0, -3.0], dtype=torch.float64), torch.tensor([4, 2, 3]))
    given = {"responses": responses, "ref_responses": ref, "desirable": torch.tensor([True, True, False])}
    loss = bind("apo_zero_unpaired", {"beta": 0.5})
    metrics = metrics_at(loss, given)
    assert tuple(metrics) == columns_of(loss.spec)
    assert metrics["rewards"].tolist() == [0.5, -0.5, -1]
    means = by_label(weighted_means(metrics, torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64), 4))
    assert means["desirable"] == 0.5
    assert (means["desirable_rewards"], means["undesirable_rewards"], means["margin"]) == (0, -1, 1)
    assert (means["desirable_logratio"], means["undesirable_logratio"]) == (0, -2)
    assert (means["desirable_logps"], means["undesirable_logps"]) == (-11, -5)
    assert means["loss"] == pytest.approx((means["desirable_loss"] + means["undesirable_loss"]) / 2)


@pytest.mark.parametrize("liked", [True, False])
def test_a_label_that_nobody_gave_has_no_figures(liked):
    means = by_label(dict.fromkeys(columns_of(LOSSES["kto"]), 1.0) | {"desirable": float(liked)})
    assert ("desirable_loss" in means) == liked
    assert ("undesirable_loss" in means) != liked
    assert "margin" not in means


def test_lists_by_hand():
    """Three responses of which the last two are in the wrong order; then two that are right; then two equal ones."""
    policy = lists([1.0, 0.0, 0.5, 2.0, 1.0, 0.0, 0.0], [2, 1, 4, 3, 3, 1, 1], [3, 2, 2])
    ref = lists([0.0] * 7, [2, 1, 4, 3, 3, 1, 1], [3, 2, 2])
    loss = bind("plackett_luce", {"beta": 2})
    metrics = metrics_at(loss, {"policy_lists": policy, "ref_lists": ref})
    assert tuple(metrics) == columns_of(loss.spec)
    assert metrics["accuracy"].tolist() == [1, 1, 0.5]
    assert metrics["pair_accuracy"].tolist() == pytest.approx([2 / 3, 1, 0.5])
    assert metrics["margin"].tolist() == [1, 2, 0]
    assert metrics["best_logps"].tolist() == [1, 2, 0]
    assert metrics["worst_logratio"].tolist() == [0.5, 1, 0]
    assert metrics["tokens"].tolist() == [7, 6, 2]


def test_lists_of_equal_scores_order_nothing():
    policy = lists([1.0, 0.0, 0.5, 2.0, 1.0], [1] * 5, [3, 2])
    scores = torch.tensor([1.0, 0.5, 0.5, 1.0, 1.0], dtype=torch.float64)
    metrics = metrics_at(bind("rrhf", {}), {"policy_lists": policy, "list_scores": scores})
    assert metrics["pair_accuracy"].tolist() == [1, 0.5]
    assert "best_logratio" not in metrics


@pytest.mark.parametrize("name", [name for name, spec in LOSSES.items() if spec.kind in ("response", "list")])
@pytest.mark.parametrize("num", [7, 0])
def test_every_other_loss_has_its_metrics(name, num):
    loss, given = drawn(name)
    given = take(given, range(num))
    metrics = metrics_at(loss, given)
    assert tuple(metrics) == columns_of(loss.spec)
    assert {values.shape for values in metrics.values()} == {(num,)}
    assert not any(values.requires_grad or values.isnan().any() for values in metrics.values())


@pytest.mark.parametrize(
    ("metrics", "name"), [(pair_metrics, "kto"), (response_metrics, "lipo"), (list_metrics, "dpo")]
)
def test_metrics_are_for_one_kind_of_example(metrics, name):
    with pytest.raises(ValueError, match=f"got '{name}'"):
        metrics(bind(name, {}), {}, torch.zeros(0))


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_metrics_in_training_are_those_of_an_evaluation_bit_for_bit(name):
    """In training, the slope comes from the live graph, in which both sides and all else carry gradient."""
    loss, given = drawn(name)
    names = [key for key in given if key in LEAVES]
    new = [leaf.clone().requires_grad_() * 1.0 for leaf in leaves(given)]
    live = with_leaves(given, new)
    assert with_gradient(loss, live) is live and names
    values = loss(**{key: live[key] for key in loss.inputs})
    expected = torch.autograd.grad(values.sum(), new, retain_graph=True, allow_unused=True)
    trained = pair_metrics(loss, live, values)
    with torch.inference_mode():
        evaluated = metrics_at(loss, given)
    assert trained.keys() == evaluated.keys()
    for key, column in trained.items():
        assert torch.equal(column, evaluated[key]), key
        assert not column.requires_grad
    again = torch.autograd.grad(values.sum(), new, allow_unused=True)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True) if a is not None)


def test_the_graph_of_the_policy_is_left_alone():
    chosen = POLICY.chosen.clone().requires_grad_()
    policy = POLICY._replace(chosen=chosen * 1.0)
    loss = bind("dpo", {"beta": 0.5})
    values = loss(policy, REF)
    pair_metrics(loss, {"policy": policy, "ref": REF}, values)
    assert chosen.grad is None
    values.sum().backward()
    assert chosen.grad is not None and chosen.grad.tolist() == pytest.approx(
        [-0.5 * weight for weight in (0.2689414213699951, 0.7310585786300049, 0.5)]
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_without_gradients(mode):
    expected = metrics_at(bind("dpo", {"beta": 0.5}), GIVEN)
    with mode():
        policy = POLICY._replace(chosen=POLICY.chosen + 0, rejected=POLICY.rejected + 0)
        got = metrics_at(bind("dpo", {"beta": 0.5}), {"policy": policy, "ref": REF})
    assert {name: values.tolist() for name, values in got.items()} == {k: v.tolist() for k, v in expected.items()}


def test_no_pairs_no_values():
    none = pairs([], [], [], [])
    none = none._replace(chosen_tokens=none.chosen_tokens.long(), rejected_tokens=none.rejected_tokens.long())
    assert {
        values.shape for values in metrics_at(bind("dpo", {"beta": 0.5}), {"policy": none, "ref": none}).values()
    } == {(0,)}


def test_a_broken_pair_is_not_counted_as_wrong():
    policy = POLICY._replace(chosen=torch.tensor([math.nan, -12.0, -11.5], dtype=torch.float64))
    accuracy = metrics_at(bind("dpo", {"beta": 0.5}), {"policy": policy, "ref": REF})["accuracy"].tolist()
    assert math.isnan(accuracy[0]) and accuracy[1:] == [0, 0.5]


def test_a_loss_without_reward_has_no_pair_metrics():
    with pytest.raises(ValueError, match="implicit reward, got 'sft'"):
        pair_metrics(bind("sft", {}), GIVEN, POLICY.chosen)
