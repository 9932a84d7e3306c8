"""Where an option is at its end, one loss is another; and what losses do elsewhere that their formula does not show."""

import math

import pytest
import torch

from preftree.losses import LOSSES, bind
from preftree.losses.numerics import KNEE, log1mexp, tangent_exp
from preftree.losses.pair.divergence import DIVERGENCES
from preftree.losses.pair.margin import SHAPES
from preftree.losses.types import ListSums, PairSums, ResponseSums
from support.loss_facts import FACTS
from support.loss_laws import Case, draw, pairs, value_and_slopes, walk

ALONE = "a step of one pair"
DPO, FREE = ("dpo", {"beta": 0.3}), ("reference_free", {"beta": 0.3})

LIMITS = [
    # (the loss at its limit), (what it is there), relative difference
    (("cdpo", {"beta": 0.3, "label_smoothing": 0}), DPO, 0),
    (("robust", {"beta": 0.3, "label_smoothing": 0}), DPO, 0),
    (("dpop", {"beta": 0.3, "penalty": 0}), DPO, 0),
    (("f_dpo", {"beta": 0.3, "divergence": "reverse_kl"}), DPO, 1e-12),
    (("f_dpo", {"beta": 0.3, "divergence": "alpha_divergence", "alpha": 1e-9}), DPO, 1e-6),
    (
        ("f_dpo", {"beta": 0.3, "divergence": "alpha_divergence", "alpha": 1}),
        ("f_dpo", {"beta": 0.3, "divergence": "forward_kl"}),
        1e-12,
    ),
    (("tdpo2", {"beta": 0.3, "alpha": 0}), DPO, 0),
    (("tdpo2", {"beta": 0.3, "alpha": 1}), ("tdpo1", {"beta": 0.3}), 0),
    (("r_dpo", {"beta": 0.3, "alpha": 0}), DPO, 0),
    (("rpo", {"beta": 0.3, "nll_weight": 0}), DPO, 0),
    (("iterative_rpo", {"beta": 0.3, "nll_weight": 0}), DPO, 0),
    (("modpo", {"beta": 0.3, "objective_weight": 1}), DPO, 0),
    (("odpo", {"beta": 0.3, "alpha": 0}), DPO, 0),
    (("gpo", {"beta": 0.3, "f": "logistic"}), DPO, 1e-12),
    (("gpo", {"beta": 0.3, "f": "hinge"}), ("hinge", {"beta": 0.3}), 0),
    (("dpo_shift", {"beta": 0.3, "shift": 1}), DPO, 1e-12),
    (("cpo_simpo", {"beta": 2, "gamma": 1, "nll_weight": 0}), ("simpo", {"beta": 2, "gamma": 1}), 0),
    (("alpha_dpo", {"beta": 2, "gamma": 1, "alpha": 0}), ("simpo", {"beta": 2, "gamma": 1}), 0),
    (("cpo", {"beta": 0.3, "nll_weight": 0}), FREE, 0),
    (("alphapo", {"beta": 2, "gamma": 1, "alpha": 0}), ("simpo", {"beta": 2, "gamma": 1}), 0),
    (("alphapo", {"beta": 2, "gamma": 1, "alpha": 1e-8}), ("simpo", {"beta": 2, "gamma": 1}), 1e-6),
    (("aot", {"beta": 0.3, "label_smoothing": 0}), ("dpo", {"beta": 0.3}), ALONE),
    (("aot_unpaired", {"beta": 0.3, "label_smoothing": 0}), ("dpo", {"beta": 0.3}), ALONE),
]


@pytest.mark.parametrize(
    ("at", "other", "rtol"), LIMITS, ids=[f"{a[0]}-{b[0]}-{n}" for n, (a, b, _) in enumerate(LIMITS)]
)
def test_limit(at, other, rtol):
    names = dict.fromkeys((*LOSSES[at[0]].inputs, *LOSSES[other[0]].inputs))
    num = 1 if rtol is ALONE else 7
    given = draw(Case("f_dpo" if at[0] == "f_dpo" else "dpo", LOSSES["dpo"].function, tuple(names), {}), num=num)
    one, two = (loss(**{name: given[name] for name in loss.inputs}) for loss in (bind(*at), bind(*other)))
    torch.testing.assert_close(one, two, rtol=1e-12 if rtol is ALONE else rtol, atol=0)


@pytest.mark.parametrize(("name", "options"), [("rao_kupper", {"nu": 1}), ("davidson", {"nu": 0})])
@pytest.mark.parametrize("close", [True, False])
def test_without_ties_it_is_dpo(name, options, close):
    given = draw(Case(name, LOSSES[name].function, ("policy", "ref", "ties"), {}))
    given["ties"] = torch.zeros(7, dtype=torch.bool)
    options = {"beta": 0.3, "nu": options["nu"] + 1e-12 * close}
    dpo = bind("dpo", {"beta": 0.3})(policy=given["policy"], ref=given["ref"])
    torch.testing.assert_close(bind(name, options)(**given), dpo, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["rao_kupper", "davidson"])
def test_win_loss_and_tie_add_up_to_one(name):
    given = draw(Case(name, LOSSES[name].function, ("policy", "ref", "ties"), {}))
    loss = bind(name, {"beta": 0.3})
    swapped = {
        key: PairSums(p.rejected, p.chosen, p.rejected_tokens, p.chosen_tokens)
        for key, p in given.items()
        if key != "ties"
    }
    never, always = torch.zeros(7, dtype=torch.bool), torch.ones(7, dtype=torch.bool)
    win, lost = loss(given["policy"], given["ref"], never), loss(**swapped, ties=never)
    tie = loss(given["policy"], given["ref"], always)
    torch.testing.assert_close(tie, loss(**swapped, ties=always), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((-win).exp() + (-lost).exp() + (-tie).exp(), torch.ones(7).double())
    same = {"policy": given["ref"], "ref": given["ref"]}
    assert loss(**same, ties=never).tolist() == pytest.approx([math.log(4)] * 7)
    assert loss(**same, ties=always).tolist() == pytest.approx([math.log(2)] * 7)


def test_lists_of_two_are_pairs():
    case = Case("dpo", LOSSES["dpo"].function, ("policy", "ref"), {})
    given = draw(case)

    def as_lists(p: PairSums) -> ListSums:
        logps, counts = (torch.stack(sides, dim=1).flatten() for sides in (p[:2], p[2:]))
        return ListSums(logps, counts, torch.full((7,), 2))

    policy, ref = as_lists(given["policy"]), as_lists(given["ref"])
    dpo = bind("dpo", {"beta": 0.3})(**given)
    torch.testing.assert_close(bind("plackett_luce", {"beta": 0.3})(policy, ref), dpo, rtol=1e-12, atol=1e-15)
    # Gains 1 and 0, discounts of ranks 1 and 2: a constant times DPO.
    scores = torch.tensor([1.0, 0.0] * 7, dtype=torch.float64)
    weight = 1 / math.log(2) - 1 / math.log(3)
    lipo = bind("lipo", {"beta": 0.3})(policy, ref, scores)
    torch.testing.assert_close(lipo, weight * dpo, rtol=1e-12, atol=1e-15)


def test_ld_dpo_with_the_whole_weight_is_dpo():
    given = draw(Case("ld_dpo", LOSSES["ld_dpo"].function, ("policy_tokens", "ref_tokens"), {}))

    def sums(tokens):
        logps = [torch.stack([part.sum() for part in x.split(n.tolist())]) for x, n in tokens]
        return PairSums(*logps, tokens.chosen.num_tokens, tokens.rejected.num_tokens)

    dpo = bind("dpo", {"beta": 0.3})(sums(given["policy_tokens"]), sums(given["ref_tokens"]))
    torch.testing.assert_close(bind("ld_dpo", {"beta": 0.3, "alpha": 1})(**given), dpo, rtol=1e-10, atol=1e-12)


def test_a_certain_judge_is_a_label():
    given = draw(Case("sppo_soft", LOSSES["sppo"].function, ("policy", "ref"), {}))
    soft = bind("sppo_soft", {"beta": 0.1})(**given, win_prob=torch.ones(7).double())
    torch.testing.assert_close(soft, bind("sppo", {"beta": 0.1})(**given), rtol=1e-14, atol=0)
    ties = torch.zeros(7).bool()
    soft = bind("dpo_soft", {"beta": 0.1})(**given, win_prob=torch.ones(7).double(), ties=ties)
    torch.testing.assert_close(soft, bind("dpo", {"beta": 0.1})(**given), rtol=1e-14, atol=0)


def test_votes_of_one_pair_are_one_soft_row():
    """Three votes, two for the chosen response: DPO on three rows, and one row of weight 3 with win_prob 2/3."""
    given = draw(Case("dpo", LOSSES["dpo"].function, ("policy", "ref"), {}))
    turned = {name: PairSums(p.rejected, p.chosen, p.rejected_tokens, p.chosen_tokens) for name, p in given.items()}
    rows = 2 * bind("dpo", {"beta": 0.1})(**given) + bind("dpo", {"beta": 0.1})(**turned)
    share, ties = torch.full((7,), 2 / 3, dtype=torch.float64), torch.zeros(7).bool()
    soft = bind("dpo_soft", {"beta": 0.1})(**given, win_prob=share, ties=ties)
    torch.testing.assert_close(3 * soft, rows, rtol=1e-13, atol=0)


def test_soft_labels_of_one_certainty_are_cdpo():
    given = draw(Case("cdpo", LOSSES["cdpo"].function, ("policy", "ref"), {}))
    same, ties = torch.full((7,), 0.8, dtype=torch.float64), torch.zeros(7).bool()
    soft = bind("dpo_soft", {"beta": 0.3})(**given, win_prob=same, ties=ties)
    torch.testing.assert_close(soft, bind("cdpo", {"beta": 0.3, "label_smoothing": 0.2})(**given), rtol=1e-13, atol=0)


def test_the_squared_form_of_gpo_is_ipo():
    """beta^2 ipo_sum(beta / 2)."""
    given = draw(Case("gpo", LOSSES["gpo"].function, ("policy", "ref"), {}))
    squared = bind("gpo", {"beta": 0.3, "f": "squared"})(**given)
    torch.testing.assert_close(squared, 0.09 * bind("ipo_sum", {"beta": 0.15})(**given), rtol=1e-12, atol=0)


def test_both_sides_of_unpaired_losses_are_their_pair_losses():
    given = draw(Case("apo_zero", LOSSES["apo_zero"].function, ("policy", "ref"), {}))
    p, r = given["policy"], given["ref"]
    responses = ResponseSums(torch.cat([p.chosen, p.rejected]), torch.cat([p.chosen_tokens, p.rejected_tokens]))
    ref = ResponseSums(torch.cat([r.chosen, r.rejected]), responses.num_tokens)
    liked = torch.arange(14) < 7
    both = bind("apo_zero_unpaired", {"beta": 0.3})(responses, ref, liked).view(2, 7).sum(0)
    torch.testing.assert_close(both, bind("apo_zero", {"beta": 0.3})(p, r), rtol=1e-12, atol=0)
    # A shift that is kept at 0 by a long run of responses whose mean was 0: BCO without its running mean.
    state = {"desirable_mean": 0.0, "num_desirable": 1e15, "undesirable_mean": 0.0, "num_undesirable": 1e15}
    both = bind("bco", {"beta": 0.3})(responses, ref, liked, state).view(2, 7).sum(0)
    torch.testing.assert_close(both, bind("bco_pair", {"beta": 0.3})(p, r), rtol=1e-9, atol=1e-12)


def test_weights_of_wpo():
    given = draw(Case("wpo", LOSSES["wpo"].function, ("policy", "ref", "confidence"), {}))
    even = walk(given["confidence"], torch.zeros_like)
    dpo = bind("dpo", {"beta": 0.3})(given["policy"], given["ref"])
    for name in ("wpo", "wpo_clipped"):
        assert torch.equal(bind(name, {"beta": 0.3})(given["policy"], given["ref"], even), dpo)


def test_robust_is_dpo_in_expectation_over_flips():
    given = draw(Case("robust", LOSSES["robust"].function, ("policy", "ref"), {}))
    swapped = {key: PairSums(p.rejected, p.chosen, p.rejected_tokens, p.chosen_tokens) for key, p in given.items()}
    loss = bind("robust", {"beta": 0.3, "label_smoothing": 0.2})
    expected = 0.8 * loss(**given) + 0.2 * loss(**swapped)
    torch.testing.assert_close(expected, bind("dpo", {"beta": 0.3})(**given), rtol=1e-11, atol=1e-11)
    assert loss(**given).min() < 0


def test_the_chosen_reward_of_nca_settles_at_ln_2():
    ref = pairs([0.0], [0.0], [1], [1])
    case = Case("nca", LOSSES["nca"].function, ("policy", "ref"), {"beta": 0.5})
    slopes = value_and_slopes(case, {"policy": pairs([math.log(2) / 0.5], [0.0], [1], [1]), "ref": ref})[1]
    assert slopes[0].item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("tau", "sign"), [(0.05, 1), (0.1022, 1), (0.1024, -1), (1.0, -1)])
def test_discopop_descends_the_wrong_way_from_the_reference(tau, sign):
    """The slope by delta is beta ((1 - ln 2) / (4 tau) - 3/4)."""
    ref = pairs([0.0], [0.0], [1], [1])
    case = Case("discopop", LOSSES["discopop"].function, ("policy", "ref"), {"beta": 0.5, "tau": tau})
    slope = value_and_slopes(case, {"policy": ref, "ref": ref})[1][0].item()
    assert slope == pytest.approx(0.5 * ((1 - math.log(2)) / (4 * tau) - 0.75))
    assert math.copysign(1, slope) == sign


def test_kto_holds_its_baseline_constant():
    """The gradient of a mismatched response is none, and one that falls counts as 0."""
    names = LOSSES["kto"].inputs
    given = draw(Case("kto", LOSSES["kto"].function, names, {}))
    moved = given["mismatched"].values.clone().requires_grad_()
    value = bind("kto", {})(**given | {"mismatched": given["mismatched"]._replace(values=moved)})
    assert torch.autograd.grad(value.sum(), moved, allow_unused=True)[0] is None if value.requires_grad else True
    low = given | {"mismatched": given["mismatched"]._replace(values=given["ref_mismatched"].values - 5)}
    still = given | {"mismatched": given["ref_mismatched"]}
    assert torch.equal(bind("kto", {})(**low), bind("kto", {})(**still))


def test_orpo_where_the_policy_is_certain():
    """Every token with probability 1: infinite odds in the formula, finite value and gradient here."""
    for dtype in (torch.float32, torch.float64):
        policy = pairs([0.0, -1e-9, -3.0], [-3.0, -2.0, 0.0], [2, 2, 2], [2, 2, 2], dtype)
        case = Case("orpo", LOSSES["orpo"].function, ("policy",), {"odds_weight": 0.1})
        value, slopes = value_and_slopes(case, {"policy": policy})
        assert value.isfinite().all()
        assert all(slope.isfinite().all() for slope in slopes)


def test_exponential_goes_on_as_its_tangent():
    x = torch.tensor([-1e4, -1.0, 0.0, 39.9, KNEE, KNEE + 1, 1e4], dtype=torch.float64, requires_grad=True)
    value = tangent_exp(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    top = math.exp(KNEE)
    expected = [0, math.exp(-1), 1, math.exp(39.9), top, 2 * top, top * (1 + 1e4 - KNEE)]
    assert value.tolist() == pytest.approx(expected, rel=1e-12)
    assert slope.tolist() == pytest.approx([0, math.exp(-1), 1, math.exp(39.9), *[top] * 3], rel=1e-12)
    assert tangent_exp(torch.tensor([1e4])).isfinite().all()


def test_log1mexp():
    x = torch.tensor([-1e-12, -1e-3, -math.log(2), -1.0, -50.0, -1e4], dtype=torch.float64, requires_grad=True)
    value = log1mexp(x)
    expected = [math.log(-math.expm1(v)) if v > -1 else math.log1p(-math.exp(v)) for v in x.tolist()]
    assert value.tolist() == pytest.approx(expected, rel=1e-12)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert slope.tolist() == pytest.approx([-1 / math.expm1(-v) for v in x.tolist()[:5]] + [0], rel=1e-9, abs=1e-12)


def test_facts_cover_every_choice():
    assert {options["f"] for options in FACTS["gpo"].options} == set(SHAPES)
    assert {options["divergence"] for options in FACTS["f_dpo"].options} == set(DIVERGENCES)
