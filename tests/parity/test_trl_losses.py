"""Each loss that TRL has, against TRL's own code: its loss method, driven with a stub instead of a model.

Where the two differ, the difference is written out here, and explained in docs/losses.md.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from preftree.losses import LOSSES, PairLogps, bind
from preftree.losses.types import PairTokens, PairValues, ResponseLogps, TokenLogps

pytest.importorskip("trl", reason="needs the bench extra")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

NUM, PROMPT = 1000, 2


class Alone:
    """The part of an accelerator that a single process sees."""

    device = torch.device("cpu")

    @staticmethod
    def gather_for_metrics(x: Any) -> Any:
        return x

    gather = gather_for_metrics


def blank() -> torch.nn.Module:
    """What the trainer holds as its model; only asked whether it trains, is adapted or checkpoints."""
    module = torch.nn.Identity()
    module.is_gradient_checkpointing = False
    return module


def padded(values: list[np.ndarray], width: int) -> torch.Tensor:
    """One row a response: nothing for the prompt but its last token, which predicts the response's first."""
    rows = np.zeros((len(values), width))
    for row, value in zip(rows, values, strict=True):
        row[PROMPT - 1 : PROMPT - 1 + len(value)] = value
    return torch.from_numpy(rows)


class Pairs:
    """Random token log-probs of both sides under both models, as TRL lays them out and as we do."""

    def __init__(self, num: int, seed: int, spread: float = 0.5, dtype: torch.dtype = torch.float64) -> None:
        rng = np.random.default_rng(seed)
        counts = rng.integers(1, 12, (2, num))
        base = [[rng.normal(-2, 1, n) for n in side] for side in counts]
        policy = [[values + rng.normal(0, spread, len(values)) for values in side] for side in base]
        square = [[rng.normal(-1.8, 0.5, n) for n in side] for side in counts]
        self.width = int(counts.max()) + PROMPT - 1
        self.num, self.dtype = num, dtype
        self.policy_rows, self.ref_rows, self.square_rows = (
            padded([*rows[0], *rows[1]], self.width).to(dtype) for rows in (policy, base, square)
        )
        self.mask = padded([np.ones(n) for n in counts.reshape(-1)], self.width).long()
        self.counts = torch.from_numpy(counts)
        self.policy, self.ref = (self._sums(rows) for rows in (self.policy_rows, self.ref_rows))
        self.policy_tokens, self.ref_tokens = (self._tokens(rows) for rows in (self.policy_rows, self.ref_rows))
        means = ((self.policy_rows - self.square_rows) * self.mask).sum(1) / self.mask.sum(1)
        self.confidence = PairValues(*means.chunk(2))

    def _sums(self, rows: torch.Tensor) -> PairLogps:
        chosen, rejected = rows.sum(1).chunk(2)
        return PairLogps(chosen, rejected, *self.counts)

    def _tokens(self, rows: torch.Tensor) -> PairTokens:
        sides = zip(rows.chunk(2), self.mask.bool().chunk(2), self.counts, strict=True)
        return PairTokens(*(TokenLogps(side[inside], count) for side, inside, count in sides))

    def ours(self, name: str, **options: float | str) -> torch.Tensor:
        loss = bind(name, options)
        return loss(**{key: getattr(self, key) for key in loss.inputs})

    def theirs(self, only: slice = slice(None), **settings: Any) -> float:
        """The mean that DPOTrainer._compute_loss returns for the pairs in `only`."""
        from trl import DPOTrainer

        rows = torch.arange(2 * self.num).view(2, -1)[:, only].reshape(-1)

        def model(values: torch.Tensor) -> Any:
            other = torch.zeros_like(values[rows])
            outputs = SimpleNamespace(
                log_probs=values[rows],
                log_sum_sq_probs=self.square_rows[rows],
                entropy=other,
                mean_logits=other,
                is_top1=other.bool(),
            )
            return lambda **_: outputs

        trainer = DPOTrainer.__new__(DPOTrainer)
        trainer.__dict__ |= {
            "model": blank(),
            "ref_model": model(self.ref_rows),
            "accelerator": Alone(),
            "aux_loss_enabled": False,
            "precompute_ref_logps": False,
            "f_divergence_type": "reverse_kl",
            "f_alpha_divergence_coef": 0.5,
            "loss_types": ["sigmoid"],
            "loss_weights": [1.0],
            "ld_alpha": None,
            "use_weighting": False,
            "label_smoothing": 0.0,
            "args": SimpleNamespace(discopop_tau=settings.pop("discopop_tau", 0.05), gradient_checkpointing_kwargs={}),
            "_metrics": defaultdict(lambda: defaultdict(list)),
            "_total_train_tokens": 0,
            "_tp_size": 1,
            **settings,
        }
        mask = torch.cat([torch.zeros(len(rows), 1, dtype=torch.int64), self.mask[rows]], dim=1)
        inputs = {"completion_mask": mask, "input_ids": mask, "attention_mask": torch.ones_like(mask)}
        return float(trainer._compute_loss(model(self.policy_rows), inputs, return_outputs=False))

    def each_of_theirs(self, **settings: Any) -> list[float]:
        return [self.theirs(slice(i, i + 1), **settings) for i in range(self.num)]


SAME = [
    ("dpo", "sigmoid", {"beta": 0.3}, {}),
    ("hinge", "hinge", {"beta": 0.3}, {}),
    ("ipo", "ipo", {"beta": 0.3}, {}),
    ("exo", "exo_pair", {"beta": 0.3, "label_smoothing": 0.01}, {"label_smoothing": 0.01}),
    ("nca", "nca_pair", {"beta": 0.3}, {}),
    ("robust", "robust", {"beta": 0.3, "label_smoothing": 0.2}, {"label_smoothing": 0.2}),
    ("bco_pair", "bco_pair", {"beta": 0.3}, {}),
    ("sppo", "sppo_hard", {"beta": 0.3}, {}),
    ("apo_zero", "apo_zero", {"beta": 0.3}, {}),
    ("apo_down", "apo_down", {"beta": 0.3}, {}),
    ("discopop", "discopop", {"beta": 0.3, "tau": 0.2}, {"discopop_tau": 0.2}),
    ("ln_dpo", "sigmoid_norm", {"beta": 3.0}, {}),
    ("ld_dpo", "sigmoid", {"beta": 0.3, "alpha": 0.4}, {"ld_alpha": 0.4}),
    ("wpo", "sigmoid", {"beta": 0.3}, {"use_weighting": True}),
    ("f_dpo", "sigmoid", {"beta": 0.3, "divergence": "reverse_kl"}, {"f_divergence_type": "reverse_kl"}),
    ("f_dpo", "sigmoid", {"beta": 0.3, "divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
    ("f_dpo", "sigmoid", {"beta": 0.3, "divergence": "js_divergence"}, {"f_divergence_type": "js_divergence"}),
]


@pytest.mark.parametrize(("name", "loss_type", "options", "settings"), SAME)
def test_a_thousand_pairs_one_by_one(name: str, loss_type: str, options: dict, settings: dict) -> None:
    pairs = Pairs(NUM, seed=0)
    theirs = pairs.each_of_theirs(loss_types=[loss_type], beta=options["beta"], **settings)
    # TRL holds EXO's label_smoothing in fp32: 4e-9 of its logarithm.
    slack = 1e-8 if name == "exo" else 1e-12
    np.testing.assert_allclose(pairs.ours(name, **options).numpy(), theirs, rtol=1e-6, atol=slack)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sorted_batches(name: str, smoothing: float) -> None:
    for seed in range(20):
        pairs = Pairs(NUM // 20, seed)
        theirs = pairs.theirs(loss_types=[name], beta=0.3, label_smoothing=smoothing)
        assert pairs.ours(name, beta=0.3, label_smoothing=smoothing).mean().item() == pytest.approx(theirs, rel=1e-6)


def test_every_loss_type_of_the_pair_trainer_is_covered() -> None:
    import re
    from dataclasses import fields

    from trl import DPOConfig

    told = next(field.metadata["help"] for field in fields(DPOConfig) if field.name == "loss_type")
    theirs = set(re.findall(r"`'(\w+)'`", told))
    assert theirs == {loss_type for _, loss_type, _, _ in SAME} | {"aot", "aot_unpaired", "sft"}
    assert theirs <= {alias for spec in LOSSES.values() for alias in spec.trl}


@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_alpha_divergence_is_ours_at_one_minus_alpha(alpha: float) -> None:
    """TRL computes it in fp32 and knows no float64; its coefficient is 1 - alpha."""
    pairs = Pairs(NUM, seed=0, spread=0.2, dtype=torch.float32)
    settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1 - alpha}
    theirs = pairs.each_of_theirs(loss_types=["sigmoid"], beta=0.3, **settings)
    ours = pairs.ours("f_dpo", beta=0.3, divergence="alpha_divergence", alpha=alpha)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4)


def test_label_smoothing_of_sigmoid_is_ignored_by_trl() -> None:
    """TRL's `sigmoid` takes label_smoothing and does nothing with it; that is `dpo`, and not `cdpo`."""
    pairs = Pairs(50, seed=0)
    theirs = pairs.each_of_theirs(loss_types=["sigmoid"], beta=0.3, label_smoothing=0.2)
    np.testing.assert_allclose(pairs.ours("dpo", beta=0.3).numpy(), theirs, rtol=1e-6)
    assert not np.allclose(pairs.ours("cdpo", beta=0.3, label_smoothing=0.2).numpy(), theirs, rtol=0.01)


def test_sft_of_pairs_is_a_mean_over_the_tokens_of_the_batch() -> None:
    """Ours is a sum per response; divided by the tokens of the step it is TRL's."""
    pairs = Pairs(NUM, seed=0)
    theirs = pairs.theirs(loss_types=["sft"], beta=0.3)
    summed = bind("sft", {})(logps=pairs.policy.chosen).sum()
    assert (summed / pairs.counts[0].sum()).item() == pytest.approx(theirs, rel=1e-6)


# Unpaired.


@pytest.mark.parametrize(("name", "weights"), [("kto", (1.0, 1.0)), ("kto", (1.3, 0.7)), ("apo_zero_unpaired", (1, 1))])
def test_single_responses(name: str, weights: tuple[float, float]) -> None:
    from trl import KTOTrainer

    rng = np.random.default_rng(0)
    for _ in range(NUM // 10):
        num = 10
        counts = rng.integers(1, 12, num)
        base = [rng.normal(-2, 1, n) for n in counts]
        width = int(counts.max()) + PROMPT - 1
        policy = padded([values + rng.normal(0, 1, len(values)) for values in base], width)
        ref, mask = padded(base, width), padded([np.ones(n) for n in counts], width).long()
        mismatched = torch.from_numpy(rng.normal(-20, 2, (2, num)))
        liked = torch.from_numpy(rng.uniform(size=num) < 0.6)

        def model(values: torch.Tensor, also: torch.Tensor) -> Any:
            other = torch.zeros_like(values)
            outputs = SimpleNamespace(log_probs=values, entropy=other, mean_logits=other)

            def forward(**_: Any) -> Any:
                return outputs

            forward.mismatched = also
            return forward

        trainer = KTOTrainer.__new__(KTOTrainer)
        trainer.__dict__ |= {
            "model": blank(),
            "ref_model": model(ref, mismatched[1]),
            "accelerator": Alone(),
            "aux_loss_enabled": False,
            "precompute_ref_logps": False,
            "calculate_KL": name == "kto",
            "loss_type": name,
            "beta": 0.3,
            "desirable_weight": weights[0],
            "undesirable_weight": weights[1],
            "args": SimpleNamespace(gradient_checkpointing_kwargs={}),
            "_compute_kl_logps": lambda model, _: model.mismatched,
            "_metrics": defaultdict(lambda: defaultdict(list)),
            "_total_train_tokens": 0,
            "_tp_size": 1,
        }
        full = torch.cat([torch.zeros(num, 1, dtype=torch.int64), mask], dim=1)
        inputs = {"completion_mask": full, "input_ids": full, "attention_mask": torch.ones_like(full), "label": liked}
        theirs = float(trainer._compute_loss(model(policy, mismatched[0]), inputs, return_outputs=False))

        lengths = torch.from_numpy(counts)
        given = {
            "responses": ResponseLogps(policy.sum(1), lengths),
            "ref_responses": ResponseLogps(ref.sum(1), lengths),
            "desirable": liked,
            "mismatched": ResponseLogps(mismatched[0], lengths),
            "ref_mismatched": ResponseLogps(mismatched[1], lengths),
        }
        options = {"beta": 0.3}
        if name == "kto":
            options |= {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
        loss = bind(name, options)
        ours = loss(**{key: given[key] for key in loss.inputs}).mean().item()
        assert ours == pytest.approx(theirs, rel=1e-6)


# Without a reference.


def cpo_trainer(**settings: Any) -> Any:
    from trl.experimental.cpo import CPOTrainer

    trainer = CPOTrainer.__new__(CPOTrainer)
    trainer.__dict__ |= {
        "accelerator": Alone(),
        "alpha": 0.0,
        "label_smoothing": 0.0,
        "simpo_gamma": 0.0,
        "cpo_alpha": 1.0,
        "is_encoder_decoder": False,
        "pad_token_id": 0,
        "aux_loss_enabled": False,
        "loss_type": "sigmoid",
        **settings,
    }
    return trainer


def test_cpo_simpo_and_alphapo_without_the_likelihood() -> None:
    pairs = Pairs(NUM, seed=0)
    policy = pairs.policy
    means = policy.chosen / policy.chosen_tokens, policy.rejected / policy.rejected_tokens
    for ours, theirs in (
        (
            pairs.ours("cpo", beta=0.3, nll_weight=0.0),
            cpo_trainer(loss_type="sigmoid", beta=0.3).cpo_loss(policy.chosen, policy.rejected),
        ),
        (
            pairs.ours("simpo", beta=2.0, gamma=1.2),
            cpo_trainer(loss_type="simpo", beta=2.0, simpo_gamma=1.2).cpo_loss(*means),
        ),
        (
            pairs.ours("alphapo", beta=2.0, gamma=0.3, alpha=0.25),
            cpo_trainer(loss_type="simpo", beta=2.0, simpo_gamma=0.3, alpha=0.25).cpo_loss(*means),
        ),
        (
            pairs.ours("alphapo", beta=2.0, gamma=0.3, alpha=-0.5),
            cpo_trainer(loss_type="simpo", beta=2.0, simpo_gamma=0.3, alpha=-0.5).cpo_loss(*means),
        ),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs[0].numpy(), rtol=1e-6, atol=1e-12)


class Texts:
    """Random logits over a small vocabulary, as TRL's older trainers want them: they read log-probs off themselves."""

    def __init__(self, counts: tuple[list[int], list[int]], prompt: int = 3, vocab: int = 11, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        width = prompt + max(map(max, counts))
        self.batch: dict[str, torch.Tensor] = {}
        self.logits = torch.from_numpy(rng.normal(0, 1, (2 * len(counts[0]), width, vocab)))
        for side, lengths in zip(("chosen", "rejected"), counts, strict=True):
            ids = torch.from_numpy(rng.integers(1, vocab, (len(lengths), width)))
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, n in enumerate(lengths):
                mask[row, : prompt + n] = 1
                labels[row, prompt : prompt + n] = ids[row, prompt : prompt + n]
            self.batch |= {f"{side}_input_ids": ids, f"{side}_attention_mask": mask, f"{side}_labels": labels}
        ids = torch.cat([self.batch["chosen_input_ids"], self.batch["rejected_input_ids"]])
        logps = self.logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        self.num_tokens = torch.tensor([*counts[0], *counts[1]])
        sums = torch.stack(
            [row[prompt - 1 : prompt - 1 + n].sum() for row, n in zip(logps, self.num_tokens, strict=True)]
        )
        whole = torch.stack([row[: prompt - 1 + n].sum() for row, n in zip(logps, self.num_tokens, strict=True)])
        self.policy = PairLogps(*sums.chunk(2), *self.num_tokens.chunk(2))
        self.prompt_and_chosen = whole.chunk(2)[0], self.num_tokens.chunk(2)[0] + prompt - 1

    def model(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(logits=self.logits)


@pytest.mark.parametrize("counts", [([4, 4, 4], [2, 5, 3]), ([1, 4, 6], [2, 5, 3])])
def test_cpo_s_likelihood_is_a_mean_over_the_tokens_of_the_batch(counts: tuple[list[int], list[int]]) -> None:
    """Ours is a mean per response: the same where all chosen responses are equally long."""
    texts = Texts(counts)
    theirs, _ = cpo_trainer(beta=0.3).get_batch_loss_metrics(texts.model, texts.batch)
    contrast = bind("cpo", {"beta": 0.3, "nll_weight": 0})(policy=texts.policy).mean()
    explained = contrast - texts.policy.chosen.sum() / texts.policy.chosen_tokens.sum()
    assert explained.item() == pytest.approx(float(theirs), rel=1e-6)
    ours = bind("cpo", {"beta": 0.3})(policy=texts.policy).mean().item()
    assert (ours == pytest.approx(float(theirs), rel=1e-6)) == (len(set(counts[0])) == 1)


@pytest.mark.parametrize("counts", [([4, 4, 4], [2, 5, 3]), ([1, 4, 6], [2, 5, 3])])
def test_orpo_s_likelihood_covers_the_prompt_as_well(counts: tuple[list[int], list[int]]) -> None:
    """TRL's term is a token mean over prompt and response, its odds are fp32; ours is a mean per response."""
    from trl.experimental.orpo import ORPOTrainer

    texts = Texts(counts)
    trainer = ORPOTrainer.__new__(ORPOTrainer)
    trainer.__dict__ |= {
        "accelerator": Alone(),
        "beta": 0.4,
        "is_encoder_decoder": False,
        "padding_value": 0,
        "aux_loss_enabled": False,
    }
    theirs, _ = trainer.get_batch_loss_metrics(texts.model, texts.batch)
    means = texts.policy.chosen / texts.policy.chosen_tokens
    odds = bind("orpo", {"odds_weight": 0.4})(policy=texts.policy) + means
    logps, tokens = texts.prompt_and_chosen
    assert (odds.mean() - logps.sum() / tokens.sum()).item() == pytest.approx(float(theirs), rel=1e-6)


def test_a_thousand_odds_ratios() -> None:
    from trl.experimental.orpo import ORPOTrainer

    pairs = Pairs(NUM, seed=0)
    means = [
        torch.clamp(x, max=-0.05)
        for x in (pairs.policy.chosen / pairs.counts[0], pairs.policy.rejected / pairs.counts[1])
    ]
    policy = PairLogps(means[0] * pairs.counts[0], means[1] * pairs.counts[1], *pairs.counts)
    trainer = ORPOTrainer.__new__(ORPOTrainer)
    trainer.__dict__ |= {"accelerator": Alone(), "beta": 0.4}
    theirs = -trainer.odds_ratio_loss(*means)[0]
    ours = bind("orpo", {"odds_weight": 0.4})(policy=policy) + means[0]
    np.testing.assert_allclose(ours.numpy(), theirs.double().numpy(), rtol=2e-6, atol=1e-7)  # theirs is fp32
