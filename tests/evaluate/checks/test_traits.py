"""What is known of a loss from its options alone, against values worked out apart and limits taken by hand."""

from __future__ import annotations

import math

import pytest

from preftree.evaluate.checks.all_checks import diagnoses_in, examine_run
from preftree.evaluate.checks.traits import traits_of
from preftree.losses.registry import LOSSES, bind
from support.loss_facts import FACTS
from support.runs import dpo_rows, run_of

# Pairs whose label is certain: the loss falls for as long as the gap grows.
ENDLESS = {
    *("dpo", "robust", "orpo", "simpo", "cpo", "alphapo", "ln_dpo", "f_dpo", "tdpo1", "tdpo2", "ld_dpo", "r_dpo"),
    *("wpo", "wpo_clipped", "aot", "aot_unpaired", "rpo", "iterative_rpo", "modpo", "odpo", "gpo", "beta_dpo", "dpop"),
    *("rao_kupper", "davidson", "discopop", "unlikelihood", "reference_free", "constrained_dpo", "slic", "bco_pair"),
    *("apo_zero", "kto_pair", "dpo_shift", "sampo", "cpo_simpo", "simper", "alpha_dpo", "token_unlikelihood"),
    "dpo_soft",  # where a row has no win_prob
}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name: str) -> None:
    traits = traits_of({"loss": {"name": name}})
    known = FACTS[name].at_reference
    expected = None if known is None else known(**bind(name, {}).options)
    assert traits.untrained == (None if expected is None else pytest.approx(expected))
    assert traits.endless == (name in ENDLESS)


@pytest.mark.parametrize(
    ("config", "untrained", "endless"),
    [
        ({"loss": "dpo", "beta": 0.3}, math.log(2), True),
        ({"loss": {"name": "ipo_sum"}, "beta": 0.5}, 1.0, False),
        ({"loss": {"name": "cdpo", "label_smoothing": 0.0}}, math.log(2), True),
        ({"loss": {"name": "gpo", "f": "squared"}}, 1.0, False),
        ({"loss": [{"name": "dpo", "weight": 2.0}, {"name": "apo_down"}]}, 2 * math.log(2) + 1, False),
        ({"loss": [{"name": "dpo"}, {"name": "sft", "weight": 0.1}]}, None, True),
        ({"loss": {"name": "of another day"}}, None, False),
        ({"loss": "1 dpo + 1 sft"}, None, False),
        ({}, None, False),
    ],
)
def test_options_and_sums_count(config: dict[str, object], untrained: float | None, endless: bool) -> None:
    traits = traits_of(config)
    assert (traits.untrained, traits.endless) == (untrained if untrained is None else pytest.approx(untrained), endless)


@pytest.mark.parametrize(("loss", "says"), [("simpo", True), ("ln_dpo", True), ("ipo_sum", False), ("cdpo", False)])
def test_saturation_is_asked_of_the_loss(loss: str, says: bool) -> None:
    """Weights as a loss of token means has them: a tenth of DPO's for responses of ten tokens."""
    rows = dpo_rows(chosen=lambda t: 80 * t, rejected=lambda t: -80 * t, held_out=lambda t: {"loss": 0.1})
    for row in rows:
        row["grad_weight"] /= 10
    assert ("saturation" in {one.name for one in diagnoses_in(examine_run(run_of(rows, loss=loss)))}) == says
    fresh = dpo_rows(chosen=lambda t: 3 * t, spread=0.1)
    for row in fresh:
        row["grad_weight"], row["accuracy"] = row["grad_weight"] / 10, 0.99
    assert "saturation" not in {one.name for one in diagnoses_in(examine_run(run_of(fresh, loss=loss)))}


@pytest.mark.parametrize(("factor", "says"), [(1.0, False), (1.02, False), (1.04, True)])
def test_a_held_out_loss_is_compared_with_that_of_the_untrained_policy(factor: float, says: bool) -> None:
    """IPO at beta .1 begins at 25; the interval of the rows is 2 % to either side."""
    rows = dpo_rows(held_out=lambda t: {"loss": 25 * factor, "accuracy": 0.55, "accuracy_low": 0.5})
    for row in rows:
        row["loss"] = row["loss"] if "split" in row else 25.0 - row["step"]  # never settles
    config = {"loss": {"name": "ipo_sum"}, "beta": 0.1}
    found = {one.name for one in diagnoses_in(examine_run(run_of(rows, loss="ipo_sum", config=config)))}
    assert ("label_noise" in found) == says
