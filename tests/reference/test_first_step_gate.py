"""The first-step gate: silent where the reference is the policy's own start, loud for every way in which it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from preftree.errors import CacheError, TrainingError
from preftree.losses.quantities import sum_responses
from preftree.reference.build import build_reference
from preftree.reference.first_step_gate import verify_start
from preftree.reference.store import ReferenceTable
from preftree.scoring.bf16_on_cpu import emulated
from preftree.scoring.scorer import Scorer
from support.models import tiny, tiny_llama
from support.rounding import rows_round_alone
from support.tables import CountingScorer, build, some_pairs, table_of, with_adapter

PRECISIONS = ("fp32", "bf16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral", "gptj"])
def test_an_honest_start_passes_whatever_the_packing(tmp_path, name, precision):
    scorer = Scorer(tiny(name, scale=2.0), precision=precision)
    pairs = some_pairs(20, prompt=80)
    for budget in (256, 8192):
        table, report = build(tmp_path / str(budget), scorer, pairs, budget=budget)
        gate = verify_start(scorer, table, pairs[:4])
        print(f"{name} {precision} {report.num_forwards} forwards: {gate}")
        assert gate.num_responses == 8
        assert gate.largest_logratio <= gate.tolerance
        assert gate.tolerance < (1e-4 if precision == "fp32" else 0.05)


def test_the_same_packing_in_fp32_gives_ln_2_exactly(tmp_path):
    """On any CPU; another packing does where rows round alone."""
    scorer = Scorer(tiny_llama())
    pairs = some_pairs(8)
    table, report = build(tmp_path, scorer, pairs, budget=8192)
    assert report.num_forwards == 1
    gate = verify_start(scorer, table, pairs)  # computes the pairs in another order
    if rows_round_alone(scorer, scorer.lay_out(pairs), *(scorer.lay_out([pair]) for pair in pairs)):
        assert gate.largest_logratio == gate.noise == 0.0
    order = np.argsort([-len(table_sequence(pair)) for pair in pairs], kind="stable")
    batch = scorer.lay_out([pairs[index] for index in order])
    with torch.no_grad():
        policy = sum_responses(scorer(batch), batch.count_R).values
    flat = [sequence for index in order for sequence in pairs[index]]
    reference = sum_responses(torch.from_numpy(table.gather(flat)), batch.count_R).values
    delta = (policy - reference).reshape(8, 2)
    loss = -nn.functional.logsigmoid(0.1 * (delta[:, 0] - delta[:, 1]))
    assert loss.tolist() == [float(np.log(2.0))] * 8


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("budget", [1, 150, 8192])
def test_no_forward_is_over_the_budget(tmp_path, monkeypatch, precision, budget):
    scorer = CountingScorer(tiny_llama(), precision=precision)
    pairs = some_pairs(12)
    sizes = [len(table_sequence(pair)) for pair in pairs]
    table, _ = build(tmp_path, scorer, pairs, budget=max(budget, *sizes))
    seen: list[int] = []
    forward = CountingScorer.forward
    monkeypatch.setattr(CountingScorer, "forward", lambda self, b: (seen.append(len(b.input_T)), forward(self, b))[1])
    report = verify_start(scorer, table, pairs[:6], budget=budget)
    assert report.num_responses == 12
    assert max(seen) <= max(budget, *sizes[:6])
    with torch.no_grad():
        scorer.model.get_parameter(last_matrix(scorer.model)).mul_(2.0)
    with pytest.raises(TrainingError, match="differs from its reference"):
        verify_start(scorer, table, pairs[:6], budget=budget)


def table_sequence(pair: list) -> range:
    """Tokens of a pair's tree: the build packs the largest first."""
    from preftree.tree.layout import grow_tree

    return range(len(grow_tree(pair)))


def scale_tensor(model: PreTrainedModel) -> None:
    model.get_parameter(last_matrix(model)).mul_(1.01)


def scale_one_weight(model: PreTrainedModel) -> None:
    flat = model.get_parameter(last_matrix(model)).view(-1)
    flat[flat.abs().argmax()] *= 1.01


def scale_norm(model: PreTrainedModel) -> None:
    names = [name for name, value in model.named_parameters() if value.ndim == 1 and name.endswith("weight")]
    model.get_parameter(names[-1]).mul_(1.01)


def last_matrix(model: PreTrainedModel) -> str:
    return [name for name, value in model.named_parameters() if value.ndim >= 2 and "layers" in name][-1]


def poison(model: PreTrainedModel) -> None:
    model.get_parameter(last_matrix(model)).view(-1)[0] = torch.nan


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["llama", "mistral", "mixtral"])
def test_changed_weights_are_caught(tmp_path, name, precision):
    model = tiny(name, scale=2.0)
    scorer = Scorer(model, precision=precision)
    pairs = some_pairs(4, prompt=80, most=60)
    table, _ = build(tmp_path, scorer, pairs, budget=8192)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    # Where bf16 products depend on the packing, small changes drown in that noise; the key of the table tells them.
    exact = precision == "fp32" or verify_start(scorer, table, pairs).noise == 0
    for change in (scale_norm, poison, *((scale_tensor, scale_one_weight) if exact else ())):
        with torch.no_grad():
            change(model)
        figures = r"differs from its reference by \S+ nats .* packing noise is \S+ \(allowed: \S+\)"
        with pytest.raises(TrainingError, match=figures) as caught:
            verify_start(scorer, table, pairs)
        print(f"{change.__name__}, {name} {precision}: {str(caught.value)[:140]}")
        model.load_state_dict(start)
    verify_start(scorer, table, pairs)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_another_model_and_another_adapter_are_caught(tmp_path, precision):
    pairs = some_pairs(4)
    tables: dict[str, ReferenceTable] = {}
    scorers: dict[str, Scorer] = {"base": Scorer(tiny_llama(), precision=precision)}
    for seed in (1, 2):
        model = with_adapter(tiny_llama(), seed=seed).merge_and_unload()
        scorers[f"adapter {seed}"] = Scorer(model, precision=precision)
    scorers["other model"] = Scorer(tiny_llama(seed=1), precision=precision)
    for name, scorer in scorers.items():
        tables[name], _ = build(tmp_path, scorer, pairs)
    for policy in ("base", "adapter 1"):
        for reference, table in tables.items():
            if policy == reference:
                verify_start(scorers[policy], table, pairs)
            else:
                with pytest.raises(TrainingError, match="another adapter"):
                    verify_start(scorers[policy], table, pairs)


def test_an_adapter_that_is_still_zero_equals_its_base(tmp_path):
    """The reference of a fresh LoRA run: the same model, adapter off."""
    pairs = some_pairs(8)
    table, _ = build(tmp_path, Scorer(tiny_llama()), pairs)
    fresh = with_adapter(tiny_llama(), seed=0, zero=True).get_base_model()
    assert verify_start(Scorer(fresh), table, pairs) == verify_start(Scorer(tiny_llama()), table, pairs)
    moved = with_adapter(tiny_llama(), seed=0).get_base_model()
    with pytest.raises(TrainingError, match="another adapter"):
        verify_start(Scorer(moved), table, pairs)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_dropout_is_caught(tmp_path, precision):
    """Noise is measured with dropout off: measured with it, any reference would pass."""
    model = tiny("gpt2", scale=2.0)
    for module in model.modules():
        if hasattr(module, "attn_dropout"):
            module.attn_dropout.p = 0.0  # attention refuses it by itself
    scorer = Scorer(model, precision=precision)
    pairs = some_pairs(12)
    table, _ = build(tmp_path, scorer, pairs)
    verify_start(scorer, table, pairs[:4])
    model.train()
    with pytest.raises(TrainingError, match="dropout is on") as caught:
        verify_start(scorer, table, pairs[:4])
    print(str(caught.value)[:140])
    assert model.training


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_response_cached_from_another_tree_is_held_to_the_noise_of_that(tmp_path, precision):
    """Its branches were cut elsewhere, so it may differ in the last bits; that is no reason to stop."""
    scorer = Scorer(tiny_llama(), precision=precision)
    pairs = some_pairs(12, most=60)
    table = table_of(tmp_path, scorer)
    flat = [[sequence] for pair in pairs for sequence in pair]
    build_reference(table, scorer, flat, budget=8192)
    gate = verify_start(scorer, table, pairs)
    print(f"{precision}: {gate}")
    assert gate.largest_logratio <= gate.tolerance
    if precision == "bf16" and not emulated(scorer.device):  # products that depend on the packing: the noise to show
        assert gate.largest_logratio > 0
        assert gate.noise > 0


def test_a_response_that_is_not_there_is_an_error_of_the_cache(tmp_path: Path):
    scorer = Scorer(tiny_llama())
    pairs = some_pairs(4)
    table, _ = build(tmp_path, scorer, pairs[:3])
    with pytest.raises(CacheError, match="lacks 2 of 8 responses"):
        verify_start(scorer, table, pairs)
