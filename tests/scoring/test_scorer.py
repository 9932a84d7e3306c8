from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from preftree.errors import ModelError, TrainingError
from preftree.models.load import remove_dropout
from preftree.scoring.architecture import why_not_tree
from preftree.scoring.attention import dispatch as attention
from preftree.scoring.bf16_on_cpu import emulated
from preftree.scoring.scorer import Scorer
from preftree.scoring.verify import verify_scorer
from support.models import ARCHITECTURES, MIXTURES, ROWS, random_sequences, tiny, tiny_llama
from support.rounding import assert_equal_but_rounding, rows_round_alone


def groups(seed: int = 0, prompt: int = 30):
    rng = np.random.default_rng(seed)
    return [random_sequences(rng, responses=2, prompt=prompt) for _ in range(3)]


@pytest.mark.parametrize("name", [*ARCHITECTURES, *ROWS])
def test_every_architecture_passes_the_gate(name: str) -> None:
    report = verify_scorer(Scorer(tiny(name)), groups())
    assert report.num_responses == 6
    assert report.difference < report.tolerance / 2


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in MIXTURES])
def test_packing_moves_rounding_alone_and_no_bit_where_rows_round_alone(name: str) -> None:
    """What attention sees, and so all that a branch is computed from, is its own whatever lies beside it."""
    scorer = Scorer(tiny(name))
    rng = np.random.default_rng(0)
    trees = [random_sequences(rng, responses=2, prompt=int(rng.integers(10, 60))) for _ in range(8)]
    together, alone = scorer.lay_out(trees), [scorer.lay_out([tree]) for tree in trees]
    with torch.no_grad():
        found, expected = scorer(together), torch.cat([scorer(batch) for batch in alone])
    assert_equal_but_rounding(found, expected)
    if rows_round_alone(scorer, together, *alone):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_trees_are_used_where_they_can_be(name: str) -> None:
    assert why_not_tree(tiny(name)) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [("mamba", "no interface"), ("gptj", "no interface"), ("lfm2", "layers of kind conv"), ("bloom", "no interface")],
)
def test_other_models_take_rows_and_say_so_once(name: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "preftree"):
        scorer = Scorer(tiny(name))
        for _ in range(2):
            scorer(scorer.lay_out(groups()))
    (record,) = [record for record in caplog.records if record.name.startswith("preftree")]
    assert reason in record.getMessage()
    assert not scorer.shares_prefixes
    assert len(scorer.lay_out(groups()).branches) == 6


def planted(name: str, monkeypatch: pytest.MonkeyPatch, **replaced: object) -> Scorer:
    """A scorer whose attention loses one of its arguments."""
    true = attention.tree_attention

    def broken(*args: object, **kwargs: object):
        return true(*args, **(kwargs | replaced))

    scorer = Scorer(tiny(name))
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, attention.IMPLEMENTATION, broken)
    return scorer


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("mistral", {"sliding_window": None}),
        ("gemma3", {"sliding_window": None}),
        ("opt", {"scaling": None}),
        ("granite", {"scaling": None}),
        ("gpt_oss", {"s_aux": None}),
        ("gemma2", {"softcap": None}),
    ],
)
def test_the_gate_catches_an_ignored_argument(name: str, lost: dict[str, object], monkeypatch) -> None:
    scorer = planted(name, monkeypatch, **lost)
    if "sliding_window" in lost:  # the masks of transformers tell the windows, so what a layer passes matters no more
        verify_scorer(scorer, groups())
        scorer._windows = dict.fromkeys(scorer._windows)
    with pytest.raises(TrainingError, match=r"tokens the log-prob .* on a packed tree and .* in the plain forward"):
        verify_scorer(scorer, groups())


def test_the_gate_catches_a_mask_that_lets_siblings_see_each_other(monkeypatch) -> None:
    scorer = Scorer(tiny("llama"))

    def causal(query, key, value, *_):
        repeat = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    monkeypatch.setattr(attention, "attend_on_cpu", causal)
    with pytest.raises(TrainingError):
        verify_scorer(scorer, groups())


def test_the_gate_catches_a_wrong_head(monkeypatch) -> None:
    scorer = Scorer(tiny("gemma2"))
    scorer.head = type(scorer.head)()
    with pytest.raises(TrainingError):
        verify_scorer(scorer, groups())


def test_the_gate_does_not_pass_nan() -> None:
    scorer = Scorer(tiny("llama"))
    with torch.no_grad():
        scorer.model.get_output_embeddings().weight[0, 0] = torch.nan
    with pytest.raises(TrainingError):
        verify_scorer(scorer, groups())


def test_the_gate_leaves_the_scorer_as_it_was() -> None:
    scorer = Scorer(tiny("llama"), precision="bf16")
    verify_scorer(scorer, groups())
    assert scorer.precision == "bf16"
    assert scorer.model.config._attn_implementation == attention.IMPLEMENTATION


def test_a_model_set_up_for_trees_refuses_plain_calls() -> None:
    scorer = Scorer(tiny("llama"))
    with pytest.raises(ModelError, match="plain_attention"):
        scorer.model(input_ids=torch.ones(1, 4, dtype=torch.int64))
    with attention.plain_attention(scorer.model):
        scorer.model(input_ids=torch.ones(1, 4, dtype=torch.int64))


def test_dropout_is_off_after_loading_and_refused_otherwise() -> None:
    config = LlamaConfig(**ARCHITECTURES["llama"][1], attention_dropout=0.5)
    model = LlamaForCausalLM(config).train()
    scorer = Scorer(model)
    with pytest.raises(ModelError, match=r"dropout must be 0 while scoring trees, got 0\.5"):
        scorer(scorer.lay_out(groups()))
    remove_dropout(model)
    scorer(scorer.lay_out(groups()))
    assert model.config.attention_dropout == 0.5


@pytest.mark.parametrize(
    ("name", "limit"), [("gpt2", 512), ("opt", 512), ("llama", None), ("mistral", None), ("gpt_neox", None)]
)
def test_sequences_longer_than_learned_positions_are_refused(name: str, limit: int | None) -> None:
    scorer = Scorer(tiny(name))
    rng = np.random.default_rng(0)
    batch = scorer.lay_out([random_sequences(rng, responses=1, prompt=513)])
    if limit is None:
        scorer(batch)
    else:
        with pytest.raises(ModelError, match="longer than the 512 positions"):
            scorer(batch)


def test_dynamic_rope_is_pinned_to_its_original_length() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    scorer = Scorer(LlamaForCausalLM(LlamaConfig(**ARCHITECTURES["llama"][1], rope_parameters=rope)))
    rng = np.random.default_rng(0)
    with pytest.raises(ModelError, match="longer than the 512 positions"):
        scorer(scorer.lay_out([random_sequences(rng, responses=1, prompt=520)]))


def test_an_empty_batch_still_reaches_the_parameters() -> None:
    scorer = Scorer(tiny_llama())
    logps = scorer(scorer.lay_out([]))
    assert logps.shape == (0,)
    logps.sum().backward()


def test_numeric_mode_names_what_can_move_a_logp() -> None:
    assert Scorer(tiny_llama()).numeric_mode == "cpu/float32/fp32/sdpa"
    assert Scorer(tiny_llama(dtype=torch.float64), precision="fp32").numeric_mode == "cpu/float64/fp32/sdpa"
    low = "cpu/float32/bf16/rows" + "/emulated" * emulated(torch.device("cpu"))
    assert Scorer(tiny("mamba"), precision="bf16").numeric_mode == low
