"""Active picking: labels to an agreement, against random picks; the algebra against plain inverses."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from preftree.crowd.pick import Taste, fit_taste, pick_pairs

FEATURES, CANDIDATES, BATCH, WANTED = 24, 2000, 20, 0.85


def labels_needed(purpose: str, seed: int, decay: float, most: int = 400) -> float:
    """Votes of a Bradley-Terry crowd until a model of them orders .85 of all pairs rightly; `decay` 1 is isotropic."""
    generator = np.random.default_rng(seed)
    spread = decay ** np.arange(FEATURES)
    x = generator.normal(size=(CANDIDATES, FEATURES)) * spread
    weights = generator.normal(size=FEATURES)
    truth = x @ (weights * 6 / np.sqrt(((weights * spread) ** 2).sum()))
    votes = (generator.random(CANDIDATES) < expit(truth)).astype(float)
    asked, before, taste = np.zeros(0, np.int64), 0.5, fit_taste(x[:0], votes[:0])
    while len(asked) < most:
        rest = np.setdiff1d(np.arange(CANDIDATES), asked)
        asked = np.r_[asked, rest[pick_pairs(x[rest], taste, purpose, BATCH, generator).candidate]]
        taste = fit_taste(x[asked], votes[asked])
        agreed = float(np.mean((x @ taste.weights > 0) == (truth > 0)))
        if agreed >= WANTED:
            return len(asked) - BATCH * (agreed - WANTED) / (agreed - before)
        before = agreed
    return most


def needed(seeds: int, decay: float) -> dict[str, float]:
    purposes = ("random", "d-optimal", "near-tie")
    found = {name: float(np.mean([labels_needed(name, seed, decay) for seed in range(seeds)])) for name in purposes}
    print(f"decay {decay}: " + ", ".join(f"{name} {value:.1f}" for name, value in found.items()))
    return found


def test_active_picks_need_fewer_labels():
    spread, isotropic = needed(5, 0.85), needed(5, 1)
    assert spread["d-optimal"] <= 0.8 * spread["random"]
    assert max(isotropic["d-optimal"], isotropic["near-tie"]) <= 1.05 * isotropic["random"]


@pytest.mark.slow
def test_active_picks_need_fewer_labels_over_forty_seeds():
    spread, isotropic = needed(40, 0.85), needed(40, 1)
    assert max(spread["d-optimal"], spread["near-tie"]) <= 0.85 * spread["random"]
    assert spread["d-optimal"] <= 0.8 * spread["random"]
    assert max(isotropic["d-optimal"], isotropic["near-tie"]) <= 1.05 * isotropic["random"]
    gap = float(np.mean([labels_needed("gap", seed, 1) for seed in range(10)]))
    print(f"gap, isotropic: {gap:.1f}")
    assert gap > 1.5 * isotropic["random"]


def test_the_taste_is_that_of_another_optimiser():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 3)), generator.choice([0, 0.5, 1], 40)

    def lost(w):
        return -(y * log_expit(x @ w) + (1 - y) * log_expit(-x @ w)).sum() + w @ w

    found = fit_taste(x, y, ridge=2.0)
    np.testing.assert_allclose(found.weights, minimize(lost, np.zeros(3), tol=1e-12).x, atol=1e-5)
    chance = expit(x @ found.weights)
    hessian = (x * (chance * (1 - chance))[:, None]).T @ x + 2 * np.eye(3)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(hessian), atol=1e-9)


def test_a_batch_is_what_plain_inverses_choose():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(30, 4))
    taste = fit_taste(x[:6], np.array([1, 0, 1, 1, 0, 0.5]))
    hessian, chosen = np.linalg.inv(taste.covariance), []
    chance = expit(x @ taste.weights)
    for _ in range(8):
        worth = [p * (1 - p) * d @ np.linalg.inv(hessian) @ d for p, d in zip(chance, x)]
        best = max((i for i in range(30) if i not in chosen), key=worth.__getitem__)
        chosen.append(best)
        hessian += chance[best] * (1 - chance[best]) * np.outer(x[best], x[best])

    class Never(np.random.Generator):
        def random(self, *_, **__):
            return 1.0

    assert pick_pairs(x, taste, "d-optimal", 8, Never(np.random.PCG64(0))).candidate.tolist() == chosen


def test_purposes_and_their_random_tenth():
    x = np.array([[0.1], [3.0], [-5.0], [0.5]])
    taste = Taste(np.array([1.0]), np.eye(1))
    generator = np.random.default_rng(0)
    picks = [pick_pairs(x, taste, "gap", 1, generator) for _ in range(4000)]
    assert np.mean([one.at_random[0] for one in picks]) == pytest.approx(0.1, abs=0.02)
    assert {(int(one.candidate[0]), round(float(one.p_pick[0]), 6)) for one in picks} == {
        (0, 0.025), (1, 0.025), (2, 0.925), (3, 0.025)
    }  # fmt: skip
    assert np.mean([one.candidate[0] == 2 for one in picks]) == pytest.approx(0.925, abs=0.02)
    near = pick_pairs(x, taste, "near-tie", 9, np.random.default_rng(5))
    assert sorted(near.candidate.tolist()) == [0, 1, 2, 3] and near.p_pick[-1] == 1
    alike = pick_pairs(x, taste, "random", 4, generator)
    assert alike.at_random.all() and alike.p_pick.tolist() == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])
    assert len(pick_pairs(x[:0], taste, "d-optimal", 3, generator).candidate) == 0
