"""What must hold for every loss, as functions that raise AssertionError: run on ours, and on wrong ones that must fail.

A law gets a Case: a loss as a function of its named inputs, and what is known about the loss of this name, written down
here a second time, in numpy and float64, apart from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from preftree.losses import PairLogps


@dataclass(frozen=True)
class Facts:
    """What is known about a loss.

    options: settings to try. oracle: the formula on numpy inputs. at_reference: the loss where policy == reference.
    delta_only: a function of delta alone. swap: loss minus the loss of the swapped pair.
    """

    options: tuple[dict[str, float], ...]
    oracle: Callable[..., np.ndarray]
    at_reference: Callable[..., float] | None
    delta_only: bool
    swap: Callable[..., np.ndarray] | None = None


def _delta(policy, ref):
    return (policy.chosen - policy.rejected) - (ref.chosen - ref.rejected)


def _gap_per_token(policy, ref):
    chosen = policy.chosen / policy.chosen_tokens - ref.chosen / policy.chosen_tokens
    return chosen - (policy.rejected / policy.rejected_tokens - ref.rejected / policy.rejected_tokens)


FACTS: dict[str, Facts] = {
    "dpo": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}, {"beta": 3.0}),
        oracle=lambda policy, ref, beta: np.logaddexp(0, -beta * _delta(policy, ref)),
        at_reference=lambda beta: 0.6931471805599453,
        delta_only=True,
        swap=lambda policy, ref, beta: -beta * _delta(policy, ref),
    ),
    "cdpo": Facts(
        options=(
            {"beta": 0.1, "label_smoothing": 0.0},
            {"beta": 0.5, "label_smoothing": 0.1},
            {"beta": 2.0, "label_smoothing": 0.3},
        ),
        oracle=lambda policy, ref, beta, label_smoothing: (
            np.logaddexp(0, -beta * _delta(policy, ref)) + label_smoothing * beta * _delta(policy, ref)
        ),
        at_reference=lambda beta, label_smoothing: 0.6931471805599453,
        delta_only=True,
        swap=lambda policy, ref, beta, label_smoothing: -(1 - 2 * label_smoothing) * beta * _delta(policy, ref),
    ),
    "ipo": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}, {"beta": 2.0}),
        oracle=lambda policy, ref, beta: (_gap_per_token(policy, ref) - 0.5 / beta) ** 2,
        at_reference=lambda beta: 0.25 / beta**2,
        delta_only=False,
        swap=lambda policy, ref, beta: -2 * _gap_per_token(policy, ref) / beta,
    ),
    "ipo_sum": Facts(
        options=({"beta": 0.1}, {"beta": 0.5}, {"beta": 2.0}),
        oracle=lambda policy, ref, beta: (_delta(policy, ref) - 0.5 / beta) ** 2,
        at_reference=lambda beta: 0.25 / beta**2,
        delta_only=True,
        swap=lambda policy, ref, beta: -2 * _delta(policy, ref) / beta,
    ),
    "sft": Facts(options=({},), oracle=lambda logps: -logps, at_reference=None, delta_only=False),
}


@dataclass(frozen=True)
class Case:
    """A loss under test: its name, its function of (**inputs, **options), the inputs it takes, options to try."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    options: dict[str, float]

    @property
    def facts(self) -> Facts:
        return FACTS[self.name]

    def __call__(self, given: dict[str, Any]) -> torch.Tensor:
        return self.function(**given, **self.options)

    def oracle(self, given: dict[str, Any]) -> np.ndarray:
        return self.facts.oracle(**{name: as_numpy(value) for name, value in given.items()}, **self.options)


def as_numpy(value):
    if isinstance(value, PairLogps):
        return PairLogps(*(as_numpy(side) for side in value))
    return value.detach().double().numpy()


def pairs(chosen, rejected, chosen_tokens, rejected_tokens, dtype=torch.float64) -> PairLogps:
    return PairLogps(
        torch.tensor(chosen, dtype=dtype),
        torch.tensor(rejected, dtype=dtype),
        torch.tensor(chosen_tokens),
        torch.tensor(rejected_tokens),
    )


def draw(case: Case, num: int = 7, seed: int = 0) -> dict[str, Any]:
    """Random inputs in float64: responses of 1 to 40 tokens, some nats apart."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 40, (2, num))
    ref = -rng.uniform(0.5, 4, (2, num)) * tokens
    policy = ref + rng.normal(0, 5, (2, num))
    given = {
        "policy": pairs(*policy.tolist(), *tokens.tolist()),
        "ref": pairs(*ref.tolist(), *tokens.tolist()),
        "logps": torch.tensor(policy[0].tolist(), dtype=torch.float64),
    }
    return {name: given[name] for name in case.inputs}


def leaves(given: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that carry gradient."""
    return [*given["policy"][:2]] if "policy" in given else [given["logps"]]


def with_leaves(given: dict[str, Any], new: list[torch.Tensor]) -> dict[str, Any]:
    if "policy" in given:
        return {**given, "policy": given["policy"]._replace(chosen=new[0], rejected=new[1])}
    return {**given, "logps": new[0]}


def each(given: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """The inputs with every tensor changed."""
    return {
        name: PairLogps(*map(change, value)) if isinstance(value, PairLogps) else change(value)
        for name, value in given.items()
    }


def value_and_slopes(case: Case, given: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    new = [leaf.clone().requires_grad_() for leaf in leaves(given)]
    values = case(with_leaves(given, new))
    slopes = torch.autograd.grad(values.sum(), new, allow_unused=True)
    return values.detach(), [torch.zeros_like(x) if s is None else s for x, s in zip(new, slopes, strict=True)]


def formula(case: Case) -> None:
    """The value is the formula's, from another program."""
    for seed in range(4):
        given = draw(case, seed=seed)
        np.testing.assert_allclose(case(given).detach().numpy(), case.oracle(given), rtol=1e-10, atol=1e-12)


def reference(case: Case) -> None:
    """Where policy and reference agree, the value is known, whatever the responses are and however long."""
    if case.facts.at_reference is None:
        return
    given = draw(case)
    given["policy"] = given["ref"]
    known = case.facts.at_reference(**case.options)
    np.testing.assert_allclose(case(given).detach().numpy(), np.full(7, known), rtol=1e-12)


def gradient(case: Case) -> None:
    """The gradient is the derivative of the value, and neither side of a pair is without one."""
    given = draw(case)
    new = [leaf.clone().requires_grad_() for leaf in leaves(given)]
    assert torch.autograd.gradcheck(lambda *x: case(with_leaves(given, [*x])), new, raise_exception=False)
    for slope in value_and_slopes(case, given)[1]:
        assert (slope != 0).all(), "a response gets no gradient"


def direction(case: Case) -> None:
    """From the reference, descent raises the chosen (or demonstrated) response and lowers the rejected one."""
    given = draw(case)
    if "ref" in given:
        given["policy"] = given["ref"]
    chosen, *rejected = value_and_slopes(case, given)[1]
    assert (chosen < 0).all()
    assert all((slope > 0).all() for slope in rejected)


def unreduced(case: Case) -> None:
    """One value per example, each the same alone as among others; none for none."""
    given = draw(case)
    together = case(given)
    assert together.shape == (7,), f"{tuple(together.shape)} is not one value per example"
    alone = torch.cat([case(each(given, lambda x, i=i: x[i : i + 1])) for i in range(7)])
    assert torch.equal(together, alone)
    assert case(each(given, lambda x: x[:0])).shape == (0,)


def symmetry(case: Case) -> None:
    """The loss minus the loss of the swapped pair is known: the label is all that tells the sides apart."""
    if case.facts.swap is None:
        return
    given = draw(case)
    swapped = {name: PairLogps(p.rejected, p.chosen, p.rejected_tokens, p.chosen_tokens) for name, p in given.items()}
    expected = case.facts.swap(**{name: as_numpy(p) for name, p in given.items()}, **case.options)
    np.testing.assert_allclose((case(given) - case(swapped)).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def shift(case: Case) -> None:
    """A function of delta alone does not see a constant that is added to both responses; any other loss does."""
    for name in case.inputs:
        given = draw(case)
        moved = dict(given)
        if name == "logps":
            moved[name] = given[name] + 3
        else:
            moved[name] = given[name]._replace(chosen=given[name].chosen + 3, rejected=given[name].rejected + 3)
        same = torch.isclose(case(given), case(moved), rtol=1e-9, atol=1e-9)
        assert same.all() if case.facts.delta_only else not same.any()


def extremes(case: Case) -> None:
    """Value and gradient are finite and right at |delta| = 1e4, in fp32 and float64."""
    far = [1e4, -1e4, 0.0, 0.0, 5e3, -5e3, 0.0]
    near = [0.0, 0.0, 1e4, -1e4, -5e3, 5e3, 0.0]
    for dtype, rtol in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        tokens = [1] * 7
        built = {
            "policy": pairs(far, near, tokens, tokens, dtype),
            "ref": pairs([0.0] * 7, [0.0] * 7, tokens, tokens, dtype),
            "logps": torch.tensor(far, dtype=dtype),
        }
        given = {name: built[name] for name in case.inputs}
        values, slopes = value_and_slopes(case, given)
        assert values.dtype == dtype
        assert values.isfinite().all(), f"{dtype}: {values.tolist()}"
        assert all(slope.isfinite().all() for slope in slopes), f"{dtype}: {[s.tolist() for s in slopes]}"
        np.testing.assert_allclose(values.double().numpy(), case.oracle(given), rtol=rtol, atol=1e-6)


def options_count(case: Case) -> None:
    """Every option that is taken has an effect."""
    given = draw(case)
    for option, value in case.options.items():
        other = replace(case, options={**case.options, option: value + 0.03})
        assert not torch.isclose(case(given), other(given), rtol=1e-6, atol=0).all(), f"{option} changes nothing"


LAWS: dict[str, Callable[[Case], None]] = {
    law.__name__: law
    for law in (formula, reference, gradient, direction, unreduced, symmetry, shift, extremes, options_count)
}


def broken(case: Case) -> set[str]:
    """Names of the laws that do not hold."""
    found = set()
    for name, law in LAWS.items():
        try:
            law(case)
        except AssertionError:
            found.add(name)
    return found
