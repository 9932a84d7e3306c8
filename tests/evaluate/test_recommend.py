"""Which setting of a sweep is recommended, on runs whose figures the test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftree.evaluate.recommend import Setting, noise_of, recommend, settings_of
from preftree.run_folder.measured_file import Measured, Point
from preftree.run_folder.reader import Run


def run(ends: tuple[float, float] | None = None, start: float = 0.4, **held_out: float) -> Run:
    """A run that ends at (KL, reward), and with these figures on held-out pairs."""
    points = () if ends is None else (Point(step=0, kl=0, reward=start), Point(step=9, kl=ends[0], reward=ends[1]))
    rows: list[dict[str, Any]] = [{"step": 1, "loss": 3.0}]
    rows += [{"split": "eval", "step": 9, **held_out}] if held_out else []
    return Run(Path("x"), "x", {}, tuple(rows), {"recipe": "dpo"}, (), {}, Measured(frontier=points), ())


def interval(kl: float, reward: float, half: float, start: float = 0.4, **more: float) -> Run:
    end = {"step": 9, "kl": kl, "reward": reward, "reward_low": reward - half, "reward_high": reward + half, **more}
    points = (Point(step=0, kl=0, reward=start), Point.model_validate(end))
    return Run(Path("x"), "x", {}, (), {}, (), {}, Measured(frontier=points), ())


def by_beta(runs: dict[str, Any]) -> dict[str, Any]:
    return {f"beta{beta}": ({"beta": beta}, value) for beta, value in runs.items()}


def seeded(ends: Mapping[str, tuple[float, Sequence[float]]], start: float = 0.4) -> dict[str, Any]:
    """Runs of settings: beta -> its KL, and the reward of each seed."""
    return {
        f"beta{beta}-seed{seed}": ({"beta": beta, "seed": str(seed)}, run((kl, reward), start))
        for beta, (kl, rewards) in ends.items()
        for seed, reward in enumerate(rewards)
    }


def test_one_seed_without_an_interval_says_nothing_of_another() -> None:
    found = recommend(settings_of(by_beta({".1": run((5, 0.9)), "1": run((1, 0.7)), "5": run((0.1, 0.5))})))
    assert (found.setting, found.sure) == (None, False)
    assert found.reason == (
        "Not enough seeds: beta=.1 ends at the highest reward, 0.900, where the start has 0.400, and one run does not "
        "say how much of that is chance; give more seeds (seed=0,1,2,3)."
    )
    assert found.figures["beta=1"] == {"reward": 0.7, "kl": 1}


def test_an_untrained_policy_is_not_recommended_for_want_of_seeds() -> None:
    """Two seeds each: by themselves they say nothing (t of 1 degree is 12.7), and beta 5 has the smallest KL."""
    ends = {
        ".05": (6.0, (0.93, 0.97)),
        ".1": (3.0, (0.95, 0.97)),
        ".5": (1.0, (0.84, 0.86)),
        "5": (0.02, (0.594, 0.596)),
    }
    found = recommend(settings_of(seeded(ends, start=0.59)))
    assert (found.setting, found.sure) == ("beta=.1", False)
    assert found.reason == (
        "beta=.1 ends at a reward of 0.960 (KL 3.00); within noise of it are beta=.05 0.950, and it is there at the "
        "smallest KL."
    )


def test_seeds_of_all_settings_say_what_noise_is() -> None:
    """Variances .005, .0008 and .0002 of one degree each: together .002 of three; of a mean of two .001."""
    ends = {".1": (5.0, (0.8, 0.9)), "1": (1.0, (0.78, 0.82)), "3": (0.4, (0.74, 0.76))}
    settings = settings_of(seeded(ends))
    assert [setting.mean("reward") for setting in settings] == pytest.approx([0.85, 0.8, 0.75])
    noise = noise_of(settings, "reward")["beta=3"]
    assert noise is not None
    assert (noise.error, noise.degrees) == (pytest.approx(0.001**0.5), 3)
    assert noise.half_width() == pytest.approx(3.1824 * 0.001**0.5, rel=1e-4)
    found = recommend(settings)
    assert found.setting == "beta=.1" and not found.sure  # .05 above the next: more than one error, less than t of it
    # One seed of a setting has the noise of the others; a setting that hardly moved has none, and lends none.
    more = settings_of(seeded(ends | {"9": (0.001, (0.4, 0.4)), ".5": (2.0, (0.83,))}))
    assert noise_of(more, "reward")["beta=.5"] == pytest.approx((0.002**0.5, 3))
    assert noise_of(more, "reward")["beta=9"] == pytest.approx(((0.006 / 4 / 2) ** 0.5, 4))


def test_more_than_one_seed_can_be_sure() -> None:
    ends = {".1": (5.0, (0.9, 0.901, 0.899)), "1": (1.0, (0.7, 0.701, 0.699))}
    found = recommend(settings_of(seeded(ends)))
    assert (found.setting, found.sure) == ("beta=.1", True)
    assert found.reason == "beta=.1 ends at a reward of 0.900 (KL 5.00), above all others (next 0.700)."


def test_a_hundredth_of_the_gain_is_no_reason_to_go_further() -> None:
    """.9 and .896: .004 of a gain of .5 is .8 %."""
    ends = {".1": (5.0, (0.9, 0.9001)), "1": (1.0, (0.896, 0.8961))}
    found = recommend(settings_of(seeded(ends)))
    assert (found.setting, found.sure) == ("beta=1", False)
    assert "within noise of it are beta=.1 0.900, and it is there at the smallest KL" in found.reason


def test_nothing_is_recommended_that_is_worse_than_the_start() -> None:
    found = recommend(settings_of(by_beta({".1": run((5, 0.3)), "1": run((1, 0.39))})))
    assert found.setting is None
    assert "below the start's 0.400; the highest is beta=1, 0.390" in found.reason
    near = recommend(settings_of(seeded({".1": (5.0, (0.35, 0.55)), "1": (1.0, (0.38, 0.5))})))
    assert near.setting is None
    assert near.reason.startswith(
        "Not enough seeds: beta=.1 ends at the highest reward, 0.450, where the start has 0.400"
    )
    assert "the noise over seeds is 0.082" in near.reason  # variances .02 and .0072; of a mean of two: .0136 / 2


def test_runs_without_pairs_go_by_held_out_loss_against_that_of_the_first_step() -> None:
    def losses(half: float, *values: float) -> dict[str, Any]:
        return {
            f"{lr}": ({"lr": str(lr)}, run(loss=value, loss_low=value - half, loss_high=value + half))
            for lr, value in enumerate(values)
        }

    found = recommend(settings_of(losses(0.03, 2.5, 2.4)))
    assert (found.setting, found.sure) == ("lr=1", False)
    assert found.reason.startswith(
        "lr=1 ends at a held-out loss of 2.400, below all others (next 2.500). With one seed"
    )
    assert "Not enough seeds" in recommend(settings_of(losses(0.6, 2.5, 2.4))).reason
    assert "above the start's 3.000; the lowest is lr=0, 3.100" in recommend(settings_of(losses(0.03, 3.1, 3.4))).reason


def test_an_interval_over_prompts_says_what_noise_is() -> None:
    near = {".1": interval(5, 0.85, 0.12), "1": interval(1, 0.8, 0.02)}
    far = {".1": interval(5, 0.85, 0.02), "1": interval(1, 0.8, 0.02)}
    assert recommend(settings_of(by_beta(near))).setting == "beta=1"
    found = recommend(settings_of(by_beta(far)))
    assert (found.setting, found.sure) == ("beta=.1", False)
    assert found.reason.endswith("(next 0.800). With one seed, what another would give is not known.")
    wide = recommend(settings_of(by_beta({".1": interval(5, 0.5, 0.1), "1": interval(1, 0.45, 0.1)})))
    assert wide.setting is None and "the noise over prompts is 0.051" in wide.reason
    # The same policy, whose gain was measured on the same prompts: what is hard for both is no noise of it.
    paired = recommend(settings_of(by_beta({".1": interval(5, 0.5, 0.1, gain_low=0.08, gain_high=0.12)})))
    assert paired.setting == "beta=.1"


def test_without_rewards_accuracy_decides_and_the_reason_says_what_it_lacks() -> None:
    runs = {
        ".1": run(accuracy=0.8, accuracy_low=0.77, accuracy_high=0.83, chosen_logratio=-9.0),
        "1": run(accuracy=0.79, accuracy_low=0.76, accuracy_high=0.82, chosen_logratio=-0.5),
        "5": run(accuracy=0.6, accuracy_low=0.57, accuracy_high=0.63, chosen_logratio=0.1),
    }
    found = recommend(settings_of(by_beta(runs)))
    assert (found.setting, found.sure) == ("beta=1", False)
    assert "held-out accuracy of 0.790 (chosen logratio -0.50)" in found.reason
    assert "--reward" in found.reason
    coin = {"1": run(accuracy=0.52, accuracy_low=0.48, accuracy_high=0.56)}
    assert "Not enough seeds" in recommend(settings_of(by_beta(coin))).reason


def test_a_run_that_stopped_takes_its_setting_out() -> None:
    runs = by_beta({".1": interval(5, 0.9, 0.01), "1": interval(1, 0.7, 0.01)})
    settings = settings_of(runs | {"beta.1-b": ({"beta": ".1"}, "loss is nan")})
    assert settings[0].faults == ("beta.1-b stopped: loss is nan",)
    assert recommend(settings).setting == "beta=1"
    assert recommend(settings[:1]).setting is None
    assert "set eval_data" in recommend(settings_of(by_beta({"1": run()}))).reason


def sweeps(means: Sequence[float], seeds: int, *, num: int = 200, over_prompts: bool = False) -> list[str | None]:
    """What is recommended in simulated sweeps; `means` are in standard errors of a setting's mean, the start is at 0.

    The larger the mean, the larger the KL, so that what is not told apart goes to the worse setting.
    """
    rng = np.random.default_rng(seeds)
    found = []
    for _ in range(num):
        rewards = np.array(means)[:, None] + rng.normal(size=(len(means), seeds)) * seeds**0.5
        settings = [
            Setting(
                f"beta={place}",
                tuple(
                    interval(1.0 + place, reward, 1.96, 0.0) if over_prompts else run((1.0 + place, reward), 0.0)
                    for reward in row
                ),
            )
            for place, row in enumerate(rewards.tolist())
        ]
        found.append(recommend(settings).setting)
    return found


@pytest.mark.parametrize("means", [(0, 0, 0, 0), (-4, -2, 0)])
@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_of_200_sweeps_at_most_four_recommend_what_is_no_better_than_the_start(
    means: Sequence[float], seeds: int
) -> None:
    for over_prompts in (False, True) if seeds == 1 else (False,):
        found = sweeps(means, seeds, over_prompts=over_prompts)
        assert sum(setting is not None for setting in found) <= 4


@pytest.mark.parametrize("means", [(0, 4, 8, 12), (0, 0, 0, 12, 16)])
@pytest.mark.parametrize("seeds", [2, 3])
def test_the_best_of_settings_four_standard_errors_apart_is_found(means: Sequence[float], seeds: int) -> None:
    found = sweeps(means, seeds)
    wrong = {f"beta={place}" for place, mean in enumerate(means) if mean <= 0}
    assert np.mean([setting == f"beta={len(means) - 1}" for setting in found]) >= 0.95
    assert sum(setting in wrong for setting in found) <= 4


def test_one_seed_finds_the_best_by_prompts_or_asks_for_seeds() -> None:
    assert set(sweeps((0, 4, 8, 12), 1)) == {None}
    found = sweeps((0, 4, 8, 12), 1, over_prompts=True)
    assert np.mean([setting == "beta=3" for setting in found]) >= 0.95
