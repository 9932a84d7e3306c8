"""Which setting of a sweep is recommended, on runs whose figures the test chooses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preftree.evaluate.recommend import recommend, settings_of
from preftree.run_folder.measured_file import Measured, Point
from preftree.run_folder.reader import Run


def run(ends: tuple[float, float] | None = None, start: float = 0.4, **held_out: float) -> Run:
    """A run that ends at (KL, reward), and with these figures on held-out pairs."""
    points = () if ends is None else (Point(step=0, kl=0, reward=start), Point(step=9, kl=ends[0], reward=ends[1]))
    rows: list[dict[str, Any]] = [{"split": "eval", "step": 9, **held_out}] if held_out else []
    return Run(Path("x"), "x", {}, tuple(rows), {"recipe": "dpo"}, (), {}, Measured(frontier=points), ())


def interval(kl: float, reward: float, half: float) -> Run:
    end = Point.model_validate(
        {"step": 9, "kl": kl, "reward": reward, "reward_low": reward - half, "reward_high": reward + half}
    )
    found = run((0.0, 0.0))
    return Run(found.path, "x", {}, (), {}, (), {}, Measured(frontier=(found.measured.frontier[0], end)), ())


def by_beta(runs: dict[str, Any]) -> dict[str, Any]:
    return {f"beta{beta}": ({"beta": beta}, value) for beta, value in runs.items()}


def test_the_highest_reward_wins_where_nothing_is_near() -> None:
    found = recommend(settings_of(by_beta({".1": run((5, 0.9)), "1": run((1, 0.7)), "5": run((0.1, 0.5))})))
    assert (found.setting, found.sure) == ("beta=.1", False)
    assert found.reason == (
        "beta=.1 ends at a reward of 0.900 (KL 5.00), above all others (next 0.700), with one seed: what another would "
        "give is not known."
    )
    assert found.figures["beta=1"] == {"reward": 0.7, "kl": 1}


def test_a_hundredth_of_the_gain_is_no_reason_to_go_further() -> None:
    """.9 and .896: .004 of a gain of .5 is .8 %."""
    found = recommend(settings_of(by_beta({".1": run((5, 0.9)), "1": run((1, 0.896))})))
    assert (found.setting, found.sure) == ("beta=1", False)
    assert "within noise of it are beta=.1 0.900, and it is there at the smallest KL" in found.reason


def test_seeds_say_what_noise_is() -> None:
    """Means .85 and .80; standard errors .05 and .02, times t of 1 degree, 12.7: far more than .05."""
    runs = {
        f"beta{beta}-seed{seed}": ({"beta": beta, "seed": str(seed)}, run((kl, reward)))
        for beta, kl, rewards in ((".1", 5, (0.8, 0.9)), ("1", 1, (0.78, 0.82)))
        for seed, reward in enumerate(rewards)
    }
    settings = settings_of(runs)
    assert [setting.mean("reward") for setting in settings] == pytest.approx([0.85, 0.8])
    assert [setting.half_width("reward") for setting in settings] == pytest.approx(
        [0.05 * 12.706, 0.02 * 12.706], rel=1e-3
    )
    assert recommend(settings).setting == "beta=1"


def test_more_than_one_seed_can_be_sure() -> None:
    runs = {
        f"beta{beta}-seed{seed}": ({"beta": beta, "seed": str(seed)}, run((kl, reward)))
        for beta, kl, rewards in ((".1", 5, (0.9, 0.901, 0.899)), ("1", 1, (0.7, 0.701, 0.699)))
        for seed, reward in enumerate(rewards)
    }
    found = recommend(settings_of(runs))
    assert (found.setting, found.sure) == ("beta=.1", True)


def test_nothing_is_recommended_that_is_worse_than_the_start() -> None:
    found = recommend(settings_of(by_beta({".1": run((5, 0.3)), "1": run((1, 0.39))})))
    assert found.setting is None
    assert "below the start's 0.400; the highest is beta=1, 0.390" in found.reason


def test_runs_without_pairs_go_by_held_out_loss() -> None:
    found = recommend(settings_of({"a": ({"lr": "1"}, run(loss=2.5)), "b": ({"lr": "2"}, run(loss=2.4))}))
    assert (found.setting, found.sure) == ("lr=2", False)


def test_an_interval_over_prompts_says_what_noise_is() -> None:
    near = {".1": interval(5, 0.85, 0.06), "1": interval(1, 0.8, 0.02)}
    far = {".1": interval(5, 0.85, 0.02), "1": interval(1, 0.8, 0.02)}
    assert recommend(settings_of(by_beta(near))).setting == "beta=1"
    assert recommend(settings_of(by_beta(far))).setting == "beta=.1"


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


def test_a_run_that_stopped_takes_its_setting_out() -> None:
    runs = by_beta({".1": run((5, 0.9)), "1": run((1, 0.7))}) | {"beta.1-b": ({"beta": ".1"}, "loss is nan")}
    settings = settings_of(runs)
    assert settings[0].faults == ("beta.1-b stopped: loss is nan",)
    assert recommend(settings).setting == "beta=1"
    assert recommend(settings[:1]).setting is None
    assert "set eval_data" in recommend(settings_of(by_beta({"1": run()}))).reason
