import math

import pytest
import torch

from preftree.losses import LOSSES, bind, pair_metrics
from support.loss_laws import FACTS, Case, draw, pairs

# As in test_values.py, then the same with the sides swapped, then a tie.
POLICY = pairs([-10.0, -12.0, -11.5], [-12.0, -10.0, -11.5], [4, 2, 3], [2, 4, 3])
REF = pairs([-11.0, -11.0, -11.0], [-11.0, -11.0, -11.0], [4, 2, 3], [2, 4, 3])
GIVEN = {"policy": POLICY, "ref": REF}


def test_worked_by_hand():
    metrics = pair_metrics(bind("dpo", {"beta": 0.5}), GIVEN)
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
    metrics = pair_metrics(bind(name, options), GIVEN)
    assert metrics["grad_weight"].tolist() == pytest.approx(weights, rel=1e-12)
    assert metrics["loss"].tolist() == bind(name, options)(POLICY, REF).tolist()
    assert metrics["margin"].tolist() == [1, -1, 0]  # the same meaning for every loss: beta * delta, in summed nats


@pytest.mark.parametrize("name", [name for name, spec in LOSSES.items() if spec.implicit_reward])
@pytest.mark.parametrize("seed", [0, 1])
def test_grad_weight_by_finite_differences(name, seed):
    options = FACTS[name].options[1]
    given = draw(Case(name, LOSSES[name].function, ("policy", "ref"), options), seed=seed)
    policy, ref = given["policy"], given["ref"]
    loss, step = bind(name, options), 1e-5
    up = loss(policy._replace(chosen=policy.chosen + step), ref)
    down = loss(policy._replace(chosen=policy.chosen - step), ref)
    expected = ((up - down) / (2 * step)).abs() / options["beta"]
    torch.testing.assert_close(pair_metrics(loss, given)["grad_weight"], expected, rtol=1e-5, atol=1e-7)


def test_the_graph_of_the_policy_is_left_alone():
    chosen = POLICY.chosen.clone().requires_grad_()
    policy = POLICY._replace(chosen=chosen * 1.0)
    loss = bind("dpo", {"beta": 0.5})
    values = loss(policy, REF)
    pair_metrics(loss, {"policy": policy, "ref": REF})
    assert chosen.grad is None
    values.sum().backward()
    assert chosen.grad is not None and chosen.grad.tolist() == pytest.approx(
        [-0.5 * weight for weight in (0.2689414213699951, 0.7310585786300049, 0.5)]
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_without_gradients(mode):
    expected = pair_metrics(bind("dpo", {"beta": 0.5}), GIVEN)
    with mode():
        policy = POLICY._replace(chosen=POLICY.chosen + 0, rejected=POLICY.rejected + 0)
        got = pair_metrics(bind("dpo", {"beta": 0.5}), {"policy": policy, "ref": REF})
    assert {name: values.tolist() for name, values in got.items()} == {k: v.tolist() for k, v in expected.items()}


def test_no_pairs_no_values():
    none = pairs([], [], [], [])
    none = none._replace(chosen_tokens=none.chosen_tokens.long(), rejected_tokens=none.rejected_tokens.long())
    assert {
        values.shape for values in pair_metrics(bind("dpo", {"beta": 0.5}), {"policy": none, "ref": none}).values()
    } == {(0,)}


def test_a_broken_pair_is_not_counted_as_wrong():
    policy = POLICY._replace(chosen=torch.tensor([math.nan, -12.0, -11.5], dtype=torch.float64))
    accuracy = pair_metrics(bind("dpo", {"beta": 0.5}), {"policy": policy, "ref": REF})["accuracy"].tolist()
    assert math.isnan(accuracy[0]) and accuracy[1:] == [0, 0.5]


def test_a_loss_without_reward_has_no_pair_metrics():
    with pytest.raises(ValueError, match="implicit reward, got 'sft'"):
        pair_metrics(bind("sft", {}), GIVEN)
