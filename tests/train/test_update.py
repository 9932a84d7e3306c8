"""A step equals the plain thing: padded rows, transformers' own forward, autograd, a mean, torch's optimiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from preftree.config.base import Optimisation
from preftree.data.store.example import TokenExample
from preftree.errors import ConfigError, ModelError, TrainingError, UserError
from preftree.losses.registry import bind
from preftree.reference.protocol import TableReference
from preftree.runtime.ranks import Ranks
from preftree.scoring.scorer import Scorer
from preftree.train.preference_task import PreferenceTask
from preftree.train.sft import DemonstrationTask
from preftree.train.step.batch import Batch
from preftree.train.step.evaluation import measure
from preftree.train.step.optimizer import build_optimizer
from preftree.train.step.scores import Moment, Scores
from preftree.train.step.task import Task
from preftree.train.step.update import take_step
from preftree.tree.layout import TokenSequence
from support.examples import ListStore, make_store, random_demonstrations, random_pairs
from support.models import tiny, tiny_llama
from support.ranks import run_ranks
from support.reference import reference_table
from support.step_losses import objective
from support.tasks import Changed, pair_task

# Llama's norms compute in fp32 even in a float64 model; GPT-2's do not.
EXACT = "gpt2"
ALONE = Ranks(0, 1, torch.device("cpu"))
ADAM = Optimisation(lr=1e-3, optimizer="adamw", max_grad_norm=0.5, schedule="constant")


def padded_logps(model: PreTrainedModel, sequences: Sequence[TokenSequence]) -> Tensor:
    """Summed log-probs of the scored tokens of right-padded rows, all in one forward."""
    width = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    real = torch.zeros(len(sequences), width, dtype=torch.int64)
    scored = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = torch.from_numpy(sequence.ids.astype(np.int64))
        real[row, : len(sequence.ids)] = 1
        scored[row, : len(sequence.ids)] = torch.from_numpy(sequence.scored)
    logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return (logps * scored[:, 1:]).sum(1)


def plain_dpo(
    model: PreTrainedModel, reference: PreTrainedModel, store: ListStore, rows: Sequence[int], beta: float
) -> Tensor:
    """The weighted mean of DPO's loss, written out."""
    chosen = [store[row].sequences[0] for row in rows]
    rejected = [store[row].sequences[1] for row in rows]
    with torch.no_grad():
        ref = padded_logps(reference, chosen) - padded_logps(reference, rejected)
    policy = padded_logps(model, chosen) - padded_logps(model, rejected)
    weights = torch.tensor([store[row].weight for row in rows], dtype=torch.float64)
    return (weights * -logsigmoid(beta * (policy - ref))).sum() / weights.sum()


def plain_sft(model: PreTrainedModel, store: ListStore, rows: Sequence[int]) -> Tensor:
    """The mean negative log-likelihood per token, a token of weight 2 counted twice."""
    sequences = [store[row].sequences[0] for row in rows]
    weights = torch.tensor([store[row].weight for row in rows], dtype=torch.float64)
    tokens = torch.tensor([int(sequence.scored.sum()) for sequence in sequences])
    return -(weights * padded_logps(model, sequences)).sum() / (weights * tokens).sum()


def plain_update(model: PreTrainedModel, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> float:
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)


def three_steps(number: int, size: int) -> list[np.ndarray]:
    order = np.random.default_rng(1).permutation(number)
    return [order[start : start + size] for start in range(0, 3 * size, size)]


def assert_same_weights(ours: PreTrainedModel, plain: PreTrainedModel, tolerance: float) -> None:
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert (a - b).abs().max() <= tolerance, name


@pytest.mark.parametrize("budget", [64, 300, 4096])
def test_dpo_steps_equal_the_plain_loop(tmp_path: Path, budget: int) -> None:
    store = random_pairs(24, weighted=True)
    reference = tiny(EXACT, dtype=torch.float64, scale=2.0)
    plain, ours = copy.deepcopy(reference), copy.deepcopy(reference)
    scorer = Scorer(ours)
    task = pair_task(bind("dpo", {"beta": 0.3}), reference_table(tmp_path, scorer, store))
    mine = build_optimizer(ours, ADAM)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    for rows in three_steps(24, 8):
        expected = plain_dpo(plain, reference, store, rows.tolist(), 0.3)
        norm = plain_update(plain, theirs, expected, 0.5)
        result = take_step(Batch(task, store, rows), scorer, mine, budget=budget, max_grad_norm=0.5, ranks=ALONE)
        figures = task.figures(result.columns, store, rows)
        assert figures["loss"] == pytest.approx(expected.item(), abs=1e-10)
        assert result.grad_norm == pytest.approx(norm, rel=1e-9)
        assert result.grad_norm > 0.5  # the clipping was at work
        assert_same_weights(ours, plain, 1e-9)
    assert figures["loss"] != pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("budget", [64, 4096])
def test_a_loss_that_sees_its_step_equals_the_plain_loop(tmp_path: Path, budget: int) -> None:
    store = random_pairs(24, weighted=True)
    reference = tiny(EXACT, dtype=torch.float64, scale=2.0)
    plain, ours = copy.deepcopy(reference), copy.deepcopy(reference)
    scorer = Scorer(ours)
    task = PreferenceTask(objective("centred"), TableReference(reference_table(tmp_path, scorer, store)))
    mine = build_optimizer(ours, ADAM)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    for rows in three_steps(24, 8):
        times = [int(2 * store[row].weight) for row in rows.tolist()]
        assert len(set(times)) > 1  # weights are repetitions
        items = [store[row] for row, count in zip(rows.tolist(), times, strict=True) for _ in range(count)]
        sides = [[item.sequences[side] for item in items] for side in (0, 1)]
        with torch.no_grad():
            ref = padded_logps(reference, sides[0]) - padded_logps(reference, sides[1])
        gap = padded_logps(plain, sides[0]) - padded_logps(plain, sides[1]) - ref
        expected = (-logsigmoid(0.5 * (gap - 0.5 * gap.mean())) + 0.1 * gap.logsumexp(0) - 0.1 * gap).mean()
        norm = plain_update(plain, theirs, expected, 0.5)
        result = take_step(Batch(task, store, rows), scorer, mine, budget=budget, max_grad_norm=0.5, ranks=ALONE)
        assert task.figures(result.columns, store, rows)["loss"] == pytest.approx(expected.item(), abs=1e-10)
        assert result.grad_norm == pytest.approx(norm, rel=1e-9)
        assert_same_weights(ours, plain, 1e-9)


def test_a_step_in_one_piece_is_scored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = random_pairs(8)
    scorer = Scorer(tiny_llama())
    task = PreferenceTask(objective("centred"), TableReference(reference_table(tmp_path, scorer, store)))
    calls: list[bool] = []
    scorer.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for budget in (4096, 60):
        calls.clear()
        optimizer = build_optimizer(scorer.model, ADAM)
        take_step(Batch(task, store, np.arange(8)), scorer, optimizer, budget=budget, max_grad_norm=1.0, ranks=ALONE)
        half = len(calls) // 2
        assert calls == ([True] if budget == 4096 else [False] * half + [True] * half)
    assert half > 1


def test_an_evaluation_is_one_step_whatever_the_blocks(tmp_path: Path) -> None:
    store = random_pairs(9, weighted=True)
    scorer = Scorer(tiny(EXACT, dtype=torch.float64))
    table = reference_table(tmp_path, Scorer(tiny(EXACT, seed=3, dtype=torch.float64)), store)
    task = PreferenceTask(objective("centred", "lagging"), TableReference(table))
    state = Moment(state={"lagging.mean": 0.7, "lagging.steps": 3.0})
    found = [
        measure(task, store, np.arange(9), scorer, budget=256, ranks=ALONE, block=block, moment=state, held_out=True)
        for block in (1, 4, 9)
    ]
    assert found[0] is not None and found[2] is not None
    assert found[0] == pytest.approx(found[2], rel=1e-12) and found[1] == pytest.approx(found[2], rel=1e-12)
    assert found[0]["loss"] == pytest.approx(found[0]["loss/centred"] + 2 * found[0]["loss/lagging"], rel=1e-12)


def test_a_state_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    store = random_pairs(6)
    scorer = Scorer(tiny_llama())
    task = PreferenceTask(objective("lagging"), TableReference(reference_table(tmp_path, scorer, store)))
    optimizer = build_optimizer(scorer.model, ADAM)
    with pytest.raises(TrainingError, match=r"running state is \{'lagging.mean': nan\} though every loss is finite"):
        take_step(
            Batch(Changed(task, advance=lambda *_: {"lagging.mean": math.nan}), store, np.arange(6)),
            scorer,
            optimizer,
            budget=64,
            max_grad_norm=1.0,
            ranks=ALONE,
        )
    assert not optimizer.state


@pytest.mark.parametrize("budget", [64, 4096])
def test_sft_steps_equal_the_plain_loop(budget: int) -> None:
    store = random_demonstrations(24)
    plain, ours = (tiny(EXACT, dtype=torch.float64, scale=2.0) for _ in range(2))
    task, scorer = DemonstrationTask(), Scorer(ours)
    mine = build_optimizer(ours, ADAM)
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.0)
    for rows in three_steps(24, 8):
        expected = plain_sft(plain, store, rows.tolist())
        plain_update(plain, theirs, expected, 0.5)
        result = take_step(Batch(task, store, rows), scorer, mine, budget=budget, max_grad_norm=0.5, ranks=ALONE)
        assert task.figures(result.columns, store, rows)["loss"] == pytest.approx(expected.item(), abs=1e-10)
        assert_same_weights(ours, plain, 1e-9)


def test_weight_two_is_the_row_twice(tmp_path: Path) -> None:
    items = list(random_pairs(6).items)
    doubled = make_store([*items, items[2]], [*range(6), 2])
    object.__setattr__(items[2], "weight", 2.0)
    weighted = make_store(items, list(range(6)))
    results = []
    for store in (doubled, weighted):
        model = tiny_llama(dtype=torch.float64)
        scorer = Scorer(model)
        task = pair_task(bind("dpo", {"beta": 0.1}), reference_table(tmp_path, scorer, store))
        # After one step from another start, so that the loss is not ln 2 for every row.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.ones_like(parameter).cumsum(0).sin())
        rows = np.arange(len(store))
        result = take_step(
            Batch(task, store, rows),
            scorer,
            build_optimizer(model, ADAM),
            budget=512,
            max_grad_norm=None,
            ranks=ALONE,
        )
        results.append((task.figures(result.columns, store, rows), result.grad_norm))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-12)


def test_measure_is_by_example_whatever_the_blocks(tmp_path: Path) -> None:
    store = random_pairs(9, weighted=True)
    reference, policy = (tiny(EXACT, seed=seed, dtype=torch.float64) for seed in (0, 3))
    rows = np.arange(9)
    expected = plain_dpo(policy, reference, store, rows.tolist(), 0.3).item()
    table = reference_table(tmp_path, Scorer(reference), store)
    task = pair_task(bind("dpo", {"beta": 0.3}), table)
    scorer = Scorer(policy)
    found = [measure(task, store, rows, scorer, budget=256, ranks=ALONE, block=block) for block in (1, 4, 9)]
    for figures in found:
        assert figures is not None
        assert figures["loss"] == pytest.approx(expected, abs=1e-10)
        assert figures == pytest.approx(found[0], rel=1e-12)
    assert policy.lm_head.weight.grad is None
    assert measure(task, store, rows, scorer, budget=256, ranks=ALONE, stop=lambda: 1) is None


def test_training_never_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("generate was called")

    store = random_pairs(4)
    model = tiny_llama()
    monkeypatch.setattr(type(model), "generate", refuse)
    scorer = Scorer(model)
    task = pair_task(bind("dpo", {"beta": 0.1}), reference_table(tmp_path, scorer, store))
    take_step(
        Batch(task, store, np.arange(4)),
        scorer,
        build_optimizer(model, ADAM),
        budget=512,
        max_grad_norm=1.0,
        ranks=ALONE,
    )


def refused_step(tmp_path: Path, spoil: Callable[[Task, PreTrainedModel], Task]) -> tuple[str, bool]:
    """Take a spoilt step; the error's sentence, and whether everything stayed as it was."""
    store = random_pairs(6)
    model = tiny_llama()
    scorer = Scorer(model)
    table = reference_table(tmp_path, scorer, store)
    task = spoil(pair_task(bind("dpo", {"beta": 0.1}), table), model)
    optimizer = build_optimizer(model, ADAM)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(TrainingError) as caught:
        take_step(
            Batch(task, store, np.arange(6)),
            scorer,
            optimizer,
            budget=64,
            max_grad_norm=1.0,
            ranks=ALONE,
            name="step 4",
        )
    kept = all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    return str(caught.value), kept and not optimizer.state


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["loss", "margin", "chosen_logps", "rejected_logratio"])
def test_a_value_that_is_not_finite_stops_before_the_update(tmp_path: Path, column: str, bad: float) -> None:
    def spoil(task: Task, _: PreTrainedModel) -> Task:
        def loss(scores: Scores, examples: Sequence[TokenExample]) -> tuple[Tensor, dict[str, Tensor]]:
            values, columns = task.loss(scores, examples)
            lines = [example.provenance.line for example in examples]
            if 3 in lines:
                columns[column][lines.index(3)] = bad
            return values, columns

        return Changed(task, loss=loss)

    sentence, untouched = refused_step(tmp_path, spoil)
    assert sentence.startswith(f"step 4: {column} is {bad} for pairs.jsonl:3; nothing was updated")
    assert untouched


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_before_the_update(tmp_path: Path, bad: float) -> None:
    def spoil(task: Task, model: PreTrainedModel) -> Task:
        model.model.embed_tokens.weight.register_hook(lambda gradient: gradient * bad)
        return task

    sentence, untouched = refused_step(tmp_path, spoil)
    assert sentence.startswith("step 4: the gradient's norm is")
    assert "pairs.jsonl:1, pairs.jsonl:2" in sentence
    assert untouched


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reference_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    def spoil(task: Task, model: PreTrainedModel) -> Task:
        table = reference_table(tmp_path, Scorer(model), random_pairs(6))
        whole = table.gather

        def gather(sequences: Sequence[TokenSequence]) -> np.ndarray:
            values = whole(sequences).copy()
            values[2:3] = bad
            return values

        monkeypatch.setattr(table, "gather", gather)
        return pair_task(bind("dpo", {"beta": 0.1}), table)

    sentence, untouched = refused_step(tmp_path, spoil)
    assert sentence.startswith("step 4: ") and "pairs.jsonl:" in sentence
    assert untouched


def test_weights_that_are_not_finite_name_every_row(tmp_path: Path) -> None:
    store = random_pairs(12)
    model = tiny_llama()
    scorer = Scorer(model)
    task = pair_task(bind("dpo", {"beta": 0.1}), reference_table(tmp_path, scorer, store))
    with torch.no_grad():
        model.lm_head.weight[5] = math.nan
    with pytest.raises(TrainingError, match=r"step: loss is nan for pairs\.jsonl:1, .* and 4 more"):
        take_step(
            Batch(task, store, np.arange(12)),
            scorer,
            build_optimizer(model, ADAM),
            budget=64,
            max_grad_norm=1.0,
            ranks=ALONE,
        )


@pytest.mark.parametrize("recipe", ["dpo", "sft"])
def test_an_evaluation_that_is_not_finite_names_the_rows(tmp_path: Path, recipe: str) -> None:
    store = random_pairs(12) if recipe == "dpo" else random_demonstrations(12)
    model = tiny_llama()
    scorer = Scorer(model)
    task: Task = DemonstrationTask()
    if recipe == "dpo":
        table = reference_table(tmp_path, scorer, store)
        task = pair_task(bind("dpo", {"beta": 0.1}), table)
    with torch.no_grad():
        model.lm_head.weight[5] = math.nan
    with pytest.raises(
        TrainingError, match=r"held out: loss is nan for \w+\.jsonl:1, .* and 4 more; look at these rows"
    ):
        measure(task, store, np.arange(12), scorer, budget=64, ranks=ALONE, name="held out")


def _fail_on_one(ranks: Ranks, folder: Path) -> None:
    store = random_demonstrations(6)
    scorer = Scorer(tiny_llama())
    task = DemonstrationTask()

    def loss(scores: Scores, examples: Sequence[TokenExample]) -> tuple[Tensor, dict[str, Tensor]]:
        if ranks.rank:
            raise ModelError("too long a row")
        return task.loss(scores, examples)

    failing = Changed(task, loss=loss)
    optimizer = build_optimizer(scorer.model, ADAM)
    told = []
    for work in (
        lambda: take_step(
            Batch(failing, store, np.arange(6)), scorer, optimizer, budget=64, max_grad_norm=1.0, ranks=ranks
        ),
        lambda: measure(failing, store, np.arange(6), scorer, budget=64, ranks=ranks),
    ):
        with pytest.raises(UserError) as caught:
            work()
        told.append(str(caught.value))
    assert not optimizer.state
    (folder / f"{ranks.rank}").write_text("\n".join(told))


def test_what_one_rank_meets_stops_all(tmp_path: Path) -> None:
    run_ranks(2, _fail_on_one, tmp_path)
    assert (tmp_path / "1").read_text() == "too long a row\ntoo long a row"
    assert (tmp_path / "0").read_text().count("another process has stopped the run") == 2


def test_an_example_over_the_budget_is_a_sentence(tmp_path: Path) -> None:
    store = random_pairs(6)
    scorer = Scorer(tiny_llama())
    task = pair_task(bind("dpo", {"beta": 0.1}), reference_table(tmp_path, scorer, store))
    with pytest.raises(ConfigError, match="micro_batch_tokens is too small"):
        measure(task, store, np.arange(6), scorer, budget=3, ranks=ALONE)
