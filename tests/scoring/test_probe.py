"""What an architecture computes on a few tokens decides its layout, its windows and its head."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers

from preftree.errors import ModelError, TrainingError
from preftree.losses.quantities import sum_responses
from preftree.scoring.head import HeadForm
from preftree.scoring.probe import recorded_windows
from preftree.scoring.scorer import Scorer
from preftree.scoring.split_batch import split_by_depth
from preftree.scoring.verify import require_finite_figures, verify_scorer
from preftree.tree.layout import TokenSequence
from preftree.tree.pack import plan_step
from support.every_architecture import WINDOW, build, examine, responses
from support.models import VOCAB, longrope, plain_all, random_sequences, tiny


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        *(("phimoe", "trees"), ("qwen2_moe", "trees"), ("doge", "rows"), ("recurrent_gemma", "rows")),
        *(("gemma4_text", "trees"), ("falcon_h1", "rows"), ("llama4_text", "rows"), ("nemotron", "rows")),
        *(("modernbert-decoder", "rows, own forward"), ("granite", "trees"), ("cohere2", "trees")),
    ],
)
def test_these_were_wrong_or_failed(name: str, layout: str) -> None:
    row = examine(name)
    assert (row.layout, row.words) == (layout, "")
    assert row.difference is not None and row.difference < 2e-5


def test_a_window_that_is_in_the_mask_alone_reaches_the_tree() -> None:
    windows, reason = recorded_windows(build("phimoe"))
    assert reason is None and set(windows.values()) == {WINDOW}
    windows, reason = recorded_windows(build("qwen2_moe"))
    assert reason is None and set(windows.values()) == {None, WINDOW}
    assert recorded_windows(build("doge"))[1] == "a layer makes an attention mask of its own"


def test_numbers_of_the_configuration_are_tried_as_factor_divisor_and_cap() -> None:
    for name, form in (("granite", HeadForm(1 / 3.0)), ("cohere", HeadForm(0.25)), ("gemma2", HeadForm(softcap=3.0))):
        assert Scorer(tiny(name)).head == form

    class Halved(transformers.LlamaForCausalLM):
        def forward(self, *arguments, **options):
            output = super().forward(*arguments, **options)
            output.logits = output.logits / 2.5
            return output

    model = Halved(tiny("llama").config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    model.config.some_divisor = 2.5
    assert Scorer(model).head == HeadForm(1 / 2.5)
    del model.config.some_divisor
    scorer = Scorer(model)
    assert (scorer.attention, scorer.shares_prefixes) == ("own", False)
    groups = responses()
    batch = scorer.lay_out(groups)
    with torch.no_grad():
        ours = sum_responses(scorer(batch), batch.count_R).values
        assert float((ours - plain_all(model, groups)).abs().max()) < 1e-4
    with pytest.raises(ModelError, match="are not computed from its hidden states in a way that is known"):
        scorer.hidden(batch)


def test_the_own_forward_has_gradients() -> None:
    model = build("modernbert-decoder")
    plain = copy.deepcopy(model)
    scorer, groups = Scorer(model), responses()
    batch = scorer.lay_out(groups)
    sum_responses(scorer(batch), batch.count_R).values.sum().backward()
    plain_all(plain, groups).sum().backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None
            assert float((ours.grad - theirs.grad).norm()) <= 1e-3 * float(theirs.grad.norm()) + 1e-6


def test_long_rows_of_longrope_models_are_batches_of_their_own() -> None:
    model = longrope()
    plain = copy.deepcopy(model)
    rng = np.random.default_rng(1)
    lengths = [(20, 5), (20, 21), (20, 22), (20, 60), (20, 3), (60, 4)]
    groups = [random_sequences(rng, responses=3, prompt=prompt, most=most) for prompt, most in lengths]
    context = rng.integers(3, VOCAB, 30)
    ids = [np.concatenate([context, rng.integers(3, VOCAB, n)]).astype(np.int32) for n in (5, 30, 11, 4, 10)]
    groups.append([TokenSequence(row, np.arange(len(row)) >= 30) for row in ids])
    scorer = Scorer(model)
    assert scorer.shares_prefixes
    batch = scorer.lay_out(groups)
    assert len(split_by_depth(batch, 40)) == 2
    with torch.no_grad():
        ours = sum_responses(scorer(batch), batch.count_R).values
        theirs = torch.stack([_without_its_last_input(plain, one) for group in groups for one in group])
    assert float((ours - theirs).abs().max()) < 2e-4
    verify_scorer(scorer, groups)


def test_a_step_keeps_long_rows_of_longrope_models_apart() -> None:
    """Two pairs of one prompt, and one of a prompt that begins alike, with rows on either side of 40 tokens."""
    model = longrope()
    plain = copy.deepcopy(model)
    rng = np.random.default_rng(2)
    prompt = rng.integers(3, VOCAB, 30)
    other = np.concatenate([prompt, rng.integers(3, VOCAB, 4)])
    rows = [[(prompt, 5), (prompt, 40)], [(prompt, 12), (prompt, 4)], [(other, 3), (other, 30)]]
    pairs = []
    for pair in rows:
        whole = [(len(start), np.concatenate([start, rng.integers(3, VOCAB, n)])) for start, n in pair]
        pairs.append([TokenSequence(ids.astype(np.int32), np.arange(len(ids)) >= first) for first, ids in whole])
    scorer = Scorer(model)
    (plan,) = plan_step(pairs, [0, 0, 1], budget=1000, sharing=scorer.sharing)
    for micro in plan:
        with torch.no_grad():
            ours = sum_responses(scorer(micro.batch), micro.batch.count_R).values
            own = [_without_its_last_input(plain, one) for index in micro.examples for one in pairs[index]]
        assert float((ours - torch.stack(own)).abs().max()) < 2e-4


def _without_its_last_input(model: transformers.PreTrainedModel, sequence: TokenSequence) -> torch.Tensor:
    """Log-prob by one forward over the inputs alone: the last token predicts nothing."""
    ids = torch.from_numpy(sequence.ids.astype(np.int64))
    logps = model(input_ids=ids[None, :-1], use_cache=False).logits[0].log_softmax(-1)
    token_logps = logps.gather(1, ids[1:, None])[:, 0]
    return token_logps[torch.from_numpy(sequence.scored[1:])].double().sum()


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    model = transformers.BertLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    with pytest.raises(ModelError, match="a token sees later ones"):
        Scorer(model)


def test_finite_weights_that_give_no_numbers_are_not_written() -> None:
    model = tiny("llama")
    scorer = Scorer(model)
    require_finite_figures(scorer, 3)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e36)
        model.model.norm.weight.mul_(1e6)
    assert bool(model.lm_head.weight.isfinite().all())
    with pytest.raises(TrainingError, match="after step 3 LlamaForCausalLM gives figures that are not finite"):
        require_finite_figures(scorer, 3)
