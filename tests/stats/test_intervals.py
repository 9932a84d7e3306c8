import numpy as np
import pytest
from scipy.stats import binomtest

from preftree.stats.intervals import clustered_mean, clustered_share, mean, mean_interval, share_interval, wilson


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 40), (40, 40), (3, 10), (158, 256), (1, 10_000)])
def test_wilson_equals_scipy_where_scipy_can(successes, trials, confidence):
    ours = wilson(successes, trials, confidence=confidence)
    theirs = binomtest(successes, trials).proportion_ci(confidence, "wilson")
    assert ours == pytest.approx((successes / trials, theirs.low, theirs.high), abs=1e-12)


def test_wilson_by_hand():
    """z^2 = 3.84146: the centre is .5, the half width z sqrt(.025 + z^2 / 400) / (1 + z^2 / 10) = .2634069."""
    assert wilson(5, 10) == pytest.approx((0.5, 0.2365930905, 0.7634069095), abs=1e-9)


def test_a_tie_is_half_a_success():
    """3 wins, 4 ties, 3 losses: half; the interval of 5 wins in 10, which is wider than ties warrant."""
    assert wilson(3 + 4 / 2, 10) == wilson(5, 10)
    between = wilson(5.5, 10)
    assert between.value == 0.55
    assert wilson(5, 10).low < between.low < wilson(6, 10).low
    exact = share_interval(np.array([1.0] * 3 + [0.5] * 4 + [0.0] * 3))
    assert wilson(5, 10).high - wilson(5, 10).low > exact.high - exact.low


def test_wilson_covers():
    """Of 2000 samples of 50 trials at p = .3, about 95% of the intervals hold .3."""
    hits = np.random.default_rng(0).binomial(50, 0.3, 2000)
    covered = np.mean([wilson(int(k), 50).low <= 0.3 <= wilson(int(k), 50).high for k in hits])
    assert 0.93 < covered < 0.97


def test_mean_by_hand():
    """1, 2, 3, 4: sample variance 5/3, standard error sqrt(5/12)."""
    assert mean(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx((2.5, (5 / 12) ** 0.5, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(1, 0), "trials must be > 0, got 0"),
        (lambda: wilson(11, 10), r"successes must be in \[0, 10\], got 11"),
        (lambda: wilson(-0.5, 10), r"successes must be in \[0, 10\], got -0.5"),
        (lambda: wilson(float("nan"), 10), "successes must be in"),
        (lambda: wilson(1, 10, confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: mean(np.array([1.0])), "at least 2 values, got 1"),
        (lambda: mean(np.array([1.0, np.nan])), "values must be finite, got nan"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mean_interval_is_students() -> None:
    """1, 2, 3, 4, 5: mean 3, standard error sqrt(2.5 / 5) = .7071, t of 4 degrees at 97.5 % = 2.7764."""
    found = mean_interval(np.array([1.0, 2, 3, 4, 5]))
    assert found == pytest.approx((3, 3 - 1.96324, 3 + 1.96324), abs=1e-4)
    with pytest.raises(ValueError, match="at least 2 values"):
        mean_interval(np.array([1.0]))


def test_wilson_is_what_is_left_where_every_prompt_has_one_pair() -> None:
    """Of any order, and a weight of all pairs counts nothing."""
    right = np.array([1.0] * 31 + [0.0] * 9)
    for weights in (np.ones(40), np.full(40, 2.5)):
        assert clustered_share(right, weights, np.arange(40)) == pytest.approx(wilson(31, 40))
    assert clustered_share(np.ones(40), np.ones(40), np.arange(40)) == pytest.approx(wilson(40, 40))
    assert share_interval(right) == pytest.approx(wilson(31, 40))


def test_pairs_that_repeat_their_prompt_make_nothing_surer() -> None:
    """8 equal pairs a prompt are one trial each; by hand: the t of 39 degrees at 97.5 % is 2.0227, z 1.95996."""
    right = np.array([1.0] * 31 + [0.0] * 9)
    found = clustered_share(np.repeat(right, 8), np.ones(320), np.repeat(np.arange(40), 8))
    trials = 39 * (320 / 319) * (1.9675 / 2.0227) ** 2  # p (1 - p) / variance by the jackknife is 39; t of 319: 1.9675
    assert found == pytest.approx(wilson(0.775 * 1e6, int(1e6))._replace(low=found.low, high=found.high))
    z = 1.95996
    centre, shrink = 0.775 + z * z / 2 / trials, 1 + z * z / trials
    half = z * (0.775 * 0.225 / trials + (z / 2 / trials) ** 2) ** 0.5
    assert found.low == pytest.approx((centre - half) / shrink, abs=1e-4)
    assert found.high == pytest.approx((centre + half) / shrink, abs=1e-4)
    assert found.high - found.low > 2.5 * (wilson(248, 320).high - wilson(248, 320).low)


def test_one_prompt_says_nothing_of_others_and_equal_ones_little() -> None:
    one = clustered_share(np.array([1.0, 1, 0, 1]), np.ones(4), np.zeros(4))
    assert one == (0.75, 0.0, 1.0)
    lucky = clustered_share(np.tile([1.0, 1, 0, 1], 3), np.ones(12), np.repeat(np.arange(3), 4))
    assert lucky.low < 0.3 and lucky.high > 0.95  # three prompts of exactly .75: no proof that all have .75
    alike = clustered_share(np.ones(28 * 12), np.ones(28 * 12), np.repeat(np.arange(12), 28))
    assert alike == pytest.approx(wilson(12, 12))
    rich = clustered_share(np.array([1.0, 0, 1, 0]), np.array([50.0, 50, 1, 1]), np.array([0, 0, 1, 2]))
    assert (rich.low, rich.high) == pytest.approx((0, 1), abs=1e-3)  # nearly all of the weight is one prompt's


def ranked(rng: np.random.Generator, num: int, responses: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rankings by a policy that is better at some prompts: whether each is right, and its prompt.

    `responses` of 0: 2 to 8 of them to a prompt.
    """
    counts = rng.integers(2, 9, num) if responses == 0 else np.full(num, responses)
    quality = rng.normal(size=(num, 8))
    scores = (0.7 + 0.8 * rng.normal(size=(num, 1))) * quality + rng.normal(size=(num, 8))
    label = quality + 0.7 * rng.normal(size=(num, 8))
    first, second = np.triu_indices(8, 1)
    right = (scores[:, first] - scores[:, second]) * (label[:, first] - label[:, second]) > 0
    there = second < counts[:, None]
    return right[there].astype(float), np.nonzero(there)[0]


@pytest.mark.parametrize(("responses", "of_wilson"), [(2, 0.95), (4, 0.87), (8, 0.69), (0, 0.73)])
def test_an_interval_by_prompt_covers_on_rankings(responses: int, of_wilson: float) -> None:
    """Of 1000 files of 40 rankings .93 to .97 of the intervals hold the accuracy of 100,000; those of pairs do not."""
    rng = np.random.default_rng(responses)
    truth = ranked(rng, 100_000, responses)[0].mean()
    files = [ranked(rng, 40, responses) for _ in range(1000)]
    found = [clustered_share(right, np.ones(len(right)), prompts) for right, prompts in files]
    assert 0.93 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.97
    naive = [wilson(right.sum(), len(right)) for right, _ in files]
    assert np.mean([one.low <= truth <= one.high for one in naive]) == pytest.approx(of_wilson, abs=0.03)


@pytest.mark.parametrize(("share", "num", "least"), [(0.62, 5, 0.95), (0.97, 20, 0.9), (0.97, 100, 0.92)])
def test_few_prompts_and_high_accuracies_are_not_made_certain(share: float, num: int, least: float) -> None:
    """Six pairs a prompt, whose accuracies vary as a beta distribution does, with a correlation of .1 within."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        of_prompt = rng.beta(9 * share, 9 * (1 - share), num)
        right = (rng.random((num, 6)) < of_prompt[:, None]).astype(float).ravel()
        found = clustered_share(right, np.ones(6 * num), np.repeat(np.arange(num), 6))
        covered += found.low <= share <= found.high
    assert covered / 1000 >= least


def test_a_mean_by_prompt_is_students_over_the_means_of_equal_prompts() -> None:
    values = np.array([1.0, 3, 2, 4, 0, 2, 5, 7])
    found = clustered_mean(values, np.ones(8), np.repeat(np.arange(4), 2))
    assert found == pytest.approx(mean_interval(np.array([2.0, 3, 1, 6])))
    assert clustered_mean(values, np.ones(8), np.arange(8)) == pytest.approx(mean_interval(values))
    with pytest.raises(ValueError, match="at least 2 values"):
        clustered_mean(values, np.ones(8), np.zeros(8))
    with pytest.raises(ValueError, match=r"values must be in \[0, 1\]"):
        clustered_share(values, np.ones(8), np.arange(8))
