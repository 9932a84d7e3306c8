"""Every law on every row of the table, for several settings of its options."""

import math

import numpy as np
import pytest
import torch

from preftree.losses import LOSSES, bind, mean_part
from preftree.losses.words.describe import full_text
from support.loss_facts import FACTS
from support.loss_laws import ALL_INPUTS, LAWS, Case, draw, leaves, take, value_and_slopes, with_leaves

CASES = [
    pytest.param(
        Case(name, spec.function, spec.inputs, options),
        id="-".join([name, *(f"{key}={value}" for key, value in options.items())]),
    )
    for name, spec in LOSSES.items()
    for options in FACTS[name].options
]


def test_every_row_has_its_facts():
    assert LOSSES.keys() == FACTS.keys()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("case", CASES)
def test_law(law, case):
    law(case)


@pytest.mark.parametrize("case", CASES)
def test_the_table_tells_the_value_at_reference(case):
    known = case.facts.at_reference and case.facts.at_reference(**case.options)
    assert bind(case.name, case.options).value_at_reference == (known and pytest.approx(known, rel=1e-14))


@pytest.mark.parametrize("case", [case for case in CASES if LOSSES[case.values[0].name].scope == "example"])
def test_weight_two_is_the_same_example_twice(case):
    given = draw(case)
    weights = torch.tensor([2.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)
    weighted = [leaf.clone().requires_grad_() for leaf in leaves(given)]
    repeated = [leaf.clone().requires_grad_() for leaf in leaves(given)]
    one = mean_part(case(with_leaves(given, weighted)), weights, 8)
    twice = take(with_leaves(given, repeated), [0, *range(7)])
    two = mean_part(case(twice), torch.ones(8).double(), 8)
    torch.testing.assert_close(one, two, rtol=1e-13, atol=0)
    slopes = (torch.autograd.grad(value, new, allow_unused=True) for value, new in ((one, weighted), (two, repeated)))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_values_stay_on_the_device_of_the_inputs(case):
    """Where new tensors land on another device by default, a loss that forgets to say where it wants them fails."""
    given = draw(case)
    expected, slopes = value_and_slopes(case, given)
    new = [leaf.clone().requires_grad_() for leaf in leaves(given)]
    with torch.device("meta"):
        values = case(with_leaves(given, new))
        found = torch.autograd.grad(values.sum(), new, allow_unused=True)
    assert torch.equal(values, expected)
    assert all(torch.equal(a, b) for a, b in zip(found, slopes, strict=True) if a is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_the_signature_is_the_schema(name):
    spec = LOSSES[name]
    assert set(spec.inputs) <= ALL_INPUTS
    for options in FACTS[name].options:
        assert set(options) == set(bind(name, options).options)


@pytest.mark.parametrize("name", LOSSES)
def test_the_docstring_says_what_the_table_says(name):
    spec = LOSSES[name]
    doc = full_text(spec)
    for part in ("loss = ", "Args:", "Returns:", "Source: ", "At policy == reference: "):
        assert part in doc
    described = doc.partition("Args:")[2].partition("Returns:")[0]
    for part in (*spec.inputs, *spec.options):
        assert f"\n  {part}: " in described
    if spec.options:
        assert "Raises:" in doc and "ValueError" in doc
    told = doc.partition("At policy == reference: ")[2].partition("\n")[0]
    value = bind(name, FACTS[name].options[0]).value_at_reference
    assert told.startswith("no fixed value") == (value is None)
    assert (
        ("ln 2" in told) == (value == math.log(2))
        or value is None
        or name in ("exo", "nca", "bco_pair", "cal_dpo", "discopop")
    )


def test_without_smoothing_cdpo_is_dpo():
    case = Case("dpo", LOSSES["dpo"].function, ("policy", "ref"), {"beta": 0.3})
    given = draw(case)
    assert torch.equal(case(given), bind("cdpo", {"beta": 0.3, "label_smoothing": 0})(**given))


def test_on_single_tokens_both_ipo_agree():
    case = Case("ipo", LOSSES["ipo"].function, ("policy", "ref"), {"beta": 0.3})
    given = {
        name: pairs._replace(chosen_tokens=torch.ones(7).long(), rejected_tokens=torch.ones(7).long())
        for name, pairs in draw(case).items()
    }
    torch.testing.assert_close(case(given), bind("ipo_sum", {"beta": 0.3})(**given), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "gap"),
    [
        ("cdpo", {"beta": 0.5, "label_smoothing": 0.1}, math.log(0.9 / 0.1) / 0.5),  # sigmoid(beta delta) = 0.9
        ("ipo_sum", {"beta": 0.5}, 1.0),  # 1 / (2 beta)
        ("ipo", {"beta": 0.5}, 4.0),  # per token: a chosen response of 4 tokens, 1 nat more each
    ],
)
def test_where_the_minimum_is(name, options, gap):
    case = Case(name, LOSSES[name].function, ("policy", "ref"), options)
    given = draw(case, num=1)
    given["ref"] = given["ref"]._replace(chosen_tokens=torch.tensor([4]), rejected_tokens=torch.tensor([4]))
    given["policy"] = given["ref"]

    def at(delta):
        chosen = (given["ref"].chosen + delta).requires_grad_()
        value = case({**given, "policy": given["ref"]._replace(chosen=chosen)})
        return float(value.detach()), float(torch.autograd.grad(value, chosen)[0])

    assert at(gap)[1] == pytest.approx(0, abs=1e-12)
    assert at(gap)[0] < min(at(gap - 0.1)[0], at(gap + 0.1)[0])


def test_small_beta_forgets_the_weight():
    """As beta falls to 0, the gradient goes to -beta / 2 for every pair: the unweighted objective."""
    case = Case("dpo", LOSSES["dpo"].function, ("policy", "ref"), {"beta": 1e-9})
    given = draw(case)
    chosen = given["policy"].chosen.clone().requires_grad_()
    values = case({**given, "policy": given["policy"]._replace(chosen=chosen)})
    (slope,) = torch.autograd.grad(values.sum(), chosen)
    np.testing.assert_allclose(slope.numpy(), np.full(7, -0.5e-9), rtol=1e-6)
