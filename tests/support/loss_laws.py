"""What must hold for every loss, as functions that raise AssertionError: run on ours, and on wrong ones that must fail.

A law gets a Case: a loss as a function of its named inputs, and what is known about the loss of this name, which
loss_facts.py writes down a second time, apart from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from preftree.losses import LOSSES, BoundLoss, PairSums, bind, metrics_of, with_gradient
from preftree.losses.options import Choice
from preftree.losses.types import INPUTS, INPUTS_OF_ANY_KIND, ListSums, PairTokens, PairValues, ResponseSums, TokenLogps
from preftree.records import FIGURES
from support.loss_facts import FACTS, Facts, Options

Given = dict[str, Any]

ALL_INPUTS = {name for names in (*INPUTS.values(), INPUTS_OF_ANY_KIND) for name in names}

LEAVES = {
    "policy": ("policy.chosen", "policy.rejected"),
    "policy_tokens": ("policy_tokens.chosen.logps", "policy_tokens.rejected.logps"),
    "kl": ("kl.chosen", "kl.rejected"),
    "responses": ("responses.values",),
    "policy_lists": ("policy_lists.values",),
    "logps": ("logps",),
}
"""Where gradient enters, by input."""

REFERENCES = {
    "policy": "ref",
    "policy_tokens": "ref_tokens",
    "responses": "ref_responses",
    "mismatched": "ref_mismatched",
    "policy_lists": "ref_lists",
}


@dataclass(frozen=True)
class Case:
    """A loss under test: its name, its function of (**inputs, **options), the inputs it takes, options to try."""

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    options: Options

    @property
    def facts(self) -> Facts:
        return FACTS[self.name]

    @property
    def delta_only(self) -> bool:
        known = self.facts.delta_only
        return known(self.options) if callable(known) else known

    def __call__(self, given: Given) -> torch.Tensor:
        return self.function(**given, **self.options)

    def oracle(self, given: Given, at: Given | None = None) -> np.ndarray:
        numbers = {name: as_numpy(value) for name, value in given.items()}
        fixed = {"at": {name: as_numpy(value) for name, value in (at or given).items()}} if self.facts.constants else {}
        return self.facts.oracle(**numbers, **fixed, **self.options)


# Inputs: made, reached into, taken apart.


def walk(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The value with every tensor in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return type(value)(*(walk(part, change) for part in value)) if isinstance(value, tuple) else value


def as_numpy(value: Any) -> Any:
    def number(x: torch.Tensor) -> np.ndarray:
        return (x.detach().double() if x.is_floating_point() else x).numpy()

    return walk(value, number)


def pairs(chosen, rejected, chosen_tokens, rejected_tokens, dtype=torch.float64) -> PairSums:
    return PairSums(
        torch.tensor(chosen, dtype=dtype),
        torch.tensor(rejected, dtype=dtype),
        torch.tensor(chosen_tokens),
        torch.tensor(rejected_tokens),
    )


def lists(logps, num_tokens, sizes, dtype=torch.float64) -> ListSums:
    return ListSums(torch.tensor(logps, dtype=dtype), torch.tensor(num_tokens), torch.tensor(sizes))


def draw(case: Case, num: int = 7, seed: int = 0) -> Given:
    """Random inputs in float64: responses of 1 to 40 tokens, some nats apart; log-probs below 0."""
    rng = np.random.default_rng(seed)
    spread = case.facts.spread
    tokens = rng.integers(1, 40, (2, num))
    ref = -rng.uniform(0.5, 4, (2, num)) * tokens - 4
    policy = np.minimum(ref + rng.normal(0, spread, (2, num)), -0.01 * tokens)
    sizes = rng.integers(2, 6, num)
    list_tokens = rng.integers(1, 40, sizes.sum())
    ref_list = -rng.uniform(0.5, 4, sizes.sum()) * list_tokens - 4
    policy_list = np.minimum(ref_list + rng.normal(0, spread, sizes.sum()), -0.01 * list_tokens)
    # In tenths, so that some are equal; never all of a list.
    scores = np.concatenate([np.sort(np.r_[1.0, rng.integers(0, 6, n - 1) / 10])[::-1] for n in sizes])
    list_scores = torch.tensor(scores.tolist(), dtype=torch.float64)
    moved = rng.normal(1, 3, 5)

    def tensor(values: Any) -> torch.Tensor:
        return torch.tensor(np.asarray(values).tolist(), dtype=torch.float64)

    def single(logps: Any, counts: Any) -> ResponseSums:
        return ResponseSums(tensor(logps), torch.tensor(counts.tolist()))

    def pair_values(values: np.ndarray) -> PairValues:
        return PairValues(tensor(values[0]), tensor(values[1]))

    def token_logps(noise: float) -> PairTokens:
        fixed = np.random.default_rng(seed + 1)
        sides = [(fixed.normal(-2, 1, n.sum()), fixed.normal(0, 1, n.sum()), n) for n in tokens]
        return PairTokens(
            *(
                TokenLogps(tensor(np.minimum(base + noise * more, -0.01)), torch.tensor(n.tolist()))
                for base, more, n in sides
            )
        )

    given = {
        "policy": pairs(*policy.tolist(), *tokens.tolist()),
        "ref": pairs(*ref.tolist(), *tokens.tolist()),
        "policy_tokens": token_logps(1.0),
        "ref_tokens": token_logps(0.0),
        "kl": pair_values(rng.uniform(0.1, 5, (2, num))),
        "confidence": pair_values(rng.normal(-0.2, 0.5, (2, num))),
        "margins": tensor(rng.uniform(0.1, 3, num)),
        "other_margins": tensor(np.random.default_rng(seed + 2).normal(0, 1, num)),
        "win_prob": tensor(rng.uniform(0.55, 1, num)),
        "ties": torch.tensor((np.arange(num) % 3 == 1).tolist()),
        "costs": pair_values(rng.normal(0, 1, (2, num))),
        "responses": single(policy[0], tokens[0]),
        "ref_responses": single(ref[0], tokens[0]),
        "desirable": torch.tensor((np.arange(num) % 3 != 1).tolist()),
        "mismatched": single(moved - 40, np.full(5, 9)),
        "ref_mismatched": single(np.full(5, -40.0), np.full(5, 9)),
        "policy_lists": lists(policy_list.tolist(), list_tokens.tolist(), sizes.tolist()),
        "ref_lists": lists(ref_list.tolist(), list_tokens.tolist(), sizes.tolist()),
        "list_scores": list_scores,
        "uniforms": tensor(rng.uniform(0, 1, num)),
        "state": dict(case.facts.state),
        "logps": tensor(policy[0]),
    }
    further = [figure.input for figure in FIGURES.values() if figure.input not in given and not figure.per_response]
    given |= {name: tensor(rng.uniform(0.1, 0.9, num)) for name in further}
    return {name: given[name] for name in case.inputs}


def take(given: Given, indices: Sequence[int]) -> Given:
    """The inputs of the examples with these indices, in this order."""
    index = torch.tensor(list(indices), dtype=torch.int64)

    def segments(values: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        parts = values.split(sizes.tolist())
        return torch.cat([values[:0], *(parts[i] for i in indices)])

    def part(name: str, value: Any) -> Any:
        if name in ("state", "mismatched", "ref_mismatched"):
            return value
        if name == "list_scores":
            return segments(value, given["policy_lists"].sizes)
        if isinstance(value, ListSums):
            return ListSums(*(segments(x, value.sizes) for x in value[:2]), value.sizes[index])
        if isinstance(value, PairTokens):
            return PairTokens(*(TokenLogps(segments(x, n), n[index]) for x, n in value))
        return walk(value, lambda x: x[index])

    return {name: part(name, value) for name, value in given.items()}


def paths(given: Given) -> list[str]:
    return [path for name in given for path in LEAVES.get(name, ())]


def leaves(given: Given) -> list[torch.Tensor]:
    """The tensors that carry gradient."""
    return [_reach(given[path.split(".")[0]], path.split(".")[1:]) for path in paths(given)]


def with_leaves(given: Given, new: Sequence[torch.Tensor]) -> Given:
    changed = dict(given)
    for path, leaf in zip(paths(given), new, strict=True):
        name, *rest = path.split(".")
        changed[name] = _put(changed[name], rest, leaf)
    return changed


def _reach(value: Any, path: list[str]) -> torch.Tensor:
    return _reach(getattr(value, path[0]), path[1:]) if path else value


def _put(value: Any, path: list[str], leaf: torch.Tensor) -> Any:
    return value._replace(**{path[0]: _put(getattr(value, path[0]), path[1:], leaf)}) if path else leaf


def at_reference(given: Given) -> Given:
    """The inputs with the policy put on the reference, and a run's state where nothing has moved."""
    same = {name: given[REFERENCES[name]] for name in given if REFERENCES.get(name) in given}
    if "kl" in given:
        same["kl"] = walk(given["kl"], torch.zeros_like)
    if "state" in given:
        same["state"] = {**given["state"], **{name: 0.0 for name in given["state"] if name.endswith("desirable_mean")}}
    return {**given, **same}


def value_and_slopes(case: Case, given: Given) -> tuple[torch.Tensor, list[torch.Tensor]]:
    new = [leaf.clone().requires_grad_() for leaf in leaves(given)]
    values = case(with_leaves(given, new))
    slopes = torch.autograd.grad(values.sum(), new, allow_unused=True)
    return values.detach(), [torch.zeros_like(x) if s is None else s for x, s in zip(new, slopes, strict=True)]


def metrics_at(loss: BoundLoss, given: Given) -> dict[str, torch.Tensor]:
    """The metrics of a loss, from one evaluation of it."""
    inputs = with_gradient(loss, given)
    with torch.inference_mode(False), torch.enable_grad():
        return metrics_of(loss, inputs, loss(**{name: inputs[name] for name in loss.inputs}))


# The laws.


def formula(case: Case) -> None:
    """The value is the formula's, from another program."""
    for seed in range(4):
        given = draw(case, seed=seed)
        np.testing.assert_allclose(case(given).detach().numpy(), case.oracle(given), rtol=1e-10, atol=1e-12)


def reference(case: Case) -> None:
    """Where policy and reference agree, the value is known, whatever the responses are and however long."""
    known = case.facts.at_reference and case.facts.at_reference(**case.options)
    if known is not None:
        given = at_reference(draw(case))
        np.testing.assert_allclose(case(given).detach().numpy(), np.full(7, known), rtol=1e-12)


def gradient(case: Case) -> None:
    """The gradient is the derivative of the value, and no response is without one.

    Where something in the value is taken as a constant, autograd is held to differences of the oracle, which keeps
    those constants while the rest moves.
    """
    given = draw(case)
    new = [leaf.clone().requires_grad_() for leaf in leaves(given)]
    slopes = value_and_slopes(case, given)[1]
    if case.facts.constants:
        for found, wanted in zip(slopes, _differences(case, given), strict=True):
            np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-7 * max(1, np.abs(wanted).max()))
    else:
        assert torch.autograd.gradcheck(lambda *x: case(with_leaves(given, x)), new, raise_exception=False)
    for slope in slopes:
        assert case.facts.zero or (slope != 0).all(), "a response gets no gradient"


def _differences(case: Case, given: Given, step: float = 1e-5) -> list[np.ndarray]:
    found = []
    for number, leaf in enumerate(leaves(given)):
        slopes = np.zeros(len(leaf))
        for i in range(len(leaf)):
            ends = []
            for sign in (1, -1):
                new = [x.clone() for x in leaves(given)]
                new[number][i] += sign * step
                ends.append(case.oracle(with_leaves(given, new), at=given).sum())
            slopes[i] = (ends[0] - ends[1]) / (2 * step)
        found.append(slopes)
    return found


def direction(case: Case) -> None:
    """From the reference, descent raises the chosen, liked, best response and lowers the other."""
    if "direction" in case.facts.exempt:
        return
    given = at_reference(draw(case))
    if "ties" in given:
        given["ties"] = torch.zeros_like(given["ties"])
    slopes = dict(zip(paths(given), value_and_slopes(case, given)[1], strict=True))
    up, down = [], []
    for path, slope in slopes.items():
        if path == "responses.values":
            up, down = [slope[given["desirable"]]], [slope[~given["desirable"]]]
        elif path == "policy_lists.values":
            last = given["policy_lists"].sizes.cumsum(0) - 1
            up, down = [slope[last + 1 - given["policy_lists"].sizes]], [slope[last]]
        elif path.startswith(("policy", "logps")):
            (down if "rejected" in path else up).append(slope)
    assert all((slope < 0).all() for slope in up)
    assert all((slope > 0).all() for slope in down)


def unreduced(case: Case) -> None:
    """One value per example, each the same alone as among others unless it needs the whole step; none for none."""
    given = draw(case)
    together = case(given)
    assert together.shape == (7,), f"{tuple(together.shape)} is not one value per example"
    if LOSSES[case.name].scope == "example":
        alone = torch.cat([case(take(given, [i])) for i in range(7)])
        # Lists are sums over rectangles as wide as the longest list: the order of a sum may change.
        torch.testing.assert_close(alone, together, rtol=1e-14 if "policy_lists" in given else 0, atol=0)
    assert case(take(given, [])).shape == (0,)


def permutation(case: Case) -> None:
    """Examples in another order have the same values in that order."""
    given, order = draw(case), [3, 6, 0, 5, 1, 4, 2]
    together = case(given)
    assert together.shape == (7,)
    torch.testing.assert_close(case(take(given, order)), together[order], rtol=1e-12, atol=1e-12)


def symmetry(case: Case) -> None:
    """The loss minus the loss of the swapped pair is known: the label is all that tells the sides apart."""
    if case.facts.swap is None:
        return
    given = draw(case)
    swapped = {name: PairSums(p.rejected, p.chosen, p.rejected_tokens, p.chosen_tokens) for name, p in given.items()}
    expected = case.facts.swap(**{name: as_numpy(p) for name, p in given.items()}, **case.options)
    np.testing.assert_allclose((case(given) - case(swapped)).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def shift(case: Case) -> None:
    """A function of the gap alone does not see a constant, one per example, that is taken from both responses."""
    given = draw(case)
    by = -2 - torch.arange(7, dtype=torch.float64) / 3
    seen = False
    for name in case.inputs:
        value = given[name]
        if isinstance(value, PairSums):
            moved = value._replace(chosen=value.chosen + by, rejected=value.rejected + by)
        elif isinstance(value, PairTokens):  # by the first token, which no loss counts less
            moved = PairTokens(*(TokenLogps(_move_first(x, n, by), n) for x, n in value))
        elif isinstance(value, ListSums):
            moved = value._replace(values=value.values + by.repeat_interleave(value.sizes))
        elif isinstance(value, ResponseSums) and name in ("responses", "ref_responses"):
            moved = value._replace(values=value.values + by)
        elif name == "logps":
            moved = value + by
        else:
            continue
        seen |= not torch.allclose(case(given), case({**given, name: moved}), rtol=1e-9, atol=1e-9)
    assert seen != case.delta_only


def _move_first(logps: torch.Tensor, counts: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    return logps.index_add(0, counts.cumsum(0) - counts, by)


def extremes(case: Case) -> None:
    """Value and gradient are finite and right at |delta| = 1e4, in fp32 and float64."""
    far = [1e4, -1e4, 0.0, 0.0, 5e3, -5e3, 0.0]
    near = [0.0, 0.0, 1e4, -1e4, -5e3, 5e3, 0.0]
    ones, two = [1] * 7, [2] * 7
    both = [x for pair in zip(far, near, strict=True) for x in pair]
    for dtype, rtol in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        # Without a reference, log-probs are what they are: below 0.
        low = 0.0 if any(name.startswith("ref") for name in case.inputs) or "logps" in case.inputs else -1.5e4

        def tensor(values, dtype=dtype):
            return torch.tensor(values, dtype=dtype)

        def cast(x, dtype=dtype):
            return x.to(dtype) if x.is_floating_point() else x

        def single(values, dtype=dtype):
            return ResponseSums(torch.tensor(values, dtype=dtype), torch.ones(len(values), dtype=torch.int64))

        zero, count = tensor([0.0] * 7), torch.tensor(ones)
        built = {
            "policy": pairs([x + low for x in far], [x + low for x in near], ones, ones, dtype),
            "ref": pairs([0.0] * 7, [0.0] * 7, ones, ones, dtype),
            "policy_tokens": PairTokens(
                TokenLogps(tensor([x + low for x in far]), count), TokenLogps(tensor([x + low for x in near]), count)
            ),
            "ref_tokens": PairTokens(TokenLogps(zero, count), TokenLogps(zero, count)),
            "kl": PairValues(tensor([0.0, 1e4, 0.0, 3.0, 1e4, 0.0, 1e4]), tensor([1e4, 0.0, 0.0, 2.0, 1e4, 1.0, 0.0])),
            "responses": single(far),
            "ref_responses": single([0.0] * 7),
            "mismatched": single([1e4, -1e4, 5.0]),
            "ref_mismatched": single([0.0] * 3),
            "policy_lists": lists([x + low for x in both], ones * 2, two, dtype),
            "ref_lists": lists([0.0] * 14, ones * 2, two, dtype),
            "list_scores": tensor([1.0, 0.0] * 7),
            "uniforms": tensor([0.0, 0.5, 0.999, 0.2, 0.3, 0.7, 0.6]),
            "logps": tensor(far),
        }
        others = {name: walk(value, cast) for name, value in draw(case).items()}
        given = {name: built.get(name, others[name]) for name in case.inputs}
        values, slopes = value_and_slopes(case, given)
        assert values.dtype == dtype
        assert values.isfinite().all(), f"{dtype}: {values.tolist()}"
        assert all(slope.isfinite().all() for slope in slopes), f"{dtype}: {[s.tolist() for s in slopes]}"
        np.testing.assert_allclose(values.double().numpy(), case.oracle(given), rtol=rtol, atol=1e-6)


def options_count(case: Case) -> None:
    """Every option that is taken has an effect: on the value, or on the state that the next step starts from."""
    given = draw(case)
    if "policy_lists" not in given and case.options:
        given = draw(case, num=10)
    known = LOSSES[case.name].options
    for option, value in case.options.items():
        allowed = known[option].allowed
        if isinstance(allowed, Choice):
            # From the last: the first may be the limit of the option's neighbour, and differ by rounding alone.
            moved = next(name for name in reversed(allowed.names) if name != value and "alpha" not in name)
            options = {name: v for name, v in case.options.items() if known[name].only_with is None} | {option: moved}
        else:
            options = {**case.options, option: value + case.facts.moves.get(option, 0.03)}
        other = replace(case, options=options)
        unchanged = torch.isclose(case(given), other(given), rtol=1e-6, atol=0).all()
        if unchanged and LOSSES[case.name].advance is not None:
            unchanged = bind(case.name, case.options).advance(**given) == bind(case.name, options).advance(**given)
        assert not unchanged, f"{option} changes nothing"


LAWS: dict[str, Callable[[Case], None]] = {
    law.__name__: law
    for law in (
        *(formula, reference, gradient, direction, unreduced, permutation, symmetry, shift, extremes),
        options_count,
    )
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
