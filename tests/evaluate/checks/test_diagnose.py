"""Each failure is named when it is planted in synthetic rows, and nothing is named in healthy ones."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftree.evaluate import checks
from preftree.evaluate.checks.all_checks import CHECKS, diagnoses_in, examine_run, title_of
from preftree.evaluate.checks.coverage import EFFECTIVE_SHARE
from preftree.evaluate.checks.displacement import DISPLACED_SHARE, LOST_A_TOKEN
from preftree.evaluate.checks.evidence import Diagnosis, gather
from preftree.evaluate.checks.held_out import WEAK_ACCURACY
from preftree.evaluate.checks.length_exploitation import LENGTH_TREND, length_share
from preftree.evaluate.checks.over_optimisation import ACCURACY_DROP
from preftree.evaluate.checks.saturation import SATURATED_WEIGHT
from preftree.run_folder.measured_file import Measured, Point
from support.runs import Row, dpo_rows, run_of


def names(rows: list[Row], **options: Any) -> list[str]:
    return [diagnosis.name for diagnosis in diagnoses_in(examine_run(run_of(rows, **options)))]


def the(rows: list[Row], **options: Any) -> Diagnosis:
    (diagnosis,) = diagnoses_in(examine_run(run_of(rows, **options)))
    return diagnosis


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [60, 200, 1000])
def test_a_healthy_run_has_no_diagnosis_and_every_check_was_made(seed: int, steps: int) -> None:
    results = examine_run(run_of(dpo_rows(steps, seed=seed)))
    assert [result.check.name for result in results] == [check.name for check in CHECKS]
    assert not any(result.diagnosis or result.missing for result in results)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_no_number_is_a_failure(value: float) -> None:
    rows = dpo_rows()
    rows[120] |= {"grad_norm": value}
    diagnosis = the(rows)
    assert (diagnosis.name, diagnosis.severity) == ("non_finite", "failure")
    assert diagnosis.figures == {"step": rows[120]["step"]}
    assert f"grad_norm is not finite at step {rows[120]['step']}" in diagnosis.message


def test_a_stop_that_the_run_wrote_down_is_a_failure() -> None:
    rows = [*dpo_rows(), {"split": "stop", "step": 201, "error": "step 201: loss is nan for prefs.jsonl:7"}]
    assert the(rows).name == "non_finite"
    assert "prefs.jsonl:7" in the(rows).message


NLL = 1.9 * 60
"""What a chosen response of `dpo_rows` costs under the reference, about; a rejected one costs 1.9 x 55."""


def test_displacement_is_chosen_responses_losing_what_they_cost_while_the_margin_rises() -> None:
    rows = dpo_rows(chosen=lambda t: -150 * t, rejected=lambda t: -165 * t)
    diagnosis = the(rows)
    assert diagnosis.name == "displacement"
    last = rows[-1]  # the last evaluation, at t = 1
    assert diagnosis.figures["chosen_logratio"] == last["chosen_logratio"] == -150.0
    assert diagnosis.figures["rejected_logratio"] == -165.0
    # By the end of the interval that is nearer to no loss: the rows' is .2 to either side.
    assert diagnosis.figures["lost_share"] == pytest.approx(149.8 / (-150 - last["chosen_logps"]))
    assert diagnosis.figures["lost_share"] == pytest.approx(150 / NLL, rel=0.02)
    assert diagnosis.figures["lost_a_token"] == pytest.approx(149.8 / last["chosen_tokens"])
    train = [row["margin"] for row in rows if "split" not in row]
    assert diagnosis.figures["margin_rise"] == pytest.approx(np.mean(train[-20:]) - np.mean(train[:20]))


def test_no_displacement_above_the_threshold_or_without_a_rising_margin() -> None:
    lost = 0.95 * DISPLACED_SHARE * 1.9 * 4  # of four tokens: 7 nats
    rows = [
        row | {"chosen_logps": row["chosen_logratio"] - 1.9 * 4, "chosen_tokens": 4.0}
        for row in dpo_rows(chosen=lambda t: -lost * t, rejected=lambda t: -(lost + 15) * t)
    ]
    assert names(rows) == []
    some = 0.95 * LOST_A_TOKEN * 60
    assert names(dpo_rows(chosen=lambda t: -some * t, rejected=lambda t: -(some + 15) * t)) == []
    both = dpo_rows(chosen=lambda t: -150 * t, rejected=lambda t: -150 * t)
    assert "displacement" not in names(both)


def test_the_same_nats_are_much_for_a_short_response_and_little_for_a_long_one() -> None:
    for tokens, expected in ((4, ["displacement"]), (400, [])):
        rows = dpo_rows(chosen=lambda t: -9 * t, rejected=lambda t: -20 * t)
        for row in rows:
            row["chosen_logps"] = row["chosen_logratio"] - 1.9 * tokens
        assert names(rows) == expected


@pytest.mark.parametrize(("lost", "spread", "says"), [(259, 0.2, True), (259, 200, False), (50, 0.2, False)])
def test_a_long_response_that_lost_nearly_all_its_nats_is_displaced(lost: float, spread: float, says: bool) -> None:
    """260 nats over 137 tokens: less than it cost is 1.9 a token; but not where the interval holds a loss of 60."""
    rows = dpo_rows(chosen=lambda t: -lost * t, rejected=lambda t: -(lost + 20) * t)
    for row in rows:
        row |= {"chosen_logps": row["chosen_logratio"] - 260.0, "chosen_tokens": 137.0}
        if "split" in row:
            row["chosen_logratio_high"] = row["chosen_logratio"] + spread
    assert names(rows) == (["displacement"] if says else [])


def test_coverage_is_both_sides_far_below_the_reference() -> None:
    rows = dpo_rows(chosen=lambda t: -3.5 * NLL * t, rejected=lambda t: (-3.5 * NLL - 15) * t)
    assert names(rows) == ["displacement", "coverage"]
    rejected_alone = dpo_rows(beta=0.002, chosen=lambda t: -0.2 * NLL * t, rejected=lambda t: -3.5 * NLL * t)
    assert names(rejected_alone) == []


def test_coverage_by_measured_figures() -> None:
    low = EFFECTIVE_SHARE / 2
    found = the(dpo_rows(), measured=Measured(unseen_mass=0.8, effective_share=low))
    assert (found.name, found.figures) == ("coverage", {"unseen_mass": 0.8, "effective_share": low})
    assert names(dpo_rows(), measured=Measured(unseen_mass=0.8, effective_share=2 * EFFECTIVE_SHARE)) == []


@pytest.mark.parametrize(("per_token", "side"), [(0.05, "longer"), (-0.05, "shorter")])
def test_length_is_what_the_margin_follows(per_token: float, side: str) -> None:
    rows = dpo_rows(600, spread=0.5, per_token=per_token)
    diagnosis = the(rows)
    assert diagnosis.name == "length_exploitation"
    assert side in diagnosis.message
    # The planted slope grows in time and is 3/4 of its end value on average over the later half; chosen responses are 5
    # tokens longer by construction, and the margin that has another cause goes with those 5.
    slope, moment = 0.75 * per_token, 800 + 25  # of a difference of two lengths of sd 20, less what clipping takes
    expected = (slope * 800 + 5 * (0.1 * 11 * 0.75 + slope * 5)) / moment
    assert diagnosis.figures["margin_per_token"] == pytest.approx(expected, rel=0.12)


def test_the_share_that_length_explains_is_that_of_the_pairs() -> None:
    """Means of steps against the pairs they were made of, where long responses win more often."""
    rng = np.random.default_rng(0)
    count, steps = 32, 2000
    longer, rest = rng.normal(0, 3, (steps, count)), rng.normal(0, 4, (steps, count))
    margin = longer + rest  # of the first response; the labels choose the first where it is above 0
    sign = np.where(margin > 0, 1, -1)
    rows: list[Row] = [
        {"step": step + 1, "margin": m, "chosen_tokens": 50 + d, "rejected_tokens": 50.0, "pairs": count * (step + 1)}
        for step, (m, d) in enumerate(zip((sign * margin).mean(1), (sign * longer).mean(1), strict=True))
    ]
    found = length_share(gather(run_of(rows)))
    assert found is not None
    assert found.all_pairs == pytest.approx(9 / 25, abs=0.05)
    assert found.slope == pytest.approx(1.0, abs=0.1)
    labelled = np.corrcoef((sign * margin).ravel(), (sign * longer).ravel())[0, 1] ** 2
    assert found.as_labelled == pytest.approx(labelled, abs=0.05)
    assert labelled < 0.5 * 9 / 25  # what choosing hides


def test_a_share_of_chance_is_no_exploitation() -> None:
    """Twenty rows of two pairs: a correlation that is .6 in them, with an interval from far below."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        length = rng.normal(size=20)
        margins, differences = np.tile(rng.normal(size=20), 2), np.tile(length, 2)
        rows: list[Row] = [
            {"step": step, "margin": 0.1 * step + m, "chosen_tokens": d, "rejected_tokens": 0.0, "pairs": 2 * step}
            for step, (m, d) in enumerate(zip(margins, differences, strict=True))
        ]
        share = length_share(gather(run_of(rows)))
        assert share is not None
        found.append((share.as_labelled > LENGTH_TREND, share.as_labelled_low > 0))
    high, surely = np.mean(found, axis=0)
    assert high > 0.12 and surely < 0.09  # of lengths that have nothing to do with the margin


def test_lengths_and_margins_that_only_drift_together_are_no_exploitation() -> None:
    rows = dpo_rows(400)
    for index, row in enumerate(rows):
        row["chosen_tokens"] += 0.1 * index
    assert names(rows) == []


def test_a_margin_that_did_not_rise_was_not_bought_with_length() -> None:
    for per_token, expected in ((0.01, False), (0.05, True)):  # times the 5 tokens by which chosen responses are longer
        rows = dpo_rows(600, chosen=lambda t: 0, rejected=lambda t: 0, spread=0.01, per_token=per_token)
        assert ("length_exploitation" in names(rows)) == expected


def test_chosen_responses_that_are_longer_are_no_exploitation_by_themselves() -> None:
    rows = dpo_rows(400)
    for row in rows:
        row["chosen_tokens"] += 100
    assert names(rows) == []


def test_samples_longer_than_what_was_preferred() -> None:
    measured = Measured(sampled_tokens=120.0, ref_sampled_tokens=58.0)
    assert the(dpo_rows(), measured=measured).figures["sampled_tokens"] == 120.0
    assert names(dpo_rows(), measured=Measured(sampled_tokens=70.0, ref_sampled_tokens=58.0)) == []
    points = (Point.model_validate({"kl": 1, "reward": 0, "step": 9, "tokens": 120.0, "tokens_low": 70.0}),)
    assert names(dpo_rows(), measured=measured.model_copy(update={"frontier": points})) == []
    # The reference was as long-winded before.
    assert names(dpo_rows(), measured=Measured(sampled_tokens=120.0, ref_sampled_tokens=118.0)) == []


def frontier(rewards: list[float], kls: list[float]) -> Measured:
    points = (
        Point(step=100 * i, reward=reward, kl=kl) for i, (reward, kl) in enumerate(zip(rewards, kls, strict=True))
    )
    return Measured(frontier=tuple(points))


def test_over_optimisation_is_reward_lost_again_while_kl_grows() -> None:
    diagnosis = the(dpo_rows(), measured=frontier([0.4, 0.8, 0.9, 0.7], [0, 1, 3, 9]))
    assert diagnosis.name == "over_optimisation"
    assert diagnosis.figures == {"best_reward": 0.9, "reward": 0.7, "best_kl": 3.0, "kl": 9.0}
    assert "step 200" in diagnosis.message
    # The KL need not grow; but a policy on its way back, a small loss, or one of nearly nothing, is none.
    assert names(dpo_rows(), measured=frontier([0.4, 0.8, 0.9, 0.7], [0, 1, 3, 2.5])) == ["over_optimisation"]
    assert names(dpo_rows(), measured=frontier([0.4, 0.8, 0.9, 0.7], [0, 1, 3, 1])) == []
    assert names(dpo_rows(), measured=frontier([0.4, 0.8, 0.9, 0.81], [0, 1, 3, 9])) == []
    assert names(dpo_rows(), measured=frontier([0.4, 0.41, 0.42, 0.4], [0, 0.05, 0.1, 0.1])) == []


def test_over_optimisation_by_held_out_loss() -> None:
    def rises(t: float) -> Mapping[str, float]:
        return {"loss": 0.5 + 0.3 * (t - 0.5) ** 2}

    diagnosis = the(dpo_rows(held_out=rises))
    assert diagnosis.name == "over_optimisation"
    assert diagnosis.figures == {"lowest_loss": 0.5, "loss": 0.575}


def test_over_optimisation_needs_intervals_apart() -> None:
    """The lowest held-out loss is .5, the last one .575."""

    def rises(width: float):
        def at(t: float) -> Mapping[str, float]:
            loss = 0.5 + 0.3 * (t - 0.5) ** 2
            return {"loss": loss, "loss_low": loss - width, "loss_high": loss + width}

        return at

    assert names(dpo_rows(held_out=rises(0.03))) == ["over_optimisation"]
    assert names(dpo_rows(held_out=rises(0.04))) == []

    def ended(width: float, name: str) -> Measured:
        points = [
            Point.model_validate(
                {"step": 100 * i, "reward": reward, "kl": kl, f"{name}_low": at - width, f"{name}_high": at + width}
            )
            for i, (reward, kl) in enumerate([(0.4, 0), (0.8, 1), (0.9, 3), (0.7, 9)])
            for at in [reward - (0.4 if name == "gain" else 0)]
        ]
        return Measured(frontier=tuple(points))

    for name in ("reward", "gain"):
        assert names(dpo_rows(), measured=ended(0.09, name)) == ["over_optimisation"]
        assert names(dpo_rows(), measured=ended(0.11, name)) == []


def test_over_optimisation_by_held_out_accuracy_needs_more_than_noise() -> None:
    def falls(by: float, width: float):
        def at(t: float) -> Mapping[str, float]:
            accuracy = 0.8 - (by if t == 1 else 0)
            return {
                "loss": 0.5,
                "accuracy": accuracy,
                "accuracy_low": accuracy - width,
                "accuracy_high": accuracy + width,
            }

        return at

    assert names(dpo_rows(held_out=falls(0.1, 0.02))) == ["over_optimisation"]
    assert names(dpo_rows(held_out=falls(0.1, 0.06))) == []
    assert names(dpo_rows(held_out=falls(0.9 * ACCURACY_DROP, 0.0))) == []

    def wrong_and_worse(t: float) -> Mapping[str, float]:
        return {"accuracy": 0.4 - 0.2 * t, "accuracy_low": 0.37 - 0.2 * t, "accuracy_high": 0.43 - 0.2 * t}

    # What never was above a coin did not fall.
    assert names(dpo_rows(held_out=wrong_and_worse)) == ["label_noise"]


def test_saturation_is_named_for_losses_without_a_minimum_only() -> None:
    rows = dpo_rows(chosen=lambda t: 30 * t, rejected=lambda t: -40 * t)
    diagnosis = the(rows)
    assert diagnosis.name == "saturation"
    assert diagnosis.figures["grad_weight"] < SATURATED_WEIGHT
    for loss in ("cdpo", "ipo", "ipo_sum"):
        assert names(rows, loss=loss) == []


def by_heart(*, pairs: int = 1000, epochs: float = 60, held_out: float = 0.5, train: float = 0.94) -> list[Row]:
    """Forty training pairs that are known by heart, and held-out ones of which the policy knows nothing."""
    half = 1.96 * (held_out * (1 - held_out) / pairs) ** 0.5

    def at(t: float) -> Mapping[str, float]:
        return {
            "loss": 0.8 + t,
            "accuracy": held_out,
            "accuracy_low": held_out - half,
            "accuracy_high": held_out + half,
        }

    rows = dpo_rows(held_out=at)
    for row in rows:
        row["epoch"] *= epochs
        if "split" not in row:
            row["accuracy"] = train + 0.01 * (row["step"] % 3 - 1)
    return rows


def test_pairs_known_by_heart_are_no_contradictory_labels() -> None:
    diagnosis = the(by_heart())
    assert diagnosis.name == "memorising"
    assert diagnosis.figures["training_accuracy"] == pytest.approx(0.94, abs=0.005)
    assert diagnosis.figures["accuracy"] == 0.5
    # Forty held-out pairs say the same (.35 to .65), but not that .7 and .94 are far apart.
    assert names(by_heart(pairs=40)) == ["memorising"]
    assert names(by_heart(pairs=40, held_out=0.7)) == []
    # Held out as well as in training; or pairs of which each was seen once.
    assert "memorising" not in names(by_heart(held_out=0.9))
    assert "memorising" not in names(by_heart(epochs=1))
    # Ranked the wrong way round is another matter, whatever was learned by heart.
    assert names(by_heart(held_out=0.2)) == ["label_noise"]
    assert names(by_heart(held_out=0.46)) == ["memorising"]


def test_a_learning_rate_that_is_too_high_is_no_contradictory_label() -> None:
    """Clean labels; the loss is 2 and more where ln 2 is what a policy has that never moved."""
    rows = dpo_rows(held_out=lambda t: {"loss": 1.5, "accuracy": 0.5, "accuracy_low": 0.47, "accuracy_high": 0.53})
    for row in rows:
        if "split" not in row and row["step"] > 1:
            row["loss"] = 2 + 0.8 * (row["step"] % 5)
    diagnosis = the(rows)
    assert diagnosis.name == "high_lr"
    assert diagnosis.figures["loss_at_start"] == pytest.approx(math.log(2))
    assert "lr" in diagnosis.advice
    # By the interval: four losses of nine, and none in between, are no rise of a mean.
    spikes = dpo_rows()
    for row in spikes[60:64]:
        row["loss"] = 9.0
    assert names(spikes) == []
    # A reference other than the start begins elsewhere.
    assert names([row | {"loss": 2.0} if "split" not in row else row for row in dpo_rows()]) == []


def test_a_few_pairs_and_a_few_thousandths_of_a_nat_are_no_contradictory_labels() -> None:
    """Forty held-out pairs at a loss of .701, .008 above a coin's."""

    def at(width: float):
        weak = {"accuracy": 0.52, "accuracy_low": 0.37, "accuracy_high": 0.67}
        return lambda t: {"loss": 0.701, "loss_low": 0.701 - width, "loss_high": 0.701 + width} | weak

    assert names(dpo_rows(held_out=at(0.05))) == []
    assert names(dpo_rows(held_out=at(0.002))) == ["label_noise"]


def test_labels_that_contradict_the_training_pairs() -> None:
    def wrong(t: float) -> Mapping[str, float]:
        return {"accuracy": 0.4, "accuracy_low": 0.37, "accuracy_high": 0.43}

    diagnosis = the(dpo_rows(held_out=wrong))
    assert (diagnosis.name, diagnosis.severity) == ("label_noise", "failure")


def test_a_held_out_loss_above_a_coins() -> None:
    weak = {"accuracy": 0.52, "accuracy_low": 0.49, "accuracy_high": 0.55}

    def sure(t: float) -> Mapping[str, float]:
        return {"loss": 0.8} | weak

    assert names(dpo_rows(held_out=sure)) == ["label_noise"]
    # ipo's loss is no surprise in nats: a coin says nothing of it.
    assert names(dpo_rows(held_out=sure), loss="ipo") == []

    def forgets(t: float) -> Mapping[str, float]:
        return {"loss": 0.6 if t < 0.5 else 0.8} | weak

    # What was learned and then lost again is another failure; so is what is ranked right with too large margins.
    assert names(dpo_rows(held_out=forgets)) == ["over_optimisation"]
    assert names(dpo_rows(held_out=lambda t: {"loss": 0.8 + 0.3 * t})) == ["over_optimisation"]
    assert names(dpo_rows(held_out=lambda t: {"loss": 0.8})) == []


def test_labels_that_nothing_can_be_learned_from() -> None:
    rows = dpo_rows(2000, chosen=lambda t: 0.2, rejected=lambda t: -0.2, spread=0.1, eval_every=500)
    for row in rows:
        row |= {"accuracy": 0.53, "accuracy_high": 0.55, "loss": 0.69}
    assert names(rows) == ["label_noise"]
    still_falling = [row | {"loss": 0.69 - 2e-4 * row["step"]} for row in rows]
    assert names(still_falling) == []
    unsure = [row | {"accuracy_high": 1.01 * WEAK_ACCURACY} for row in rows]
    assert names(unsure) == []


def test_a_reference_that_is_not_the_start() -> None:
    rows = dpo_rows(chosen=lambda t: 5 + 3 * t)
    diagnosis = the(rows)
    assert (diagnosis.name, diagnosis.severity) == ("reference_drift", "failure")
    assert diagnosis.figures["chosen_logratio"] == 5.0
    assert names(rows, starts_at_reference=False) == []


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_reference_that_moves(side: str) -> None:
    rows = dpo_rows()
    for row in rows:
        if "split" in row:
            row[f"{side}_logps"] += 0.02 * row["step"]  # of the same responses: the reference's own logps shift
    diagnosis = the(rows)
    assert diagnosis.name == "reference_drift"
    assert diagnosis.figures["highest"] - diagnosis.figures["lowest"] == pytest.approx(0.02 * 150)


def test_supervised_runs_are_asked_what_makes_sense_for_them() -> None:
    rows: list[Row] = [{"step": step, "loss": 2.0 - step / 200} for step in range(1, 101)]
    rows += [
        {"split": "eval", "step": step, "loss": loss, "loss_low": loss - 0.2, "loss_high": loss + 0.2}
        for step, loss in ((50, 1.5), (75, 1.4), (100, 1.9))
    ]
    results = examine_run(run_of(rows, recipe="sft", loss="sft"))
    assert {result.check.name for result in results} == {"non_finite", "over_optimisation", "high_lr"}
    assert names(rows, recipe="sft", loss="sft") == ["over_optimisation"]
    rows[-1]["loss_low"] = 1.59  # the lowest reached up to 1.6
    assert names(rows, recipe="sft", loss="sft") == []
    rising: list[Row] = [{"step": step, "loss": 2.0 + step / 100 + (step % 3) / 10} for step in range(1, 101)]
    assert names(rising, recipe="sft", loss="sft") == ["high_lr"]


def test_what_could_not_be_looked_at_is_said() -> None:
    rows: list[Row] = [{"step": step, "loss": 0.6} for step in range(1, 6)]
    missing = {result.check.name: result.missing for result in examine_run(run_of(rows))}
    assert missing.pop("non_finite") is None
    assert all(missing.values())
    assert diagnoses_in(examine_run(run_of(rows))) == []
    assert examine_run(run_of([]))[0].missing


def test_the_worst_comes_first() -> None:
    rows = dpo_rows(chosen=lambda t: -3.5 * NLL * t, rejected=lambda t: (-3.5 * NLL - 15) * t)
    rows[50]["loss"] = math.nan
    found = diagnoses_in(examine_run(run_of(rows)))
    assert [diagnosis.severity for diagnosis in found] == ["failure", "warning", "warning"]
    for diagnosis in found:
        assert diagnosis.figures and diagnosis.threshold and diagnosis.message and diagnosis.advice
        assert title_of(diagnosis)


def test_the_page_on_reports_names_every_check_and_every_threshold() -> None:
    page = (Path(__file__).parents[3] / "docs" / "report.md").read_text("utf-8")
    table = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert {check.title for check in CHECKS} <= table
    modules = [
        importlib.import_module(f"{checks.__name__}.{module.name}") for module in pkgutil.iter_modules(checks.__path__)
    ]
    constants = {name for module in modules for name, value in vars(module).items() if isinstance(value, int | float)}
    constants = {name for name in constants if name.isupper()}
    internal = {"MIN_ROWS", "LENGTH_ROWS", "WINDOW_SHARE", "GROUPS"}
    assert {name for name in constants - internal if f"`{name}`" not in page} == set()
