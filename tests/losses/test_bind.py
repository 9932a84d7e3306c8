import math
import re

import pytest

import preftree.losses
from preftree.losses import LOSSES, bind, dpo
from preftree.losses.options import Option, Range
from preftree.losses.pair.margin import SHAPES
from preftree.losses.registry import ELSEWHERE, find
from support.loss_laws import ALL_INPUTS, pairs


def takers(option: str) -> str:
    return "losses that take it: " + ", ".join(name for name, spec in LOSSES.items() if option in spec.options)


POLICY, REF = pairs([-10.0], [-12.0], [4], [2]), pairs([-11.0], [-11.0], [4], [2])


def test_a_bound_loss_is_the_function_with_its_options():
    loss = bind("dpo", {"beta": 0.5})
    assert loss(POLICY, REF).tolist() == dpo(POLICY, REF, beta=0.5).tolist()
    assert loss(ref=REF, policy=POLICY).tolist() == loss(POLICY, REF).tolist()
    assert (loss.name, loss.inputs, loss.options) == ("dpo", ("policy", "ref"), {"beta": 0.5})
    assert bind("sft", {}).inputs == ("logps",)


def test_whole_numbers_become_floats():
    assert [type(value) for value in bind("cdpo", {"beta": 1, "label_smoothing": 0}).options.values()] == [float, float]


def test_an_input_that_the_loss_does_not_take_is_refused():
    with pytest.raises(TypeError, match="logps"):
        bind("dpo", {"beta": 0.5})(policy=POLICY, ref=REF, logps=POLICY.chosen)


def test_options_are_read_from_the_signature():
    assert LOSSES["cdpo"].options == {
        "beta": Option(Range(0.0), 0.1),
        "label_smoothing": Option(Range(0.0, 0.5, closed=True), 0.1),
    }
    assert LOSSES["sft"].options == {}
    assert {name for spec in LOSSES.values() for name in spec.inputs} <= ALL_INPUTS


def test_value_at_reference():
    assert bind("dpo", {"beta": 3}).value_at_reference == math.log(2)
    assert bind("ipo", {"beta": 0.1}).value_at_reference == pytest.approx(25)
    assert bind("sft", {}).value_at_reference is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simop", {}, f"loss must be one of {', '.join(LOSSES)}, got 'simop'; did you mean 'simpo'?"),
        ("sigmod", {}, f"loss must be one of {', '.join(LOSSES)}, got 'sigmod'; did you mean 'sigmoid'?"),
        ("xyz", {}, f"loss must be one of {', '.join(LOSSES)}, got 'xyz'"),
        (
            "dpo",
            {"beta": 0.1, "label_smoothing": 0.3},
            f"loss 'dpo' does not take 'label_smoothing', its options are: beta (> 0); {takers('label_smoothing')}",
        ),
        (
            "cdpo",
            {"label_smoothin": 0.3},
            "loss 'cdpo' does not take 'label_smoothin', its options are: beta (> 0), label_smoothing (in [0, 0.5)); "
            "did you mean 'label_smoothing'?",
        ),
        ("ipo", {"eta": 0.1}, "loss 'ipo' does not take 'eta', its options are: beta (> 0); did you mean 'beta'?"),
        ("ipo", {"tau": 0.1}, f"loss 'ipo' does not take 'tau', its options are: beta (> 0); {takers('tau')}"),
        (
            "dpo",
            {"sft": 0.2},
            "loss 'dpo' does not take 'sft', its options are: beta (> 0); a sum of losses is written whole, as "
            "loss={dpo: 1, sft: 0.2}",
        ),
        ("orpo", {"xyz": 1}, "loss 'orpo' does not take 'xyz', its options are: odds_weight (>= 0)"),
        ("gpo", {"f": "logistik"}, f"f must be one of {', '.join(SHAPES)}, got 'logistik'; did you mean 'logistic'?"),
        ("gpo", {"f": 2}, f"f must be one of {', '.join(SHAPES)}, got 2"),
        ("f_dpo", {"alpha": 0.5}, "alpha counts only with divergence=alpha_divergence, leave it out"),
        (
            "f_dpo",
            {"alpha": 0, "divergence": "alpha_divergence"},
            "alpha must be in (0, 1], got 0",
        ),
        ("alphapo", {"alpha": math.inf}, "alpha must be a finite number, got inf"),
        (
            "sft",
            {"beta": 0.1},
            f"loss 'sft' does not take 'beta', its options are: none; {takers('beta')}",
        ),
        ("tr_dpo", {}, ELSEWHERE["tr_dpo"]),
        ("step_dpo", {}, ELSEWHERE["step_dpo"]),
        ("dpo", {"beta": 0}, "beta must be > 0, got 0"),
        ("dpo", {"beta": -0.1}, "beta must be > 0, got -0.1"),
        ("dpo", {"beta": math.nan}, "beta must be a finite number > 0, got nan"),
        ("dpo", {"beta": math.inf}, "beta must be a finite number > 0, got inf"),
        ("dpo", {"beta": True}, "beta must be a number > 0, got True"),
        ("dpo", {"beta": "0.1"}, "beta must be a number > 0, got '0.1'"),
        ("dpo", {"beta": None}, "beta must be a number > 0, got None"),
        ("dpo", {"beta": [0.1]}, "beta must be a number > 0, got [0.1]"),
        ("cdpo", {"beta": 0.1, "label_smoothing": 0.5}, "label_smoothing must be in [0, 0.5), got 0.5"),
        ("cdpo", {"beta": 0.1, "label_smoothing": -1e-9}, "label_smoothing must be in [0, 0.5), got -1e-09"),
        ("cdpo", {"beta": 0.1, "label_smoothing": False}, "label_smoothing must be a number in [0, 0.5), got False"),
    ],
)
def test_what_is_wrong_is_said(name, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bind(name, options)


def test_a_number_too_large_for_a_float_is_not_finite():
    with pytest.raises(ValueError, match="finite"):
        bind("dpo", {"beta": 10**400})


def test_find():
    assert find("dpo") is LOSSES["dpo"]
    with pytest.raises(ValueError, match="did you mean 'ipo_sum'"):
        find("ipo-sum")


@pytest.mark.parametrize("name", LOSSES)
def test_the_names_that_trl_has_are_understood(name):
    for alias in LOSSES[name].trl:
        assert find(alias) is LOSSES[name]
        assert bind(alias, {}).name == name


def test_every_loss_is_a_function_of_the_package():
    assert all(getattr(preftree.losses, name) is spec.function for name, spec in LOSSES.items())


def test_what_is_not_said_takes_the_default_of_the_signature():
    assert bind("dpo", {}).options == {"beta": 0.1}
    assert bind("cdpo", {"beta": 2}).options == {"beta": 2.0, "label_smoothing": 0.1}
    assert dpo(POLICY, REF).tolist() == dpo(POLICY, REF, beta=0.1).tolist()


def test_units():
    assert LOSSES["dpo"].kind == "pair"
    assert LOSSES["ld_dpo"].kind == "pair"
    assert LOSSES["kto"].kind == "response"
    assert LOSSES["rrhf"].kind == "list"
    assert LOSSES["sft"].kind == "demonstration"
    without = {"slic", "orpo", "simpo", "cpo", "alphapo", "rrhf", "unlikelihood", "reference_free", "sft"}
    without |= {"cpo_simpo", "simper", "token_unlikelihood", "tpo"}
    assert {name for name, spec in LOSSES.items() if not spec.needs_reference} == without


def test_an_option_that_does_not_count_is_left_out():
    assert bind("f_dpo", {"beta": 1}).options == {"beta": 1.0, "divergence": "js_divergence"}
    chosen = bind("f_dpo", {"divergence": "alpha_divergence"})
    assert chosen.options == {"beta": 0.1, "divergence": "alpha_divergence", "alpha": 0.5}


def test_direct_calls_are_held_to_the_signature_too():
    with pytest.raises(ValueError, match="f must be one of"):
        LOSSES["gpo"].function(POLICY, REF, f="logit")


def test_scope_and_state():
    """What depends on the other examples of a step, and what a run carries from step to step."""
    assert {name for name, spec in LOSSES.items() if spec.scope == "step"} == {
        *("kto", "kto_pair", "bco", "aot", "aot_unpaired", "beta_dpo", "alpha_dpo"),
    }
    for spec in LOSSES.values():
        assert ("state" in spec.inputs) == bool(spec.initial_state) == (spec.advance is not None)
    with pytest.raises(ValueError, match="'dpo' keeps no running state"):
        bind("dpo", {}).advance(policy=POLICY, ref=REF)
